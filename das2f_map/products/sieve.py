"""Merging small regions of a class map into their neighbours, with GDAL's sieve filter.

GDAL merges a region below the threshold into its largest neighbour that reaches the threshold, once.
Regions among small ones only are then left, so the filter is run until nothing changes. Between runs
the map lies in memory-mapped files; GDAL itself holds a few numbers for each region.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features

from das2f_map.legend import NODATA_CLASS
from das2f_map.outputs.write_errors import writing
from das2f_map.products.areas import PixelAreas
from das2f_map.products.strips import STRIP_PIXELS
from das2f_map.progress import Progress
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import UInt8

_PASSES = 20


def pixels_of_area(area_m2: float | None, grid: Grid) -> int:
    """The smallest pixel count that reaches an area, at the grid's mean pixel area; 0 for no area."""
    # The small term takes up rounding of the quotient.
    return math.ceil((area_m2 or 0) / PixelAreas(grid).mean() - 1e-9)


@contextmanager
def sieved(
    class_raster: Path, min_area_m2: float | None, destination: Path, work: Path, progress: Progress
) -> Iterator[Path]:
    """A raster without regions below a size: the map itself, or a copy that goes away with the block.

    Parameters
    ----------
    class_raster:
        uint8, 0 is nodata and neither merged nor merged into.
    min_area_m2:
        Regions below this, at the map's mean pixel area, are merged; ``None`` or 0 for none.
    destination:
        The file that errors name.
    work:
        Folder for the copy and other work files.

    Raises
    ------
    OutputError
        The work files do not fit on the disk.
    """
    with rasterio.open(class_raster) as dataset:
        grid = Grid.from_rasterio(dataset)
    pixels = pixels_of_area(min_area_m2, grid)
    if pixels <= 1:
        yield class_raster
        return
    raw = [work / f"sieve{i}.raw" for i in (0, 1)]
    made = work / "sieved.tif"
    try:
        with progress("Merging small regions", None) as advance, writing(destination):
            _write(made, grid, _merged(class_raster, grid, min(pixels, 2**31 - 1), raw))
            advance(1)
        for path in raw:
            path.unlink(missing_ok=True)
        yield made
    finally:
        for path in (*raw, made):
            path.unlink(missing_ok=True)


def _merged(class_raster: Path, grid: Grid, pixels: int, raw: list[Path]) -> UInt8:
    target, spare = (_mapped(path, grid) for path in raw)
    with rasterio.open(class_raster) as dataset:
        band = rasterio.band(dataset, 1)
        rasterio.features.sieve(band, pixels, out=target, mask=band, connectivity=4)
        for _ in range(_PASSES):
            rasterio.features.sieve(target, pixels, out=spare, mask=band, connectivity=4)
            target, spare = spare, target
            if _equal(target, spare):
                break
    return target


def _mapped(path: Path, grid: Grid) -> UInt8:
    """A file of uint8 (height, width) as an array."""
    with path.open("wb") as file:
        # Taken now: a disk that fills up under a mapped file kills the process instead of raising.
        os.posix_fallocate(file.fileno(), 0, grid.height * grid.width)
    return np.memmap(path, dtype=np.uint8, mode="r+", shape=(grid.height, grid.width))


def _equal(a: UInt8, b: UInt8) -> bool:
    step = max(1, STRIP_PIXELS // a.shape[1])
    return all(np.array_equal(a[r : r + step], b[r : r + step]) for r in range(0, len(a), step))


def _write(path: Path, grid: Grid, values: UInt8) -> None:
    step = max(1, STRIP_PIXELS // grid.width)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=grid.width,
        height=grid.height,
        count=1,
        dtype="uint8",
        nodata=NODATA_CLASS,
        crs=grid.crs,
        transform=grid.transform,
        bigtiff="IF_SAFER",
    ) as dataset:
        for row in range(0, grid.height, step):
            part = values[row : row + step]
            dataset.write(part, 1, window=Window(row, 0, len(part), grid.width).to_rasterio())
