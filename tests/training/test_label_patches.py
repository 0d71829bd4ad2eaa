"""Classes around targets, against a plain look-up in a label image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from das2f_map.legend import Legend
from das2f_map.scene.patch import PatchGeometry
from das2f_map.training.label_patches import UNLABELLED, LabelPatches
from das2f_map.training.pixels import TrainingPixels

SIZE, BEFORE = 16, 7


def pixels_of(*images: np.ndarray) -> TrainingPixels:
    """Labelled pixels of label images; -1 is unlabelled."""
    reader = SimpleNamespace(source=SimpleNamespace(radius=8, patch=PatchGeometry()))
    at = [np.argwhere(image >= 0) for image in images]
    return TrainingPixels(
        cast("Any", (reader,) * len(images)),
        np.repeat(np.arange(len(images)), [len(a) for a in at]),
        np.concatenate([a[:, 0] for a in at]).astype(np.int32),
        np.concatenate([a[:, 1] for a in at]).astype(np.int32),
        Legend.from_names(["a", "b", "c"]),
        np.concatenate([image[tuple(a.T)] for image, a in zip(images, at, strict=True)]).astype(np.int64),
    )


def plain(image: np.ndarray, row: int, col: int, turn: int, reach: int) -> np.ndarray:
    """The square around a target, turned, then cut as a patch is."""
    wide = np.pad(image, 8, constant_values=UNLABELLED)
    square = wide[row : row + 17, col : col + 17].copy()
    for r in range(17):
        for c in range(17):
            if max(abs(r - 8), abs(c - 8)) > reach:
                square[r, c] = UNLABELLED
    for _ in range(turn % 4):
        square = np.rot90(square)
    if turn >= 4:
        square = square[:, ::-1]
    return square[1:, 1:]


@pytest.mark.parametrize("reach", [1, 4, 7])
def test_labels_are_turned_and_cut_as_patches_are(reach: int) -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(-3, 3, (20, 26)).clip(-1), rng.integers(-3, 3, (9, 40)).clip(-1)]
    pixels = pixels_of(*images)
    at = rng.permutation(len(pixels))[:60]
    turns = rng.integers(0, 8, at.size)
    found = LabelPatches(pixels, reach).patches(at, turns)
    assert found.shape == (60, SIZE, SIZE)
    for k, turn, patch in zip(at, turns, found, strict=True):
        image = images[pixels.scene[k]]
        expected = plain(image, int(pixels.rows[k]), int(pixels.cols[k]), int(turn), reach)
        np.testing.assert_array_equal(patch, expected)
        assert patch[BEFORE, BEFORE] == pixels.positions[k]


def test_only_the_given_pixels_are_seen() -> None:
    image = np.zeros((20, 20), int)
    everything = pixels_of(image)
    left = everything.select(np.flatnonzero(everything.cols < 10))
    at = np.flatnonzero((left.rows == 10) & (left.cols == 9))
    (patch,) = LabelPatches(left, 4).patches(at, np.zeros(1, np.int64))
    assert (patch[3:12, 3:8] == 0).all()
    assert (patch[:, 8:] == UNLABELLED).all()
