"""Coordinate reference systems whose x coordinates repeat around the world.

In a geographic CRS, and on a map that is an unrolled cylinder (Mercator, Web Mercator, equidistant
cylindrical), a place has many x coordinates: -75, 285 and -435 degrees are one meridian. A file that shows a
place on the 180th meridian goes on past 180 degrees, and a file may count from 0 to 360. PROJ gives x between
-180 and 180. So x coordinates from a conversion or from another file are moved by whole turns around the
world, to the turn of the grid that they are used with.

In other CRSs nothing repeats, and all functions leave their input as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS as PyprojCRS
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool, Float64, Geometries, Int64

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_TURNS = (-1, 1, -2, 2)
"""Whole turns by which files of one place may differ: they count -180 to 180, 0 to 360, or a bit beyond."""


def near(x: Float64 | float, where: Float64 | float, crs: CRS) -> Float64:
    """x coordinates moved by whole turns to within half a turn of ``where``.

    Coordinates that lie there already stay the same to the last bit.
    """
    x = np.asarray(x, dtype=np.float64)
    period = _x_period(crs)
    if period is None:
        return x
    with np.errstate(invalid="ignore"):
        turns = np.round((x - where) / period)
        moved = x - turns * period
    return np.where(np.isfinite(turns) & (turns != 0), moved, x)


def unwrapped(x: Float64, crs: CRS) -> Float64:
    """x coordinates of points along a line, moved by whole turns so that no step is over half a turn."""
    period = _x_period(crs)
    return x if period is None else np.unwrap(x, period=period)


def moved_beside(grid: Grid, other: Grid) -> Grid:
    """A grid moved by whole turns to the place nearest to another grid in the same CRS."""
    period = _x_period(grid.crs)
    turns = 0 if period is None else round((_centre(other) - _centre(grid)) / period)
    if period is None or turns == 0:
        return grid
    return Grid(grid.height, grid.width, Affine.translation(turns * period, 0.0) * grid.transform, grid.crs)


def turns_within(grid: Grid) -> tuple[tuple[float, float], ...]:
    """Offsets, as (rows, columns), between pixels that show the same place on a grid around the world.

    The first pair is (0, 0). It is the only one for a grid that goes at most half around the world.
    """
    found = _turns(grid)
    around = len(found) > 1 and math.hypot(*found[1]) < 2 * math.hypot(grid.height, grid.width)
    return found if around else found[:1]


@dataclass(frozen=True, eq=False)
class Lookup:
    """Positions that lie in a raster, and the window that holds them.

    Attributes
    ----------
    window:
        The smallest window of the raster that holds the positions.
    inside:
        bool, in the shape of the requested positions: the position lies in the raster.
    row, col:
        float64 (n,), for each position inside: pixels from the window's first row and column.
    """

    window: Window
    inside: Bool
    row: Float64
    col: Float64

    @property
    def pixels(self) -> tuple[Int64, Int64]:
        """The pixel of each position, as the index of an array of the window."""
        return self.row.astype(np.int64), self.col.astype(np.int64)


def lookups(raster: Grid, row: Float64, col: Float64) -> Iterator[Lookup]:
    """The windows of a raster in which positions lie; none if no position lies in the raster.

    There may be more than one: a scene that crosses the seam of a raster around the world lies at both of its
    ends.

    Parameters
    ----------
    raster:
        Grid of the raster.
    row, col:
        float64, of equal shape: positions in the raster's pixels; NaN for no position.
    """
    for rows, cols in turns_within(raster):
        r, c = row + rows, col + cols
        with np.errstate(invalid="ignore"):
            inside = (r >= 0) & (r < raster.height) & (c >= 0) & (c < raster.width)
        if not inside.any():
            continue
        r, c = r[inside], c[inside]
        top, left = int(r.min()), int(c.min())
        window = Window(top, left, int(r.max()) + 1 - top, int(c.max()) + 1 - left)
        yield Lookup(window, np.asarray(inside), r - top, c - left)


def moved_onto(parts: Geometries, grid: Grid) -> tuple[Geometries, Int64]:
    """Shapes in pixels moved by whole turns onto a grid, and the index each had before: both ``(parts,)``.

    If some shape touches the grid only after whole turns around the world (-179.99 is 180.01), such shapes
    are moved, and shapes that never touch the grid are left out. Otherwise all shapes stay as they are.
    """
    unmoved = np.arange(parts.size)
    bounds = shapely.bounds(parts)
    touching = []
    for rows, cols in _turns(grid):
        left, top, right, bottom = (bounds + np.array([cols, rows, cols, rows])).T
        inside = (right >= 0) & (left <= grid.width) & (bottom >= 0) & (top <= grid.height)
        touching.append((np.flatnonzero(inside), (cols, rows)))
    if not any(found.size for found, _ in touching[1:]):
        return parts, unmoved
    moved = [shapely.transform(parts[found], lambda xy, by=by: xy + by) for found, by in touching]
    return np.concatenate(moved), np.concatenate([found for found, _ in touching])


def in_one_piece(shapes: Geometries, crs: CRS, before: Geometries, crs_before: CRS) -> Geometries:
    """Shapes that a conversion has torn apart at the seam of a map around the world, made whole.

    Parameters
    ----------
    shapes, crs:
        Shapes after the conversion.
    before, crs_before:
        The same shapes before the conversion.
    """
    period, period_before = _x_period(crs), _x_period(crs_before)
    if period is None:
        return shapes
    torn = _width(shapes) > period / 2
    if period_before is not None:
        # A shape as wide before is not torn: its edges may lead from one end of the map to the other.
        torn &= _width(before) <= period_before / 2
    if not torn.any():
        return shapes
    mended = shapes.copy()
    mended[torn] = [_unwrapped(g, period) for g in shapes[torn]]
    return mended


def box_turns(box: Box, crs: CRS) -> tuple[Box, ...]:
    """A box, and the boxes whole turns away that hold the same places.

    The first is the box as given. There is none if the box is wider than a turn: it holds all longitudes.
    """
    period = _x_period(crs)
    if period is None:
        return (box,)
    left, bottom, right, top = box
    if right - left > period:
        return ()
    return (box, *((left + k * period, bottom, right + k * period, top) for k in _TURNS))


def _x_period(crs: CRS) -> float | None:
    """Distance in x, in the CRS's unit, after which places repeat; ``None`` if they do not."""
    return _period(crs.to_wkt()) if crs else None


@lru_cache(maxsize=64)
def _period(wkt: str) -> float | None:
    crs = PyprojCRS.from_wkt(wkt)
    base = crs.geodetic_crs
    if base is None or not base.is_geographic:
        return None
    unit = base.axis_info[0].unit_conversion_factor  # radians
    if crs.is_geographic:
        return math.tau / unit
    if not crs.is_projected:
        return None
    # On an unrolled cylinder, x is proportional to longitude at every latitude.
    degree = math.radians(1) / unit
    lon, lat = np.meshgrid(
        np.array([-135.0, -45.0, 45.0, 135.0]) * degree, np.array([-50.0, 0.0, 50.0]) * degree
    )
    try:
        x, _ = Transformer.from_crs(base, crs, always_xy=True).transform(lon, lat)
    except ProjError:
        return None
    steps = np.diff(x, axis=1)
    quarter = float(np.median(steps))
    # One step may cross the seam, which may lie anywhere; this step goes back by three quarters of a turn.
    near = np.minimum(np.abs(steps - quarter), np.abs(steps + 3 * quarter))
    if not np.isfinite(x).all() or max(near.max(), np.ptp(x, axis=0).max()) > 1e-6 * abs(quarter):
        return None
    return 4 * abs(quarter)


def _turns(grid: Grid) -> tuple[tuple[float, float], ...]:
    """As :func:`turns_within`, but for grids of any size in a CRS where places repeat."""
    period = _x_period(grid.crs)
    if period is None:
        return ((0.0, 0.0),)
    inverse = ~grid.transform
    return ((0.0, 0.0), *((inverse.d * k * period, inverse.a * k * period) for k in _TURNS))


def _centre(grid: Grid) -> float:
    return grid.pixel_to_map(grid.height / 2, grid.width / 2)[0]


def _width(shapes: Geometries) -> Float64:
    bounds = shapely.bounds(shapes)
    with np.errstate(invalid="ignore"):
        width = bounds[:, 2] - bounds[:, 0]
    # A shape that cannot be converted has no finite width; callers refuse it elsewhere.
    return np.where(np.isfinite(width), width, 0.0)


def _unwrapped(geometry: shapely.Geometry, period: float) -> shapely.Geometry:
    """A torn shape, made whole by moving its points by whole turns; a part around a pole stays as it is."""
    pieces = []
    for polygon in shapely.get_parts(geometry):
        if not isinstance(polygon, shapely.Polygon):
            pieces.append(polygon)
            continue
        rings = [np.array(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
        first = rings[0][0, 0]
        for xy in rings:
            xy[:, 0] = np.unwrap(xy[:, 0], period=period)
            # A hole moves to the turn of its outline.
            xy[:, 0] -= period * np.round((xy[0, 0] - first) / period)
        closed = all(np.allclose(xy[0], xy[-1]) for xy in rings)
        pieces.append(shapely.Polygon(rings[0], rings[1:]) if closed else polygon)
    return pieces[0] if len(pieces) == 1 else shapely.GeometryCollection(pieces)
