"""The maps of a mosaic, read window by window on its grid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import pyproj
import rasterio
import rasterio.errors
from affine import Affine

from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.products.class_file import ClassFile
from das2f_map.products.mosaic_maps import open_confidence
from das2f_map.products.mosaic_place import EDGE, Placement, map_coordinates
from das2f_map.scene.antimeridian import near
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float32, Int64, UInt8

MOST_OPEN: Final = 64
"""Maps that are open at once."""

MOST_READ: Final = 1 << 24
"""Most pixels of a map that are read at once."""


class MapPart:
    """A map of a mosaic, read on the mosaic's grid.

    Parameters
    ----------
    path, confidence:
        Its class raster, and the raster of its confidence; ``None`` to read none.
    grid:
        Its own geometry, as its placement has it.
    ids:
        Pixel value → id in the mosaic's legend.
    on:
        The mosaic's grid.
    placement:
        Its place.
    window:
        Pixels of the mosaic that the map may cover.
    """

    def __init__(
        self,
        path: str,
        confidence: str | None,
        grid: Grid,
        ids: Mapping[int, int],
        on: Grid,
        placement: Placement,
        window: Window,
    ) -> None:
        self.path, self.window = path, window
        self._confidence, self._grid, self._on = confidence, grid, on
        self._plain = placement.kind != "warped"
        order = sorted(ids)
        self._values = np.array(order, np.int64)
        self._ids = np.array([ids[v] for v in order], np.uint8)
        self._back: Affine = ~grid.transform * on.transform
        self._convert: pyproj.Transformer | None = None
        if grid.crs != on.crs:
            own, mosaic = (pyproj.CRS.from_user_input(g.crs.to_wkt()) for g in (grid, on))
            self._convert = pyproj.Transformer.from_crs(mosaic, own, always_xy=True)

    def open(self) -> OpenPart:
        """The files, open for reading."""
        with ExitStack() as stack:
            file = stack.enter_context(ClassFile.open(self.path, "map"))
            values = (
                None if self._confidence is None else stack.enter_context(open_confidence(self._confidence))
            )
            return OpenPart(self, file, values, stack.pop_all())

    def classes_of(self, codes: Int64, valid: Any) -> UInt8:
        """Ids of the mosaic's legend from pixel values."""
        at = np.minimum(np.searchsorted(self._values, codes), len(self._values) - 1)
        return np.where(valid & (self._values[at] == codes), self._ids[at], np.uint8(NODATA_CLASS))

    def source(self, window: Window) -> Window | tuple[Int64, Int64]:
        """The place of a window of the mosaic in the map's file: a window, or rows and columns (h, w)."""
        if self._plain:
            return window.shifted(-self.window.row, -self.window.col)
        rows = np.arange(window.row, window.row_stop, dtype=np.float64)[:, None] + 0.5
        cols = np.arange(window.col, window.col_stop, dtype=np.float64)[None, :] + 0.5
        x, y = map_coordinates(self._on.transform if self._convert else self._back, rows, cols)
        if self._convert is not None:
            x, y = self._convert.transform(x, y)
            x = near(
                x, self._grid.pixel_to_map(self._grid.height / 2, self._grid.width / 2)[0], self._grid.crs
            )
            t = ~self._grid.transform
            x, y = t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f
        away = ~(np.isfinite(x) & np.isfinite(y))
        x, y = np.where(away, -1.0, x), np.where(away, -1.0, y)
        return np.floor(y + EDGE).astype(np.int64), np.floor(x + EDGE).astype(np.int64)

    @property
    def grid(self) -> Grid:
        """The map's own geometry."""
        return self._grid


class OpenPart:
    """A part whose files are open. Made by :meth:`MapPart.open`; close it after use."""

    def __init__(self, part: MapPart, file: ClassFile, values: Any, stack: ExitStack) -> None:
        self._part, self._file, self._values, self._stack = part, file, values, stack

    def read(self, window: Window) -> tuple[UInt8, Float32]:
        """Classes and confidence of a window of the mosaic, both (h, w); 0 and NaN where there is no class.

        Without a raster of confidence, NaN everywhere.
        """
        shape = (window.height, window.width)
        classes, sure = np.zeros(shape, np.uint8), np.full(shape, np.nan, np.float32)
        covered = window.intersection(self._part.window)
        if covered.is_empty:
            return classes, sure
        at = covered.shifted(-window.row, -window.col).slices()
        source = self._part.source(covered)
        if isinstance(source, Window):
            classes[at], sure[at] = self._own(source)
            return classes, sure
        rows, cols = source
        grid = self._part.grid
        inside = (rows >= 0) & (rows < grid.height) & (cols >= 0) & (cols < grid.width)
        if not inside.any():
            return classes, sure
        top, left = int(rows[inside].min()), int(cols[inside].min())
        need = Window(top, left, int(rows[inside].max()) - top + 1, int(cols[inside].max()) - left + 1)
        if need.height * need.width > MOST_READ and max(covered.height, covered.width) > 1:
            for part in _halves(covered):
                place_ = part.shifted(-window.row, -window.col).slices()
                classes[place_], sure[place_] = self.read(part)
            return classes, sure
        own, values = self._own(need)
        taken = rows[inside] - top, cols[inside] - left
        classes[at][inside], sure[at][inside] = own[taken], values[taken]
        return classes, sure

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def _own(self, window: Window) -> tuple[UInt8, Float32]:
        """Classes and confidence of a window of the file."""
        classes = self._part.classes_of(*self._file.codes(window))
        sure = np.full(classes.shape, np.nan, np.float32)
        if self._values is not None:
            try:
                read = self._values.read(1, window=window.to_rasterio(), masked=True)
            except rasterio.errors.RasterioError as error:
                raise InputError(f"{self._values.name} cannot be read: {error.__cause__ or error}") from error
            sure = np.where(classes == NODATA_CLASS, sure, np.ma.filled(read.astype(np.float32), np.nan))
        return classes, sure


class OpenParts:
    """Reads parts of a mosaic with few files open at once. Use it as a context manager."""

    def __init__(self, parts: Sequence[MapPart]) -> None:
        self._parts = parts
        self._open: OrderedDict[int, OpenPart] = OrderedDict()

    def __enter__(self) -> OpenParts:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def read(self, window: Window) -> Iterator[tuple[int, UInt8, Float32]]:
        """Number, classes and confidence of every part that may cover a window, in their order."""
        for number, part in enumerate(self._parts):
            if window.intersection(part.window).is_empty:
                continue
            if number not in self._open:
                while len(self._open) >= MOST_OPEN:
                    self._open.popitem(last=False)[1].close()
                self._open[number] = part.open()
            self._open.move_to_end(number)
            yield number, *self._open[number].read(window)


def _halves(window: Window) -> list[Window]:
    """A window cut across its longer side."""
    if window.height >= window.width:
        half = window.height // 2
        return [
            Window(window.row, window.col, half, window.width),
            Window(window.row + half, window.col, window.height - half, window.width),
        ]
    half = window.width // 2
    return [
        Window(window.row, window.col, window.height, half),
        Window(window.row, window.col + half, window.height, window.width - half),
    ]
