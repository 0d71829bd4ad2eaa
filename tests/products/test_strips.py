"""Strips of a map, gathered from blocks, and sums over them."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from das2f_map.legend import Legend
from das2f_map.outputs import work_files
from das2f_map.products.areas import PixelAreas
from das2f_map.products.class_areas import ClassSums
from das2f_map.products.strips import Strip, StripAssembler
from das2f_map.scene.grid import Grid, Window, blocks_of

GRID = Grid(50, 37, Affine(30, 0, 500_000, 0, -30, 5_600_000), CRS.from_epsg(32633))
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 4, (50, 37)).astype(np.uint8)
CONFIDENCE = np.where(CLASSES > 0, RNG.random((50, 37)), np.nan).astype(np.float32)


def strips_of(block: int, rows: int | None) -> Iterator[Strip]:
    assembler = StripAssembler(GRID, rows)
    for window in blocks_of(GRID.window, block):
        part = window.slices()
        yield from assembler.add(window, CLASSES[part], CONFIDENCE[part])
    assembler.close()


@pytest.mark.parametrize("block", [7, 16, 64])
@pytest.mark.parametrize("rows", [1, 10, 49, None])
def test_strips_are_the_map_in_order(block: int, rows: int | None) -> None:
    strips = list(strips_of(block, rows))
    np.testing.assert_array_equal(np.concatenate([s.classes for s in strips]), CLASSES)
    np.testing.assert_array_equal(np.concatenate([s.confidence for s in strips]), CONFIDENCE)
    areas = np.concatenate([s.areas for s in strips])
    np.testing.assert_array_equal(areas, PixelAreas(GRID).of(GRID.window))
    assert [s.window.row for s in strips] == list(range(0, 50, rows or 50))
    assert {s.window.height for s in strips[:-1]} <= {rows or 50}


def test_a_strip_comes_as_soon_as_its_rows_are_there() -> None:
    assembler = StripAssembler(GRID, 8)
    counts = []
    for window in blocks_of(GRID.window, 10):
        found = list(assembler.add(window, CLASSES[window.slices()], CONFIDENCE[window.slices()]))
        counts.append(len(found))
    # Four blocks in a row of blocks; these end at rows 10, 20, 30, 40 and 50. The rest is the last strip.
    assembler.close()
    assert [sum(counts[i : i + 4]) for i in range(0, len(counts), 4)] == [1, 1, 1, 2, 2]
    assert all(not n for i, n in enumerate(counts) if i % 4 != 3)


@pytest.mark.parametrize("rows", [1, 10, 49, None])
def test_blocks_that_wait_in_a_file_give_the_same_strips(
    rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_files, "MOST_HELD", 1)
    strips = list(strips_of(16, rows))
    np.testing.assert_array_equal(np.concatenate([s.classes for s in strips]), CLASSES)
    np.testing.assert_array_equal(np.concatenate([s.confidence for s in strips]), CONFIDENCE)


def test_memory_does_not_grow_with_the_width(tmp_path: Path) -> None:
    """A row of blocks is not in memory, but for the strip that is cut from it."""
    classes, confidence = np.ones((256, 256), np.uint8), np.ones((256, 256), np.float32)
    peaks = []
    for width in (8_192, 32_768):
        grid = Grid(256, width, GRID.transform, None)
        assembler = StripAssembler(grid, 131_072 // width, work=tmp_path)
        pixels = 0
        tracemalloc.start()
        try:
            for window in blocks_of(grid.window, 256):
                pixels += sum(strip.classes.size for strip in assembler.add(window, classes, confidence))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assembler.close()
        assert pixels == grid.height * width
    # The wide map's row of blocks has 40 MiB.
    assert peaks[1] < 1.1 * peaks[0] < 16 << 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("window", [Window(10, 0, 10, 37), Window(0, 10, 5, 10), Window(20, 0, 1, 1)])
def test_blocks_out_of_order_are_refused(window: Window) -> None:
    assembler = StripAssembler(GRID)
    list(assembler.add(Window(0, 0, 10, 10), CLASSES[:10, :10], CONFIDENCE[:10, :10]))
    with pytest.raises(ValueError, match="does not follow"):
        list(assembler.add(window, CLASSES[window.slices()], CONFIDENCE[window.slices()]))
    assembler.close()


def test_sums_are_right_and_do_not_depend_on_strips() -> None:
    legend = Legend.from_names(["a", "b", "c"], ids=(1, 2, 3))
    areas = PixelAreas(GRID).of(GRID.window)
    found = []
    for block, rows in ((7, 1), (16, 10), (64, None)):
        sums = ClassSums()
        for strip in strips_of(block, rows):
            sums.add(strip)
        found.append((sums.of(legend), sums.nodata_pixels, sums.ids.tolist()))
    assert found[0] == found[1] == found[2]
    by_class, nodata, ids = found[0]
    assert (nodata, ids) == (int((CLASSES == 0).sum()), [0, 1, 2, 3])
    for i, area in by_class.items():
        mine = i == CLASSES
        assert area.pixels == mine.sum()
        assert area.area_m2 == pytest.approx(math.fsum(areas[mine].tolist()), rel=1e-13)
        expected = math.fsum(CONFIDENCE[mine].tolist()) / mine.sum()
        assert area.mean_confidence == pytest.approx(expected, rel=1e-12)


def test_a_class_without_pixels_has_no_confidence() -> None:
    sums = ClassSums()
    for strip in strips_of(64, None):
        sums.add(strip)
    area = sums.of(Legend.from_names(["absent"], ids=(9,)))[9]
    assert (area.pixels, area.area_m2, area.mean_confidence) == (0, 0.0, None)
