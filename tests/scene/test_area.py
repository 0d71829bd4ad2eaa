"""Areas of interest against shapely's own answer for pixel centres."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box
from synthetic import pair_grids

from das2f_map.errors import InputError
from das2f_map.scene.area import Area
from das2f_map.scene.grid import Grid, Window, blocks_of


@pytest.fixture
def grid() -> Grid:
    return pair_grids(ms_shape=(60, 80))[0]


def polygons(grid: Grid) -> list[Polygon]:
    """A star with a hole, and a triangle that reaches beyond the scene, in map coordinates."""
    x, y = grid.pixel_to_map(28, 30)
    radius = np.where(np.arange(16) % 2, 60.0, 170.0)
    angle = np.arange(16) * np.pi / 8 + 0.1
    star = Polygon(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1))
    star = star.difference(Point(x, y).buffer(25))
    corner = Polygon([grid.pixel_to_map(*p) for p in ((45.3, 60.2), (70, 70), (50.1, 95))])
    return [star, corner]


def save(path: Path, geometries: list[object], crs: object, **options: object) -> Path:
    geopandas.GeoDataFrame({"n": range(len(geometries))}, geometry=geometries, crs=crs).to_file(
        path, **options
    )
    return path


def centres_inside(grid: Grid, geometries: list[Polygon]) -> np.ndarray:
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform * (col, row)
    return np.asarray(shapely.contains_xy(shapely.union_all(geometries), x, y))


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.geojson", "a.fgb"])
def test_mask_is_pixel_centres(tmp_path: Path, grid: Grid, name: str) -> None:
    shapes = polygons(grid)
    frame = geopandas.GeoDataFrame(geometry=shapes, crs=grid.crs.to_wkt())
    if name.endswith("geojson"):
        frame = frame.to_crs(4326)
    frame.to_file(tmp_path / name)
    area = Area.from_file(tmp_path / name, grid)
    expected = centres_inside(grid, shapes)
    mask = area.mask(grid.window)
    assert (mask != expected).sum() <= (2 if name.endswith("geojson") else 0)
    assert 300 < mask.sum() < 3000
    rows = np.nonzero(expected.any(axis=1))[0]
    assert area.window.row <= rows.min()
    assert area.window.row_stop > rows.max()
    assert area.window == area.window.intersection(grid.window)
    assert (area.window.row_stop, area.window.col_stop) == (60, 80)
    assert not mask[: area.window.row].any()
    for block in blocks_of(grid.window, 13):
        np.testing.assert_array_equal(area.mask(block), mask[block.slices()])


def test_rotated_grid_and_other_crs(tmp_path: Path) -> None:
    grid, _ = pair_grids(ms_shape=(60, 80), rotation=30)
    shapes = polygons(grid)
    path = save(tmp_path / "a.gpkg", shapes, grid.crs.to_wkt())
    np.testing.assert_array_equal(Area.from_file(path, grid).mask(grid.window), centres_inside(grid, shapes))
    frame = geopandas.GeoDataFrame(geometry=shapes, crs=grid.crs.to_wkt()).to_crs(3035)
    frame.to_file(tmp_path / "b.gpkg")
    elsewhere = Area.from_file(tmp_path / "b.gpkg", grid).mask(grid.window)
    assert (elsewhere != centres_inside(grid, shapes)).sum() <= 2


def test_long_edges_are_bent(tmp_path: Path) -> None:
    """The upper edge of a box in degrees is a curve in UTM; here it bends by some pixels."""
    grid, _ = pair_grids(ms_shape=(200, 400), ms_gsd=500.0)
    to_degrees = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(*grid.pixel_to_map(100, 200))
    path = save(tmp_path / "a.geojson", [box(lon - 1.2, lat - 0.2, lon + 1.2, lat + 0.2)], 4326)
    col, row = np.meshgrid(np.arange(400) + 0.5, np.arange(200) + 0.5)
    x, y = to_degrees.transform(*(grid.transform * (col, row)))
    expected = (np.abs(x - lon) < 1.2) & (np.abs(y - lat) < 0.2)
    assert (Area.from_file(path, grid).mask(grid.window) != expected).sum() <= 6


def test_overlaps_count_once(tmp_path: Path, grid: Grid) -> None:
    star, corner = polygons(grid)
    path = save(tmp_path / "a.gpkg", [star, star.buffer(-20), MultiPolygon([corner])], grid.crs.to_wkt())
    np.testing.assert_array_equal(
        Area.from_file(path, grid).mask(grid.window), centres_inside(grid, [star, corner])
    )


def test_bow_tie(tmp_path: Path, grid: Grid) -> None:
    points = [grid.pixel_to_map(*p) for p in ((10, 10), (30.2, 40), (10, 40), (30.2, 10))]
    area = Area.from_file(save(tmp_path / "a.gpkg", [Polygon(points)], grid.crs.to_wkt()), grid)
    mask = area.mask(grid.window)
    assert mask[20, 11]
    assert mask[20, 38]
    assert not mask[12, 25]


def test_spike_is_not_part_of_the_area(tmp_path: Path, grid: Grid) -> None:
    """An outline that runs out and back along one line gives, once mended, a line without an inside."""
    outline = [(10, 10), (10, 20), (15, 20), (15.5, 60), (15, 20), (20, 20), (20, 10)]
    points = [grid.pixel_to_map(*p) for p in outline]
    mask = Area.from_file(save(tmp_path / "a.gpkg", [Polygon(points)], grid.crs.to_wkt()), grid).mask(
        grid.window
    )
    expected = np.zeros(mask.shape, bool)
    expected[10:20, 10:20] = True
    np.testing.assert_array_equal(mask, expected)
    folded = Polygon([grid.pixel_to_map(*p) for p in ((10, 10), (10, 20), (10, 15))])
    with pytest.raises(InputError, match="enclose nothing"):
        Area.from_file(save(tmp_path / "b.gpkg", [folded], grid.crs.to_wkt()), grid)


def test_outside_windows_are_empty(tmp_path: Path, grid: Grid) -> None:
    area = Area.from_file(save(tmp_path / "a.gpkg", polygons(grid), grid.crs.to_wkt()), grid)
    assert not area.mask(Window(0, 60, 10, 20)).any()
    assert area.mask(Window(0, 60, 10, 20)).shape == (10, 20)


def test_refused(tmp_path: Path, grid: Grid) -> None:
    crs = grid.crs.to_wkt()
    inside = box(*grid.pixel_to_map(20, 10), *grid.pixel_to_map(10, 20))
    line = LineString([grid.pixel_to_map(5, 5), grid.pixel_to_map(20, 30)])
    far = shapely.affinity.translate(inside, 1e5, 0)
    x, y = grid.pixel_to_map(10, 10)
    (tmp_path / "text.gpkg").write_text("nothing")
    cases = [
        (tmp_path / "missing.gpkg", "does not exist"),
        (tmp_path / "text.gpkg", "cannot be read as a vector file"),
        (save(tmp_path / "line.gpkg", [line], crs), "has LineString features"),
        (save(tmp_path / "mixed.geojson", [inside, line], 4326), "has LineString features"),
        (save(tmp_path / "empty.gpkg", [], crs, geometry_type="Polygon"), "has no polygons"),
        (save(tmp_path / "nocrs.shp", [inside], None), "has no coordinate reference system"),
        (save(tmp_path / "far.gpkg", [far], crs), "does not touch the scene"),
        (save(tmp_path / "tiny.gpkg", [box(x - 1, y - 1, x + 1, y + 1)], crs), "covers no pixel centre"),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            Area.from_file(path, grid)
        assert str(path) in caught.value.message
        assert "\n" not in caught.value.message


WORLD = box(-180, -85, 180, 85)


@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        ("EPSG:32631", 3.0, 45.0),
        ("EPSG:32760", 179.99, -17.0),
        ("EPSG:3031", 30.0, -70.0),
        ("EPSG:2056", 8.2, 46.8),
        ("EPSG:3857", -75.0, 40.0),
    ],
)
def test_areas_around_the_world(crs: str, lon: float, lat: float, tmp_path: Path) -> None:
    """Areas as large as continents and oceans: far from the scene, its projection folds over."""
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    grid = Grid(40, 50, Affine(30, 0, x - 750, 0, -30, y + 600), CRS.from_user_input(crs))
    col, row = np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5)
    lons, lats = Transformer.from_crs(crs, 4326, always_xy=True).transform(*(grid.transform * (col, row)))
    near = box(lon - 2, lat - 2, lon + 2, lat + 2)
    for number, (shape, told) in enumerate(
        [
            (WORLD, True),
            (WORLD.difference(near), False),
            (box(-180, -85, lon, 85), True),  # the world west of the scene's middle
            (MultiPolygon([box(-180, lat, 180, 85), box(lon - 200, -80, lon - 90, -75)]), True),
        ]
    ):
        path = save(tmp_path / f"{number}.gpkg", [shape], 4326)
        area = Area.inside(path, grid, "area")
        assert (area is not None) is told
        expected = shapely.contains_xy(shape, lons, lats)
        got = np.zeros_like(expected) if area is None else area.mask(grid.window)
        # Edges are cut into straight pieces of some hundred metres.
        assert (got != expected).sum() <= 3
        assert 0 < expected.sum() < expected.size or number < 2


def test_a_table_is_no_area(tmp_path: Path, grid: Grid) -> None:
    (tmp_path / "t.csv").write_text("id,name\n1,a\n")
    with pytest.raises(InputError, match="has no geometries: it is a table"):
        Area.inside(tmp_path / "t.csv", grid, "mask file t.csv")
