"""The area of interest: polygons that say which part of a scene to classify."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from affine import Affine
from rasterio.features import rasterize

from das2f_map.errors import InputError
from das2f_map.scene.antimeridian import moved_onto
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.vector import (
    in_pixels,
    near_grid,
    reprojected,
    single_parts,
    valid_parts,
)
from das2f_map.scene.vector_file import VectorFile
from das2f_map.types import Bool

_EDGE_PARTS = 64
"""Parts that an edge as long as the whole area is cut into before it is reprojected."""

_EDGE = 1e-6
"""Pixels by which an outline may cross a pixel edge, by rounding, without touching the pixel beyond."""


class EmptyArea(InputError):
    """Raised if an area lies between the centres of the pixels."""


class Area:
    """An area of interest: polygons on a grid. Made by :meth:`from_file`.

    Attributes
    ----------
    grid:
        The grid that windows and masks refer to.
    window:
        The smallest window that holds the part of the area inside the grid.
    """

    def __init__(self, geometries: npt.NDArray[np.object_], grid: Grid, window: Window) -> None:
        self._tree = shapely.STRtree(geometries)
        self.grid = grid
        self.window = window

    @classmethod
    def from_file(cls, path: str | Path, grid: Grid, layer: str | None = None) -> Area:
        """The area of all polygons of a vector file, on a grid.

        Parameters
        ----------
        path:
            Any vector file that GDAL reads, in any CRS; a layer may follow, as in ``areas.gpkg|layername=a``.
        grid:
            The grid of the masks: the MS grid of a pair.
        layer:
            The layer that is meant, if several have polygons.

        Raises
        ------
        InputError
            The file is missing or not a vector file, has no CRS, has no polygons, has features other than
            polygons, covers no pixel centre of the grid, or has several layers of which none is named.
        """
        label = f"area file {path}"
        file = VectorFile.open(path, label, layer=layer, option="--aoi-layer")
        area = cls._of(file, grid, may_be_empty=False)
        if area is None:
            raise InputError(
                f"{label} does not touch the scene", "check its coordinate reference system and its place"
            )
        if not area.pixels:
            raise EmptyArea(f"{label} covers no pixel centre of the scene", "draw a larger area")
        return area

    @classmethod
    def inside(cls, path: str | Path, grid: Grid, label: str) -> Area | None:
        """As :meth:`from_file`, but ``None`` if no polygon touches the grid, or the file has none.

        Parameters
        ----------
        label:
            Words for the file in messages.
        """
        return cls._of(VectorFile.open(path, label), grid, may_be_empty=True)

    @classmethod
    def _of(cls, file: VectorFile, grid: Grid, *, may_be_empty: bool) -> Area | None:
        shapes = _polygons(file, grid, may_be_empty=may_be_empty)
        if not len(shapes):
            return None
        geometries = _on_grid(shapes, grid, file.label)
        if not geometries.size:
            return None
        left, top, right, bottom = shapely.total_bounds(geometries)
        # Rounding moves outlines off the pixel edges they run along; that must not add a row or column.
        row, col = math.floor(top + _EDGE), math.floor(left + _EDGE)
        bounding = Window(row, col, math.ceil(bottom - _EDGE) - row, math.ceil(right - _EDGE) - col)
        window = bounding.intersection(grid.window)
        return None if window.is_empty else cls(geometries, grid, window)

    @cached_property
    def pixels(self) -> int:
        """Number of pixels whose centre lies inside the area."""
        return sum(int(self.mask(block).sum()) for block in blocks_of(self.window, 1024))

    def mask(self, window: Window) -> Bool:
        """Whether the centre of each pixel of a window lies inside the area, bool (h, w)."""
        shape = (window.height, window.width)
        here = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        found = self._tree.geometries[self._tree.query(here)]
        if len(found) == 0:
            return np.zeros(shape, dtype=np.bool_)
        # Geometries are in pixels of the whole grid, so a window only moves them by whole numbers.
        burnt = rasterize(
            ((g, 1) for g in found),
            out_shape=shape,
            transform=Affine.translation(window.col, window.row),
            fill=0,
            dtype="uint8",
        )
        return np.asarray(burnt == 1)


def _polygons(file: VectorFile, grid: Grid, *, may_be_empty: bool) -> geopandas.GeoSeries:
    """All polygons of the layers that are meant."""
    label = file.label
    if not file.layers:
        raise InputError(f"{label} has no geometries: it is a table", "give a file of polygons")
    found = []
    for layer in file.choose(lambda one: one.holds_areas, "polygons"):
        shapes = file.read(layer).shapes
        if len(shapes):
            file.check_conversion(layer, grid)
            found.append(shapes)
    if not found and may_be_empty:
        return geopandas.GeoSeries([])
    if not found:
        raise InputError(f"{label} has no polygons: it is empty", "draw at least one polygon")
    collections = any((s.geom_type == "GeometryCollection").any() for s in found)
    if collections:
        found = [_single_parts_of(s) for s in found]
    kinds = sorted({str(k) for s in found for k in s.geom_type.unique()})
    others = [k for k in kinds if k not in ("Polygon", "MultiPolygon")]
    if others:
        source, first = "in.gpkg", "keep the polygons only, e.g. "
        if collections:
            source, first = (
                "parts.gpkg",
                "ogr2ogr -explodecollections parts.gpkg in.gpkg, then keep the polygons: ",
            )
        raise InputError(
            f"{label} has {' and '.join(others)} features; it should be made of polygons",
            f"{first}ogr2ogr -where \"OGR_GEOMETRY='POLYGON'\" out.gpkg {source}",
        )
    crs = found[0].crs
    return geopandas.GeoSeries(pd.concat([reprojected(s, crs) for s in found], ignore_index=True), crs=crs)


def _single_parts_of(shapes: geopandas.GeoSeries) -> geopandas.GeoSeries:
    """The single parts of geometries."""
    parts, _ = single_parts(shapes.to_numpy())
    return geopandas.GeoSeries(parts[~shapely.is_empty(parts)], crs=shapes.crs)


def _on_grid(shapes: geopandas.GeoSeries, grid: Grid, label: str) -> npt.NDArray[np.object_]:
    """Valid single polygons in pixels of the grid, x along columns; empty if all are far from the grid."""
    crs = grid.crs.to_wkt()
    if shapes.crs != crs:
        shapes = near_grid(shapes, grid)
        if not len(shapes):
            return np.empty(0, dtype=object)
        left, bottom, right, top = shapes.total_bounds
        # Edges get more points before reprojection: a straight edge in one CRS is a curve in another.
        shapes = reprojected(shapes.segmentize(max(right - left, top - bottom) / _EDGE_PARTS), crs)
    geometries = shapes.to_numpy()
    finite = np.isfinite(shapely.bounds(geometries)).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{label} reaches to where it cannot be converted to the scene's coordinate reference system",
            "clip it to the surroundings of the scene",
        )
    areas, _ = valid_parts(in_pixels(geometries, grid))
    if not areas.size:
        raise InputError(
            f"{label} has no polygons with an inside: their outlines enclose nothing",
            "draw at least one polygon",
        )
    return moved_onto(areas, grid)[0]
