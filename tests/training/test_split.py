"""The split: no two parts within a patch of each other, every class in train and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from das2f_map.errors import LabelError
from das2f_map.labels.labelled_pixels import LabelTable
from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid
from das2f_map.training.split import Split, near, split_labels

GAP = 17


def grid(height: int, width: int) -> Grid:
    return Grid(height, width, Affine(10, 0, 500_000, 0, -10, 5_600_000), CRS.from_epsg(32631))


def table(classes: np.ndarray) -> LabelTable:
    """From an array of the scene: class position + 1, 0 unlabelled."""
    rows, cols = np.nonzero(classes)
    names = [f"c{k}" for k in range(int(classes.max()))]
    return LabelTable(
        rows.astype(np.int32),
        cols.astype(np.int32),
        classes[rows, cols].astype(np.uint8),
        Legend.from_names(names),
    )


def patches(height: int, width: int, n: int, side: int, n_classes: int, seed: int) -> np.ndarray:
    """Square patches of labels at random places."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((height, width), int)
    for k in range(n):
        r, c = rng.integers(0, height - side), rng.integers(0, width - side)
        classes[r : r + side, c : c + side] = k % n_classes + 1
    return classes


def pixels(part: LabelTable) -> np.ndarray:
    return np.column_stack([part.rows, part.cols]).astype(np.int64)


def smallest_distance(split: Split) -> int:
    """Chebyshev distance between the nearest two pixels of different parts, by looking at all pairs."""
    parts = [pixels(p) for p in split.parts.values() if len(p)]
    nearest = 10**9
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            for row, col in a:
                nearest = min(nearest, int(np.maximum(np.abs(b[:, 0] - row), np.abs(b[:, 1] - col)).min()))
    return nearest


@pytest.mark.parametrize(
    ("height", "width", "n", "side"),
    [(150, 150, 60, 8), (165, 123, 300, 3), (300, 260, 80, 14), (150, 150, 400, 12)],
    ids=["small", "many tiny polygons", "few hundred", "labelled nearly everywhere"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_gap_is_kept_and_every_class_is_in_every_part(
    height: int, width: int, n: int, side: int, seed: int
) -> None:
    labels = table(patches(height, width, n, side, 4, seed))
    split = split_labels(labels, grid(height, width), gap=GAP, seed=seed)
    assert smallest_distance(split) >= GAP
    for part in split.parts.values():
        assert min(part.counts().values()) > 0
    # Parts are disjoint selections of the labels, and what is missing is accounted for.
    before = {(r, c): k for r, c, k in zip(labels.rows, labels.cols, labels.classes, strict=True)}
    after = [
        ((r, c), k) for p in split.parts.values() for r, c, k in zip(p.rows, p.cols, p.classes, strict=True)
    ]
    assert len({at for at, _ in after}) == len(after)
    assert all(before[at] == k for at, k in after)
    assert len(after) + split.dropped == len(before)


def test_patches_of_different_parts_share_no_pixel() -> None:
    """The test paints the patches: a pixel is in patches of one part at most, turned or not."""
    labels = table(patches(150, 150, 50, 8, 3, 3))
    split = split_labels(labels, grid(150, 150), gap=GAP, seed=2)
    seen = np.zeros((3, 150 + 16, 150 + 16), bool)
    for k, part in enumerate(split.parts.values()):
        for r, c in pixels(part):
            seen[k, r : r + 17, c : c + 17] = True  # 8 before to 8 after the target
    assert seen.sum(0).max() == 1


def test_split_depends_on_the_seed_alone() -> None:
    labels = table(patches(150, 150, 60, 8, 3, 0))
    one, same, other = (split_labels(labels, grid(150, 150), gap=GAP, seed=s) for s in (1, 1, 2))
    assert np.array_equal(pixels(one.test), pixels(same.test))
    assert np.array_equal(pixels(one.train), pixels(same.train))
    assert not np.array_equal(pixels(one.test), pixels(other.test))


@pytest.mark.slow
def test_shares_are_near_what_is_asked_where_labels_are_plenty() -> None:
    labels = table(patches(600, 600, 250, 10, 5, 7))
    split = split_labels(labels, grid(600, 600), gap=GAP)
    totals = np.array(list(labels.counts().values()))
    train = np.array(list(split.train.counts().values())) / totals
    test = np.array(list(split.test.counts().values())) / totals
    assert train.min() > 0.4
    assert (test.min() > 0.15) & (test.max() < 0.4)


def test_class_in_one_place_cannot_be_split() -> None:
    classes = patches(150, 150, 60, 8, 2, 0)
    classes[classes == 0] = 0
    classes[70:78, 70:78] = 3
    with pytest.raises(LabelError, match="'c2'") as caught:
        split_labels(table(classes), grid(150, 150), gap=GAP)
    assert "--skip-class c2" in str(caught.value)


@pytest.mark.slow
def test_two_places_leave_nothing_to_validate_on() -> None:
    """5 × 5 pixels of each class, side by side, in two corners: enough for training and test, no more."""
    classes = np.zeros((300, 300), int)
    for row, col in ((10, 10), (250, 250)):
        classes[row : row + 5, col : col + 5] = 1
        classes[row : row + 5, col + 5 : col + 10] = 2
    for seed in range(3):
        with pytest.raises(LabelError, match=r"no validation pixels.*'c0', 'c1'") as caught:
            split_labels(table(classes), grid(300, 300), gap=GAP, seed=seed)
        assert "more places" in str(caught.value)
    # A third place of one class is enough: for the other there is only a warning.
    classes[10:14, 250:254] = 1
    split = split_labels(table(classes), grid(300, 300), gap=GAP)
    assert split.validation.counts()["c0"] > 0
    assert smallest_distance(split) >= GAP


def test_scene_smaller_than_the_gap() -> None:
    classes = np.ones((18, 18), int)
    classes[9:] = 2
    with pytest.raises(LabelError, match="too small"):
        split_labels(table(classes), grid(18, 18), gap=GAP)


def test_near_agrees_with_all_pairs_across_tile_borders() -> None:
    rng = np.random.default_rng(0)
    # Around the corner of four 512-pixel tiles, and far away.
    a = np.concatenate([rng.integers(470, 560, (300, 2)), rng.integers(0, 2000, (200, 2))])
    b = np.concatenate([rng.integers(440, 590, (25, 2)), rng.integers(0, 2000, (30, 2))])
    for distance in (1, 2, 17, 40):
        expected = (np.abs(a[:, None] - b[None]).max(-1) < distance).any(1)
        assert near(a[:, 0], a[:, 1], b[:, 0], b[:, 1], distance).tolist() == expected.tolist()
    assert not near(a[:, 0], a[:, 1], b[:0, 0], b[:0, 1], 17).any()
    assert near(a[:0, 0], a[:0, 1], b[:, 0], b[:, 1], 17).size == 0


def test_raster_of_the_parts(tmp_path: Path) -> None:
    labels = table(patches(700, 530, 150, 10, 3, 0))
    scene = grid(700, 530)
    split = split_labels(labels, scene, gap=GAP)
    split.write_raster(tmp_path / "split.tif", scene)
    with rasterio.open(tmp_path / "split.tif") as file:
        drawn = file.read(1)
        assert file.crs == scene.crs
        assert file.transform == scene.transform
    for value, part in enumerate(split.parts.values(), start=1):
        assert np.array_equal(np.argwhere(drawn == value), np.unique(pixels(part), axis=0))
