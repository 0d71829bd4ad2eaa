"""Pixels drawn from maps: as often as the design says, whatever the strips, never nodata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from das2f_map.assess.drawing import (
    ClusterRule,
    CountedMap,
    Pixels,
    apart,
    clustered,
    proportional_inclusion,
    simple,
    stratified,
    systematic,
)
from das2f_map.assess.open_map import open_map
from das2f_map.errors import InputError
from das2f_map.scene.grid import Grid

GRID = Grid(21, 17, Affine(30, 0, 500_000, 0, -30, 5_600_000), CRS.from_epsg(32631))


def classes() -> np.ndarray:
    values = np.random.default_rng(1).choice([0, 1, 2, 7], (21, 17), p=[0.2, 0.5, 0.25, 0.05])
    values[:6, :6] = 0
    return values.astype(np.uint8)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[CountedMap]:
    with opened(tmp_path) as found:
        yield found


@contextmanager
def opened(folder: Path, rows: int | None = None) -> Iterator[CountedMap]:
    path = folder / "map.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(
        path, "w", height=GRID.height, width=GRID.width, transform=GRID.transform, crs=GRID.crs, **profile
    ) as file:
        file.write(classes(), 1)
    with open_map(path) as mapped:
        yield CountedMap(mapped, rows=rows)


def keys(found: Pixels) -> list[tuple[int, int, int]]:
    return list(zip(found.rows.tolist(), found.cols.tolist(), found.classes.tolist(), strict=True))


def assert_true_and_different(found: Pixels) -> None:
    values = classes()
    assert (values[found.rows, found.cols] == found.classes).all()
    assert (found.classes > 0).all()
    assert len(set(keys(found))) == len(found.rows)


def chi_square_z(drawn: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> float:
    """Sum of squared deviations as a normal deviate, about (pixels are nearly independent)."""
    squares = (drawn - expected) ** 2 / variance
    return float((squares.sum() - len(squares)) / np.sqrt(2 * len(squares)))


def test_counts_are_the_maps(counted: CountedMap) -> None:
    assert counted.pixels[1:].tolist() == np.bincount(classes().ravel(), minlength=256)[1:].tolist()
    assert counted.population == int((classes() > 0).sum())
    assert counted.ids == (1, 2, 7)
    assert counted.areas_m2[1] / counted.pixels[1] == pytest.approx(900, rel=0.01)


def test_each_pixel_is_drawn_as_often_as_the_design_says(counted: CountedMap) -> None:
    values, runs = classes(), 400
    points = {1: 12, 2: 20, 7: 3}
    for draw, share in (
        (lambda s: stratified(counted, points, s), {i: n / counted.pixels[i] for i, n in points.items()}),
        (lambda s: simple(counted, 40, s), dict.fromkeys(points, 40 / counted.population)),
    ):
        drawn = np.zeros(values.shape)
        for seed in range(runs):
            found = draw(seed)
            drawn[found.rows, found.cols] += 1
        valid = values > 0
        p = np.array([share[i] for i in values[valid].tolist()])
        assert not drawn[~valid].any()
        assert abs(chi_square_z(drawn[valid], runs * p, runs * p * (1 - p))) < 4


@pytest.mark.parametrize("selection", ["equal", "proportional"])
def test_clusters_draw_pixels_with_their_inclusion(counted: CountedMap, selection: str) -> None:
    """Each block's inclusion times the share of its pixels that is drawn."""
    values, runs = classes(), 400
    rule = ClusterRule(size=6, per_block=5, selection=selection)
    counts = counted.block_counts(6)
    assert counts[0, 0] == 0
    assert counts[0, 1] == (values[:6, 6:12] > 0).sum()
    ids = np.flatnonzero(counts)
    sizes = counts.ravel()[ids]
    inclusion = np.full(len(ids), 4 / len(ids)) if selection == "equal" else proportional_inclusion(sizes, 4)
    stated = dict(zip(ids.tolist(), inclusion.tolist(), strict=True))
    drawn, per_block = np.zeros(values.shape), dict.fromkeys(ids.tolist(), 0)
    for seed in range(runs):
        found = clustered(counted, 20, rule, seed)
        assert len(found.drawn) == 4
        assert found.blocks == len(ids)
        for block in found.drawn:
            per_block[block.id] += 1
            assert block.inclusion == pytest.approx(stated[block.id])
            assert (found.block_of == block.id).sum() == block.sampled == min(5, block.pixels)
        drawn[found.pixels.rows, found.pixels.cols] += 1
    for block_id, times in per_block.items():
        p = stated[block_id]
        assert abs(times - runs * p) <= 4 * np.sqrt(runs * p * (1 - p)) + 1e-9
    rows, cols = np.nonzero(values)
    block_of = rows // 6 * 3 + cols // 6
    m = np.minimum(5, counts.ravel()[block_of]) / counts.ravel()[block_of]
    p = np.array([stated[b] for b in block_of.tolist()]) * m
    assert (np.abs(drawn[rows, cols] - runs * p) < 5 * np.sqrt(runs * p * (1 - p)) + 1).all()
    assert_true_and_different(clustered(counted, 20, rule, 3).pixels)


def test_systematic_probabilities_with_sure_blocks() -> None:
    inclusion = proportional_inclusion(np.array([1000, 10, 20, 30]), 3)
    assert inclusion == pytest.approx([1, 1 / 3, 2 / 3, 1])
    hits = np.zeros(4)
    for seed in range(3000):
        chosen = systematic(np.random.default_rng(seed), inclusion)
        assert len(set(chosen.tolist())) == 3
        hits[chosen] += 1
    assert hits / 3000 == pytest.approx(inclusion, abs=0.04)


@pytest.mark.parametrize("rows", [1, 5, 21])
def test_height_of_strips_does_not_change_the_sample(tmp_path: Path, rows: int) -> None:
    points, rule = {1: 12, 2: 20, 7: 3}, ClusterRule(6, 5, "proportional")

    def drawn(rows: int | None) -> list[object]:
        with opened(tmp_path, rows) as counted:
            return [
                keys(stratified(counted, points, 4)),
                keys(simple(counted, 40, 4)),
                keys(apart(counted, {1: 5, 2: 5}, 70, 4)),
                clustered(counted, 20, rule, 4).drawn,
                keys(clustered(counted, 20, rule, 4).pixels),
            ]

    assert drawn(rows) == drawn(None)


def test_seeds_differ_and_repeat(counted: CountedMap) -> None:
    assert keys(simple(counted, 40, 1)) == keys(simple(counted, 40, 1))
    assert keys(simple(counted, 40, 1)) != keys(simple(counted, 40, 2))
    everything = stratified(counted, {i: int(counted.pixels[i]) for i in counted.ids}, 0)
    assert len(everything.rows) == counted.population
    assert_true_and_different(everything)


@pytest.mark.parametrize("points", [{1: 8, 2: 8, 7: 1}, {0: 17}])
def test_points_keep_their_distance(counted: CountedMap, points: dict[int, int]) -> None:
    found = apart(counted, points, 75, 0)
    assert_true_and_different(found)
    assert len(found.rows) == 17
    if 0 not in points:
        assert {i: int((found.classes == i).sum()) for i in points} == points
    places = 30 * np.column_stack([found.rows, found.cols]).astype(float)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(17, 1)]
    assert gaps.min() > 75 * 0.999
    assert gaps.min() < 150
    with pytest.raises(InputError, match="--min-distance"):
        apart(counted, points, 400, 0)
