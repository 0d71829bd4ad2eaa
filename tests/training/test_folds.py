"""Held-out ground: a gap around it, every pixel held out once, every class with pixels to learn from."""

from __future__ import annotations

import numpy as np
import pytest
from labelled import chebyshev, pixels_at, pixels_of, squares

from das2f_map.training.folds import (
    CHOICE_FOLD,
    HOLDOUT_FOLDS,
    LEAST_TO_LEARN,
    TEST_FOLD,
    Fold,
    Folds,
    spatial_folds,
)
from das2f_map.training.pixels import TrainingPixels

GAP = 17


def to_training(pixels: TrainingPixels, fold: Fold, at: np.ndarray) -> np.ndarray:
    """Distance of some pixels to the nearest training pixel of their scene, by looking at all pairs."""
    distance = np.zeros(at.size, int)
    for k, position in enumerate(at):
        train = fold.train[pixels.scene[fold.train] == pixels.scene[position]]
        one = slice(position, position + 1)
        (distance[k],) = chebyshev(pixels.rows[one], pixels.cols[one], pixels.rows[train], pixels.cols[train])
    return distance


def wide() -> TrainingPixels:
    """Room for whole patches between the folds."""
    return pixels_of(squares(260, 60, 5, 3, 0))


def crowded() -> TrainingPixels:
    """Labels nearly everywhere in a scene of less than three patches a side."""
    return pixels_of(squares(44, 40, 8, 3, 1))


@pytest.mark.parametrize("make", [wide, crowded])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_pixel_is_held_out_once_and_the_gap_is_kept(make, count: int) -> None:
    pixels = make()
    folds = spatial_folds(pixels, count, gap=GAP, seed=1)
    parts = list(folds.each())
    assert len(parts) == folds.count == count
    assert sorted(np.concatenate([p.held for p in parts])) == list(range(len(pixels)))
    for number, part in enumerate(parts):
        assert set(folds.of_pixel[part.held]) == {number}
        rest = np.flatnonzero(folds.of_pixel != number)
        held = pixels.select(part.held)
        distance = chebyshev(pixels.rows[rest], pixels.cols[rest], held.rows, held.cols)
        # No pixel is too near, and none is left out for nothing.
        assert part.train.tolist() == rest[distance >= folds.gap].tolist()


def test_scenes_do_not_know_each_others_ground() -> None:
    """The same pixels in two scenes: a held-out pixel of one is no neighbour of those in the other."""
    one = wide()
    n = len(one)
    both = pixels_at(
        np.tile(one.rows, 2), np.tile(one.cols, 2), np.tile(one.positions, 2), scene=np.repeat([0, 1], n)
    )
    folds = Folds(both, np.repeat([0, 1], n), 2, GAP, GAP)
    assert folds.fold(0).train.tolist() == list(range(n, 2 * n))
    found = spatial_folds(both, 2, gap=GAP, seed=0)
    for fold in found.each():
        assert set(both.scene[fold.held]) == {0, 1}, "each scene gives ground to each fold"
        assert to_training(both, fold, fold.held).min() >= found.gap


def test_patches_of_a_fold_and_of_its_training_share_no_pixel() -> None:
    """The test paints the patches: the ground of held-out ones is free of training ones, turned or not."""
    pixels = wide()
    folds = spatial_folds(pixels, 3, gap=GAP, seed=0)
    assert folds.gap == GAP
    for fold in folds.each():
        seen = np.zeros((2, 260 + 16, 260 + 16), bool)
        for k, part in enumerate((fold.train, fold.held)):
            assert part.size > 50
            for r, c in zip(pixels.rows[part], pixels.cols[part], strict=True):
                seen[k, r : r + 17, c : c + 17] = True  # 8 before to 8 after the target
        assert not (seen[0] & seen[1]).any()
        assert folds.leak(fold).share == folds.leak(fold).overlap == 0
    assert folds.summary()["held_out_overlapping_training"] == 0


def test_leak_of_a_crowded_scene() -> None:
    pixels = crowded()
    folds = spatial_folds(pixels, 3, gap=GAP, seed=0)
    assert folds.gap < GAP, "a whole gap would leave too little"
    shares, overlaps = [], []
    for fold in folds.each():
        distance = to_training(pixels, fold, fold.held)
        overlap = np.where(distance < GAP, (1 - distance / GAP) ** 2, 0.0)
        leak = folds.leak(fold)
        assert leak.share == pytest.approx((distance < GAP).mean())
        assert leak.overlap == pytest.approx(overlap.mean())
        shares.append(leak.share)
        overlaps.append(leak.overlap)
    assert max(shares) > 0
    summary = folds.summary()
    assert summary["gap_ms_pixels"] == folds.gap
    assert summary["patches_apart_at_ms_pixels"] == GAP
    assert summary["held_out_overlapping_training"] == pytest.approx(np.mean(shares), abs=5e-5)
    assert summary["mean_overlap"] == pytest.approx(np.mean(overlaps), abs=5e-5)
    assert summary["pixels"] == [int((folds.of_pixel == k).sum()) for k in range(3)]
    assert sum(summary["pixels_per_class"].values()) == len(pixels)


def test_classes_keep_pixels_to_learn_from() -> None:
    """Classes lie in layers from north to south: strips along them would hold a whole class out."""
    drawn = np.zeros((200, 200), int)
    for k in range(3):
        drawn[60 * k + 10 : 60 * k + 40 : 3, 5:195:3] = k + 1
    pixels = pixels_of(drawn)
    folds = spatial_folds(pixels, 3, gap=GAP, seed=0)
    totals = np.bincount(pixels.positions)
    for fold in folds.each():
        left = np.bincount(pixels.positions[fold.train], minlength=3)
        assert left.min() >= LEAST_TO_LEARN
        assert (left / totals).min() > 0.3
        assert np.bincount(pixels.positions[fold.held], minlength=3).min() > 0


@pytest.mark.parametrize("seed", range(8))
def test_a_hold_out_has_some_of_every_class(seed: int) -> None:
    """Three classes are all over the scene; another has three places, far apart, anywhere in it."""
    drawn = squares(300, 80, 5, 3, seed)
    for row, col in np.random.default_rng(seed).permutation([(20, 30), (150, 260), (270, 40), (40, 250)])[:3]:
        drawn[row : row + 8, col : col + 8] = 4
    pixels = pixels_of(drawn)
    folds = spatial_folds(pixels, HOLDOUT_FOLDS, gap=GAP, seed=seed, holdout=True)
    counts = [np.bincount(pixels.positions[folds.of_pixel == k], minlength=4) for k in range(HOLDOUT_FOLDS)]
    assert counts[TEST_FOLD].min() > 0
    assert counts[CHOICE_FOLD].min() > 0
    left = np.bincount(pixels.positions[folds.fold(TEST_FOLD, CHOICE_FOLD).train], minlength=4)
    assert left.min() >= LEAST_TO_LEARN


@pytest.mark.parametrize("make", [wide, crowded])
def test_what_lies_away_from_two_folds_lies_away_from_each(make) -> None:
    """The gap around both together, by looking at all pairs."""
    pixels = make()
    folds = spatial_folds(pixels, HOLDOUT_FOLDS, gap=GAP, seed=1, holdout=True)
    part = folds.fold(TEST_FOLD, CHOICE_FOLD)
    rest = np.flatnonzero(~np.isin(folds.of_pixel, [TEST_FOLD, CHOICE_FOLD]))
    assert sorted([*part.held, *rest]) == list(range(len(pixels)))
    held = pixels.select(part.held)
    distance = chebyshev(pixels.rows[rest], pixels.cols[rest], held.rows, held.cols)
    assert part.train.tolist() == rest[distance >= folds.gap].tolist()


def test_folds_are_about_equal_where_labels_are_plenty() -> None:
    folds = spatial_folds(wide(), 3, gap=GAP, seed=0)
    shares = np.bincount(folds.of_pixel) / folds.of_pixel.size
    assert shares.min() > 0.15


def test_folds_depend_on_the_seed_alone() -> None:
    """Each class has two places 45 pixels apart, which no strip of a third of the scene can tell apart."""
    rng = np.random.default_rng(0)
    drawn = np.zeros((300, 300), int)
    for k, (row, col) in enumerate(rng.integers(0, 240, (5, 2))):
        drawn[row : row + 5, col : col + 5] = drawn[row + 45 : row + 50, col + 45 : col + 50] = k + 1
    pixels = pixels_of(drawn)
    found = [spatial_folds(pixels, 3, gap=GAP, seed=s).of_pixel for s in (1, 1, 2, 3)]
    assert np.array_equal(found[0], found[1])
    assert len({f.tobytes() for f in found}) > 1, "random blocks play no part here"


def test_whole_scenes_in_turn() -> None:
    rng = np.random.default_rng(0)
    scene = np.repeat([0, 1, 2], [30, 20, 10])
    # All scenes have the same rows and columns: distances do not count.
    pixels = pixels_at(rng.integers(0, 9, 60), rng.integers(0, 9, 60), rng.integers(0, 2, 60), scene=scene)
    folds = spatial_folds(pixels, 7, gap=GAP, seed=0, by_scene=True)
    assert folds.count == 3
    for number, fold in enumerate(folds.each()):
        assert fold.held.tolist() == np.flatnonzero(scene == number).tolist()
        assert fold.train.tolist() == np.flatnonzero(scene != number).tolist()
        assert folds.leak(fold).share == 0
    assert folds.summary()["method"] == "whole scenes held out"


def test_one_scene_alone_cannot_be_held_out() -> None:
    folds = spatial_folds(wide(), 3, gap=GAP, seed=0, by_scene=True)
    assert folds.count == 3
    assert folds.summary()["method"] == "spatial folds with a gap"
    assert all(fold.train.size and fold.held.size for fold in folds.each())
