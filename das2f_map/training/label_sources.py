"""Label files as sources of class windows on a given grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from das2f_map.errors import LabelError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.products.class_raster import read_legend
from das2f_map.scene.grid import Grid, Window, blocks_of

MAX_CLASSES = 255

# Field names people give to classes, compared in lower case without separators.
_PLAUSIBLE_FIELDS = frozenset(
    {"class", "classname", "classid", "classcode", "classvalue", "label", "labels", "labelname", "labelid"}
    | {"landcover", "landcoverclass", "landuse", "lulc", "lc", "lcname", "lcid", "lcclass", "clc"}
    | {"category", "categoryname", "type", "covertype", "code"}
)


@dataclass(frozen=True)
class LabelBlock:
    """Classes of a window.

    ``classes`` is uint8 ``(height, width)``, 0 where unlabelled; ``contested`` counts the pixels
    that are 0 because different classes claim them.
    """

    classes: NDArray[np.uint8]
    contested: int


class LabelSource(ABC):
    """An open label file, read as windows of the grid it was opened for."""

    legend: Legend
    """Classes in the file; those it only numbers are called ``class 1`` and so on."""

    @abstractmethod
    def read(self, window: Window) -> LabelBlock:
        """Classes of a window of the grid."""

    @abstractmethod
    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        """The windows among ``candidates`` that can hold labels."""

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Release the file."""

    def __enter__(self) -> LabelSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_labels(path: str | Path, grid: Grid, *, class_field: str | None = None) -> LabelSource:
    """Open a vector file or label raster for reading on ``grid``.

    Raises
    ------
    LabelError
        Missing, neither vector nor raster, no CRS, no overlap with the grid, unknown field, lines…
    """
    text = str(path)
    if "://" not in text and not text.startswith("/vsi") and not Path(text).exists():
        raise LabelError(f"Label file {text} does not exist")
    layers = _vector_layers(text)
    if layers:
        return VectorLabels(text, layers, grid, class_field)
    try:
        dataset = rasterio.open(text)
    except RasterioIOError:
        raise LabelError(
            f"{text} is neither a vector file nor a raster that GDAL can read",
            "labels can be a Shapefile, GeoPackage, GeoJSON… or a GeoTIFF of class numbers",
        ) from None
    if class_field is not None:
        dataset.close()
        raise LabelError(
            f"{text} is a label raster; --class-field is for vector files", "leave the option out"
        )
    try:
        return RasterLabels(text, dataset, grid)
    except BaseException:
        dataset.close()
        raise


def _vector_layers(path: str) -> list[str]:
    """Names of the layers with geometries; none if it is not a vector file."""
    try:
        layers = pyogrio.list_layers(path)
    except (DataSourceError, DataLayerError):
        return []
    return [str(name) for name, kind in layers if kind is not None]


# ---------------------------------------------------------------------------------------- vector


class VectorLabels(LabelSource):
    """Polygons and points. Features that touch the grid are held in memory, the grid is not."""

    def __init__(self, path: str, layers: Sequence[str], grid: Grid, class_field: str | None) -> None:
        frame = _read_features(path, layers, grid, class_field)
        values, named = _class_values(path, frame["value"])
        frame = frame[values.notna()]
        self._class_ids, self.legend = _legend_of(path, values.dropna(), named)
        self._grid = grid
        # Geometries move to pixel coordinates (x = column, y = row): rotated grids need no special care.
        pixels = ~grid.transform
        shapes = shapely.transform(
            frame.geometry.to_numpy(),
            lambda xy: np.column_stack(
                (
                    pixels.a * xy[:, 0] + pixels.b * xy[:, 1] + pixels.c,
                    pixels.d * xy[:, 0] + pixels.e * xy[:, 1] + pixels.f,
                )
            ),
        )
        self._shapes: NDArray[Any] = shapes
        self._is_point = shapely.get_type_id(shapes) == shapely.GeometryType.POINT
        self._tree = shapely.STRtree(shapes)
        scene = shapely.box(0, 0, grid.width, grid.height)
        if not self._tree.query(scene, predicate="intersects").size:
            raise _outside(path)

    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        for window in candidates:
            if self._hits(window).size:
                yield window

    def _hits(self, window: Window) -> NDArray[np.int64]:
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

    def _mask(self, features: NDArray[np.int64], window: Window) -> NDArray[np.bool_]:
        """Pixels whose centre lies in one of the polygons, or that hold one of the points."""
        mask = np.zeros((window.height, window.width), bool)
        areas = features[~self._is_point[features]]
        if areas.size:
            # The identity transform is what pixel coordinates call for; a shift brings in the window.
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
            info = pyogrio.read_info(path, layer=layer)
        except (DataSourceError, DataLayerError) as error:
            raise LabelError(f"Labels {path} cannot be read: {error}") from error
        if info["crs"] is None:
            raise LabelError(
                f"Labels {path} have no coordinate reference system",
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
            frame = pyogrio.read_dataframe(path, layer=layer, columns=[field], bbox=bbox, fid_as_index=True)
        except (DataSourceError, DataLayerError, RasterioError) as error:
            raise LabelError(f"Labels {path} cannot be read: {error}") from error
        frame = frame.rename(columns={field: "value"})[["value", "geometry"]]
        frames.append(frame[frame.geometry.notna() & ~frame.geometry.is_empty].to_crs(grid.crs))
    if not any(len(f) for f in frames):
        raise _outside(path) if total else LabelError(f"Labels {path} hold no features")
    merged = gpd.GeoDataFrame(
        pd.concat([f for f in frames if len(f)], ignore_index=True), geometry="geometry", crs=grid.crs
    ).explode(ignore_index=True)
    kinds = set(merged.geom_type)
    strange = kinds - {"Polygon", "Point"}
    if strange:
        raise LabelError(
            f"Labels {path} hold {', '.join(sorted(strange))} geometries; only polygons and points will do",
            "draw areas as polygons, or buffer the lines",
        )
    broken = ~merged.geometry.is_valid
    if broken.any():
        merged.loc[broken, "geometry"] = merged.geometry[broken].make_valid()
        merged = merged.explode(ignore_index=True)
        # What is left of a bow-tie besides its areas (lines, touching points) has no inside.
        merged = merged[merged.geom_type.isin(["Polygon", "Point"])].reset_index(drop=True)
    return merged


def _choose_field(path: str, info: dict[str, Any], wanted: str | None) -> str:
    fields = [str(f) for f in info["fields"]]
    listed = ", ".join(fields) if fields else "none"
    if wanted is not None:
        if wanted in fields:
            return wanted
        alike = [f for f in fields if f.lower() == wanted.lower()]
        if len(alike) == 1:
            return alike[0]
        raise LabelError(f"Labels {path} have no field {wanted!r}", f"the fields are: {listed}")
    if not fields:
        raise LabelError(f"Labels {path} have no attribute that could hold the class")
    plausible = [f for f in fields if f.lower().replace("_", "").replace(" ", "") in _PLAUSIBLE_FIELDS]
    if len(plausible) > 1:
        # A number and a name for the same thing: the name says more.
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
                f"The class field of {path} holds fractions, such as {given[given != given.round()].iloc[0]}",
                "it should hold class numbers or class names",
            )
        # 0 is "unlabelled" in label rasters; the same habit is met in vector files.
        return numbers.astype("Int64").where(numbers.notna() & (numbers != 0)), False
    text = raw.astype("string").str.strip()
    return text.where(text.notna() & (text != "")), True


def _legend_of(path: str, values: pd.Series[Any], named: bool) -> tuple[NDArray[np.uint8], Legend]:
    """Class id of every feature, and the legend."""
    distinct = sorted(values.unique().tolist())
    if not distinct:
        raise LabelError(f"No feature of {path} that lies in the scene has a class")
    if len(distinct) > MAX_CLASSES:
        raise LabelError(
            f"The class field of {path} has {len(distinct)} values; a map has at most {MAX_CLASSES} classes",
            "is it the right field? Choose with --class-field",
        )
    if named:
        legend = Legend.from_names(distinct)
        ids = list(legend.ids)
    else:
        ids = (
            distinct
            if distinct[0] >= 1 and distinct[-1] <= MAX_CLASSES
            else list(range(1, len(distinct) + 1))
        )
        legend = Legend.from_names([f"class {v}" for v in distinct], ids)
    lookup = dict(zip(distinct, ids, strict=True))
    return np.array([lookup[v] for v in values.tolist()], np.uint8), legend


# ---------------------------------------------------------------------------------------- raster


class RasterLabels(LabelSource):
    """A raster of class numbers: 0 and nodata are unlabelled.

    Each pixel of the grid is looked at on a sub-grid about as fine as the raster (up to 8 × 8
    positions) and gets the class most positions have, if that is at least as many as have none.
    Two classes with equally many contest the pixel.
    """

    def __init__(self, path: str, dataset: Any, grid: Grid) -> None:
        if dataset.crs is None:
            raise LabelError(
                f"Label raster {path} has no coordinate reference system",
                "assign one, e.g. gdal_edit.py -a_srs EPSG:32616 labels.tif",
            )
        if not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer) and dataset.dtypes[0] not in (
            "float32",
            "float64",
        ):
            raise LabelError(
                f"Label raster {path} is of type {dataset.dtypes[0]}, not a raster of class numbers"
            )
        self._path = path
        self._dataset = dataset
        self._grid = grid
        self._nodata = dataset.nodata
        left, bottom, right, top = transform_bounds(dataset.crs, grid.crs, *_dataset_bounds(dataset))
        footprint = shapely.box(left, bottom, right, top)
        self._footprint = footprint
        scene = shapely.Polygon(grid.corners())
        if not footprint.intersects(scene):
            raise _outside(path)
        self._factor = self._refinement(left, right, top, bottom)
        fine = grid.refined(self._factor)
        self._vrt = WarpedVRT(
            dataset,
            crs=grid.crs,
            transform=fine.transform,
            height=fine.height,
            width=fine.width,
            resampling=Resampling.nearest,
            nodata=self._nodata,
            # The default interpolates positions to an eighth of a pixel; rasterio cannot take 0.
            tolerance=0.001,
        )
        values = self._distinct()
        if not values:
            raise LabelError(
                f"Label raster {path} has no labelled pixel in the scene", "0 and nodata count as unlabelled"
            )
        if values[0] < 1 or values[-1] > MAX_CLASSES:
            raise LabelError(
                f"Label raster {path} holds class numbers {values[0]} to {values[-1]}, not 1 to 255",
                "0 and nodata count as unlabelled",
            )
        names = self._names() or {}
        self.legend = Legend.from_names([names.get(v, f"class {v}") for v in values], values)

    def _refinement(self, left: float, right: float, top: float, bottom: float) -> int:
        """Positions looked at along a pixel's side."""
        along_rows = (top - bottom) / self._dataset.height
        along_cols = (right - left) / self._dataset.width
        size = min(self._grid.pixel_size)
        return int(np.clip(round(size / max(min(along_rows, along_cols), 1e-300)), 1, 8))

    def _names(self) -> dict[int, str] | None:
        """Class names the raster carries, by value."""
        legend = read_legend(self._path)
        return None if legend is None else {c.id: c.name for c in legend.each()}

    def _distinct(self) -> list[int]:
        found: set[int] = set()
        for window in self.windows(blocks_of(self._grid.window, 512)):
            found.update(int(v) for v in np.unique(self._values(window)))
            if len(found) > MAX_CLASSES + 1:
                raise LabelError(
                    f"Label raster {self._path} has more than {MAX_CLASSES} different values",
                    "it should hold class numbers; is it an image?",
                )
        return sorted(found - {NODATA_CLASS})

    def _values(self, window: Window) -> NDArray[np.int64]:
        """Class numbers on the refined grid, 0 where unlabelled."""
        fine = window.refined(self._factor)
        raw = self._vrt.read(1, window=((fine.row, fine.row_stop), (fine.col, fine.col_stop)))
        inside = self._vrt.dataset_mask(window=((fine.row, fine.row_stop), (fine.col, fine.col_stop))) > 0
        if raw.dtype.kind == "f":
            inside &= np.isfinite(raw)
            raw = np.where(inside, raw, 0)
            if not np.array_equal(raw, np.round(raw)):
                raise LabelError(f"Label raster {self._path} holds fractions, not class numbers")
        return np.where(inside, raw, NODATA_CLASS).astype(np.int64)

    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        for window in candidates:
            if shapely.Polygon(self._grid.cropped(window).corners()).intersects(self._footprint):
                yield window

    def read(self, window: Window) -> LabelBlock:
        k = self._factor
        fine = self._values(window)
        cells = fine.reshape(window.height, k, window.width, k)
        best = np.zeros((window.height, window.width), np.int64)
        classes = np.zeros(best.shape, np.uint8)
        tied = np.zeros(best.shape, bool)
        for value in np.unique(fine):
            if value == NODATA_CLASS:
                continue
            count = (cells == value).sum(axis=(1, 3))
            more = count > best
            tied = np.where(more, False, tied | ((count == best) & (count > 0)))
            classes[more] = value
            best = np.maximum(best, count)
        enough = best >= (cells == NODATA_CLASS).sum(axis=(1, 3))
        contested = tied & enough
        classes[contested | ~enough] = NODATA_CLASS
        return LabelBlock(classes, int(contested.sum()))

    def close(self) -> None:
        self._vrt.close()
        self._dataset.close()


def _dataset_bounds(dataset: Any) -> tuple[float, float, float, float]:
    corners = [dataset.transform * (c, r) for c in (0, dataset.width) for r in (0, dataset.height)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _map_bounds(grid: Grid) -> tuple[float, float, float, float]:
    xs, ys = zip(*grid.corners(), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _outside(path: str) -> LabelError:
    return LabelError(
        f"Labels {path} lie outside the scene",
        "check that labels and images show the same place and that the label file's CRS is right",
    )
