"""Features against plain loops over pixels; forests on data whose answer is known."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from das2f_map.errors import MissingDependencyError
from das2f_map.training.baselines import (
    Baseline,
    BoostingSettings,
    ForestSettings,
    gradient_boosting,
    out_of_fold,
    pixel_features,
    random_forest,
    stack_features,
    window_features,
)

BANDS = 4
SMALL_FOREST = ForestSettings(trees=20)
SMALL_BOOSTING = BoostingSettings(iterations=15, min_samples_leaf=5)
MAKERS: dict[str, Callable[[int, int], Baseline]] = {
    "forest": lambda classes, seed: random_forest(classes, seed, SMALL_FOREST),
    "boosting": lambda classes, seed: gradient_boosting(classes, seed, SMALL_BOOSTING),
}


def patches(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    ms = rng.normal(size=(n, BANDS, 16, 16)).astype(np.float32)
    return ms, rng.normal(size=(n, 1, 64, 64)).astype(np.float32)


def expected_pixel(ms: NDArray[np.float32], pan: NDArray[np.float32]) -> list[float]:
    """One patch, pixel by pixel."""
    own = [float(pan[0, row, col]) for row in range(28, 32) for col in range(28, 32)]
    bands = [float(ms[band, 7, 7]) for band in range(BANDS)]
    return [*bands, *own, statistics.fmean(own), statistics.pstdev(own)]


def expected_window(ms: NDArray[np.float32], pan: NDArray[np.float32]) -> list[float]:
    found = expected_pixel(ms, pan)
    for first, last in ((6, 8), (4, 10), (0, 15)):
        inside = [(r, c) for r in range(16) for c in range(16) if first <= min(r, c) and max(r, c) <= last]
        bands = [[float(ms[band, r, c]) for r, c in inside] for band in range(BANDS)]
        fine = [float(pan[0, r, c]) for r in range(64) for c in range(64) if (r // 4, c // 4) in set(inside)]
        found += [statistics.fmean(b) for b in bands] + [statistics.pstdev(b) for b in bands]
        found += [statistics.fmean(fine), statistics.pstdev(fine)]
    return found


@pytest.mark.parametrize(
    ("features", "expected", "width"),
    [(pixel_features, expected_pixel, BANDS + 18), (window_features, expected_window, 7 * BANDS + 24)],
    ids=["pixel", "window"],
)
def test_features_are_those_of_plain_loops(features, expected, width: int) -> None:
    ms, pan = patches(3)
    found = features(ms, pan)
    assert found.shape == (3, width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected(*p) for p in zip(ms, pan, strict=True)], rtol=1e-5, atol=1e-6)


def test_pixel_features_ignore_all_other_pixels() -> None:
    ms, pan = patches(2)
    before = pixel_features(ms, pan)
    inside_ms, inside_pan = ms[:, :, 7, 7].copy(), pan[:, :, 28:32, 28:32].copy()
    ms[:], pan[:] = 99, -99
    ms[:, :, 7, 7], pan[:, :, 28:32, 28:32] = inside_ms, inside_pan
    np.testing.assert_array_equal(pixel_features(ms, pan), before)


def test_batches_of_tensors_give_the_rows_of_the_whole_one_at_a_time() -> None:
    ms, pan = patches(10)
    alive = 0

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        nonlocal alive
        for at in (slice(0, 4), slice(4, 4), slice(4, 10)):
            alive += 1
            yield torch.from_numpy(ms[at]), torch.from_numpy(pan[at])

    made: list[int] = []

    def counted(ms: NDArray[np.float32], pan: NDArray[np.float32]) -> NDArray[np.float32]:
        made.append(alive)
        return window_features(ms, pan)

    np.testing.assert_array_equal(stack_features(batches(), counted), window_features(ms, pan))
    assert made == [1, 2, 3], "each batch's features are made before the next batch"


def test_other_patches_and_no_patches_are_refused() -> None:
    ms, pan = patches(2)
    for wrong in ((ms[:1], pan), (ms[:, :, :8, :8], pan), (ms, pan[:, :, :32]), (ms[0], pan[0])):
        with pytest.raises(ValueError, match="no patches of 16"):
            window_features(*wrong)
    with pytest.raises(ValueError, match="no patches to take"):
        stack_features(iter(()), pixel_features)


def blobs(seed: int, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows whose first feature is their class, with noise; a second feature is noise alone."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(scale=0.15, size=(positions.size, 2))
    return (noise + np.stack([positions, 0 * positions], axis=1)).astype(np.float32)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_class_without_training_pixels_keeps_its_column(make: Callable[[int, int], Baseline]) -> None:
    """Classes 1, 3 and 4 of six are there; the columns are those of the legend."""
    learned = np.repeat([1, 3, 4], 40)
    baseline = make(6, 0)
    baseline.fit(blobs(1, learned), learned)
    asked = np.tile([4, 1, 3], 10)
    found = baseline.probabilities(blobs(2, asked))
    assert found.shape == (30, 6)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found[:, [0, 2, 5]] == 0).all()
    assert (found.argmax(axis=1) == asked).mean() > 0.9


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_one_class_is_sure_and_equal_seeds_agree(make: Callable[[int, int], Baseline]) -> None:
    one = make(3, 0)
    one.fit(np.zeros((5, 2), np.float32), np.full(5, 2))
    assert one.probabilities(np.ones((2, 2), np.float32)).tolist() == [[0, 0, 1]] * 2
    learned = np.repeat([0, 1, 2], 30)
    noisy = blobs(3, learned) + np.random.default_rng(4).normal(size=(90, 2)).astype(np.float32)
    found = []
    for seed in (7, 7):
        baseline = make(3, seed)
        baseline.fit(noisy, learned)
        found.append(baseline.probabilities(blobs(5, learned)))
    np.testing.assert_array_equal(found[0], found[1])


def test_forests_of_other_seeds_and_settings_differ() -> None:
    learned = np.repeat([0, 1], [180, 20])
    rng = np.random.default_rng(0)
    noisy = (blobs(1, learned) + rng.normal(size=(200, 2))).astype(np.float32)

    def found(seed: int, **changed: Any) -> NDArray[np.float64]:
        forest = random_forest(2, seed, ForestSettings(trees=20, **changed))
        forest.fit(noisy, learned)
        return forest.probabilities(noisy)

    plain = found(0)
    assert (found(1) != plain).any()
    # A leaf of at least 40 of 200 pixels cannot hold the rare class alone, unless it counts for more.
    leaves = found(0, min_samples_leaf=40)
    assert leaves[:, 1].max() < plain[:, 1].max()
    assert (
        found(0, min_samples_leaf=40, class_weight="balanced_subsample")[:, 1].mean()
        > 1.5 * leaves[:, 1].mean()
    )
    np.testing.assert_array_equal(found(0, jobs=2), plain)


def test_unusable_positions_are_refused() -> None:
    forest = random_forest(3, 0, SMALL_FOREST)
    rows = np.zeros((2, 2), np.float32)
    for positions in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            forest.fit(rows, np.array(positions))
    with pytest.raises(ValueError, match="2 rows of features for 1"):
        forest.fit(rows, np.array([0]))
    with pytest.raises(ValueError, match="fit comes before"):
        forest.probabilities(rows)


def test_out_of_fold_probabilities_come_from_the_other_folds() -> None:
    """A classifier that gives the share of each class it learned from: the answer can be counted."""

    class Shares:
        def fit(self, features: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
            self.shares = np.bincount(positions, minlength=3) / positions.size

        def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
            return np.tile(self.shares, (len(features), 1))

    positions = np.array([0, 0, 1, 2, 1, 1])
    folds = np.array([5, 8, 5, 8, 8, 5])
    found = out_of_fold(Shares, np.zeros((6, 1), np.float32), positions, folds)
    of_8, of_5 = [1 / 3, 1 / 3, 1 / 3], [1 / 3, 2 / 3, 0]
    np.testing.assert_allclose(found, [of_8, of_5, of_8, of_5, of_5, of_8])
    with pytest.raises(ValueError, match="two folds"):
        out_of_fold(Shares, np.zeros((6, 1), np.float32), positions, np.zeros(6, np.int64))


@pytest.mark.parametrize("make", [random_forest, gradient_boosting])
def test_without_scikit_learn_the_extra_is_named(
    make: Callable[[int, int], Baseline], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match="scikit-learn") as caught:
        make(3, 0)
    assert "[train]" in str(caught.value.hint)
