"""The file of a reference sample: its points or pixels, its design, and the form for labelling them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio.raw
import shapely

from das2f_map.assess.drawing import Pixels
from das2f_map.assess.sample_design import (
    CLASS_FIELD,
    SAMPLE_LAYER,
    SECOND_CLASS_FIELD,
    SampleDesign,
    write_design,
)
from das2f_map.errors import OutputError
from das2f_map.outputs.write_errors import writing
from das2f_map.products.qgis_form import LabellingForm, add_form
from das2f_map.products.vector_files import GEOMETRY_COLUMN, crs_text
from das2f_map.scene.grid import Grid
from das2f_map.types import Float64, Geometries, Int64


@dataclass(frozen=True, eq=False)
class SampledPixels:
    """Pixels of a sample, in the order of their numbers.

    Attributes
    ----------
    pixels:
        (n,).
    inclusion:
        float64 (n,): probability of each; nan where it has none.
    cluster:
        int64 (n,): block of each; -1 for none.
    """

    pixels: Pixels
    inclusion: Float64
    cluster: Int64


def shapes_of(pixels: Pixels, grid: Grid, *, squares: bool) -> Geometries:
    """Centres of pixels as points, or the pixels as polygons, in map coordinates: (n,)."""
    t = grid.transform

    def placed(rows: Float64, cols: Float64) -> Float64:
        return np.stack([t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f], axis=-1)

    rows, cols = pixels.rows.astype(np.float64), pixels.cols.astype(np.float64)
    if not squares:
        return np.asarray(shapely.points(placed(rows + 0.5, cols + 0.5)), dtype=object)
    # Down the left side first: counterclockwise on a map with north up.
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    rings = np.stack([placed(rows + down, cols + right) for down, right in corners], axis=1)
    return np.asarray(shapely.polygons(rings), dtype=object)


def as_frame(
    sampled: SampledPixels, design: SampleDesign, grid: Grid, *, squares: bool, second: bool
) -> gpd.GeoDataFrame:
    """The sample as a table; the design is in its ``attrs``, under the key ``das2f_map_sample``."""
    pixels = sampled.pixels
    sizes = {s.id: s.pixels for s in design.strata}
    number = len(pixels.rows)
    frame = gpd.GeoDataFrame(
        {
            "sample_id": np.arange(1, number + 1, dtype=np.int32),
            "stratum": pixels.classes.astype(np.int32),
            "stratum_pixels": np.array([sizes[i] for i in pixels.classes.tolist()], np.int64),
            "inclusion": sampled.inclusion,
            "cluster": pd.Series(sampled.cluster, dtype="Int64").mask(sampled.cluster < 0),
            CLASS_FIELD: np.full(number, None, dtype=object),
            **({SECOND_CLASS_FIELD: np.full(number, None, dtype=object)} if second else {}),
        },
        geometry=shapes_of(pixels, grid, squares=squares),
        crs=crs_text(grid.crs),
    )
    frame.attrs["das2f_map_sample"] = design.model_dump(mode="json")
    return frame


def write_sample(path: Path, frame: gpd.GeoDataFrame, design: SampleDesign, classes: tuple[str, ...]) -> None:
    """Write the GeoPackage of a sample: the layer, the design's table, the form for QGIS.

    Parameters
    ----------
    frame:
        From :func:`as_frame`.
    classes:
        Names that an interpreter can choose from.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    names = [c for c in frame.columns if c != frame.geometry.name]
    fields: list[npt.NDArray[np.generic]] = []
    missing: list[npt.NDArray[np.bool_] | None] = []
    for name in names:
        column = frame[name]
        null = column.isna().to_numpy()
        if name == "cluster":
            fields.append(column.fillna(0).to_numpy(np.int64))
        else:
            fields.append(column.to_numpy())
        missing.append(null if null.any() and name in ("cluster", "inclusion") else None)
    with writing(path):
        pyogrio.raw.write(
            str(path),
            shapely.to_wkb(frame.geometry.to_numpy()),
            fields,
            np.array(names, dtype=object),
            field_mask=missing,
            layer=SAMPLE_LAYER,
            driver="GPKG",
            geometry_type=str(frame.geometry.iloc[0].geom_type),
            crs=str(crs_text_of(frame)),
            dataset_options={"VERSION": "1.2"},
            layer_options={"GEOMETRY_NAME": GEOMETRY_COLUMN, "SPATIAL_INDEX": "YES"},
        )
        choices = {CLASS_FIELD: "Class"}
        if SECOND_CLASS_FIELD in names:
            choices[SECOND_CLASS_FIELD] = "Class (2nd interpreter)"
        form = LabellingForm(
            layer=SAMPLE_LAYER,
            number="sample_id",
            choices=choices,
            hidden=[n for n in names if n not in choices and n != "sample_id"],
            classes=classes,
            squares=bool(frame.geometry.iloc[0].geom_type == "Polygon"),
        )
        try:
            write_design(path, design)
            add_form(path, form)
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def crs_text_of(frame: gpd.GeoDataFrame) -> str:
    """The CRS of a table as GDAL takes it."""
    authority = frame.crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(frame.crs.to_wkt())
