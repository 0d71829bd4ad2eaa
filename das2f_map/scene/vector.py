"""Vector files on a pixel grid: what areas of interest and labels have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
import shapely

from das2f_map.scene.grid import Grid

Geometries = npt.NDArray[np.object_]


def geometry_layers(path: str | Path) -> list[str]:
    """Names of the layers with geometries; styles and attribute tables have nothing to say about places.

    Raises
    ------
    DataSourceError, DataLayerError
        GDAL cannot read the file as a vector file.
    """
    return [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]


def read_layer(
    path: str | Path,
    layer: str,
    *,
    columns: Sequence[str] = (),
    bbox: tuple[float, float, float, float] | None = None,
) -> geopandas.GeoDataFrame:
    """The features of a layer that have a geometry.

    Parameters
    ----------
    columns:
        Attributes to read.
    bbox:
        Left, bottom, right, top in the layer's CRS; features that do not touch it are left out.

    Raises
    ------
    DataSourceError, DataLayerError
        GDAL cannot read the layer.
    """
    frame = pyogrio.read_dataframe(path, layer=layer, columns=list(columns), bbox=bbox)
    return frame[frame.geometry.notna() & ~frame.geometry.is_empty]


def in_pixels(geometries: npt.NDArray[Any], grid: Grid) -> Geometries:
    """Map coordinates to pixels of the grid: x along columns, y along rows, pixel edges at integers.

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


def valid_parts(geometries: npt.NDArray[Any]) -> tuple[Geometries, npt.NDArray[np.int64]]:
    """Polygons and points, single and valid, and the geometry each is of: both ``(parts,)``.

    Mending a polygon that crosses or retraces itself may leave lines and points beside areas (the spike of
    an outline, say). They have no inside, but would be burnt into a mask: they are left out.
    """
    parts, of = _single(geometries)
    was_point = shapely.get_type_id(parts) == shapely.GeometryType.POINT
    mended, of_part = _single(shapely.make_valid(parts))
    kind = shapely.get_type_id(mended)
    keep = (kind == shapely.GeometryType.POLYGON) | was_point[of_part]
    return mended[keep], of[of_part[keep]]


def _single(geometries: npt.NDArray[Any]) -> tuple[Geometries, npt.NDArray[np.int64]]:
    """Collections taken apart, one inside another too."""
    parts = np.asarray(geometries, dtype=object)
    of = np.arange(parts.size)
    while (shapely.get_type_id(parts) >= shapely.GeometryType.MULTIPOINT).any():
        parts, index = shapely.get_parts(parts, return_index=True)
        of = of[index]
    return np.asarray(parts, dtype=object), of.astype(np.int64)
