"""Self-crossing polygons: the same area as GEOS gives, and quickly where GEOS takes minutes."""

from __future__ import annotations

import time

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize

from das2f_map.scene.mended import made_valid


def star(corners: int, seed: int = 0, holes: int = 0) -> shapely.Polygon:
    draw = np.random.default_rng(seed)
    rings = [draw.uniform(0, 160, (corners, 2)) for _ in range(1 + holes)]
    return shapely.Polygon(rings[0], rings[1:])


@pytest.mark.parametrize("polygon", [star(70), star(62, seed=1, holes=1)], ids=["ring", "with a hole"])
def test_the_same_area_as_geos(polygon: shapely.Polygon) -> None:
    found = made_valid(np.array([polygon, shapely.Point(1, 2), shapely.box(0, 0, 1, 1)], dtype=object))
    truth = shapely.make_valid(polygon)
    assert shapely.is_valid(found).all()
    assert found[1:].tolist() == [shapely.Point(1, 2), shapely.box(0, 0, 1, 1)]
    assert found[0].area == pytest.approx(truth.area)
    assert shapely.symmetric_difference(found[0], truth).area < 1e-6 * truth.area


def test_few_crossings_are_left_to_geos() -> None:
    bow = shapely.segmentize(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]), 0.1)
    assert made_valid(np.array([bow]))[0].equals_exact(shapely.make_valid(bow))


@pytest.mark.slow
def test_seven_hundred_corners_take_seconds() -> None:
    polygon = star(700)
    begin = time.monotonic()
    (found,) = made_valid(np.array([polygon]))
    assert time.monotonic() - begin < 20
    # GDAL burns by the same rule, scanline by scanline.
    size = (320, 320)
    scaled = [shapely.transform(g, lambda xy: xy * 2) for g in (found, polygon)]
    ours, truth = (rasterize([(g, 1)], size) for g in scaled)
    assert (ours != truth).mean() < 0.001  # centres on an edge
    assert 0.3 < truth.mean() < 0.7
