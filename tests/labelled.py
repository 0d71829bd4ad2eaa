"""Labelled pixels without a scene: for everything that needs places and classes, but no patches."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from das2f_map.legend import Legend
from das2f_map.training.pixels import TrainingPixels


def pixels_at(
    rows: NDArray[Any],
    cols: NDArray[Any],
    positions: NDArray[Any],
    *,
    scene: NDArray[Any] | None = None,
    classes: int = 0,
) -> TrainingPixels:
    """Pixels at some places, with classes named c0, c1, … by their position; all in one scene by default."""
    scene = np.zeros(rows.size, np.int64) if scene is None else scene
    count = max(classes, int(positions.max()) + 1)
    return TrainingPixels(
        # Nobody asks a reader for a patch: only their number counts.
        readers=cast(Any, (None,) * (int(scene.max()) + 1)),
        legend=Legend.from_names([f"c{k}" for k in range(count)]),
        scene=scene.astype(np.int64),
        rows=rows.astype(np.int32),
        cols=cols.astype(np.int32),
        positions=positions.astype(np.int64),
    )


def pixels_of(classes: NDArray[Any]) -> TrainingPixels:
    """The labelled pixels of an array of the scene: position of the class + 1, 0 where there is no label."""
    rows, cols = np.nonzero(classes)
    return pixels_at(rows, cols, classes[rows, cols] - 1)


def squares(size: int, n: int, side: int, classes: int, seed: int) -> NDArray[np.int64]:
    """A square scene with square polygons at random places, for :func:`pixels_of`."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((size, size), np.int64)
    for k in range(n):
        r, c = rng.integers(0, size - side, 2)
        drawn[r : r + side, c : c + side] = k % classes + 1
    return drawn


def chebyshev(
    rows: NDArray[Any], cols: NDArray[Any], other_rows: NDArray[Any], other_cols: NDArray[Any]
) -> NDArray[np.int64]:
    """Distance of each pixel to the nearest other one, by looking at all pairs; a million without others."""
    nearest = np.full(rows.size, 1_000_000)
    for k, (row, col) in enumerate(zip(rows.astype(int), cols.astype(int), strict=True)):
        if other_rows.size:
            nearest[k] = np.maximum(
                abs(other_rows.astype(int) - row), abs(other_cols.astype(int) - col)
            ).min()
    return nearest
