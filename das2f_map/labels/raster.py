"""A raster of class numbers as labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from rasterio.errors import RasterioError

from das2f_map.errors import InputError, LabelError
from das2f_map.labels.source import MAX_CLASSES, LabelBlock, LabelSource, outside_scene
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.products.class_raster import read_legend, read_unsure
from das2f_map.scene.antimeridian import Lookup, lookups, turns_within
from das2f_map.scene.common_grid.relation import map_between
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.types import Int64

_OUTLINE_PARTS = 64
"""Segments of each side of the raster's outline: a straight side may be a curve in the scene's CRS."""

_STRIP = 256
"""Rows of positions looked up at a time; few, since the raster may have far more pixels than there are."""


class RasterLabels(LabelSource):
    """A raster of class numbers: 0 and nodata are unlabelled, and so are rejected pixels of a map.

    Each pixel of the grid is sampled on a sub-grid about as fine as the raster (up to 8 × 8 positions). It
    gets the class that most positions have, if at least as many have it as have none. Where two classes have
    equally many positions, the pixel is contested.
    """

    def __init__(self, path: str, dataset: Any, grid: Grid) -> None:
        if dataset.crs is None:
            raise LabelError(
                f"label raster {path} has no coordinate reference system",
                "assign one, e.g. gdal_edit.py -a_srs EPSG:32616 labels.tif",
            )
        if not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer) and dataset.dtypes[0] not in (
            "float32",
            "float64",
        ):
            raise LabelError(
                f"label raster {path} is of type {dataset.dtypes[0]}, not a raster of class numbers"
            )
        self._path = path
        self._dataset = dataset
        self._grid = grid
        self._nodata = dataset.nodata
        self._unsure = read_unsure(path)
        file = Grid.from_rasterio(dataset)
        try:
            self._footprint = _footprint(file, grid)
            # Raster pixels along a pixel of the scene; NaN if its middle has no place in the raster's CRS.
            finest = max(map_between(grid, file).footprint)
            self._factor = int(np.clip(round(finest), 1, 8)) if math.isfinite(finest) else 1
            self._map = map_between(grid.refined(self._factor), file)
        except InputError as error:  # its message speaks of MS and PAN
            raise LabelError(
                f"label raster {path} cannot be laid over the scene: its coordinate reference system cannot "
                "be converted to that of the MS file",
                "bring the labels to the coordinate reference system of the MS file with gdalwarp",
            ) from error
        self._file = file
        if self._footprint.intersection(grid.window).is_empty:
            raise outside_scene(path)
        values = self._distinct()
        if not values:
            raise LabelError(
                f"label raster {path} has no labelled pixel in the scene", "0 and nodata count as unlabelled"
            )
        if values[0] < 1 or values[-1] > MAX_CLASSES:
            raise LabelError(
                f"label raster {path} holds class numbers {values[0]} to {values[-1]}, not 1 to 255",
                "0 and nodata count as unlabelled",
            )
        names = self._names() or {}
        self.legend = Legend.from_names([names.get(v, f"class {v}") for v in values], values)

    def _names(self) -> dict[int, str] | None:
        """The raster's own class names, by value."""
        legend = read_legend(self._path)
        return None if legend is None else {c.id: c.name for c in legend.each()}

    def _distinct(self) -> list[int]:
        found: set[int] = set()
        for window in self.windows(blocks_of(self._grid.window, 512)):
            found.update(int(v) for v in np.unique(self._values(window)))
            if len(found) > MAX_CLASSES + 1:
                raise LabelError(
                    f"label raster {self._path} has more than {MAX_CLASSES} different values",
                    "it should hold class numbers; is it an image?",
                )
        return sorted(found - {NODATA_CLASS})

    def _values(self, window: Window) -> Int64:
        """Class numbers on the refined grid, 0 where unlabelled."""
        fine = window.refined(self._factor)
        out = np.zeros((fine.height, fine.width), np.int64)
        for row in range(0, fine.height, _STRIP):
            strip = Window(fine.row + row, fine.col, min(_STRIP, fine.height - row), fine.width)
            at_row, at_col = self._map.centres(strip)
            part = out[row : row + strip.height]
            for found in lookups(self._file, at_row, at_col):
                part[found.inside] = self._look_up(found)
        return out

    def _look_up(self, found: Lookup) -> Int64:
        """Class numbers (n,) at positions in the raster."""
        where = found.window.to_rasterio()
        try:
            raw = self._dataset.read(1, window=where)[found.pixels]
            valid = self._dataset.read_masks(1, window=where)[found.pixels] > 0
        except RasterioError as error:
            raise LabelError(
                f"label raster {self._path} cannot be read: {error.__cause__ or error}",
                "the file seems to be damaged or cut short",
            ) from error
        if raw.dtype.kind == "f":
            valid &= np.isfinite(raw)
            raw = np.where(valid, raw, 0)
            if not np.array_equal(raw, np.round(raw)):
                raise LabelError(f"label raster {self._path} holds fractions, not class numbers")
        if self._unsure is not None:
            valid &= raw != self._unsure
        return np.where(valid, raw, NODATA_CLASS).astype(np.int64)

    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        for window in candidates:
            if not window.intersection(self._footprint).is_empty:
                yield window

    def read(self, window: Window) -> LabelBlock:
        k = self._factor
        fine = self._values(window)
        cells = fine.reshape(window.height, k, window.width, k)
        best = np.zeros((window.height, window.width), np.int64)
        classes = np.zeros(best.shape, np.uint8)
        tied = np.zeros(best.shape, bool)
        for value in np.unique(fine):
            if value == NODATA_CLASS:
                continue
            count = (cells == value).sum(axis=(1, 3))
            more = count > best
            tied = np.where(more, False, tied | ((count == best) & (count > 0)))
            classes[more] = value
            best = np.maximum(best, count)
        enough = best >= (cells == NODATA_CLASS).sum(axis=(1, 3))
        contested = tied & enough
        classes[contested | ~enough] = NODATA_CLASS
        return LabelBlock(classes, int(contested.sum()))

    def close(self) -> None:
        self._dataset.close()


def _footprint(file: Grid, scene: Grid) -> Window:
    """Pixels of the scene that bound a file; all if it goes around the world or cannot be converted."""
    steps = np.linspace(0.0, 1.0, _OUTLINE_PARTS + 1)
    zero, one = np.zeros_like(steps), np.ones_like(steps)
    row, col = map_between(file, scene).positions(
        np.concatenate([zero, steps, one, steps]) * file.height,
        np.concatenate([steps, one, steps, zero]) * file.width,
    )
    if len(turns_within(file)) > 1 or not np.isfinite([row, col]).all():
        return scene.window
    top, left = math.floor(row.min()), math.floor(col.min())
    return Window(top, left, math.ceil(row.max()) - top, math.ceil(col.max()) - left)
