"""Pixel areas on the ellipsoid, where a projection's square metres are not the ground's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Geod, Transformer

from das2f_map.scene.grid import Grid, Window


def pixel_areas(grid: Grid, window: Window) -> npt.NDArray[np.float64]:
    """Area of every pixel of a window on the CRS's ellipsoid, m², float64 (h, w).

    The pixels at the window's corners are measured as geodesic quadrilaterals (Karney 2013, through
    pyproj), the others interpolated between them. Area changes so slowly over the ground that this is
    good to about 1e-6 of it for windows up to 10 km.
    """
    crs = CRS.from_wkt(grid.crs.to_wkt())
    geod = crs.get_geod() or Geod(ellps="WGS84")
    to_lonlat = Transformer.from_crs(crs, crs.geodetic_crs or "EPSG:4326", always_xy=True)

    def measured(row: int, col: int) -> float:
        corners = grid.cropped(Window(row, col, 1, 1)).corners()
        lon, lat = to_lonlat.transform(*zip(*corners, strict=True))
        area, _ = geod.polygon_area_perimeter(lon, lat)
        return abs(float(area))

    rows = (window.row, window.row_stop - 1)
    cols = (window.col, window.col_stop - 1)
    (top_left, top_right), (bottom_left, bottom_right) = ([measured(r, c) for c in cols] for r in rows)
    down = np.linspace(0.0, 1.0, window.height)[:, None]
    across = np.linspace(0.0, 1.0, window.width)[None, :]
    top = top_left + (top_right - top_left) * across
    bottom = bottom_left + (bottom_right - bottom_left) * across
    return np.asarray(top + (bottom - top) * down)
