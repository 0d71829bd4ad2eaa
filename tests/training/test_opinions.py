"""Opinions on pixels of a patch, against a scene whose pixels say where they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from das2f_map.scene.patch import PatchGeometry
from das2f_map.training.opinions import EQUAL, NO_OPINION, OFFSETS, Answers, Opinions, share_of_cnns
from das2f_map.training.scene_pixels import ScenePixels

FAR = 1000.0
"""Rows and columns are divided by it, so that they are numbers that probabilities could be."""


def patches_of_places(rows: Any, cols: Any, turns: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """MS patches that hold each pixel's row and column, turned as a training's are."""
    found = []
    for row, col, turn in zip(rows, cols, turns, strict=True):
        r, c = np.mgrid[row - 8 : row + 9, col - 8 : col + 9] / FAR
        square = np.stack([r, c])
        for _ in range(turn % 4):
            square = np.rot90(square, axes=(1, 2))
        if turn >= 4:
            square = square[:, :, ::-1]
        found.append(square[:, 1:, 1:].astype(np.float32))
    return torch.from_numpy(np.stack(found)), torch.zeros(len(found), 1, 64, 64)


def opinions() -> Opinions:
    """On 40 pixels; the opinion on a pixel is its row and column."""
    rng = np.random.default_rng(2)
    rows, cols = (rng.integers(20, 400, 40).astype(np.int32) for _ in range(2))
    reader = SimpleNamespace(source=SimpleNamespace(patch=PatchGeometry()), patches=patches_of_places)
    table = np.empty((40, 3, 3, 2), np.float32)
    for i, down in enumerate(OFFSETS):
        for j, right in enumerate(OFFSETS):
            table[:, i, j, 0], table[:, i, j, 1] = (rows + down) / FAR, (cols + right) / FAR
    pixels = ScenePixels(cast("Any", (reader,)), np.zeros(40, np.int64), rows, cols)
    return Opinions(pixels, table, None, EQUAL)


def test_opinions_are_turned_with_their_patches() -> None:
    ms, pan, found = opinions().batch(64, [1])
    assert (ms.shape, pan.shape, found.shape) == ((64, 2, 16, 16), (64, 1, 64, 64), (64, 16, 16, 2))
    has_one = found[..., 0] != NO_OPINION
    assert (has_one.sum(dim=(1, 2)) == 9).all()
    assert has_one[:, 7, 7].all()
    assert torch.equal(found[has_one], ms.permute(0, 2, 3, 1)[has_one])
    # Turned patches were among them.
    upright = (ms[:, 0, 1, 0] > ms[:, 0, 0, 0]) & (ms[:, 1, 0, 1] > ms[:, 1, 0, 0])
    assert 0 < int(upright.sum()) < 64


def test_pixels_without_an_opinion_stay_without() -> None:
    some = opinions()
    some.table[:, 0] = NO_OPINION
    _, _, found = some.batch(32, [1])
    assert ((found[..., 0] != NO_OPINION).sum(dim=(1, 2)) == 6).all()


def test_the_seed_decides_the_batch() -> None:
    some = opinions()
    first, again, other = (some.batch(16, seed) for seed in ([3, 0], [3, 0], [3, 1]))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


# --- weights of the teachers ------------------------------------------------------------------------------


def answers(cnn: list[float], others: list[float]) -> Answers:
    """Of teachers that give the true one of two classes these probabilities."""
    right = np.array([cnn, others], np.float32).reshape(2, -1)
    truth = np.arange(right.shape[1], dtype=np.int64) % 2
    of_first = np.where(truth == 0, right, 1 - right)
    held = np.stack([of_first, 1 - of_first], axis=2).astype(np.float32)
    some = opinions()
    return Answers(some.pixels, np.stack([some.table] * 2), held, truth)


def test_who_is_right_on_unseen_ground_has_the_say() -> None:
    assert share_of_cnns([answers([0.9, 0.8, 0.95], [0.2, 0.1, 0.3])]) == 1
    assert share_of_cnns([answers([0.1, 0.2, 0.1], [0.8, 0.7, 0.9])]) == 0
    # Where each is right half of the time, their mean is never quite wrong.
    assert share_of_cnns([answers([0.95, 0.05], [0.05, 0.95])]) == 0.5
    # All ground counts together.
    assert share_of_cnns([answers([0.9] * 3, [0.4] * 3), answers([0.1] * 30, [0.9] * 30)]) < 0.3


def test_weights_are_even_where_nothing_speaks_for_one() -> None:
    assert share_of_cnns([]) == share_of_cnns([answers([], [])]) == EQUAL
    assert share_of_cnns([answers([0.97, 0.98], [0.97, 0.98])]) == EQUAL
