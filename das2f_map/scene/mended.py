"""Polygons that cross themselves, made valid in a time that does not explode with the crossings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from das2f_map.types import Bool, Float64, Geometries

_FEW = 60
"""Vertices up to which a polygon is left to GEOS, whatever it looks like."""

_MANY = 200
"""Crossings from which on GEOS takes too long: its time grows with their square."""


def made_valid(geometries: npt.NDArray[Any]) -> Geometries:
    """Valid geometries of the same areas: inside is where a ray crosses the outlines an odd number of times.

    This is GEOS's own rule for outlines that cross themselves. Polygons with many crossings are cut into the
    faces between their outlines, and those inside become the parts of a MultiPolygon.
    """
    given = np.asarray(geometries, dtype=object)
    out = given.copy()
    kinds = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
    tangled = (
        np.isin(shapely.get_type_id(given), kinds)
        & (shapely.get_num_coordinates(given) > _FEW)
        & ~shapely.is_valid(given)
        & np.isfinite(shapely.bounds(given)).all(axis=-1)
    )
    for i in np.flatnonzero(tangled):
        lines = shapely.node(shapely.boundary(given[i]))
        if shapely.get_num_geometries(lines) > _MANY:
            out[i] = _faces_inside(given[i], lines)
        else:
            tangled[i] = False
    out[~tangled] = shapely.make_valid(given[~tangled])
    return out


def _faces_inside(polygon: shapely.Geometry, lines: shapely.Geometry) -> shapely.Geometry:
    faces = shapely.get_parts(shapely.polygonize([lines]))
    inside = _odd(polygon, shapely.get_coordinates(shapely.point_on_surface(faces)))
    return shapely.multipolygons(faces[inside])


def _odd(polygon: shapely.Geometry, points: Float64) -> Bool:
    """Whether a ray from each point, (n, 2), crosses the outlines an odd number of times, bool (n,)."""
    x, y = points.T
    odd = np.zeros(len(points), dtype=np.bool_)
    for ring in shapely.get_rings(polygon):
        corners = shapely.get_coordinates(ring)
        for (x0, y0), (x1, y1) in pairwise(corners):
            if y0 != y1:
                odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (x1 - x0) * ((y - y0) / (y1 - y0)))
    return odd
