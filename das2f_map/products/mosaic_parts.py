"""The maps of a mosaic: their classes by one legend, their place on one grid, and their pixels there."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyproj
import rasterio
import rasterio.errors
import rasterio.warp
from affine import Affine

from das2f_map.errors import InputError
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, Legend
from das2f_map.products.class_file import ClassFile
from das2f_map.products.map_figure import classes_of
from das2f_map.scene.antimeridian import moved_beside, near, unwrapped
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float32, Float64, Int64, UInt8

_NEAR: Final = 0.01
"""Pixels that a map may be off the mosaic's grid, anywhere, and still count as on it."""

MOST_OPEN: Final = 64
"""Maps that are open at once."""

MOST_READ: Final = 1 << 24
"""Most pixels of a map that are read at once."""

_EDGE: Final = 1e-6
"""Pixels by which rounding may move a place."""

_STEPS: Final = 100
"""Points on each edge of a map that are converted to the CRS of the mosaic."""


@dataclass(frozen=True, eq=False)
class MapToJoin:
    """A map that becomes a part of a mosaic, as its file says.

    Attributes
    ----------
    path, confidence:
        Its class raster, and the raster of its confidence on the same grid; ``None`` for none.
    grid:
        Its geometry.
    legend:
        Its classes.
    ids:
        Pixel value → id in this legend.
    named:
        Whether the file names its classes.
    unsure:
        Id of rejected pixels; ``None`` if there is none.
    """

    path: str
    confidence: str | None
    grid: Grid
    legend: Legend
    ids: Mapping[int, int]
    named: bool
    unsure: int | None

    @classmethod
    def of(cls, path: str, confidence: str | None) -> MapToJoin:
        """The facts of a map; reads all its pixels once.

        Raises
        ------
        InputError
            It is no raster of classes, has no CRS or no pixel with a class; or the confidence cannot be read
            or has another grid.
        """
        with ClassFile.open(path, "map") as file:
            file.require_crs()
            file.tell_names()
            legend, ids = classes_of(file, sorted(file.distinct(MOST_CLASSES + 1)))
            if legend is None or not ids:
                raise InputError(f"map {path} has no pixel with a class", "is it the right file?")
            found = cls(path, confidence, file.grid, legend, ids, file.legend is not None, file.names.unsure)
        if confidence is not None:
            with _values_of(confidence) as values:
                if Grid.from_rasterio(values) != found.grid:
                    raise InputError(
                        f"confidence {confidence} is not on the grid of map {path}", "give the map's own one"
                    )
        return found


@dataclass(frozen=True)
class JoinedLegend:
    """The legend of a mosaic.

    Attributes
    ----------
    legend:
        The classes.
    unsure:
        Id of rejected pixels; ``None`` if there is none.
    ids:
        For each map, pixel value → id in the legend.
    notices:
        Sentences on maps that number their classes otherwise.
    """

    legend: Legend
    unsure: int | None
    ids: tuple[dict[int, int], ...]
    notices: tuple[str, ...]


def join_legends(maps: Sequence[MapToJoin]) -> JoinedLegend:
    """One legend for all maps: that of the first one. Classes of the same name are the same class.

    Maps whose files name no class have the same classes where they have the same values. The class of
    rejected pixels may be missing in some maps.

    Raises
    ------
    InputError
        Two maps do not have the same classes.
    """
    first = maps[0]
    if not any(m.named for m in maps):
        codes = sorted({code for m in maps for code in m.ids})
        legend, ids = Legend.of_codes(codes, {})
        return JoinedLegend(legend, None, tuple({c: ids[c] for c in m.ids} for m in maps), ())
    legend, unsure = first.legend, first.unsure
    if unsure is None and any(m.unsure is not None for m in maps):
        legend, unsure = legend.with_unsure()
    known = {c.name: c.id for c in legend.each() if c.id != unsure}
    every, notices = [], []
    for m in maps:
        names = {c.id: c.name for c in m.legend.each() if c.id != m.unsure}
        if {*names.values()} != {*known}:
            alone = sorted({*names.values()} ^ {*known})
            raise InputError(
                f"maps {first.path} and {m.path} do not have the same classes: only one has "
                f"{', '.join(alone[:5])}{', …' if len(alone) > 5 else ''}",
                "a mosaic is made of maps of one legend, such as those of one model",
            )
        own = {i: known[name] for i, name in names.items()}
        if m.unsure is not None and unsure is not None:
            own[m.unsure] = unsure
        if any(i != j for i, j in own.items()):
            notices.append(f"{m.path} numbers its classes otherwise: they are matched by name")
        every.append({code: own[i] for code, i in m.ids.items()})
    return JoinedLegend(legend, unsure, tuple(every), tuple(notices))


Kind = Literal["copied", "moved", "warped"]


@dataclass(frozen=True)
class Placement:
    """The place of a map on the mosaic's grid.

    Attributes
    ----------
    kind:
        ``copied`` where pixels fall on pixels; ``moved`` by half a pixel at most, to the nearest ones;
        ``warped`` where each pixel takes the nearest one of another CRS, pixel size or direction.
    moved_px:
        Rows and columns by which the contents move, for ``moved``, else 0.
    moved_m:
        Length of this move in units of the CRS.
    window:
        Pixels of the mosaic's first map's grid that the map may cover.
    grid:
        The map's own geometry; in the CRS of the first map, whole turns around the world are taken off.
    """

    kind: Kind
    moved_px: tuple[float, float]
    moved_m: float
    window: Window
    grid: Grid

    def sentence(self, path: str, first: str) -> str:
        """A sentence on a map that does not fall on the grid; empty for one that does."""
        if self.kind == "copied":
            return ""
        if self.kind == "moved":
            rows, cols = self.moved_px
            return (
                f"{path} lies between the pixels of {first}: it is moved by {rows:+.2f} rows and {cols:+.2f} "
                f"columns ({self.moved_m:.3g} units of the CRS)"
            )
        return f"{path} has another CRS or pixel size than {first}: each pixel takes the nearest one of it"


def place(grid: Grid, on: Grid) -> Placement:
    """The place of a map's grid on the grid of the first map.

    Where x repeats around the world, it is the place nearest to the first map: -179 degrees is next to 180.

    Raises
    ------
    InputError
        The map cannot be converted to the CRS.
    """
    if grid.crs == on.crs:
        grid = moved_beside(grid, on)
        forth = ~on.transform * grid.transform
        own = [(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)]
        corners = [forth * corner for corner in own]
        offset = np.array(corners[0])
        if np.abs(np.array(corners) - np.array(own) - offset).max() < _NEAR:
            # The pixel of the mosaic whose centre lies in the map's first pixel.
            col, row = (-math.floor(0.5 - v + _EDGE) for v in offset)
            cols, rows = (float(whole - v) for whole, v in zip((col, row), offset, strict=True))
            copied = max(abs(rows), abs(cols)) < _NEAR
            size = on.pixel_size
            return Placement(
                "copied" if copied else "moved",
                (0.0, 0.0) if copied else (rows, cols),
                0.0 if copied else math.hypot(rows * size[0], cols * size[1]),
                Window(row, col, grid.height, grid.width),
                grid,
            )
    else:
        corners = _outline(grid, on)
    cols, rows = np.array(corners).T
    top, left = math.floor(rows.min() + _EDGE), math.floor(cols.min() + _EDGE)
    height, width = math.ceil(rows.max() - _EDGE) - top, math.ceil(cols.max() - _EDGE) - left
    return Placement("warped", (0.0, 0.0), 0.0, Window(top, left, height, width), grid)


def _outline(grid: Grid, on: Grid) -> list[tuple[float, float]]:
    """(column, row) on another grid of points around a grid, or of the corners of a box around it."""
    steps = np.linspace(0, 1, _STEPS, endpoint=False)
    ones, zeros = np.ones(_STEPS), np.zeros(_STEPS)
    cols = np.concatenate([steps, ones, 1 - steps, zeros, [0.0]]) * grid.width
    rows = np.concatenate([zeros, steps, ones, 1 - steps, [0.0]]) * grid.height
    own, mosaic = (pyproj.CRS.from_user_input(g.crs.to_wkt()) for g in (grid, on))
    x, y = pyproj.Transformer.from_crs(own, mosaic, always_xy=True).transform(
        *_applied(grid.transform, rows, cols)
    )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a map cannot be converted to the CRS of the first one", "give maps of one region")
    x = unwrapped(x, on.crs)
    if abs(x[-1] - x[0]) > np.ptp(x) / 2:
        # It goes around a pole, which no point of its outline shows.
        return _box(grid, on)
    middle, aim = (x.min() + x.max()) / 2, on.pixel_to_map(on.height / 2, on.width / 2)[0]
    x = x + (float(near(middle, aim, on.crs)) - middle)
    back = ~on.transform
    found = np.array([back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f])
    return [(float(col), float(row)) for col, row in found.T]


def _box(grid: Grid, on: Grid) -> list[tuple[float, float]]:
    """(column, row) on another grid of the corners of the box around a grid."""
    xs, ys = zip(*grid.corners(), strict=True)
    box = min(xs), min(ys), max(xs), max(ys)
    try:
        left, bottom, right, top = rasterio.warp.transform_bounds(grid.crs, on.crs, *box, densify_pts=21)
    except rasterio.errors.RasterioError as error:
        raise InputError(f"a map cannot be converted to the CRS of the first one: {error}") from error
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise InputError("a map cannot be converted to the CRS of the first one", "give maps of one region")
    return [~on.transform * c for c in ((left, top), (right, top), (left, bottom), (right, bottom))]


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
            values = None if self._confidence is None else stack.enter_context(_values_of(self._confidence))
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
        x, y = _applied(self._on.transform if self._convert else self._back, rows, cols)
        if self._convert is not None:
            x, y = self._convert.transform(x, y)
            x = near(
                x, self._grid.pixel_to_map(self._grid.height / 2, self._grid.width / 2)[0], self._grid.crs
            )
            t = ~self._grid.transform
            x, y = t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f
        away = ~(np.isfinite(x) & np.isfinite(y))
        x, y = np.where(away, -1.0, x), np.where(away, -1.0, y)
        return np.floor(y + _EDGE).astype(np.int64), np.floor(x + _EDGE).astype(np.int64)

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


def _values_of(path: str) -> Any:
    """A raster of confidence, open."""
    try:
        return rasterio.open(path)
    except (rasterio.errors.RasterioError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {path} as a raster: {error.__cause__ or error}", "gdalinfo shows what GDAL sees"
        ) from error


def _applied(t: Affine, rows: Float64, cols: Float64) -> tuple[Float64, Float64]:
    """x and y (h, w) of rows (h, 1) and columns (1, w)."""
    return t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f


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


def beside(path: str, named: str | None) -> str | None:
    """The raster of confidence that a map's run report names, where it is or next to the map."""
    if named is None:
        return None
    for found in (Path(named), Path(path).parent / Path(named).name):
        if found.is_file():
            return str(found)
    return None
