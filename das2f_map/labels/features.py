"""The features of a label file one by one, with their faults: for looking at labels before they are used."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import rasterio
import shapely
from rasterio.features import rasterize

from das2f_map.labels.class_values import ClassValues
from das2f_map.labels.vector import class_layers, no_features, require_areas_or_points
from das2f_map.legend import Legend
from das2f_map.scene.antimeridian import moved_onto
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.vector import in_pixels, near_grid, reprojected, valid_parts
from das2f_map.scene.vector_file import VectorFile
from das2f_map.types import Bool, Geometries, Int64

_LEAST_OVERLAP = 0.01
"""Shared pixels below which two polygons do not overlap: borders drawn twice leave slivers."""


@dataclass(frozen=True, eq=False)
class LabelFeatures:
    """All features of a label file that have a geometry.

    Attributes
    ----------
    frame:
        A row for each: ``geometry`` in the grid's CRS, ``class`` (text, missing where there is none),
        ``feature`` (place in its layer, from 0), ``layer``, ``invalid`` (why its outline is, else empty).
    unreadable:
        Features that have no usable geometry.
    grid:
        The scene's MS grid.
    parts, of:
        Single valid polygons and points in pixels of the grid, and the row of each: both (parts,).
    crs, bounds:
        As the file has them: left, bottom, right, top in units of the CRS.
    """

    frame: gpd.GeoDataFrame
    unreadable: int
    grid: Grid
    parts: Geometries
    of: Int64
    crs: pyproj.CRS
    bounds: tuple[float, float, float, float]

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def inside(self) -> Bool:
        """bool (n,): features that touch the scene."""
        scene = shapely.box(0, 0, self.grid.width, self.grid.height)
        touching = np.zeros(len(self), bool)
        touching[self.of[shapely.intersects(self.parts, scene)]] = True
        return touching

    def at(self, window: Window) -> Int64:
        """Row of the feature on each pixel of a window, int64 (h, w); -1 for none, of several the last."""
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        near = np.flatnonzero(shapely.intersects(self.parts, box))
        found = np.full((window.height, window.width), -1, np.int64)
        points = shapely.get_type_id(self.parts[near]) == shapely.GeometryType.POINT
        areas = near[~points]
        if areas.size:
            rows = rasterize(
                [(self.parts[k], int(self.of[k]) + 1) for k in areas],
                out_shape=found.shape,
                transform=rasterio.Affine.translation(window.col, window.row),
                dtype="int32",
            )
            found[rows > 0] = rows[rows > 0] - 1
        for k in near[points]:
            row = int(np.floor(shapely.get_y(self.parts[k]))) - window.row
            col = int(np.floor(shapely.get_x(self.parts[k]))) - window.col
            if 0 <= row < window.height and 0 <= col < window.width:
                found[row, col] = self.of[k]
        return found

    def overlaps(self) -> Int64:
        """Pairs of rows of different classes that share ground, int64 (pairs, 2), each pair once."""
        if not self.parts.size:
            return np.zeros((0, 2), np.int64)
        one, other = shapely.STRtree(self.parts).query(self.parts, predicate="intersects")
        one, other = one[one < other], other[one < other]
        names = self.frame["class"].to_numpy(dtype=object)
        a, b = names[self.of[one]], names[self.of[other]]
        differ = np.array(
            [x is not None and y is not None and x != y for x, y in zip(a, b, strict=True)], bool
        )
        one, other = one[differ], other[differ]
        shared = shapely.area(shapely.intersection(self.parts[one], self.parts[other]))
        points = np.minimum(shapely.area(self.parts[one]), shapely.area(self.parts[other])) == 0
        real = (shared > _LEAST_OVERLAP) | points
        pairs = np.sort(np.stack([self.of[one[real]], self.of[other[real]]], axis=1), axis=1)
        return np.unique(pairs, axis=0).astype(np.int64) if pairs.size else np.zeros((0, 2), np.int64)


def read_features(file: VectorFile, grid: Grid, class_field: str | None) -> LabelFeatures:
    """All features of a label file, also those that training leaves out.

    Raises
    ------
    LabelError
        The file cannot be read, is empty, holds lines, has no CRS, or it is not clear which field has the
        class.
    """
    frames: list[gpd.GeoDataFrame] = []
    unreadable = 0
    bounds: list[Any] = []
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    for layer, field in class_layers(file, class_field):
        file.check_conversion(layer, grid)
        found = file.read(layer, field)
        assert found.values is not None  # a field was asked for
        if layer.features > 0:
            unreadable += layer.features - len(found.shapes)
        crs = file.crs_of(layer)
        bounds.append(found.shapes.total_bounds)
        near = near_grid(found.shapes, grid)
        moved = near if crs == grid.crs.to_wkt() else reprojected(near, grid.crs)
        # Features far away have no place in the scene's CRS that one could rely on.
        shapes = gpd.GeoSeries(moved.reindex(found.shapes.index), crs=grid.crs)
        frames.append(
            gpd.GeoDataFrame(
                {
                    "value": found.values,
                    "feature": found.shapes.index.to_numpy(),
                    "layer": layer.name,
                    "invalid": _why_invalid(found.shapes),
                },
                geometry=shapes,
            )
        )
    if not any(len(f) for f in frames):
        raise no_features(file.label)
    merged = gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), geometry="geometry", crs=grid.crs)
    merged["class"] = _names(file.label, merged.pop("value"))
    there = np.flatnonzero(~merged.geometry.isna() & ~merged.geometry.is_empty)
    require_areas_or_points(file.label, merged.geometry.iloc[there].explode())
    parts, of = valid_parts(in_pixels(merged.geometry.to_numpy()[there], grid))
    parts, kept = moved_onto(parts, grid)
    x0, y0, x1, y1 = (float(v) for v in (*np.nanmin(bounds, axis=0)[:2], *np.nanmax(bounds, axis=0)[2:]))
    rows = there[of[kept]].astype(np.int64)
    return LabelFeatures(merged, unreadable, grid, parts, rows, crs, (x0, y0, x1, y1))


def _why_invalid(shapes: gpd.GeoSeries) -> list[str]:
    valid = shapes.is_valid.to_numpy()
    reasons = shapely.is_valid_reason(shapes.to_numpy())
    return ["" if ok else str(r).partition("[")[0] for ok, r in zip(valid, reasons, strict=True)]


def _names(label: str, values: pd.Series[Any]) -> list[str | None]:
    """The class of every feature as its legend calls it; ``None`` where there is none, or the number 0."""
    found = ClassValues.of(label, values)
    given = [None if pd.isna(v) or v == 0 else v for v in found.values.tolist()]
    if found.named:
        return [None if v is None else str(v) for v in given]
    codes = sorted({int(v) for v in given if v is not None})
    if not codes:
        return [None] * len(given)
    legend, ids = Legend.of_codes(codes, {})
    return [None if v is None else legend[ids[int(v)]].name for v in given]


_NO_LETTERS = re.compile(r"(?!(?<![^\s\d])[-+.,]\d)[\W_]")
"""What is neither letter nor digit, but for the sign or the point of a number."""


def names_alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ in case, blanks, punctuation or Unicode's form alone.

    Signs and points of numbers count: -3 is not 3, and 1.5 is not 15.
    """
    found: dict[str, set[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        found.setdefault(_NO_LETTERS.sub("", plain) or name, set()).add(name)
    return [tuple(sorted(group)) for group in found.values() if len(group) > 1]
