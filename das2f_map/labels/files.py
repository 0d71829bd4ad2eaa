"""Opening a label file of any kind."""

from __future__ import annotations

from pathlib import Path

from das2f_map.errors import LabelError
from das2f_map.labels.raster import RasterLabels
from das2f_map.labels.source import LabelSource
from das2f_map.labels.vector import VectorLabels
from das2f_map.products.class_file import ClassFile, NoRasterError
from das2f_map.scene.archive import archive_hint
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import missing_local_file
from das2f_map.scene.vector_file import UnreadableVectorError, VectorFile
from das2f_map.scene.vector_path import VectorPath


def open_labels(
    path: str | Path,
    grid: Grid,
    *,
    class_field: str | None = None,
    layer: str | None = None,
) -> LabelSource:
    """Open a vector file or label raster for reading on ``grid``.

    Parameters
    ----------
    path:
        The file; a layer may follow, as in ``labels.gpkg|layername=roads``.
    class_field:
        Attribute of a vector file, or column of a raster's attribute table, that has the class.
    layer:
        Layer of a vector file; by default the only one that fits.

    Raises
    ------
    LabelError
        The file is missing, is neither vector nor raster, has no CRS, lies outside the grid, has no such
        field or layer, has several layers that fit, holds lines…
    """
    where = VectorPath.parse(path, layer)
    if missing_local_file(where.file):
        raise LabelError(f"label file {where.file} does not exist")
    try:
        file = VectorFile.open(path, f"labels {path}", layer=layer, option="--layer", error=LabelError)
    except UnreadableVectorError as no_vector:
        return _open_raster(where, grid, class_field, no_vector)
    if not file.layers:
        return _open_raster(where, grid, class_field, None)
    return VectorLabels(file, grid, class_field)


def check_labels(path: str | Path, *, layer: str | None = None) -> None:
    """Raise an error unless labels can be opened, as :func:`open_labels` does; quick, as no label is read.

    Raises
    ------
    LabelError
        The file is missing, is neither vector nor raster, or has no such layer.
    """
    where = VectorPath.parse(path, layer)
    if missing_local_file(where.file):
        raise LabelError(f"label file {where.file} does not exist")
    try:
        file = VectorFile.open(path, f"labels {path}", layer=layer, option="--layer", error=LabelError)
    except UnreadableVectorError as no_vector:
        _class_file(where, None, no_vector).close()
        return
    if not file.layers:
        _class_file(where, None, None).close()
    elif where.layer is not None:
        file.choose(lambda _: True, "")


def _open_raster(
    where: VectorPath, grid: Grid, class_field: str | None, no_vector: UnreadableVectorError | None
) -> LabelSource:
    file = _class_file(where, class_field, no_vector)
    try:
        if where.layer is not None:
            raise LabelError(f"{where.file} is a label raster; it has no layers", "leave the layer out")
        return RasterLabels(file, grid)
    except BaseException:  # an interrupt too
        file.close()
        raise


def _class_file(
    where: VectorPath, class_field: str | None, no_vector: UnreadableVectorError | None
) -> ClassFile:
    """A label raster; if it is none either, the reason of the reader that recognised the file."""
    try:
        return ClassFile.open(where.file, "label raster", LabelError, column=class_field)
    except NoRasterError as no_raster:
        if no_vector is not None and no_vector.recognised:
            raise LabelError(
                f"labels {where.file} cannot be read: {no_vector.reason}", no_vector.hint
            ) from no_vector
        if no_raster.recognised:
            raise LabelError(
                f"labels {where.file} cannot be read: {no_raster.reason}", no_raster.hint
            ) from None
        if no_vector is None:
            raise LabelError(
                f"labels {where.file} have no geometries: they are a table",
                "give a file of polygons or points",
            ) from None
        raise LabelError(
            f"{where.file} is neither a vector file nor a raster that GDAL can read",
            archive_hint(where.file)
            or "labels can be a Shapefile, GeoPackage, GeoJSON… or a GeoTIFF of class numbers",
        ) from None
