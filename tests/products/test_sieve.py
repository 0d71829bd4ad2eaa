"""Small regions merged strip by strip, against the rule in plain Python and against GDAL's sieve filter."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
from maps import UTM, patchy_classes

from das2f_map.products.sieve import Sieve
from das2f_map.scene.grid import Grid, Window

Classes = npt.NDArray[np.uint8]


def merged(folder: Path, classes: Classes, pixels: int, rows: int | None = None) -> Classes:
    grid = Grid(*classes.shape, UTM.transform, UTM.crs)
    with Sieve(folder, folder / "map.tif", grid, pixels, strip_rows=rows) as sieve:
        for row in range(0, len(classes), 7):
            sieve.add(classes[row : row + 7])
        changed = sieve.merge()
        found = sieve.read(grid.window)
    assert changed == np.count_nonzero(found != classes)
    assert list(folder.iterdir()) == []
    return found


def regions_of(classes: Classes) -> tuple[dict[tuple[int, int], int], list[int]]:
    """The region of each pixel with a class, and the size of each region."""
    region: dict[tuple[int, int], int] = {}
    sizes: list[int] = []
    for start in map(tuple, np.argwhere(classes != 0).tolist()):
        if start in region:
            continue
        region[start] = len(sizes)
        todo, size = [start], 0
        while todo:
            row, col = todo.pop()
            size += 1
            for place in ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
                inside = 0 <= place[0] < classes.shape[0] and 0 <= place[1] < classes.shape[1]
                if inside and place not in region and classes[place] == classes[start]:
                    region[place] = len(sizes)
                    todo.append(place)
        sizes.append(size)
    return region, sizes


def by_rule(classes: Classes, pixels: int) -> Classes:
    """The rule as it is stated, pixel by pixel."""
    while True:
        region, sizes = regions_of(classes)
        best: dict[int, tuple[int, int]] = {}
        for (row, col), here in sorted(region.items()):
            for other in ((row - 1, col), (row, col - 1)):
                there = region.get(other, here)
                for small, large, place in ((here, there, other), (there, here, (row, col))):
                    reaches = sizes[small] < pixels <= sizes[large]
                    if reaches and sizes[large] > best.get(small, (0, 0))[0]:
                        best[small] = sizes[large], int(classes[place])
        if not best:
            return classes
        classes = classes.copy()
        for place, here in region.items():
            if here in best:
                classes[place] = best[here][1]


CASES = [(0, 21, 24, 3), (1, 30, 1, 4), (2, 1, 30, 4), (3, 23, 20, 2), (4, 28, 20, 10), (5, 15, 31, 30)]


@pytest.mark.parametrize(("seed", "height", "width", "pixels"), CASES)
def test_as_the_rule_says_whatever_the_strips(
    tmp_path: Path, seed: int, height: int, width: int, pixels: int
) -> None:
    classes = patchy_classes(
        height, width, (1, 2, 3, 5, 255), seed=seed, nodata_share=(0.0, 0.1, 0.4)[seed % 3]
    )
    expected = by_rule(classes, pixels)
    for rows in (1, 2, 9, None):
        np.testing.assert_array_equal(merged(tmp_path, classes, pixels, rows), expected)


def test_where_every_small_region_has_a_large_neighbour_it_is_gdals_filter(tmp_path: Path) -> None:
    """Elsewhere GDAL follows chains of small regions, in another way from version to version."""
    rng = np.random.default_rng(3)
    fields = np.kron(rng.integers(1, 6, (15, 20)), np.ones((12, 12))).astype(np.uint8)
    fields[60:75, 100:] = 0
    speckled = np.where(rng.random(fields.shape) < 0.03, rng.integers(1, 6, fields.shape), fields)
    classes = np.where(fields == 0, 0, speckled).astype(np.uint8)
    mask = classes != 0
    expected = rasterio.features.sieve(classes, 20, mask=mask, connectivity=4)
    settled = rasterio.features.sieve(expected, 20, mask=mask, connectivity=4)
    np.testing.assert_array_equal(settled, expected)
    assert np.count_nonzero(expected != classes) > 900
    np.testing.assert_array_equal(merged(tmp_path, classes, 20, 10), expected)


def test_a_region_of_many_strips_is_one_region(tmp_path: Path) -> None:
    """A snake through all strips is large at its top and bottom alike; one that is cut is not."""
    classes = np.ones((41, 9), np.uint8)
    classes[:, 4] = 2
    classes[::4, 5:8] = 2
    whole = merged(tmp_path, classes, 41, rows=3)
    np.testing.assert_array_equal(whole, classes)
    classes[20, 4:8] = 1
    assert (merged(tmp_path, classes, 41, rows=3) == 1).all()


def test_the_larger_neighbour_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    larger = np.array([[1, 1, 9, 2, 2, 2]], np.uint8)
    assert merged(tmp_path, larger, 2)[0, 2] == 2
    equal = np.array([[1, 1, 9, 2, 2]], np.uint8)
    assert merged(tmp_path, equal, 2)[0, 2] == 1
    above = np.array([[7, 2, 7], [1, 9, 3], [1, 3, 3], [7, 3, 7]], np.uint8)
    assert merged(tmp_path, above, 2)[1, 1] == 3


def test_islands_in_nodata_stay(tmp_path: Path) -> None:
    classes = np.zeros((9, 9), np.uint8)
    classes[1, 1], classes[4:, 4:] = 3, 5
    np.testing.assert_array_equal(merged(tmp_path, classes, 4), classes)


def test_a_region_among_small_ones_waits_for_them(tmp_path: Path) -> None:
    """Each round reaches one pixel further into a checkerboard."""
    classes = np.where(np.add.outer(np.arange(21), np.arange(21)) % 2, 1, 2).astype(np.uint8)
    classes[:, :3] = 4
    expected = by_rule(classes, 5)
    np.testing.assert_array_equal(merged(tmp_path, classes, 5, rows=4), expected)
    assert np.count_nonzero(expected != classes) > 300


@pytest.mark.slow
def test_memory_does_not_grow_with_the_map(tmp_path: Path) -> None:
    def peak(height: int) -> int:
        grid = Grid(height, 500, UTM.transform, UTM.crs)
        block = patchy_classes(200, 500, (1, 2, 3, 5), seed=1)
        tracemalloc.start()
        with Sieve(tmp_path, tmp_path / "map.tif", grid, 8, strip_rows=100) as sieve:
            for _ in range(0, height, 200):
                sieve.add(block)
            sieve.merge()
            sieve.read(Window(0, 0, 1, 500))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(2000) < 1.1 * peak(400)
