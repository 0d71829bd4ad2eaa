"""Ground areas of pixels, on the ellipsoid of their CRS.

Every area this package reports is a sum of pixel areas, so that polygons add up to their class and
classes to the map. Between meridians and parallels the area of a pixel has a closed form (Snyder,
J. P. (1987), "Map Projections – A Working Manual", USGS Professional Paper 1395, eq. 3-12). Elsewhere
it is the pixel's size times the local area scale. The scale is computed from derivatives of the projection at
lattice points, so close to each other that interpolating between them costs less than about 1e-8 of the area.
"""

from __future__ import annotations

import math

import numpy as np
import pyproj

from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float64, Int64

_LATTICE_PIXELS = 16
_LATTICE_METRES = 1000.0
_DIFFERENCE_METRES = 200.0


class PixelAreas:
    """Areas of a grid's pixels in square metres.

    Where the CRS has no ellipsoid (a local one), areas are those in the plane, in its unit.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        t = grid.transform
        self._flat = abs(t.determinant)
        crs = pyproj.CRS.from_user_input(grid.crs.to_wkt()) if grid.crs else None
        self._kind = "flat"
        base = crs.geodetic_crs if crs is not None else None
        if crs is None or base is None or crs.ellipsoid is None or not base.is_geographic:
            return
        a, b = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre
        self._axis, self._e2 = a, 1 - (b / a) ** 2
        self._unit = base.axis_info[0].unit_conversion_factor  # radians
        if crs.is_geographic and t.b == 0 and t.d == 0:
            self._kind = "parallels"
        else:
            self._kind = "scaled"
            self._to_base = pyproj.Transformer.from_crs(crs, base, always_xy=True)
            self._half, self._step = self._spacing()
            self._known_at: tuple[float, int] | None = None
            self._known: dict[float, Float64] = {}

    def of(self, window: Window) -> Float64:
        """Area of each pixel of a window, m²: float64 (h, w), possibly a read-only view."""
        shape = (window.height, window.width)
        if self._kind == "parallels":
            t = self._grid.transform
            edges = t.f + t.e * (window.row + np.arange(window.height + 1.0))
            band = np.abs(np.diff(_authalic(edges * self._unit, self._e2)))
            rows = self._axis**2 * (1 - self._e2) / 2 * band * abs(t.a) * self._unit
            return np.broadcast_to(rows[:, None], shape)
        if self._kind == "flat":
            return np.broadcast_to(np.float64(self._flat), shape)
        # Lattice points fall on multiples of the step whatever the window, so that windows agree.
        rows, row_at, row_share = _lattice(window.row, window.height, self._step)
        cols, col_at, col_share = _lattice(window.col, window.width, self._step)
        scale = self._scales(rows, cols)
        upper = scale[row_at] * (1 - row_share)[:, None] + scale[row_at + 1] * row_share[:, None]
        # In place: every array of this size that is made takes as long as the sums in it.
        result: Float64 = upper.take(col_at, axis=1)
        result *= 1 - col_share
        after = upper.take(col_at + 1, axis=1)
        after *= col_share
        result += after
        return result

    def _scales(self, rows: Float64, cols: Float64) -> Float64:
        """Areas at lattice points; those of the last window are kept, as strips of a wide map share rows."""
        place = (float(cols[0]), len(cols))
        known = self._known if self._known_at == place else {}
        missing = [row for row in rows.tolist() if row not in known]
        if missing:
            found = self._at(np.array(missing)[:, None], cols[None, :])
            known.update(zip(missing, found, strict=True))
        self._known_at, self._known = place, {row: known[row] for row in rows.tolist()}
        return np.stack([*self._known.values()])

    def mean(self) -> float:
        """Mean area of a pixel over the grid, m², from 33 × 33 pixels spread over it."""
        rows = np.unique(np.linspace(0, self._grid.height - 1, 33).astype(int))
        cols = np.unique(np.linspace(0, self._grid.width - 1, 33).astype(int))
        return float(np.mean([[self.of(Window(r, c, 1, 1))[0, 0] for c in cols] for r in rows.tolist()]))

    def _spacing(self) -> tuple[float, int]:
        """Half the span of the differences, and the spacing of the lattice, in pixels."""
        self._half = 0.5
        grid = self._grid
        side = math.sqrt(float(self._at(np.array(grid.height / 2), np.array(grid.width / 2))))
        if side <= 0:
            return 0.5, 1
        # Differences over a few metres only would drown in the rounding of the projection.
        return max(0.5, _DIFFERENCE_METRES / side), max(1, min(_LATTICE_PIXELS, int(_LATTICE_METRES / side)))

    def _at(self, rows: Float64, cols: Float64) -> Float64:
        """Area of a pixel centred at fractional positions, from central differences."""
        half = self._half
        rows, cols = np.broadcast_arrays(rows, cols)
        west, east = self._lonlat(rows, cols - half), self._lonlat(rows, cols + half)
        north, south = self._lonlat(rows - half, cols), self._lonlat(rows + half, cols)
        along = _wrapped(east[0] - west[0]), east[1] - west[1]
        down = _wrapped(south[0] - north[0]), south[1] - north[1]
        latitude = (west[1] + east[1]) / 2
        curvature = 1 - self._e2 * np.sin(latitude) ** 2
        # Product of the meridian and the parallel radius: area of a unit of longitude times latitude.
        ground = self._axis**2 * (1 - self._e2) / curvature**2 * np.cos(latitude)
        area: Float64 = np.abs(along[0] * down[1] - along[1] * down[0]) / (2 * half) ** 2 * ground
        # Where the projection has no inverse, a pixel shows no ground.
        return np.where(np.isfinite(area), area, 0.0)

    def _lonlat(self, rows: Float64, cols: Float64) -> tuple[Float64, Float64]:
        """Longitude and latitude in radians."""
        t = self._grid.transform
        x = t.a * cols + t.b * rows + t.c
        y = t.d * cols + t.e * rows + t.f
        lon, lat = self._to_base.transform(x, y)
        return lon * self._unit, lat * self._unit


def _lattice(start: int, length: int, step: int) -> tuple[Float64, Int64, Float64]:
    """Lattice positions around pixel centres; for each centre, the index of the position before it, and the
    weight of the position after it."""
    centres = start + np.arange(length) + 0.5
    first = math.floor(centres[0] / step)
    at = np.floor(centres / step).astype(np.int64)
    positions = np.arange(first, int(at[-1]) + 2) * float(step)
    return positions, at - first, centres / step - at


def _authalic(latitude: Float64, e2: float) -> Float64:
    """Snyder's q over (1 - e²): proportional to the area between the equator and a latitude (radians)."""
    s = np.sin(np.clip(latitude, -math.pi / 2, math.pi / 2))
    if e2 <= 0:
        return 2 * s
    e = math.sqrt(e2)
    result: Float64 = s / (1 - e2 * s * s) + np.arctanh(e * s) / e
    return result


def _wrapped(longitude: Float64) -> Float64:
    """A difference of longitudes (radians), brought to -π to π: right across the antimeridian too."""
    result: Float64 = (longitude + math.pi) % (2 * math.pi) - math.pi
    return result
