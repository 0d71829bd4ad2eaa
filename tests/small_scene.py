"""A small made-up scene with three classes that differ in brightness, and polygons of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from das2f_map.scene.grid import Grid

TINY = {"width": 16, "state_size": 4, "dt_rank": 4, "classifier_hidden": 16}
"""Network small enough to train in a test."""

NAMES = ("water", "forest", "bare_soil")


@dataclass(frozen=True)
class Scene:
    ms: Path
    pan: Path
    labels: Path
    grid: Grid
    truth: NDArray[np.uint8]
    """Position in NAMES + 1, of every MS pixel."""


def make_scene(folder: Path, seed: int = 1) -> Scene:
    """96 × 96 MS pixels of 10 m: cells of 12 pixels, each of one class, a polygon of 4 × 4 pixels in each."""
    rng = np.random.default_rng(seed)
    size, cell = 96, 12
    cells = rng.integers(0, 3, (size // cell, size // cell))
    truth = np.kron(cells, np.ones((cell, cell), int)).astype(np.uint8) + 1
    levels = np.array([[300, 400, 250, 150], [350, 500, 400, 2500], [1200, 1400, 1700, 2100]], float)
    ms = levels[truth - 1].transpose(2, 0, 1) + rng.normal(0, 40, (4, size, size))
    fine = np.kron(truth, np.ones((4, 4), np.uint8))
    pan = levels.mean(1)[fine - 1] + rng.normal(0, 40, fine.shape)
    grid = Grid(size, size, Affine(10, 0, 500_000, 0, -10, 5_600_000), CRS.from_epsg(32631))
    _write(folder / "ms.tif", ms, grid)
    _write(folder / "pan.tif", pan[None], grid.refined(4))
    boxes = []
    for row, col in np.ndindex(cells.shape):
        x, y = grid.pixel_to_map(row * cell + 4, col * cell + 4)
        boxes.append({"class": NAMES[cells[row, col]], "geometry": shapely.box(x, y - 40, x + 40, y)})
    labels = folder / "labels.gpkg"
    gpd.GeoDataFrame(boxes, crs=grid.crs).to_file(labels)
    return Scene(folder / "ms.tif", folder / "pan.tif", labels, grid, truth)


def _write(path: Path, image: NDArray[np.float64], grid: Grid) -> None:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=image.shape[0],
        height=grid.height,
        width=grid.width,
        dtype="uint16",
        transform=grid.transform,
        crs=grid.crs,
    ) as file:
        file.write(image.clip(1, 65535).round().astype(np.uint16))
