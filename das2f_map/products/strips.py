"""A map as strips of whole rows: gathered from blocks as they come, or read from its file.

Sums and outlines are computed strip by strip. The height of a strip depends on the map's grid alone, so that
results are the same to the last digit, whatever the size of the blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.errors

from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.products.areas import PixelAreas
from das2f_map.progress import Progress
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float32, Float64, UInt8

STRIP_PIXELS = 1_500_000
"""Pixels of a strip, about."""

_TILE = 512
"""Rows of a tile in this package's maps: strips are whole tiles where they fit."""


@dataclass(frozen=True, eq=False)
class Strip:
    """Some whole rows of a map: classes uint8, pixel areas float64 m², confidence float32, all (h, width)."""

    window: Window
    classes: UInt8
    areas: Float64
    confidence: Float32 | None


def rows_of(strip: Strip, start: int, stop: int) -> Strip:
    """Some rows of a strip, counted from its first; nothing is copied."""
    window, rows = strip.window, slice(start, stop)
    return Strip(
        Window(window.row + start, window.col, stop - start, window.width),
        strip.classes[rows],
        strip.areas[rows],
        None if strip.confidence is None else strip.confidence[rows],
    )


def strip_rows(grid: Grid, tile_rows: int = _TILE) -> int:
    """Rows that make a strip: whole tiles where they fit, so that none is decoded twice."""
    rows = max(1, STRIP_PIXELS // grid.width)
    return rows // tile_rows * tile_rows if rows >= tile_rows else rows


class StripAssembler:
    """Gathers the blocks of a map, which come row by row, into strips.

    Parameters
    ----------
    grid:
        The map's grid.
    rows:
        Height of a strip; by default from :func:`strip_rows`.
    """

    def __init__(self, grid: Grid, rows: int | None = None) -> None:
        self._grid = grid
        self._rows = min(rows or strip_rows(grid), grid.height)
        self._areas = PixelAreas(grid)
        self._row = 0
        """First row that is in no strip yet."""
        self._held: deque[tuple[UInt8, Float32]] = deque()
        """Complete rows of blocks from there on: classes and confidence."""
        self._band: tuple[UInt8, Float32] | None = None
        """The row of blocks that is being filled."""
        self._band_start = 0
        self._missing = 0
        """Pixels of that row that are still to come."""

    def add(self, window: Window, classes: UInt8, confidence: Float32) -> Iterator[Strip]:
        """Add a block and get the strips that are complete with it.

        Parameters
        ----------
        window:
            Pixels of the map. The next block starts where this one ends in the same rows, or at the left edge
            of the rows below.
        classes:
            uint8 (h, w).
        confidence:
            float32 (h, w).

        Raises
        ------
        ValueError
            The block does not follow on the one before.
        """
        if self._band is None:
            if window.row != self._band_start:
                raise ValueError(f"{window} does not follow on the blocks so far")
            shape = (window.height, self._grid.width)
            self._band = np.zeros(shape, np.uint8), np.full(shape, np.nan, np.float32)
            self._missing = window.height * self._grid.width
        place = window.shifted(-self._band_start, 0).slices()
        if (window.row, window.height) != (self._band_start, len(self._band[0])):
            raise ValueError(f"{window} does not follow on the blocks so far")
        self._band[0][place], self._band[1][place] = classes, confidence
        self._missing -= window.height * window.width
        if self._missing == 0:
            self._held.append(self._band)
            self._band = None
            self._band_start = window.row_stop
            yield from self._complete()

    def require_complete(self) -> None:
        """Raise ``ValueError`` unless blocks have filled the map."""
        if self._band is not None or self._band_start != self._grid.height:
            raise ValueError(f"blocks are missing from row {self._band_start} of the map on")

    def _complete(self) -> Iterator[Strip]:
        """The strips that are complete now."""
        last = self._band_start == self._grid.height
        while self._row + self._rows <= self._band_start or (last and self._held):
            height = min(self._rows, self._band_start - self._row)
            window = Window(self._row, 0, height, self._grid.width)
            self._row += height
            classes, confidence = self._taken(height)
            yield Strip(window, classes, self._areas.of(window), confidence)
        if len(self._held) == 1 and self._held[0][0].base is not None:
            # A view of some last rows would keep the whole row of blocks in memory.
            classes, confidence = self._held.pop()
            self._held.append((classes.copy(), confidence.copy()))

    def _taken(self, height: int) -> tuple[UInt8, Float32]:
        """The first rows that are held, which are let go; copied only where they are of several blocks."""
        parts: list[tuple[UInt8, Float32]] = []
        while height:
            classes, confidence = self._held.popleft()
            parts.append((classes[:height], confidence[:height]))
            if len(classes) > height:
                self._held.appendleft((classes[height:], confidence[height:]))
            height -= len(parts[-1][0])
        if len(parts) == 1:
            return parts[0]
        classes, confidence = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return classes, confidence


def read_strips(
    class_raster: Path,
    confidence_raster: Path | None,
    progress: Progress,
    label: str,
    rows: int | None = None,
) -> Iterator[Strip]:
    """A map read strip by strip, from the top; ``rows`` at once, by default from :func:`strip_rows`.

    Raises
    ------
    InputError
        A file cannot be read, is no class map, or the two do not have the same size.
    """
    with ExitStack() as stack:
        try:
            classes = stack.enter_context(rasterio.open(class_raster))
            confidence = stack.enter_context(rasterio.open(confidence_raster)) if confidence_raster else None
            if classes.dtypes[0] != "uint8":
                raise InputError(
                    f"{class_raster.name} is not a class map: its values are {classes.dtypes[0]}"
                )
            if confidence is not None and confidence.shape != classes.shape:
                raise InputError(f"{confidence.name} does not have the size of {class_raster.name}")
            grid = Grid.from_rasterio(classes)
            pixel_areas = PixelAreas(grid)
            height = rows or strip_rows(grid, classes.block_shapes[0][0])
            advance = stack.enter_context(progress(label, grid.height))
            for row in range(0, grid.height, height):
                window = Window(row, 0, min(height, grid.height - row), grid.width)
                part = window.to_rasterio()
                values = classes.read(1, window=part)
                if classes.nodata is not None and classes.nodata != NODATA_CLASS:
                    values[values == classes.nodata] = NODATA_CLASS
                sure = None if confidence is None else confidence.read(1, window=part).astype(np.float32)
                yield Strip(window, values, pixel_areas.of(window), sure)
                advance(window.height)
        except rasterio.errors.RasterioIOError as error:
            raise InputError(f"cannot read {class_raster}: {error}") from error
