"""How coordinates of two grids in any CRS are converted: one operation for a whole scene."""

from __future__ import annotations

import numpy as np
from pyproj import CRS as PyprojCRS
from pyproj import Transformer
from pyproj.exceptions import ProjError
from pyproj.transformer import AreaOfInterest, TransformerGroup
from rasterio.crs import CRS

from das2f_map.errors import InputError
from das2f_map.scene.antimeridian import near
from das2f_map.scene.common_grid.pixel_map import AffineMap, PixelMap, ProjectedMap
from das2f_map.scene.grid import Grid
from das2f_map.types import Float64


def transformer_between(ms: Grid, pan: Grid) -> Transformer | None:
    """MS CRS to PAN CRS as one fixed operation; ``None`` if both are the same for this scene.

    Raises :class:`~das2f_map.errors.InputError` if the CRSs cannot be converted.
    """
    if ms.crs == pan.crs:
        return None
    source, target = pyproj_crs(ms.crs), pyproj_crs(pan.crs)
    if source.equals(target, ignore_axis_order=True):
        return None
    try:
        # One operation for the whole scene: PROJ's own choice point by point could change inside it.
        group = TransformerGroup(source, target, always_xy=True, area_of_interest=_area_of_interest(ms))
        transformer = group.transformers[0]
    except (ProjError, IndexError) as error:
        raise InputError(
            f"coordinates of {crs_name(ms.crs)} (MS) and {crs_name(pan.crs)} (PAN) cannot be converted",
            "bring both files to one coordinate reference system with gdalwarp",
        ) from error
    nodes = _nodes(ms)
    there = np.array(transformer.transform(*nodes))
    there[0] = near(there[0], nodes[0], pan.crs)
    pan_pixel = max(pan.pixel_size)
    with np.errstate(invalid="ignore"):
        moved = np.abs(there - nodes).max()
    # Two names of one system (a WKT without its EPSG code, ETRS89 beside WGS 84).
    same = bool(np.isfinite(moved)) and moved < 1e-3 * pan_pixel
    return None if same else transformer


def map_between(target: Grid, source: Grid) -> PixelMap:
    """Where the pixels of one grid lie in another, in any CRS.

    Raises :class:`~das2f_map.errors.InputError` if the CRSs cannot be converted; it calls them MS and PAN.
    """
    return Relation(target, source).between(target, source)


class Relation:
    """How coordinates of two grids are converted, found once for all grids with their CRSs in their place.

    Parameters
    ----------
    target, source:
        As for :func:`map_between`.
    """

    def __init__(self, target: Grid, source: Grid) -> None:
        # One thread at a time: pyproj guards other transformers against more, not those of a group.
        self._transformer = transformer_between(target, source)

    def between(self, target: Grid, source: Grid) -> PixelMap:
        """As :func:`map_between`, for parts of the two grids, moved or refined as may be."""
        if self._transformer is None:
            return AffineMap.between(target, source)
        return ProjectedMap(target, source, self._transformer)


def _nodes(grid: Grid) -> Float64:
    """Map x and y, float64 (2, 25), of 5 × 5 positions over a grid."""
    steps = np.linspace(0.0, 1.0, 5)
    row, col = (a.ravel() for a in np.meshgrid(steps * grid.height, steps * grid.width, indexing="ij"))
    t = grid.transform
    return np.stack([t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f])


def _area_of_interest(grid: Grid) -> AreaOfInterest | None:
    crs = pyproj_crs(grid.crs)
    if crs.geodetic_crs is None:
        return None
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    lon, lat = (np.asarray(v) for v in to_degrees.transform(*_nodes(grid)))
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    if np.abs(lat).max() > 90:
        return None
    west, east = lon.min(), lon.max()
    if east - west >= 180 or max(-west, east) > 180:
        # Over 180 degrees, or counted from 0 to 360. PROJ takes a west that is more than its east.
        geodetic = CRS.from_wkt(crs.geodetic_crs.to_wkt())
        together = near(lon, lon[lon.size // 2], geodetic)
        if np.ptp(together) < 180:
            west, east = near(np.array([together.min(), together.max()]), 0.0, geodetic)
    inside = max(abs(west), abs(east)) <= 180
    return AreaOfInterest(west, lat.min(), east, lat.max()) if inside else None


def pyproj_crs(crs: CRS) -> PyprojCRS:
    """rasterio's CRS as one of pyproj."""
    return PyprojCRS.from_wkt(crs.to_wkt())


def crs_name(crs: CRS) -> str:
    """What a message calls a CRS: its EPSG code or its name."""
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(pyproj_crs(crs).name)
