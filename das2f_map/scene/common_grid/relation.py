"""Convert coordinates between two grids in any CRS, by one operation for a whole scene."""

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
from das2f_map.scene.conversion import tell_accuracy
from das2f_map.scene.grid import Grid
from das2f_map.types import Float64


def transformer_between(ms: Grid, pan: Grid) -> Transformer | None:
    """The one fixed operation from the MS CRS to the PAN CRS; ``None`` if both are the same for this scene.

    Raises :class:`~das2f_map.errors.InputError` if the CRSs cannot be converted.
    """
    if ms.crs == pan.crs:
        return None
    source, target = pyproj_crs(ms.crs), pyproj_crs(pan.crs)
    if source.equals(target, ignore_axis_order=True):
        return None
    try:
        # One operation for the whole scene: PROJ chooses point by point, and could change its choice inside.
        place = area_of_interest(ms)
        group = TransformerGroup(source, target, always_xy=True, area_of_interest=place)
        transformer = group.transformers[0]
        tell_accuracy(source, target, place)
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
    # One system may have two names (a WKT without its EPSG code, ETRS89 and WGS 84).
    same = bool(np.isfinite(moved)) and moved < 1e-3 * pan_pixel
    return None if same else transformer


def map_between(target: Grid, source: Grid) -> PixelMap:
    """The map from the pixels of ``target`` to those of ``source``, in any CRS.

    Raises :class:`~das2f_map.errors.InputError` if the CRSs cannot be converted. Its message calls the target
    MS and the source PAN.
    """
    return Relation(target, source).between(target, source)


class Relation:
    """The conversion between two grids, found once for all grids in the same CRSs and the same place.

    Parameters
    ----------
    target, source:
        As for :func:`map_between`.
    """

    def __init__(self, target: Grid, source: Grid) -> None:
        # For one thread at a time: pyproj makes other transformers thread-safe, but not those of a group.
        self._transformer = transformer_between(target, source)

    def between(self, target: Grid, source: Grid) -> PixelMap:
        """As :func:`map_between`, for parts of the two grids, which may be moved or refined."""
        if self._transformer is None:
            return AffineMap.between(target, source)
        return ProjectedMap(target, source, self._transformer)


def _nodes(grid: Grid) -> Float64:
    """Map x and y, float64 (2, 25), of 5 × 5 positions over a grid."""
    steps = np.linspace(0.0, 1.0, 5)
    row, col = (a.ravel() for a in np.meshgrid(steps * grid.height, steps * grid.width, indexing="ij"))
    t = grid.transform
    return np.stack([t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f])


def area_of_interest(grid: Grid) -> AreaOfInterest | None:
    """The place of a grid in degrees, for PROJ; ``None`` if it has none."""
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
        # The grid crosses 180 degrees or counts from 0 to 360. PROJ accepts a west greater than the east.
        geodetic = CRS.from_wkt(crs.geodetic_crs.to_wkt())
        together = near(lon, lon[lon.size // 2], geodetic)
        if np.ptp(together) < 180:
            west, east = near(np.array([together.min(), together.max()]), 0.0, geodetic)
    inside = max(abs(west), abs(east)) <= 180
    return AreaOfInterest(west, lat.min(), east, lat.max()) if inside else None


def pyproj_crs(crs: CRS) -> PyprojCRS:
    """A rasterio CRS as a pyproj CRS."""
    return PyprojCRS.from_wkt(crs.to_wkt())


def crs_name(crs: CRS) -> str:
    """The name of a CRS for messages: its EPSG code, or else its own name."""
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(pyproj_crs(crs).name)
