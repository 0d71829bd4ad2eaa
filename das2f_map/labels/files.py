"""Opening a label file of any kind."""

from __future__ import annotations

from pathlib import Path

import rasterio
from rasterio.errors import RasterioIOError

from das2f_map.errors import LabelError
from das2f_map.labels.raster import RasterLabels
from das2f_map.labels.source import LabelSource
from das2f_map.labels.vector import VectorLabels, vector_layers
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import image_path, missing_local_file


def open_labels(path: str | Path, grid: Grid, *, class_field: str | None = None) -> LabelSource:
    """Open a vector file or label raster for reading on ``grid``.

    Raises
    ------
    LabelError
        The file is missing, is neither vector nor raster, has no CRS, lies outside the grid, has no such
        field, holds lines…
    """
    text = str(path)
    if missing_local_file(path):
        raise LabelError(f"label file {text} does not exist")
    layers = vector_layers(text)
    if layers:
        return VectorLabels(text, layers, grid, class_field)
    try:
        dataset = rasterio.open(image_path(text))
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
    except BaseException:  # an interrupt too
        dataset.close()
        raise
