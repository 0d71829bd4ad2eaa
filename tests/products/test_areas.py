"""Pixel areas against geodesic polygons, and sums of each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import pytest
from affine import Affine
from maps import AWKWARD_LEGEND, GEOGRAPHIC, ROTATED, UTM, confidence_of, patchy_classes, write_map
from rasterio.crs import CRS

from das2f_map.errors import InputError
from das2f_map.legend import Legend
from das2f_map.products.areas import PixelAreas
from das2f_map.products.class_areas import class_areas
from das2f_map.scene.grid import Grid, Window

FEET = Grid(97, 130, Affine(500.0, 0, 1_200_000, 0, -500.0, 700_000), CRS.from_epsg(2263))
FINE = Grid(200, 300, Affine(0.5, 0, 590_000, 0, -0.5, 5_750_000), CRS.from_epsg(32631))
POLAR = Grid(97, 130, Affine(1000.0, 0, -2_000_000, 0, -1000.0, -500_000), CRS.from_epsg(3031))
TURNED_DEGREES = Grid(
    97,
    130,
    Affine.translation(8, 52) * Affine.rotation(31) * Affine.scale(0.001, -0.001),
    CRS.from_epsg(4326),
)
FULL_GLOBE = Grid(180, 360, Affine(1, 0, -180, 0, -1, 90), CRS.from_epsg(4326))
GRIDS = {
    "utm": UTM,
    "geographic": GEOGRAPHIC,
    "rotated": ROTATED,
    "feet": FEET,
    "polar": POLAR,
    "rotated degrees": TURNED_DEGREES,
}


def geodesic_area(grid: Grid, window: Window, steps: int = 50) -> float:
    """Area inside a window's outline, of geodesics between closely set points: m²."""
    edge = np.linspace(0, 1, steps, endpoint=False)
    r0, r1, c0, c1 = window.row, window.row_stop, window.col, window.col_stop
    rows = np.concatenate([0 * edge + r0, r0 + (r1 - r0) * edge, 0 * edge + r1, r1 - (r1 - r0) * edge])
    cols = np.concatenate([c0 + (c1 - c0) * edge, 0 * edge + c1, c1 - (c1 - c0) * edge, 0 * edge + c0])
    t = grid.transform
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    lon, lat = to_degrees.transform(t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f)
    return abs(crs.get_geod().polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize("name", GRIDS)
def test_pixels_add_up_to_the_geodesic_area_of_the_outline(name: str) -> None:
    grid = GRIDS[name]
    for window in (grid.window, Window(11, 70, 30, 41)):
        truth = geodesic_area(grid, window, steps=4000)
        assert PixelAreas(grid).of(window).sum() == pytest.approx(truth, rel=3e-8)


@pytest.mark.parametrize("name", GRIDS)
def test_single_pixels(name: str) -> None:
    grid = GRIDS[name]
    for row, col in ((0, 0), (50, 129), (96, 3)):
        area = PixelAreas(grid).of(Window(row, col, 1, 1))[0, 0]
        # The area of a geodesic polygon of a few square metres has rounding errors of its own.
        assert area == pytest.approx(geodesic_area(grid, Window(row, col, 1, 1)), rel=1e-6)


@pytest.mark.parametrize("name", GRIDS)
def test_areas_do_not_depend_on_the_window(name: str) -> None:
    areas = PixelAreas(GRIDS[name])
    whole = areas.of(GRIDS[name].window)
    part = Window(37, 5, 20, 90)
    np.testing.assert_allclose(areas.of(part), whole[part.slices()], rtol=1e-14)


def test_strips_of_a_wide_map_project_hardly_more_points_than_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = Grid(400, 3000, UTM.transform, UTM.crs)
    points = 0
    original = pyproj.Transformer.transform

    def counted(self: pyproj.Transformer, xx: Any, yy: Any, **options: Any) -> Any:
        nonlocal points
        points += np.size(xx)
        return original(self, xx, yy, **options)

    monkeypatch.setattr(pyproj.Transformer, "transform", counted)
    counts = []
    for rows in (400, 20):
        areas, points = PixelAreas(grid), 0
        parts = [areas.of(Window(row, 0, rows, 3000)) for row in range(0, 400, rows)]
        counts.append(points)
        if rows == 400:
            whole = parts[0]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert counts[1] <= 1.05 * counts[0]


def test_very_small_pixels_follow_the_area_scale_of_the_projection() -> None:
    # Geodesic polygons of a square metre drown in rounding; PROJ's own scale factors do not.
    areas = PixelAreas(FINE).of(FINE.window)
    crs = pyproj.CRS.from_wkt(FINE.crs.to_wkt())
    for row, col in ((0, 0), (57, 211), (199, 299)):
        lon, lat = pyproj.Proj(crs)(*FINE.pixel_to_map(row + 0.5, col + 0.5), inverse=True)
        assert areas[row, col] == pytest.approx(
            0.25 / pyproj.Proj(crs).get_factors(lon, lat).areal_scale, rel=1e-9
        )


def test_globe_has_the_area_of_the_ellipsoid() -> None:
    assert PixelAreas(FULL_GLOBE).of(FULL_GLOBE.window).sum() == pytest.approx(510_065_621_724_088, rel=1e-12)


def test_local_crs_has_plain_areas() -> None:
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    grid = Grid(3, 4, Affine(2.0, 0, 0, 0, -3.0, 0), local)
    assert PixelAreas(grid).of(grid.window).tolist() == np.full((3, 4), 6.0).tolist()


def test_class_areas(tmp_path) -> None:
    classes = patchy_classes(97, 130, AWKWARD_LEGEND.ids[:-1], seed=7)
    sure = confidence_of(classes)
    path = write_map(
        tmp_path / "m.tif", classes, grid=GEOGRAPHIC, confidence_path=tmp_path / "c.tif", confidence=sure
    )
    found, nodata = class_areas(path, AWKWARD_LEGEND, confidence_raster=tmp_path / "c.tif")
    assert nodata == (classes == 0).sum()
    assert list(found) == list(AWKWARD_LEGEND.ids)
    for i, got in found.items():
        mine = classes == i
        assert got.pixels == mine.sum()
        rows = [geodesic_area(GEOGRAPHIC, Window(r, 0, 1, 1), 400) for r in range(97)]
        assert got.area_m2 == pytest.approx((mine.sum(axis=1) * rows).sum(), rel=1e-7)
        if mine.any():
            assert got.mean_confidence == pytest.approx(sure[mine].mean(dtype=float), rel=1e-6)
        else:
            assert got.mean_confidence is None


def test_values_outside_the_legend_are_refused(tmp_path) -> None:
    path = write_map(tmp_path / "m.tif", np.full((4, 4), 9, dtype=np.uint8))
    with pytest.raises(InputError, match=r"m\.tif holds values that the legend does not know: 9"):
        class_areas(path, Legend.from_names(["a", "b"]))
