"""Polygons and points as labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform_bounds

from das2f_map.errors import LabelError
from das2f_map.labels.class_values import ClassValues
from das2f_map.labels.source import LabelBlock, LabelSource, outside_scene
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, Legend, require_printable
from das2f_map.scene.antimeridian import box_turns, moved_onto
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.vector import in_pixels, near_grid, reprojected, valid_parts
from das2f_map.scene.vector_file import VectorFile
from das2f_map.scene.vector_layer import Layer
from das2f_map.types import Bool, Int64, UInt8

log = logging.getLogger(__name__)

_READ_ALL = 200_000
"""Features up to which a layer is read whole, and not only around the scene."""

# Field names people give to classes, compared in lower case without separators.
_PLAUSIBLE_FIELDS = frozenset(
    {"class", "classname", "classid", "classcode", "classvalue", "label", "labels", "labelname", "labelid"}
    | {"landcover", "landcoverclass", "landuse", "lulc", "lc", "lcname", "lcid", "lcclass", "clc"}
    | {"category", "categoryname", "type", "covertype", "code"}
)


class VectorLabels(LabelSource):
    """Polygons and points. Features that touch the grid are held in memory, the grid is not."""

    def __init__(self, file: VectorFile, grid: Grid, class_field: str | None) -> None:
        label = file.label
        frame = _read_features(file, grid, class_field)
        found = ClassValues.of(label, frame["value"])
        if found.ignored:
            log.warning("%s: features left out as unlabelled: %s", label, found.ignored)
        frame = frame[found.values.notna()]
        given = found.values.dropna()
        self._grid = grid
        shapes, of = valid_parts(in_pixels(frame.geometry.to_numpy(), grid))
        shapes, moved = moved_onto(shapes, grid)
        class_ids, self.legend, self.codes = legend_of(label, given, found.named)
        self._shapes, self._class_ids = shapes, class_ids[of[moved]]
        self._is_point = shapely.get_type_id(shapes) == shapely.GeometryType.POINT
        self._tree = shapely.STRtree(shapes)
        scene = shapely.box(0, 0, grid.width, grid.height)
        if not self._tree.query(scene, predicate="intersects").size:
            raise outside_scene(label)

    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        for window in candidates:
            if self._hits(window).size:
                yield window

    def _hits(self, window: Window) -> Int64:
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        return np.sort(np.asarray(self._tree.query(box, predicate="intersects"), np.int64))

    def read(self, window: Window) -> LabelBlock:
        classes = np.zeros((window.height, window.width), np.uint8)
        contested = np.zeros(classes.shape, bool)
        zeros = np.zeros(classes.shape, bool)
        hits = self._hits(window)
        for class_id in np.unique(self._class_ids[hits]):
            mine = hits[self._class_ids[hits] == class_id]
            mask = self._mask(mine, window)
            if class_id == NODATA_CLASS:
                zeros = mask
                continue
            contested |= mask & (classes != NODATA_CLASS)
            classes[mask] = class_id
        zeros &= classes == NODATA_CLASS
        classes[contested] = NODATA_CLASS
        return LabelBlock(classes, int(contested.sum()), int(zeros.sum()))

    def _mask(self, features: Int64, window: Window) -> Bool:
        """Pixels whose centre lies in one of the polygons, or that hold one of the points."""
        mask = np.zeros((window.height, window.width), bool)
        areas = features[~self._is_point[features]]
        if areas.size:
            # Shapes are in pixels of the grid, so that the transform is only the shift to the window.
            shift = rasterio.Affine.translation(window.col, window.row)
            mask |= (
                rasterize(
                    list(self._shapes[areas]),
                    out_shape=mask.shape,
                    transform=shift,
                    dtype="uint8",
                    all_touched=False,
                )
                == 1
            )
        points = features[self._is_point[features]]
        if points.size:
            cols = np.floor(shapely.get_x(self._shapes[points])).astype(np.int64) - window.col
            rows = np.floor(shapely.get_y(self._shapes[points])).astype(np.int64) - window.row
            inside = (rows >= 0) & (rows < window.height) & (cols >= 0) & (cols < window.width)
            mask[rows[inside], cols[inside]] = True
        return mask


def _read_features(file: VectorFile, grid: Grid, class_field: str | None) -> gpd.GeoDataFrame:
    """Features near the grid as single geometries in the grid's CRS, columns ``value`` and ``geometry``."""
    label = file.label
    frames: list[gpd.GeoDataFrame] = []
    for layer, field in class_layers(file, class_field):
        crs = file.crs_of(layer)
        file.check_conversion(layer, grid)
        frame = _read_near(file, layer, field, grid)
        if field in layer.booleans and pd.api.types.is_numeric_dtype(frame["value"]):
            frame["value"] = frame["value"].map(_truth)
        near_shapes = near_grid(frame.geometry, grid)
        moved = near_shapes if crs == grid.crs.to_wkt() else reprojected(near_shapes, grid.crs)
        frames.append(frame.loc[near_shapes.index].set_geometry(moved))
    if not any(len(f) for f in frames):
        raise outside_scene(label) if file.total else no_features(label)
    merged = gpd.GeoDataFrame(
        pd.concat([f for f in frames if len(f)], ignore_index=True), geometry="geometry", crs=grid.crs
    ).explode(ignore_index=True)
    require_areas_or_points(label, merged.geometry)
    if not np.isfinite(shapely.bounds(merged.geometry.to_numpy())).all():
        raise LabelError(
            f"{label} reach to where they cannot be converted to the scene's coordinate reference system",
            "clip them to the surroundings of the scene",
        )
    return merged


def no_features(label: str) -> LabelError:
    """The error for an empty file; ``label`` are words for it."""
    return LabelError(f"{label} hold no features", "draw some, or choose another layer")


def require_areas_or_points(label: str, shapes: gpd.GeoSeries) -> None:
    """Raise :class:`LabelError` unless all of some single geometries are polygons and points."""
    strange = set(shapes.geom_type) - {"Polygon", "Point"}
    if strange:
        raise LabelError(
            f"{label} hold {', '.join(sorted(strange))} geometries; only polygons and points will do",
            "draw areas as polygons, or buffer the lines",
        )


def class_layers(file: VectorFile, class_field: str | None) -> list[tuple[Layer, str]]:
    """The layers of a file that hold labels, and the field of each that has the class.

    Raises
    ------
    LabelError
        It is not clear which layer or field is meant, or the file has no such field.
    """

    def fits(layer: Layer) -> bool:
        return layer.holds_areas_or_points and bool(_fields_for(layer, class_field))

    found = [
        (layer, _choose_field(file, layer, class_field))
        for layer in file.choose(fits, "polygons or points and a class field")
    ]
    # Layers that are taken together have the same fields: one line is enough.
    if found and class_field is None and len(found[0][0].fields) > 1:
        log.info("%s: the class is in the field %s", file.label, found[0][1])
    return found


def _truth(value: Any) -> bool | None:
    return None if pd.isna(value) else bool(value)


def _read_near(file: VectorFile, layer: Layer, field: str, grid: Grid) -> gpd.GeoDataFrame:
    """Features that touch the surroundings of a grid, also whole turns around the world away.

    Columns ``value`` and ``geometry``; all features where those surroundings are no box in the layer's CRS.
    """
    crs = CRS.from_wkt(file.crs_of(layer).to_wkt())
    left, bottom, right, top = _map_bounds(grid)
    try:
        near = transform_bounds(grid.crs, crs, left, bottom, right, top, densify_pts=21)
    except RasterioError:
        near = (math.nan,) * 4
    # A geographic box across the antimeridian comes back with left > right: read everything then.
    plain = near[0] <= near[2] and bool(np.isfinite(near).all())
    boxes = box_turns(near, crs) if plain else ()
    # Of a small file all features are read: one whose outline is broken touches no box and must be told of.
    only = boxes[0] if len(boxes) == 1 and layer.features > _READ_ALL else None
    found = file.read(layer, field, only)
    frame = gpd.GeoDataFrame({"value": found.values}, geometry=found.shapes, crs=found.shapes.crs)
    if not boxes:
        return frame
    return frame[frame.intersects(shapely.union_all([shapely.box(*b) for b in boxes]))].copy()


def _fields_for(layer: Layer, wanted: str | None) -> list[str]:
    """Fields of a layer that may hold the class: the one that is wanted, or those that are plausible."""
    if wanted is not None:
        if wanted in layer.fields:
            return [wanted]
        alike = [f for f in layer.fields if f.lower() == wanted.lower()]
        return alike if len(alike) == 1 else []
    plausible = [f for f in layer.fields if f.lower().replace("_", "").replace(" ", "") in _PLAUSIBLE_FIELDS]
    if len(plausible) > 1:
        # Of a number and a name for the same class, take the name.
        text = [f for f in plausible if "str" in layer.dtype_of(f) or layer.dtype_of(f) == "object"]
        plausible = text if len(text) == 1 else plausible
    return plausible


def _choose_field(file: VectorFile, layer: Layer, wanted: str | None) -> str:
    listed = ", ".join(layer.fields) if layer.fields else "none"
    found = _fields_for(layer, wanted)
    if wanted is None and not found and len(layer.fields) == 1:
        found = list(layer.fields)
    if len(found) == 1:
        return found[0]
    if wanted is not None:
        raise LabelError(f"{file.label} have no field {wanted!r}", f"the fields are: {listed}")
    if not layer.fields:
        raise LabelError(
            f"{file.label} have no attribute that could hold the class",
            "add one to the file's table, and name the class of each feature in it",
        )
    raise LabelError(
        f"Which field of {file.path.file} holds the class is not clear",
        f"choose with --class-field; the fields are: {listed}",
    )


def legend_of(label: str, values: pd.Series[Any], named: bool) -> tuple[UInt8, Legend, dict[int, int] | None]:
    """Class id of every feature, the legend, and the id of each of the file's own numbers if it has such.

    Parameters
    ----------
    values, named:
        Of :class:`ClassValues`, without missing ones.

    Raises
    ------
    LabelError
        There is no class, or more than a map can have.
    """
    distinct = sorted(v for v in values.unique().tolist() if v != 0)
    if not distinct:
        raise LabelError(
            f"No feature of {label} that lies in the scene has a class",
            "fill in the class field, or choose another one with --class-field",
        )
    if len(distinct) > MOST_CLASSES:
        raise LabelError(
            f"the class field of {label} has {len(distinct)} values, a map at most {MOST_CLASSES} classes",
            "is it the right field? Choose with --class-field",
        )
    require_printable((str(v) for v in distinct), label, LabelError)
    codes: dict[int, int] | None = None
    if named:
        legend = Legend.from_names(distinct)
        lookup: dict[Any, int] = dict(zip(distinct, legend.ids, strict=True))
    else:
        legend, codes = Legend.of_codes(distinct, {})
        lookup = {**codes, 0: NODATA_CLASS}
    return np.array([lookup[v] for v in values.tolist()], np.uint8), legend, codes


def _map_bounds(grid: Grid) -> tuple[float, float, float, float]:
    xs, ys = zip(*grid.corners(), strict=True)
    return min(xs), min(ys), max(xs), max(ys)
