"""Traced regions against GDAL's polygons, whatever the height of the strips."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from maps import patchy_classes

from das2f_map.outputs import work_files
from das2f_map.products.regions import Regions
from das2f_map.products.tracing import RegionTracer


def trace(
    classes: npt.NDArray[np.uint8], strip: int, values: npt.NDArray[np.float64] | None = None
) -> list[tuple[int, tuple[float, ...], shapely.Polygon]]:
    """All regions in the order in which they are complete: class, sums, polygon in pixel coordinates."""
    tracer = RegionTracer(classes.shape[1], 0 if values is None else 1)
    out = []
    for row in range(0, classes.shape[0], strip):
        part = slice(row, row + strip)
        out += polygons(tracer.push(classes[part], [] if values is None else [values[part]]))
    return out + polygons(tracer.finish())


def polygons(regions: Regions) -> list[tuple[int, tuple[float, ...], shapely.Polygon]]:
    out = []
    xy = np.stack([regions.cols, regions.rows], axis=1)
    rings = [xy[a:b] for a, b in zip(regions.ring_starts[:-1], regions.ring_starts[1:], strict=True)]
    for i in range(len(regions)):
        first, stop = regions.region_starts[i : i + 2]
        polygon = shapely.Polygon(rings[first], rings[first + 1 : stop])
        out.append((int(regions.class_ids[i]), tuple(regions.sums[i].tolist()), polygon))
    return out


def gdal_polygons(classes: npt.NDArray[np.uint8]) -> list[tuple[int, shapely.Geometry]]:
    shapes = rasterio.features.shapes(classes, mask=classes != 0, connectivity=4)
    return [(int(v), shapely.geometry.shape(g)) for g, v in shapes]


def as_set(found: list[tuple[int, shapely.Geometry]]) -> set[tuple[int, bytes]]:
    """Polygons by the area they cover: vertices on straight edges and first vertices do not count."""
    return {(v, shapely.to_wkb(shapely.normalize(shapely.simplify(g, 0)))) for v, g in found}


SPIRAL = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ],
    dtype=np.uint8,
)
TOUCHING = np.array(  # holes that touch each other, the outline and themselves in corners
    [
        [2, 2, 2, 2, 2, 2],
        [2, 1, 2, 2, 1, 2],
        [2, 2, 1, 1, 2, 2],
        [2, 2, 1, 2, 2, 1],
        [2, 1, 2, 1, 2, 2],
        [2, 2, 2, 2, 1, 0],
    ],
    dtype=np.uint8,
)
NESTED = np.kron(
    np.array([[1] * 5, [1, 2, 2, 2, 1], [1, 2, 3, 2, 1], [1, 2, 2, 2, 1], [1] * 5]), np.ones((3, 3))
).astype(np.uint8)
CASES = {
    "spiral": SPIRAL,
    "touching": TOUCHING,
    "nested": NESTED,
    "one pixel": np.array([[4]], dtype=np.uint8),
    "full": np.full((6, 9), 7, dtype=np.uint8),
    "empty": np.zeros((5, 4), dtype=np.uint8),
    "one row": np.array([[1, 1, 0, 2, 1]], dtype=np.uint8),
    "one column": np.array([[1], [1], [0], [2], [1]], dtype=np.uint8),
    "checkerboard": (np.indices((9, 8)).sum(axis=0) % 2 + 1).astype(np.uint8),
    "noise 2": np.random.default_rng(5).integers(0, 2, (40, 37), dtype=np.uint8),
    "noise 4": np.random.default_rng(6).integers(0, 4, (31, 50), dtype=np.uint8),
    "patchy": patchy_classes(60, 75, (1, 2, 9), seed=3),
    "patchy 2": patchy_classes(60, 75, (1, 2), seed=4, nodata_share=0.4),
}


@pytest.mark.parametrize("strip", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", CASES)
def test_same_regions_as_gdal(name: str, strip: int) -> None:
    classes = CASES[name]
    found = trace(classes, strip)
    assert all(p.is_valid for _, _, p in found)
    assert as_set([(v, p) for v, _, p in found]) == as_set(gdal_polygons(classes))


@pytest.mark.parametrize("name", CASES)
def test_neighbours_share_every_vertex(name: str) -> None:
    found = [p for _, _, p in trace(CASES[name], 5)]
    assert shapely.coverage_is_valid(found)
    assert sum(p.area for p in found) == np.count_nonzero(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_strips_do_not_show(name: str) -> None:
    classes = CASES[name]
    values = np.random.default_rng(0).integers(0, 100, classes.shape).astype(np.float64)
    whole = trace(classes, 10_000, values)
    for strip in (1, 3, 16):
        parts = trace(classes, strip, values)
        assert [(v, s, p.wkb) for v, s, p in parts] == [(v, s, p.wkb) for v, s, p in whole]


def test_no_vertex_on_an_edge_between_the_same_two_regions() -> None:
    ((_, _, polygon),) = trace(np.full((40, 3), 1, dtype=np.uint8), 4)
    assert len(polygon.exterior.coords) == 5


def test_many_random_rasters() -> None:
    random = np.random.default_rng(11)
    for _ in range(300):
        height, width, classes = random.integers(1, 12), random.integers(1, 12), random.integers(1, 4)
        raster = random.integers(0, classes + 1, (height, width), dtype=np.uint8)
        found = trace(raster, int(random.integers(1, 5)))
        assert all(p.is_valid for _, _, p in found)
        assert as_set([(v, p) for v, _, p in found]) == as_set(gdal_polygons(raster))
        assert shapely.coverage_is_valid([p for _, _, p in found])


@pytest.mark.parametrize("strip", [1, 4, 100])
def test_sums_over_the_pixels_of_each_region(strip: int) -> None:
    classes = CASES["patchy"]
    values = np.random.default_rng(2).uniform(0, 1, classes.shape)
    found = trace(classes, strip, values)
    labels = rasterio.features.rasterize(
        [(p, i + 1) for i, (_, _, p) in enumerate(found)], out_shape=classes.shape, dtype="int32"
    )
    for i, (value, (count, total), polygon) in enumerate(found, start=1):
        inside = labels == i
        assert set(classes[inside]) == {value}
        assert count == inside.sum() == polygon.area
        assert total == pytest.approx(values[inside].sum(), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_outlines_that_wait_in_a_file_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = CASES[name]
    values = np.random.default_rng(0).integers(0, 100, classes.shape).astype(np.float64)
    whole = [(v, s, p.wkb) for v, s, p in trace(classes, 10_000, values)]
    monkeypatch.setattr(work_files, "MOST_HELD", 1)
    assert [(v, s, p.wkb) for v, s, p in trace(classes, 3, values)] == whole


def test_open_outlines_are_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that run through the whole map, and their holes, take no more memory with every row."""
    monkeypatch.setattr(work_files, "MOST_HELD", 1 << 14)
    columns = np.arange(1500)
    rows = [(1 + (columns + shift) // 5 % 2).astype(np.uint8) for shift in (0, 1)]
    with_holes = np.where(columns % 10 == 2, 3, rows[0]).astype(np.uint8)
    strip = np.stack([rows[0], rows[1], rows[0], with_holes] * 2)
    tracer = RegionTracer(len(columns), work=tmp_path)
    held = []
    tracemalloc.start()
    try:
        for n in range(30):
            tracer.push(strip)
            if n % 10 == 9:
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # Every strip adds some 6,000 vertices to the outlines that are open.
    assert held[-1] < held[0] + (1 << 14)
    open_ones = tracer.finish()
    tracer.close()
    assert len(open_ones.rows) > 30 * 5_000
    assert list(tmp_path.iterdir()) == []
