"""A raster of class numbers as labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator

import numpy as np

from das2f_map.errors import InputError, LabelError
from das2f_map.labels.class_values import is_null
from das2f_map.labels.source import LabelBlock, LabelSource, outside_scene
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, Legend
from das2f_map.products.class_file import ClassFile
from das2f_map.scene.antimeridian import lookups, turns_within
from das2f_map.scene.common_grid.relation import map_between
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.types import Bool, Int64, UInt8

log = logging.getLogger(__name__)

Slot = tuple[slice, Bool]
"""Rows of an array, and which of their pixels."""

_OUTLINE_PARTS = 64
"""Segments of each side of the raster's outline: a straight side may be a curve in the scene's CRS."""

_STRIP = 256
"""Rows of positions looked up at a time; few, since the raster may have far more pixels than there are."""


class RasterLabels(LabelSource):
    """A raster of class numbers: nodata is unlabelled, and so are rejected pixels of a map.

    Each pixel of the grid is sampled on a sub-grid about as fine as the raster (up to 8 × 8 positions). It
    gets the class that most positions have, if at least as many have it as have none. Where two classes have
    equally many positions, the pixel is contested.
    """

    def __init__(self, file: ClassFile, grid: Grid) -> None:
        file.require_crs()
        self._file = file
        self._grid = grid
        try:
            self._footprint = _footprint(file.grid, grid)
            # Raster pixels along a pixel of the scene; NaN if its middle has no place in the raster's CRS.
            finest = max(map_between(grid, file.grid).footprint)
            self._factor = int(np.clip(round(finest), 1, 8)) if math.isfinite(finest) else 1
            self._map = map_between(grid.refined(self._factor), file.grid)
        except InputError as error:  # its message speaks of MS and PAN
            raise LabelError(
                f"{file.label} cannot be laid over the scene: its coordinate reference system cannot "
                "be converted to that of the MS file",
                "bring the labels to the coordinate reference system of the MS file with gdalwarp",
            ) from error
        if self._footprint.intersection(grid.window).is_empty:
            raise outside_scene(f"labels {file.path}")
        file.tell_names()
        self._unsure = file.names.unsure
        found = self._distinct()
        nulls = {code for code in found if is_null(code)}
        self.unlabelled = tuple(sorted(nulls | (set() if file.zero_is_a_class() else {0})))
        values = sorted(found - {*self.unlabelled})
        file.refuse_image(len(values), MOST_CLASSES)
        if not values:
            raise LabelError(
                f"{file.label} has no labelled pixel in the scene", "0 and nodata count as unlabelled"
            )
        file.tell_zero(values)
        self.legend, self.codes = Legend.of_codes(values, file.names.names)
        if len(self.legend) < len(values):
            log.info("%s: values of one name are one class", file.label)
        self._values = np.array(values, np.int64)
        self._ids = np.array([self.codes[v] for v in values], np.uint8)

    def _distinct(self) -> set[int]:
        found: set[int] = set()
        for window in self.windows(blocks_of(self._grid.window, 512)):
            for _, codes, valid in self._looked_up(window):
                found.update(np.unique(codes[valid]).tolist())
            # Some may yet count as unlabelled.
            self._file.refuse_image(len(found), MOST_CLASSES + 8)
        return found

    def _looked_up(self, window: Window) -> Iterator[tuple[Slot, Int64, Bool]]:
        """Class numbers (n,) at positions of the refined grid, where these are, and which are valid."""
        fine = window.refined(self._factor)
        for row in range(0, fine.height, _STRIP):
            strip = Window(fine.row + row, fine.col, min(_STRIP, fine.height - row), fine.width)
            at_row, at_col = self._map.centres(strip)
            for found in lookups(self._file.grid, at_row, at_col):
                values, valid = self._file.read(found.window)
                codes, valid = self._file.as_codes(values[found.pixels], valid[found.pixels])
                if self._unsure is not None:
                    valid = valid & (codes != self._unsure)
                yield (slice(row, row + strip.height), found.inside), codes, valid

    def _classes(self, window: Window) -> tuple[UInt8, Bool]:
        """Class ids on the refined grid, 0 where unlabelled; and where a value says so that is no nodata."""
        fine = window.refined(self._factor)
        ids = np.zeros((fine.height, fine.width), np.uint8)
        blank = np.zeros(ids.shape, bool)
        for (rows, inside), codes, valid in self._looked_up(window):
            place = np.minimum(np.searchsorted(self._values, codes), self._values.size - 1)
            known = valid & (self._values[place] == codes)
            ids[rows][inside] = np.where(known, self._ids[place], NODATA_CLASS)
            blank[rows][inside] = valid & np.isin(codes, self.unlabelled)
        return ids, blank

    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        for window in candidates:
            if not window.intersection(self._footprint).is_empty:
                yield window

    def read(self, window: Window) -> LabelBlock:
        k = self._factor
        fine, blank = self._classes(window)
        shape = (window.height, k, window.width, k)
        cells = fine.reshape(shape)
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
        zeros = ~enough & (2 * blank.reshape(shape).sum(axis=(1, 3)) >= k * k)
        return LabelBlock(classes, int(contested.sum()), int(zeros.sum()))

    def close(self) -> None:
        self._file.close()


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
