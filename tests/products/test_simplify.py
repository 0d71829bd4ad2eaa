"""Simplified polygons: they tile the ground, keep their neighbours and stay near the raster."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio.features
import shapely
from maps import AWKWARD_LEGEND, ROTATED, UTM, confidence_of, patchy_classes, write_map

from das2f_map.products.class_areas import ClassArea
from das2f_map.products.polygons import write_polygons
from das2f_map.scene.grid import Grid

FIELDS = np.kron(patchy_classes(60, 66, (1, 2, 3), seed=4), np.ones((9, 8))).astype(np.uint8)
ROWS, COLS = np.indices(FIELDS.shape)
CLASSES = FIELDS[(ROWS + COLS // 3) % len(FIELDS), COLS]
"""Fields of all sizes with slanted edges over two rows and two columns of blocks."""


def read_all(path: Path) -> geopandas.GeoDataFrame:
    layers = [n for n, kind in pyogrio.list_layers(path) if kind is not None]
    return pd.concat([geopandas.read_file(path, layer=n) for n in layers], ignore_index=True)


def simplified(
    folder: Path, metres: float, *, grid: Grid = UTM, rows: int | None = None, name: str = "m.gpkg"
) -> tuple[geopandas.GeoDataFrame, dict[int, ClassArea]]:
    if not (folder / "m.tif").exists():
        write_map(
            folder / "m.tif",
            CLASSES,
            grid=grid,
            block=512,
            confidence_path=folder / "c.tif",
            confidence=confidence_of(CLASSES),
        )
    totals = write_polygons(
        folder / "m.tif",
        folder / name,
        AWKWARD_LEGEND,
        confidence_raster=folder / "c.tif",
        simplify_m=metres,
        strip_rows=rows,
    )
    return read_all(folder / name), totals


@pytest.mark.parametrize("grid", [UTM, ROTATED], ids=["utm", "rotated"])
def test_neighbours_still_fit_and_areas_are_told(tmp_path: Path, grid: Grid) -> None:
    found, totals = simplified(tmp_path, 60.0, grid=grid)
    exact = {i: np.count_nonzero(i == CLASSES) for i in AWKWARD_LEGEND.ids}
    assert found.is_valid.all()
    assert (found.geom_type == "Polygon").all()
    assert shapely.coverage_is_valid(found.geometry.to_numpy())
    assert {i: t.pixels for i, t in totals.items()} == exact
    exact_polygons = rasterio.features.shapes(CLASSES, mask=CLASSES != 0, transform=grid.transform)
    everything = [shapely.geometry.shape(shape) for shape, _ in exact_polygons]
    assert len(found) == len(everything)
    assert len(shapely.get_coordinates(found.geometry)) < 0.5 * len(shapely.get_coordinates(everything))
    by_class = found.dissolve("class_id").area
    for i in (1, 2, 3):
        drawn = totals[i].drawn_m2
        assert drawn is not None
        # On the ellipsoid against in the plane of the CRS, whose scale is 0.9996 near its meridian.
        assert drawn == pytest.approx(by_class[i], rel=2e-3)
        assert found.loc[found["class_id"] == i, "area_m2"].sum() == pytest.approx(drawn, rel=1e-12)
        assert drawn != totals[i].area_m2
        assert drawn == pytest.approx(totals[i].area_m2, rel=0.02)
    scale = sum(t.area_m2 for t in totals.values()) / by_class.sum()
    assert sum(t.drawn_m2 or 0 for t in totals.values()) == pytest.approx(by_class.sum() * scale, rel=2e-3)


@pytest.mark.slow
def test_outlines_stay_within_a_few_pixels(tmp_path: Path) -> None:
    """Off a boundary by more than three times the tolerance, every pixel's centre is in its own class."""
    found, _ = simplified(tmp_path, 30.0)
    drawn = rasterio.features.rasterize(
        zip(found.geometry, found["class_id"], strict=True), CLASSES.shape, transform=UTM.transform
    )
    padded = np.pad(CLASSES, 3, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))
    inner = (around == CLASSES[:, :, np.newaxis, np.newaxis]).all(axis=(2, 3))
    assert inner.mean() > 0.2
    np.testing.assert_array_equal(drawn[inner], CLASSES[inner])


@pytest.mark.slow
def test_the_result_does_not_depend_on_how_the_map_is_read(tmp_path: Path) -> None:
    first, totals = simplified(tmp_path, 45.0)
    for k, rows in enumerate((7, 100, 560)):
        again, found = simplified(tmp_path, 45.0, rows=rows, name=f"{k}.gpkg")
        key = ["class_id", "minx", "maxy", "maxx", "miny"]
        ordered = [f.join(f.bounds).sort_values(key).reset_index(drop=True) for f in (first, again)]
        assert ordered[0].geometry.geom_equals(ordered[1].geometry).all()
        np.testing.assert_allclose(ordered[0]["area_m2"], ordered[1]["area_m2"], rtol=1e-10)
        for i, total in totals.items():
            assert found[i].drawn_m2 == pytest.approx(total.drawn_m2, rel=1e-10)


def test_without_a_tolerance_outlines_are_exact(tmp_path: Path) -> None:
    found, totals = simplified(tmp_path, 0.0)
    assert found.area.sum() == np.count_nonzero(CLASSES) * 900
    assert all(t.drawn_m2 is None for t in totals.values())


@pytest.mark.slow
def test_noise_down_to_single_pixels(tmp_path: Path) -> None:
    """Corners where four regions meet, islands of a pixel, holes that touch: nothing is lost or crossed."""
    noise = patchy_classes(97, 130, AWKWARD_LEGEND.ids, seed=5)
    write_map(tmp_path / "m.tif", noise)
    for metres in (20.0, 60.0, 500.0):
        totals = write_polygons(
            tmp_path / "m.tif", tmp_path / f"{metres}.gpkg", AWKWARD_LEGEND, simplify_m=metres
        )
        found = read_all(tmp_path / f"{metres}.gpkg")
        assert found.is_valid.all()
        assert shapely.coverage_is_valid(found.geometry.to_numpy())
        shapes = rasterio.features.shapes(noise, mask=noise != 0, connectivity=4)
        assert len(found) == sum(1 for _ in shapes) == sum(t.polygons for t in totals.values())
