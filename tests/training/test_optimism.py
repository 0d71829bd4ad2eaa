"""The optimism of a random split where the answer is known: patches that tell the place, or the class."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from labelled import pixels_at
from torch import Tensor

from das2f_map.training.assessment import held_out
from das2f_map.training.folds import spatial_folds
from das2f_map.training.optimism import RandomSplit, compare_with_random_split, optimism_text
from das2f_map.training.pixels import TrainingPixels

RNG = np.random.default_rng(3)


class Made(TrainingPixels):
    """Pixels whose patches are plain, with a value that ``values`` gives."""

    values: np.ndarray = np.zeros(0)

    def patches(self, at: Any, turns: Any = None) -> tuple[Tensor, Tensor]:
        shown = torch.from_numpy(self.values[at].astype(np.float32))[:, :, None, None]
        return shown.expand(-1, -1, 16, 16), shown[:, :1].expand(-1, -1, 64, 64)


def made(values: np.ndarray, rows: np.ndarray, cols: np.ndarray, classes: np.ndarray) -> Made:
    plain = pixels_at(rows, cols, classes)
    found = Made(plain.readers, plain.scene, plain.rows, plain.cols, plain.legend, plain.positions)
    object.__setattr__(found, "values", values)
    return found


def compared(place_tells: bool) -> RandomSplit:
    """Polygons of 25 pixels in a lattice, with classes at random."""
    polygon = np.arange(96)
    side = np.arange(5)
    rows = (polygon[:, None, None] // 12 * 30 + side[None, :, None] + 0 * side).ravel()
    cols = (polygon[:, None, None] % 12 * 30 + 0 * side[None, :, None] + side).ravel()
    of = np.repeat(polygon, 25)
    classes = RNG.integers(0, 3, polygon.size)[of]
    values = RNG.normal(size=(polygon.size, 4))[of] if place_tells else 3.0 * np.eye(3, 4)[classes]
    values = values + RNG.normal(0, 0.05, values.shape)
    pixels = made(values, rows, cols, classes)
    parts = held_out(spatial_folds(pixels, 3, gap=17, seed=0), "folds", most=10_000, seed=0)
    found = compare_with_random_split(pixels, parts, 0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "without", [pytest.param(False, marks=pytest.mark.slow), True], ids=["forest", "neighbour"]
)
def test_patches_that_tell_the_place_flatter(without: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without:
        monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
        monkeypatch.setitem(sys.modules, "sklearn", None)
    else:
        pytest.importorskip("sklearn", reason="needs the extra train")
    found = compared(place_tells=True)
    assert found.stand_in == ("nearest neighbour" if without else "random forest")
    assert found.random > 0.98
    assert 0.15 < found.spatial < 0.55  # three classes at random
    assert found.to_dict()["optimism"] == pytest.approx(found.random - found.spatial, abs=1e-4)


def test_patches_that_tell_the_class_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    found = compared(place_tells=False)
    assert found.random == found.spatial == 1.0
    assert optimism_text(found.to_dict()).startswith("Optimism of a random split: +0.0 points (")
