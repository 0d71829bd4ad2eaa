"""The source pixels that a resampled pixel draws on, found with an image that has a band for each pixel."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS

from das2f_map.scene.common_grid.pixel_map import AffineMap, PixelMap, ProjectedMap
from das2f_map.scene.common_grid.resample import resample, sharing_distance
from das2f_map.scene.grid import Grid, Window

SIDE = 44
UTM = CRS.from_epsg(32632)


def source_grid(crs: CRS, x: float, y: float, size: float) -> Grid:
    """A grid of ``SIDE`` × ``SIDE`` pixels centred on a place."""
    half = SIDE * size / 2
    return Grid(SIDE, SIDE, Affine(size, 0, x - half, 0, -size, y + half), crs)


def turned(degrees: float, scale: float) -> AffineMap:
    target = Grid(
        60,
        60,
        Affine.translation(5e5, 5e6)
        * Affine.rotation(degrees)
        * Affine.scale(scale, -scale)
        * Affine.translation(-30.3, -29.6),
        UTM,
    )
    return AffineMap.between(target, source_grid(UTM, 5e5, 5e6, 1.0))


def projected() -> ProjectedMap:
    """A map between UTM zones, where they are turned against each other by several degrees."""
    x, y = Transformer.from_crs(32631, 32632, always_xy=True).transform(7.5e5, 6.4e6)
    target = Grid(60, 60, Affine(10, 0, x - 300, 0, -10, y + 300), UTM)
    zone = CRS.from_epsg(32631)
    transformer = Transformer.from_crs(32632, 32631, always_xy=True)
    return ProjectedMap(target, source_grid(zone, 7.5e5, 6.4e6, 10.0), transformer)


def drawn_on(mapping: PixelMap, row: int, col: int) -> npt.NDArray[np.bool_]:
    """Whether each source pixel has a weight in a target pixel, bool (SIDE²,)."""
    whole = np.eye(SIDE * SIDE, dtype=np.float32).reshape(-1, SIDE, SIDE)

    def read(window: Window) -> npt.NDArray[np.float32]:
        return whole[(slice(None), *window.slices())]

    return resample(read, mapping, Window(row, col, 1, 1))[:, 0, 0] != 0


@pytest.mark.parametrize(
    "mapping",
    [turned(0, 1.0), turned(0, 0.6), turned(0, 1.7), turned(20, 1.0), turned(45, 0.8), projected()],
    ids=["shifted", "finer", "coarser", "turned", "turned by 45", "other CRS"],
)
def test_targets_at_sharing_distance_share_no_source_pixel(mapping: PixelMap) -> None:
    distance = math.ceil(sharing_distance(mapping))
    here = (30 - distance // 2, 30 - distance // 2)
    mine = drawn_on(mapping, *here)
    assert mine.any()
    shared = {
        d: max(
            int((mine & drawn_on(mapping, here[0] + r, here[1] + c)).sum())
            for r, c in [(d, k) for k in range(-2, d + 1, 2)] + [(k, d) for k in range(-2, d + 1, 2)]
        )
        for d in (distance, distance - 3)
    }
    assert shared[distance] == 0
    # The distance is not much larger than needed.
    assert shared[distance - 3] > 0
