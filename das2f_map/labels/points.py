"""Points, or pixels as squares, one by one: the units of a reference sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely

from das2f_map.errors import LabelError
from das2f_map.labels.class_values import ClassValues
from das2f_map.labels.vector import class_layers, legend_of
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.scene.antimeridian import moved_onto
from das2f_map.scene.grid import Grid
from das2f_map.scene.vector import in_pixels, reprojected
from das2f_map.scene.vector_file import VectorFile
from das2f_map.types import Bool, Int64, UInt8


@dataclass(frozen=True, eq=False)
class ReferencePoints:
    """Points of a file on a grid.

    Attributes
    ----------
    rows, cols:
        int64 (n,): the pixel of each; beyond the grid's edges for points outside.
    class_ids:
        uint8 (n,): 0 for points without a class.
    legend, codes:
        As of :class:`~das2f_map.labels.source.LabelSource`.
    columns:
        Further attributes by name, (n,) each.
    """

    rows: Int64
    cols: Int64
    class_ids: UInt8
    legend: Legend
    codes: dict[int, int] | None
    columns: dict[str, pd.Series[Any]]

    def __len__(self) -> int:
        return int(self.rows.size)

    @property
    def labelled(self) -> Bool:
        """bool (n,): points that have a class."""
        return np.asarray(self.class_ids != NODATA_CLASS, np.bool_)


def read_points(
    file: VectorFile,
    grid: Grid,
    class_field: str | None,
    columns: Sequence[str] = (),
    *,
    squares: bool = False,
) -> ReferencePoints:
    """The points of a vector file.

    Parameters
    ----------
    file:
        Opened with the error class :class:`LabelError`.
    class_field:
        Attribute with the class; by default the only plausible one.
    columns:
        Further attributes to read.
    squares:
        Whether polygons will do, each for the pixel in its middle.

    Raises
    ------
    LabelError
        The file cannot be read, has other geometries, no such attribute, or no point with a class.
    """
    layers = class_layers(file, class_field)
    if len(layers) != 1:
        raise LabelError(
            f"{file.label} have several layers; a sample is a single one", "name it with --layer"
        )
    ((layer, field),) = layers
    for name in columns:
        if name not in layer.fields:
            raise LabelError(
                f"{file.label} have no field {name!r}", f"the fields are: {', '.join(layer.fields)}"
            )
    file.check_conversion(layer, grid)
    found = file.read(layer, field)
    assert found.values is not None
    kinds = {*found.shapes.geom_type}
    wanted = {"Point", "MultiPoint"} | ({"Polygon", "MultiPolygon"} if squares else set())
    if strange := sorted(kinds - wanted):
        raise LabelError(
            f"{file.label} hold {', '.join(strange)} geometries; the units of a sample are points",
            "give points, or leave --design out: polygons are no probability sample of pixels",
        )
    shapes = reprojected(found.shapes, grid.crs)
    middles = shapely.centroid(in_pixels(shapes.to_numpy(), grid))
    parts, of = moved_onto(np.asarray(middles, dtype=object), grid)
    # A point that is moved around the world counts once: where it is on the grid.
    places = np.full((len(shapes), 2), -1.0)
    places[of] = shapely.get_coordinates(parts)
    if not np.isfinite(places).all():
        raise LabelError(
            f"{file.label} reach to where they cannot be converted to the map's coordinate reference system",
            "clip them to the surroundings of the map",
        )
    pixel = np.clip(np.floor(places), -(2**62), 2**62).astype(np.int64)
    values = ClassValues.of(file.label, found.values)
    given = values.values.notna().to_numpy()
    class_ids = np.zeros(len(shapes), np.uint8)
    if not given.any():
        raise LabelError(
            f"no point of {file.label.removeprefix('labels ')} has a class yet",
            "open it in QGIS, select a point, and choose its class; then save the layer's edits",
        )
    class_ids[given], legend, codes = legend_of(file.label, values.values[given], values.named)
    more = {}
    for name in columns:
        column = file.read(layer, name).values
        assert column is not None
        more[name] = column
    return ReferencePoints(pixel[:, 1], pixel[:, 0], class_ids, legend, codes, more)
