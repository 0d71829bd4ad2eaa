"""A synthetic class map for tests of the products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS

from das2f_map.legend import Legend, LegendClass
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.scene.grid import Grid, blocks_of

AWKWARD_LEGEND = Legend(
    classes=(
        LegendClass(id=1, name="Wald", color="#1f6b34"),
        LegendClass(id=2, name="Wald 2", color="#8fcf5a"),
        LegendClass(id=3, name="Straße / Weg", color="#8c8c94"),
        LegendClass(id=5, name='"Gewässer" & <Ufer>', color="#2f6fc4"),
        LegendClass(id=9, name="wald", color="#d9483b"),
    )
)
"""Gaps in the ids, same prefix, names that differ in case alone, and what XML and SQL trip over."""

UTM = Grid(97, 130, Affine(30.0, 0, 500_000, 0, -30.0, 5_600_000), CRS.from_epsg(32633))
GEOGRAPHIC = Grid(97, 130, Affine(0.004, 0, 8.0, 0, -0.003, 52.0), CRS.from_epsg(4326))
ROTATED = Grid(
    97,
    130,
    Affine.translation(500_000.3, 5_600_000.7) * Affine.rotation(23.7) * Affine.scale(30.1, -29.7),
    UTM.crs,
)


def patchy_classes(
    height: int, width: int, ids: tuple[int, ...], *, seed: int = 0, nodata_share: float = 0.1
) -> npt.NDArray[np.uint8]:
    """Blobs of all sizes with single pixels, checkerboards and nodata: uint8 (height, width)."""
    random = np.random.default_rng(seed)
    out = np.zeros((height, width), dtype=np.uint8)
    for scale, share in ((16, 1.0), (5, 0.5), (1, 0.25)):
        shape = (-(-height // scale), -(-width // scale))
        picked = random.choice(
            np.array([0, *ids], dtype=np.uint8), size=shape, p=_shares(len(ids), nodata_share)
        )
        kept = np.kron(random.random(shape) < share, np.ones((scale, scale), dtype=bool))[:height, :width]
        out = np.where(kept, np.kron(picked, np.ones((scale, scale), dtype=np.uint8))[:height, :width], out)
    board = np.add.outer(np.arange(12), np.arange(12)) % 2
    corner = out[: min(12, height), : min(12, width)]
    corner[:] = np.where(board, ids[0], ids[1])[: corner.shape[0], : corner.shape[1]]
    return out


def _shares(classes: int, nodata: float) -> list[float]:
    return [nodata] + [(1 - nodata) / classes] * classes


def confidence_of(classes: npt.NDArray[np.uint8], seed: int = 1) -> npt.NDArray[np.float32]:
    """float32 in 0.3..1, NaN where there is no class."""
    values = np.random.default_rng(seed).uniform(0.3, 1, classes.shape).astype(np.float32)
    return np.where(classes == 0, np.float32("nan"), values)


def write_map(
    path: Path,
    classes: npt.NDArray[np.uint8],
    *,
    grid: Grid = UTM,
    legend: Legend = AWKWARD_LEGEND,
    confidence_path: Path | None = None,
    confidence: npt.NDArray[np.float32] | None = None,
    block: int = 64,
    unsure: int | None = None,
) -> Path:
    """Write ``classes`` as a map, in blocks from the last to the first."""
    grid = Grid(*classes.shape, grid.transform, grid.crs)
    with ClassRasterWriter(
        path, grid, legend, unsure=unsure, confidence_path=confidence_path, tags={"MODEL": "made-up"}
    ) as out:
        for window in reversed(list(blocks_of(grid.window, block))):
            part = None if confidence is None else confidence[window.slices()]
            out.write(window, classes[window.slices()], part)
    return path
