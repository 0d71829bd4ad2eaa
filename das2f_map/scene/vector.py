"""Bring shapes onto a pixel grid, for areas of interest, masks and labels alike."""

from __future__ import annotations

from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from das2f_map.scene.antimeridian import box_turns, in_one_piece, near
from das2f_map.scene.grid import Grid
from das2f_map.scene.mended import made_valid
from das2f_map.types import Geometries, Int64

_SAMPLES = 33
"""Points along each side of a grid that are converted to find its surroundings in another CRS."""


def near_grid(shapes: geopandas.GeoSeries, grid: Grid) -> geopandas.GeoSeries:
    """The parts of shapes that lie in and around a grid of another CRS, still in the shapes' own CRS.

    Far from the place it is made for, a projection may fold over and stay finite: a polygon around the world
    would come out inside out. So polygons are cut to twice the extent of the grid, and shapes beyond it are
    left out. All shapes stay as they are if that extent is no plain box of their CRS: around a pole, more
    than half around the world, or where the grid cannot be converted to it.
    """
    crs = CRS.from_wkt(shapes.crs.to_wkt())
    around = None if crs == grid.crs else _surroundings(grid, crs)
    if around is None:
        return shapes
    geometries = shapes.to_numpy().copy()
    shapely.prepare(around)
    near = shapely.intersects(around, geometries)
    over = near & ~shapely.contains_properly(around, geometries)
    over &= np.isin(
        shapely.get_type_id(geometries), (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
    )
    if over.any():
        cut = shapely.intersection(made_valid(geometries[over]), around)
        # Lines and points come out of polygons that only touch the box or were invalid.
        geometries[over] = [
            shapely.MultiPolygon([p for p in single_parts(np.array([g]))[0] if p.geom_type == "Polygon"])
            for g in cut
        ]
    near &= ~shapely.is_empty(geometries)
    return geopandas.GeoSeries(geometries[near], index=shapes.index[near], crs=shapes.crs)


def _surroundings(grid: Grid, crs: CRS) -> shapely.Geometry | None:
    """Twice the extent of a grid in another CRS, repeated for whole turns around the world.

    ``None`` if it is no plain box there.
    """
    row, col = np.meshgrid(
        np.linspace(0, grid.height, _SAMPLES), np.linspace(0, grid.width, _SAMPLES), indexing="ij"
    )
    t = grid.transform
    try:
        x, y = Transformer.from_crs(grid.crs, crs, always_xy=True).transform(
            t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        )
    except ProjError:
        return None
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    x = near(x, x[_SAMPLES // 2, _SAMPLES // 2], crs)
    margin_x, margin_y = np.ptp(x) / 2, np.ptp(y) / 2
    extent = (x.min() - margin_x, y.min() - margin_y, x.max() + margin_x, y.max() + margin_y)
    boxes = box_turns(extent, crs)
    return shapely.union_all([shapely.box(*box) for box in boxes]) if boxes else None


def reprojected(shapes: geopandas.GeoSeries, crs: Any) -> geopandas.GeoSeries:
    """Shapes in another CRS; those that cross the seam of a map around the world stay in one piece."""
    moved = shapes.to_crs(crs)
    crs_before, crs_now = (CRS.from_wkt(s.crs.to_wkt()) for s in (shapes, moved))
    whole = in_one_piece(moved.to_numpy(), crs_now, shapes.to_numpy(), crs_before)
    return geopandas.GeoSeries(whole, index=moved.index, crs=moved.crs)


def in_pixels(geometries: npt.NDArray[Any], grid: Grid) -> Geometries:
    """Geometries in pixels of a grid: x along columns, y along rows, pixel edges at integers.

    In pixels a rotated grid needs no special care, and windows move shapes by whole numbers.
    """
    inverse = ~grid.transform
    moved = shapely.transform(
        geometries,
        lambda xy: np.column_stack(
            [
                inverse.a * xy[:, 0] + inverse.b * xy[:, 1] + inverse.c,
                inverse.d * xy[:, 0] + inverse.e * xy[:, 1] + inverse.f,
            ]
        ),
    )
    return np.asarray(moved, dtype=object)


def valid_parts(geometries: npt.NDArray[Any]) -> tuple[Geometries, Int64]:
    """Polygons and points, single and valid, and the index of the geometry each is from: both ``(parts,)``.

    Mending a polygon that crosses or retraces itself may give lines and points as well as areas, for instance
    from a spike of the outline. They are left out: they have no inside, but would be burnt into a mask.
    """
    parts, of = single_parts(geometries)
    was_point = shapely.get_type_id(parts) == shapely.GeometryType.POINT
    mended, of_part = single_parts(made_valid(parts))
    kind = shapely.get_type_id(mended)
    keep = (kind == shapely.GeometryType.POLYGON) | was_point[of_part]
    return mended[keep], of[of_part[keep]]


def single_parts(geometries: npt.NDArray[Any]) -> tuple[Geometries, Int64]:
    """Parts of collections, nested ones too, and the index of the geometry each is of: both ``(parts,)``."""
    parts = np.asarray(geometries, dtype=object)
    of = np.arange(parts.size)
    while (shapely.get_type_id(parts) >= shapely.GeometryType.MULTIPOINT).any():
        parts, index = shapely.get_parts(parts, return_index=True)
        of = of[index]
    return np.asarray(parts, dtype=object), of.astype(np.int64)
