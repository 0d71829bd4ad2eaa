"""Coordinate reference systems whose x coordinates repeat around the world.

In a geographic system, and on a map that is a cylinder unrolled (Mercator, Web Mercator, equidistant
cylindrical), a place has many x coordinates: -75, 285 and -435 degrees are one meridian. A file goes on past
180 degrees where the place it shows does, and may count from 0 to 360; PROJ gives the x between -180 and
180. So x coordinates that come out of a conversion, or of another file, are moved by whole periods to where
the grid that they are used with has its own.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from affine import Affine
from pyproj import CRS as PyprojCRS
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from das2f_map.scene.grid import Grid
from das2f_map.types import Float64

_REPEATS = (-1, 1, -2, 2)
"""Whole periods by which files of one place are apart: -180 to 180, 0 to 360 and a bit beyond."""


def x_period(crs: CRS) -> float | None:
    """Distance in x, in the system's own unit, after which its places come again; ``None`` if they do not."""
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
    # An unrolled cylinder is known by its x: proportional to longitude, whatever the latitude.
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
    # One step may lead over the seam, which lies anywhere: it goes three quarters back.
    near = np.minimum(np.abs(steps - quarter), np.abs(steps + 3 * quarter))
    if not np.isfinite(x).all() or max(near.max(), np.ptp(x, axis=0).max()) > 1e-6 * abs(quarter):
        return None
    return 4 * abs(quarter)


def wrapped(x: Float64, centre: float | Float64, period: float | None) -> Float64:
    """x coordinates moved by whole periods to within half a period of ``centre``, those there as they are."""
    if period is None:
        return x
    with np.errstate(invalid="ignore"):
        turns = np.round((x - centre) / period)
        moved = x - turns * period
    return np.where(np.isfinite(turns) & (turns != 0), moved, x)


def unbroken(x: Float64, middle: float, grid: Grid) -> Float64:
    """x coordinates of places about one with x ``middle``, moved by whole periods to where a grid has them.

    ``middle`` goes to within half a period of the grid's centre, all others to within half a period of it:
    what is connected stays connected, also where it leads over the far side of a grid around the world.
    """
    period = x_period(grid.crs)
    if period is None:
        return x
    centre = _centre(grid)
    at = float(wrapped(np.array(middle), centre, period)) if math.isfinite(middle) else centre
    return wrapped(x, at, period)


def moved_beside(grid: Grid, other: Grid) -> Grid:
    """A grid moved by whole periods to where another one, in the same CRS, is nearest."""
    period = x_period(grid.crs)
    turns = 0 if period is None else round((_centre(other) - _centre(grid)) / period)
    if period is None or turns == 0:
        return grid
    return Grid(grid.height, grid.width, Affine.translation(turns * period, 0.0) * grid.transform, grid.crs)


def repeats(grid: Grid) -> tuple[tuple[float, float], ...]:
    """Rows and columns by which the same places lie apart on a grid, a pair for each whole number of turns.

    The first pair is (0, 0), and the only one if places do not come again.
    """
    period = x_period(grid.crs)
    if period is None:
        return ((0.0, 0.0),)
    inverse = ~grid.transform
    return ((0.0, 0.0), *((inverse.d * k * period, inverse.a * k * period) for k in _REPEATS))


def repeats_within(grid: Grid) -> tuple[tuple[float, float], ...]:
    """As :func:`repeats`, but for (0, 0) only where a grid goes more than half around the world."""
    found = repeats(grid)
    around = len(found) > 1 and math.hypot(*found[1]) < 2 * math.hypot(grid.height, grid.width)
    return found if around else found[:1]


def _centre(grid: Grid) -> float:
    return grid.pixel_to_map(grid.height / 2, grid.width / 2)[0]
