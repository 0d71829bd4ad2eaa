"""Polygons and points as labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import rasterio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform_bounds

from das2f_map.errors import LabelError
from das2f_map.labels.source import MAX_CLASSES, LabelBlock, LabelSource, outside_scene
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.scene.antimeridian import box_turns, moved_onto
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.paths import vector_path
from das2f_map.scene.vector import (
    geometry_layers,
    in_pixels,
    near_grid,
    read_layer,
    reprojected,
    valid_parts,
)
from das2f_map.types import Bool, Int64, UInt8

# Field names people give to classes, compared in lower case without separators.
_PLAUSIBLE_FIELDS = frozenset(
    {"class", "classname", "classid", "classcode", "classvalue", "label", "labels", "labelname", "labelid"}
    | {"landcover", "landcoverclass", "landuse", "lulc", "lc", "lcname", "lcid", "lcclass", "clc"}
    | {"category", "categoryname", "type", "covertype", "code"}
)


def vector_layers(path: str) -> list[str]:
    """Names of the layers with geometries; none if it is not a vector file."""
    try:
        return geometry_layers(path)
    except (DataSourceError, DataLayerError):
        return []


class VectorLabels(LabelSource):
    """Polygons and points. Features that touch the grid are held in memory, the grid is not."""

    def __init__(self, path: str, layers: Sequence[str], grid: Grid, class_field: str | None) -> None:
        frame = _read_features(path, layers, grid, class_field)
        values, named = _class_values(path, frame["value"])
        frame = frame[values.notna()]
        class_ids, self.legend, self.ids_are_codes = _legend_of(path, values.dropna(), named)
        self._grid = grid
        shapes, of = valid_parts(in_pixels(frame.geometry.to_numpy(), grid))
        shapes, moved = moved_onto(shapes, grid)
        self._shapes, self._class_ids = shapes, class_ids[of[moved]]
        self._is_point = shapely.get_type_id(shapes) == shapely.GeometryType.POINT
        self._tree = shapely.STRtree(shapes)
        scene = shapely.box(0, 0, grid.width, grid.height)
        if not self._tree.query(scene, predicate="intersects").size:
            raise outside_scene(path)

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
        hits = self._hits(window)
        for class_id in np.unique(self._class_ids[hits]):
            mine = hits[self._class_ids[hits] == class_id]
            mask = self._mask(mine, window)
            contested |= mask & (classes != NODATA_CLASS)
            classes[mask] = class_id
        classes[contested] = NODATA_CLASS
        return LabelBlock(classes, int(contested.sum()))

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


def _read_features(path: str, layers: Sequence[str], grid: Grid, class_field: str | None) -> gpd.GeoDataFrame:
    """Features near the grid as single geometries in the grid's CRS, columns ``value`` and ``geometry``."""
    frames: list[gpd.GeoDataFrame] = []
    total = 0
    for layer in layers:
        try:
            info = pyogrio.read_info(vector_path(path), layer=layer)
        except (DataSourceError, DataLayerError) as error:
            raise LabelError(f"labels {path} cannot be read: {error}") from error
        if info["crs"] is None:
            raise LabelError(
                f"labels {path} have no coordinate reference system",
                "assign one, e.g. ogr2ogr -a_srs EPSG:32616 out.gpkg in.shp",
            )
        field = _choose_field(path, info, class_field)
        left, bottom, right, top = _map_bounds(grid)
        try:
            near = transform_bounds(grid.crs, info["crs"], left, bottom, right, top, densify_pts=21)
            # Unknown feature counts are -1; they only matter for the wording of an error.
            total += max(0, int(info["features"]))
            # A geographic box across the antimeridian comes back with left > right: read everything then.
            bbox = near if near[0] <= near[2] and np.isfinite(near).all() else None
            frame = _read_near(path, layer, field, info["crs"], bbox)
        except (DataSourceError, DataLayerError, RasterioError) as error:
            raise LabelError(f"labels {path} cannot be read: {error}") from error
        frame = frame.rename(columns={field: "value"})[["value", "geometry"]]
        near_shapes = near_grid(frame.geometry, grid)
        frames.append(frame.loc[near_shapes.index].set_geometry(reprojected(near_shapes, grid.crs)))
    if not any(len(f) for f in frames):
        raise outside_scene(path) if total else LabelError(f"labels {path} hold no features")
    merged = gpd.GeoDataFrame(
        pd.concat([f for f in frames if len(f)], ignore_index=True), geometry="geometry", crs=grid.crs
    ).explode(ignore_index=True)
    kinds = set(merged.geom_type)
    strange = kinds - {"Polygon", "Point"}
    if strange:
        raise LabelError(
            f"labels {path} hold {', '.join(sorted(strange))} geometries; only polygons and points will do",
            "draw areas as polygons, or buffer the lines",
        )
    return merged


def _read_near(
    path: str, layer: str, field: str, crs: str, bbox: tuple[float, float, float, float] | None
) -> gpd.GeoDataFrame:
    """The features that touch a box, also whole turns around the world away; all without a box."""
    boxes = () if bbox is None else box_turns(bbox, CRS.from_user_input(crs))
    if len(boxes) > 1:
        world = pyogrio.read_info(vector_path(path), layer=layer, force_total_bounds=True)["total_bounds"]
        touching = [b for b in boxes[1:] if world is not None and world[0] <= b[2] and world[2] >= b[0]]
        boxes = (boxes[0], *touching)
    if len(boxes) <= 1:
        return read_layer(path, layer, columns=[field], bbox=boxes[0] if boxes else None)
    # Some would touch two of the boxes: read all, then choose.
    frame = read_layer(path, layer, columns=[field])
    return frame[frame.intersects(shapely.union_all([shapely.box(*b) for b in boxes]))]


def _choose_field(path: str, info: dict[str, Any], wanted: str | None) -> str:
    fields = [str(f) for f in info["fields"]]
    listed = ", ".join(fields) if fields else "none"
    if wanted is not None:
        if wanted in fields:
            return wanted
        alike = [f for f in fields if f.lower() == wanted.lower()]
        if len(alike) == 1:
            return alike[0]
        raise LabelError(f"labels {path} have no field {wanted!r}", f"the fields are: {listed}")
    if not fields:
        raise LabelError(f"labels {path} have no attribute that could hold the class")
    plausible = [f for f in fields if f.lower().replace("_", "").replace(" ", "") in _PLAUSIBLE_FIELDS]
    if len(plausible) > 1:
        # Of a number and a name for the same class, take the name.
        text = [
            f for f in plausible if "str" in str(info["dtypes"][fields.index(f)]) or _is_text(info, fields, f)
        ]
        plausible = text if len(text) == 1 else plausible
    if not plausible and len(fields) == 1:
        plausible = fields
    if len(plausible) == 1:
        return plausible[0]
    raise LabelError(
        f"Which field of {path} holds the class is not clear",
        f"choose with --class-field; the fields are: {listed}",
    )


def _is_text(info: dict[str, Any], fields: list[str], field: str) -> bool:
    return str(info["dtypes"][fields.index(field)]) == "object"


def _class_values(path: str, raw: pd.Series[Any]) -> tuple[pd.Series[Any], bool]:
    """Class values (int or str, missing where none is given), and whether they are names."""
    if pd.api.types.is_bool_dtype(raw) or pd.api.types.is_numeric_dtype(raw):
        numbers = pd.to_numeric(raw)
        given = numbers.dropna()
        if not np.array_equal(given, np.round(given)):
            raise LabelError(
                f"the class field of {path} holds fractions, such as {given[given != given.round()].iloc[0]}",
                "it should hold class numbers or class names",
            )
        # 0 means unlabelled in label rasters, and in many vector files too.
        return numbers.astype("Int64").where(numbers.notna() & (numbers != 0)), False
    text = raw.astype("string").str.strip()
    text = text.where(text.notna() & (text != ""))
    given = text.dropna()
    # Class codes are often kept as text. As text, 10 would come before 2, and 01 would differ from 1.
    if len(given) and given.str.fullmatch(r"[0-9]{1,15}").all():
        codes = pd.to_numeric(text).astype("Int64")
        return codes.where(codes.notna() & (codes != 0)), False
    return text, True


def _legend_of(path: str, values: pd.Series[Any], named: bool) -> tuple[UInt8, Legend, bool]:
    """Class id of every feature, the legend, and whether its ids are the file's own numbers."""
    distinct = sorted(values.unique().tolist())
    if not distinct:
        raise LabelError(f"No feature of {path} that lies in the scene has a class")
    if len(distinct) > MAX_CLASSES:
        raise LabelError(
            f"the class field of {path} has {len(distinct)} values; a map has at most {MAX_CLASSES} classes",
            "is it the right field? Choose with --class-field",
        )
    ids_are_codes = not named and distinct[0] >= 1 and distinct[-1] <= MAX_CLASSES
    ids = distinct if ids_are_codes else list(range(1, len(distinct) + 1))
    # Codes that do not fit into a map's byte get other ids; their names keep the code.
    legend = Legend.from_names([str(v) if named else f"class {v}" for v in distinct], ids)
    lookup = dict(zip(distinct, ids, strict=True))
    return np.array([lookup[v] for v in values.tolist()], np.uint8), legend, ids_are_codes


def _map_bounds(grid: Grid) -> tuple[float, float, float, float]:
    xs, ys = zip(*grid.corners(), strict=True)
    return min(xs), min(ys), max(xs), max(ys)
