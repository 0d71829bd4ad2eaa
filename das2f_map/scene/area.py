"""The area of interest: polygons that say which part of a scene to classify."""

from __future__ import annotations

import math
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from affine import Affine
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.features import rasterize

from das2f_map.errors import InputError
from das2f_map.scene.antimeridian import moved_onto
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.paths import missing_local_file
from das2f_map.scene.vector import (
    geometry_layers,
    in_pixels,
    near_grid,
    read_layer,
    reprojected,
    single_parts,
    valid_parts,
)
from das2f_map.types import Bool

_EDGE_PARTS = 64
"""Parts that an edge as long as the whole area is cut into before it is reprojected."""

_EDGE = 1e-6
"""Pixels by which an outline may reach over a pixel edge without touching the pixel beyond."""


class Area:
    """Polygons on a grid. Made by :meth:`from_file`.

    Attributes
    ----------
    grid:
        The grid that windows and masks refer to.
    window:
        The smallest window of the grid that holds the area's part inside it.
    """

    def __init__(self, geometries: npt.NDArray[np.object_], grid: Grid, window: Window) -> None:
        self._tree = shapely.STRtree(geometries)
        self.grid = grid
        self.window = window

    @classmethod
    def from_file(cls, path: str | Path, grid: Grid) -> Area:
        """Read the polygons of a vector file, of all its layers, and bring them to a grid.

        Parameters
        ----------
        path:
            Any vector file that GDAL reads, in any CRS.
        grid:
            Where masks are wanted: the MS grid of a pair.

        Raises
        ------
        InputError
            The file is missing or not a vector file, has no CRS, has no polygons or something beside
            polygons, or covers no pixel centre of the grid.
        """
        label = f"area file {path}"
        area = cls.inside(path, grid, label, may_be_empty=False)
        if area is None:
            raise InputError(
                f"{label} does not touch the scene", "check its coordinate reference system and its place"
            )
        if not any(area.mask(block).any() for block in blocks_of(area.window, 1024)):
            raise InputError(f"{label} covers no pixel centre of the scene", "draw a larger area")
        return area

    @classmethod
    def inside(cls, path: str | Path, grid: Grid, label: str, *, may_be_empty: bool = True) -> Area | None:
        """As :meth:`from_file`, but ``None`` where nothing lies in the grid.

        Parameters
        ----------
        label:
            What the file is called in messages.
        may_be_empty:
            ``None`` for a file without any polygon, too.
        """
        frame = _polygons(path, label, may_be_empty=may_be_empty)
        if not len(frame):
            return None
        geometries = _on_grid(frame, grid, label)
        if not geometries.size:
            return None
        left, top, right, bottom = shapely.total_bounds(geometries)
        # Outlines along pixel edges miss them by rounding: no further row or column for that.
        row, col = math.floor(top + _EDGE), math.floor(left + _EDGE)
        bounding = Window(row, col, math.ceil(bottom - _EDGE) - row, math.ceil(right - _EDGE) - col)
        window = bounding.intersection(grid.window)
        return None if window.is_empty else cls(geometries, grid, window)

    def mask(self, window: Window) -> Bool:
        """Pixels whose centre lies inside the area: bool (h, w) for a window of the grid."""
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


def _polygons(path: str | Path, label: str, *, may_be_empty: bool) -> geopandas.GeoDataFrame:
    if missing_local_file(path):
        raise InputError(f"{label} does not exist", "check the path")
    try:
        layers = geometry_layers(path)
        frames = [read_layer(path, layer) for layer in layers]
    except (DataSourceError, DataLayerError) as error:
        raise InputError(f"{label} cannot be read as a vector file: {error}") from error
    if not layers:
        raise InputError(f"{label} has no geometries: it is a table", "give a file of polygons")
    frames = [f for f in frames if len(f)]
    if not frames and may_be_empty:
        return geopandas.GeoDataFrame(geometry=[])
    if not frames:
        raise InputError(f"{label} has no polygons: it is empty", "draw at least one polygon")
    collections = any((f.geometry.geom_type == "GeometryCollection").any() for f in frames)
    if collections:
        frames = [_taken_apart(f) for f in frames]
    kinds = sorted({str(k) for f in frames for k in f.geometry.geom_type.unique()})
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
    if any(f.crs is None for f in frames):
        raise InputError(
            f"{label} has no coordinate reference system", "if you know it: ogr2ogr -a_srs EPSG:… out.gpkg in"
        )
    first = frames[0].crs
    return geopandas.GeoDataFrame(
        geometry=pd.concat([reprojected(f.geometry, first) for f in frames], ignore_index=True), crs=first
    )


def _taken_apart(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Geometries that are no collections, of features whose attributes do not matter."""
    parts, _ = single_parts(frame.geometry.to_numpy())
    return geopandas.GeoDataFrame(geometry=parts[~shapely.is_empty(parts)], crs=frame.crs)


def _on_grid(frame: geopandas.GeoDataFrame, grid: Grid, label: str) -> npt.NDArray[np.object_]:
    """Valid single polygons in pixels of the grid, x along columns; none if all are far from it."""
    shapes = frame.geometry
    crs = grid.crs.to_wkt()
    if shapes.crs != crs:
        shapes = near_grid(shapes, grid)
        if not len(shapes):
            return np.empty(0, dtype=object)
        left, bottom, right, top = shapes.total_bounds
        # A straight edge of one CRS is a curve in another.
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
