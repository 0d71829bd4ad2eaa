"""Pixels that a map is least sure of, spread over the map and its classes: where to label next.

They are no probability sample: the pixels are chosen for what the map says of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rasterio.errors import RasterioError

from das2f_map.assess.drawing import CountedMap, Neighbours, Pixels
from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.raster_file import open_raster
from das2f_map.types import Float32, Float64, Int64, UInt8

Measure = Literal["confidence", "margin", "entropy"]

_CELLS_PER_POINT = 4
"""Cells of the map for each point that is asked for: in each, a class has one candidate."""


@dataclass(frozen=True, eq=False)
class OpenValues:
    """A raster of probabilities, confidence or entropy that is open for reading."""

    path: str
    dataset: Any
    measure: Measure

    def doubt(self, window: Window) -> Float32:
        """How unsure the map is, (h, w): larger is less sure; nan where the raster has no value.

        Raises
        ------
        InputError
            The file is damaged.
        """
        try:
            values = self.dataset.read(window=window.to_rasterio(), masked=True)
        except RasterioError as error:
            raise InputError(f"{self.path} cannot be read: {error.__cause__ or error}") from error
        values = values.astype(np.float32).filled(np.nan)
        if self.measure == "margin":
            top = np.partition(values, -2, axis=0)
            doubt = 1 - (top[-1] - top[-2])
        else:
            doubt = values[0] if self.measure == "entropy" else 1 - values[0]
        return np.asarray(doubt, np.float32)


@contextmanager
def open_values(path: str | Path, grid: Grid) -> Iterator[OpenValues]:
    """Open a raster that `classify` wrote with the map.

    Several bands are probabilities of the classes: their margin counts, the largest less the second largest.
    A single band is the entropy if it says so, else the confidence.

    Raises
    ------
    InputError
        The file cannot be read, or has another grid than the map.
    """
    with open_raster(str(path), "Uncertainty") as dataset:
        own = Grid.from_rasterio(dataset)
        same = own.window == grid.window and own.transform.almost_equals(grid.transform, 1e-6)
        if not same:
            raise InputError(
                f"{path} does not lie on the map's pixels",
                "give a raster that classify wrote with the map: --probabilities, --entropy or --confidence",
            )
        words = f"{dataset.descriptions[0] or ''} {Path(path).stem}".lower()
        measure: Measure = (
            "margin" if dataset.count > 1 else "entropy" if "entropy" in words else "confidence"
        )
        yield OpenValues(str(path), dataset, measure)


def candidates(
    counted: CountedMap, values: OpenValues, points: int, seed: int, progress: Progress = silent
) -> Pixels:
    """The least sure pixels of every class, no two of a class in the same cell of the map; least sure first.

    Every class gets the same number, or all that it has; classes take turns.

    Parameters
    ----------
    points:
        Number of pixels; fewer come back where the map has not enough of them apart from each other.
    seed:
        Decides between pixels that are equally unsure.
    """
    grid = counted.map.grid
    cell = max(1, int(np.sqrt(grid.height * grid.width / (_CELLS_PER_POINT * points))))
    best = _Best(cell, seed)
    with progress("Looking for unsure pixels", grid.height) as advance:
        for window in counted.windows:
            best.add(window, counted.map.strata(window), values.doubt(window))
            advance(window.height)
    pixel = float(np.sqrt(counted.areas_m2[1:].sum() / counted.population))
    return best.in_turns(points, Neighbours(grid, cell / 2 * pixel))


class _Best:
    """The least sure pixel of each class in each cell."""

    def __init__(self, cell: int, seed: int) -> None:
        self._cell, self._seed = cell, seed
        self._found: dict[tuple[int, int, int], tuple[float, float, int, int]] = {}

    def add(self, window: Window, classes: UInt8, doubt: Float32) -> None:
        """Look through a window: class ids and doubt (h, w)."""
        rows, cols = np.nonzero((classes != NODATA_CLASS) & np.isfinite(doubt))
        if not rows.size:
            return
        at, worth = classes[rows, cols], doubt[rows, cols]
        rows, cols = rows + window.row, cols + window.col
        tie = _scrambled(rows, cols, self._seed)
        down, across = rows // self._cell, cols // self._cell
        order = np.lexsort((tie, -worth, at, across, down))
        keys = np.stack([down, across, at.astype(np.int64)], axis=1)[order]
        first = np.ones(len(keys), bool)
        first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        for k in order[first].tolist():
            key = int(down[k]), int(across[k]), int(at[k])
            item = float(worth[k]), -float(tie[k]), int(rows[k]), int(cols[k])
            if key not in self._found or item > self._found[key]:
                self._found[key] = item

    def in_turns(self, points: int, near: Neighbours) -> Pixels:
        """Pixels, a class after the other, the least sure first, none too near to another."""
        queues: dict[int, list[tuple[float, float, int, int]]] = {}
        for (_, _, class_id), item in self._found.items():
            queues.setdefault(class_id, []).append(item)
        for queue in queues.values():
            queue.sort()
        chosen: list[tuple[int, int, int]] = []
        while len(chosen) < points and any(queues.values()):
            for class_id in sorted(queues):
                while queues[class_id] and len(chosen) < points:
                    _, _, row, col = queues[class_id].pop()
                    if near.add(row, col):
                        chosen.append((row, col, class_id))
                        break
        found: Int64 = np.array(chosen, np.int64).reshape(-1, 3)
        return Pixels(found[:, 0], found[:, 1], found[:, 2])


def _scrambled(rows: Int64, cols: Int64, seed: int) -> Float64:
    """Numbers 0..1 that depend on the pixel and the seed alone, not on the strip in which it was read."""
    with np.errstate(over="ignore"):
        mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + cols.astype(np.uint64)
        mixed = (mixed ^ np.uint64(seed)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) / 2.0**53, np.float64)
