"""A map as strips of whole rows: gathered from blocks as they come, or read from its file.

Sums and outlines are computed strip by strip. The height of a strip depends on the map's grid alone, so that
results are the same to the last digit, whatever the size of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.errors

from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.outputs.work_files import waiting_values
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

    A row of blocks waits until its last block is there; that of a wide map waits in a file. Close the
    assembler after use.

    Parameters
    ----------
    grid:
        The map's grid.
    rows:
        Height of a strip; by default from :func:`strip_rows`.
    work:
        Folder for the file; by default the system's folder of temporary files.
    """

    def __init__(self, grid: Grid, rows: int | None = None, *, work: Path | None = None) -> None:
        self._grid = grid
        self._rows = min(rows or strip_rows(grid), grid.height)
        self._areas = PixelAreas(grid)
        self._blocks = _RowOfBlocks(work)
        self._missing = 0
        """Pixels of the row of blocks that are still to come."""
        self._start = self._height = 0
        """First row of the row of blocks, and its height while it is being filled."""
        self._strip: tuple[UInt8, Float32] | None = None
        """Classes and confidence of the strip that is being filled."""
        self._row = self._filled = 0
        """First row of that strip, and the rows of it that are there."""

    def close(self) -> None:
        """Let go of the blocks that wait."""
        self._blocks.close()

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
        OSError
            The file cannot be written.
        """
        begins = not self._missing
        if window.row != self._start or not (begins or window.height == self._height):
            raise ValueError(f"{window} does not follow on the blocks so far")
        if begins:
            self._height, self._missing = window.height, window.height * self._grid.width
            self._blocks.clear()
        self._blocks.add(window, classes, confidence)
        self._missing -= window.height * window.width
        if not self._missing:
            yield from self._complete()

    def require_complete(self) -> None:
        """Raise ``ValueError`` unless blocks have filled the map."""
        if self._missing or self._start != self._grid.height:
            raise ValueError(f"blocks are missing from row {self._start} of the map on")

    def _complete(self) -> Iterator[Strip]:
        """The strips that are complete with the row of blocks."""
        taken, width = 0, self._grid.width
        while taken < self._height:
            height = min(self._rows, self._grid.height - self._row)
            if self._strip is None:
                self._strip = np.empty((height, width), np.uint8), np.empty((height, width), np.float32)
            classes, confidence = self._strip
            rows = min(height - self._filled, self._height - taken)
            part = slice(self._filled, self._filled + rows)
            self._blocks.read(taken, classes[part], confidence[part])
            taken, self._filled = taken + rows, self._filled + rows
            if self._filled == height:
                window = Window(self._row, 0, height, width)
                self._row, self._filled, self._strip = self._row + height, 0, None
                yield Strip(window, classes, self._areas.of(window), confidence)
        self._start += self._height


class _RowOfBlocks:
    """Blocks side by side that wait, one after the other in a file; their classes before their confidence."""

    def __init__(self, work: Path | None) -> None:
        self._file = waiting_values(work)
        self._places: list[tuple[Window, int]] = []
        self._end = 0

    def clear(self) -> None:
        """Begin another row of blocks in the place of this one."""
        self._places, self._end = [], 0

    def add(self, window: Window, classes: UInt8, confidence: Float32) -> None:
        """Put a block away."""
        self._places.append((window, self._end))
        self._file.seek(self._end)
        for values, dtype in ((classes, np.uint8), (confidence, np.float32)):
            self._end += self._file.write(np.ascontiguousarray(values, dtype).data)

    def read(self, row: int, classes: UInt8, confidence: Float32) -> None:
        """Fill arrays (h, width) with rows of the row of blocks, from number ``row`` of it on."""
        for window, start in self._places:
            pixels, first = window.height * window.width, row * window.width
            for out, place in ((classes, start + first), (confidence, start + pixels + 4 * first)):
                part = out[:, window.col : window.col_stop]
                self._file.seek(place)
                values = np.frombuffer(self._file.read(part.size * out.itemsize), out.dtype)
                part[:] = values.reshape(part.shape)

    def close(self) -> None:
        self._file.close()


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
