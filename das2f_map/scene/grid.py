"""Value types that carry the geometry of rasters.

All are immutable. Windows count rows and columns of *their* grid: MS pixels unless a name
says PAN. An affine transform always maps *pixel to map*: ``(x, y) = transform * (col, row)``
with ``(0, 0)`` the outer corner of the first pixel, so a pixel's centre is at ``+0.5``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from affine import Affine
from rasterio.crs import CRS
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window as RasterioWindow

PAN_PER_MS = 4
"""PAN pixels along one side of an MS pixel on the common grid."""


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels: first row and column, and size. May lie outside its grid."""

    row: int
    col: int
    height: int
    width: int

    @property
    def row_stop(self) -> int:
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        return self.col + self.width

    @property
    def is_empty(self) -> bool:
        return self.height <= 0 or self.width <= 0

    def padded(self, before: int, after: int) -> Window:
        """Grown by ``before`` pixels above and left, ``after`` pixels below and right."""
        extra = before + after
        return Window(self.row - before, self.col - before, self.height + extra, self.width + extra)

    def intersection(self, other: Window) -> Window:
        """The part common to both windows; empty (size 0) if there is none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        return Window(
            row,
            col,
            max(0, min(self.row_stop, other.row_stop) - row),
            max(0, min(self.col_stop, other.col_stop) - col),
        )

    def refined(self, factor: int) -> Window:
        """The same ground on a grid ``factor`` times finer."""
        return Window(self.row * factor, self.col * factor, self.height * factor, self.width * factor)

    def shifted(self, rows: int, cols: int) -> Window:
        """Moved down by ``rows`` and right by ``cols`` pixels."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def to_rasterio(self) -> RasterioWindow:
        """The same window in rasterio's type, for reads and writes of a file on the same grid."""
        return RasterioWindow(self.col, self.row, self.width, self.height)

    def slices(self) -> tuple[slice, slice]:
        """Index of this window in an array of its grid, ``(row slice, column slice)``."""
        return slice(self.row, self.row_stop), slice(self.col, self.col_stop)


@dataclass(frozen=True)
class Grid:
    """A georeferenced pixel grid.

    Parameters
    ----------
    height, width:
        Rows and columns.
    transform:
        Pixel to map, see the module's note.
    crs:
        Coordinate reference system of the map side.
    """

    height: int
    width: int
    transform: Affine
    crs: CRS

    @classmethod
    def from_rasterio(cls, dataset: DatasetReader | DatasetWriter) -> Grid:
        """The grid of an open raster, as the file has it (not turned upright)."""
        return cls(dataset.height, dataset.width, dataset.transform, dataset.crs)

    @property
    def window(self) -> Window:
        """The whole grid as a window of itself."""
        return Window(0, 0, self.height, self.width)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Lengths of a pixel's row step and column step, in CRS units: ``(along rows, along columns)``."""
        t = self.transform
        return math.hypot(t.b, t.e), math.hypot(t.a, t.d)

    def pixel_to_map(self, row: float, col: float) -> tuple[float, float]:
        """Map ``(x, y)`` of a pixel position; ``row + 0.5, col + 0.5`` is a pixel's centre."""
        x, y = self.transform * (col, row)
        return float(x), float(y)

    def map_to_pixel(self, x: float, y: float) -> tuple[float, float]:
        """``(row, col)`` of a map position, fractional."""
        col, row = ~self.transform * (x, y)
        return float(row), float(col)

    def cropped(self, window: Window) -> Grid:
        """The grid of a window (which may reach outside)."""
        return Grid(
            window.height,
            window.width,
            self.transform * Affine.translation(window.col, window.row),
            self.crs,
        )

    def moved(self, rows: float, cols: float) -> Grid:
        """The grid moved down by ``rows`` and right by ``cols`` of its pixels, which may be fractions."""
        return Grid(self.height, self.width, self.transform * Affine.translation(cols, rows), self.crs)

    def refined(self, factor: int) -> Grid:
        """The same ground with ``factor`` × ``factor`` pixels in place of each."""
        return Grid(
            self.height * factor,
            self.width * factor,
            self.transform * Affine.scale(1.0 / factor),
            self.crs,
        )

    def corners(self) -> tuple[tuple[float, float], ...]:
        """Map positions of the four outer corners, clockwise from pixel (0, 0)."""
        h, w = self.height, self.width
        return tuple(self.pixel_to_map(r, c) for r, c in ((0, 0), (0, w), (h, w), (h, 0)))


@dataclass(frozen=True)
class GridPair:
    """The common grid of a scene: MS pixels, and exactly 4 × 4 PAN pixels in each."""

    ms: Grid

    @property
    def pan(self) -> Grid:
        """The PAN-scale grid."""
        return self.ms.refined(PAN_PER_MS)


def blocks_of(window: Window, size: int) -> Iterator[Window]:
    """Cut a window into blocks of at most ``size`` × ``size`` pixels, row by row."""
    for row in range(window.row, window.row_stop, size):
        for col in range(window.col, window.col_stop, size):
            yield Window(row, col, min(size, window.row_stop - row), min(size, window.col_stop - col))
