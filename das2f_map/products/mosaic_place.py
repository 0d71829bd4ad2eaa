"""The place of a map on the grid of a mosaic: copied, moved to the nearest pixels, or warped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyproj
import rasterio.errors
import rasterio.warp
from affine import Affine

from das2f_map.errors import InputError
from das2f_map.scene.antimeridian import moved_beside, near, unwrapped
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float64

_NEAR: Final = 0.01
"""Pixels that a map may be off the mosaic's grid, anywhere, and still count as on it."""

EDGE: Final = 1e-6
"""Pixels by which rounding may move a place."""

_STEPS: Final = 100
"""Points on each edge of a map that are converted to the CRS of the mosaic."""


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
            col, row = (-math.floor(0.5 - v + EDGE) for v in offset)
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
    top, left = math.floor(rows.min() + EDGE), math.floor(cols.min() + EDGE)
    height, width = math.ceil(rows.max() - EDGE) - top, math.ceil(cols.max() - EDGE) - left
    return Placement("warped", (0.0, 0.0), 0.0, Window(top, left, height, width), grid)


def _outline(grid: Grid, on: Grid) -> list[tuple[float, float]]:
    """(column, row) on another grid of points around a grid, or of the corners of a box around it."""
    steps = np.linspace(0, 1, _STEPS, endpoint=False)
    ones, zeros = np.ones(_STEPS), np.zeros(_STEPS)
    cols = np.concatenate([steps, ones, 1 - steps, zeros, [0.0]]) * grid.width
    rows = np.concatenate([zeros, steps, ones, 1 - steps, [0.0]]) * grid.height
    own, mosaic = (pyproj.CRS.from_user_input(g.crs.to_wkt()) for g in (grid, on))
    x, y = pyproj.Transformer.from_crs(own, mosaic, always_xy=True).transform(
        *map_coordinates(grid.transform, rows, cols)
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


def map_coordinates(t: Affine, rows: Float64, cols: Float64) -> tuple[Float64, Float64]:
    """x and y (h, w) of rows (h, 1) and columns (1, w)."""
    return t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f
