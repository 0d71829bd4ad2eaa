"""Labels on the MS grid against point-in-polygon by shapely, and everything a label file can get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.features import rasterize

from das2f_map.errors import LabelError
from das2f_map.labels import labelled_pixels as labels_module
from das2f_map.labels.files import open_labels
from das2f_map.labels.labelled_pixels import LabelTable, limit_blocks, read_labels
from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid, Window

UTM = CRS.from_epsg(32631)
NORTH_UP = Grid(60, 80, Affine(10, 0, 500_000, 0, -10, 5_600_000), UTM)
ROTATED = Grid(60, 80, NORTH_UP.transform @ Affine.rotation(-25), UTM)


def image(table: LabelTable, grid: Grid) -> NDArray[np.uint8]:
    result = np.zeros((grid.height, grid.width), np.uint8)
    result[table.rows, table.cols] = table.classes
    return result


def blobs(grid: Grid, n: int = 25, seed: int = 0) -> gpd.GeoDataFrame:
    """Circles of three classes, some overlapping, some partly outside, a few with holes."""
    rng = np.random.default_rng(seed)
    shapes = []
    for k in range(n):
        x, y = grid.pixel_to_map(rng.uniform(-5, grid.height + 5), rng.uniform(-5, grid.width + 5))
        circle = shapely.Point(x, y).buffer(rng.uniform(25, 90))
        shapes.append(circle - shapely.Point(x, y).buffer(15) if k % 4 == 0 else circle)
    return gpd.GeoDataFrame(
        {"class": rng.choice(["water", "Forest", "soil"], n)}, geometry=shapes, crs=grid.crs
    )


def expected(frame: gpd.GeoDataFrame, grid: Grid, names: tuple[str, ...]) -> tuple[NDArray[np.uint8], int]:
    """Centre of the pixel inside the polygon, pixel by pixel, and how many pixels are contested."""
    shapes = frame.to_crs(grid.crs)
    result, contested = np.zeros((grid.height, grid.width), np.uint8), 0
    for r, c in np.ndindex(result.shape):
        point = shapely.Point(grid.pixel_to_map(r + 0.5, c + 0.5))
        found = set(shapes["class"][shapely.contains(shapes.geometry.to_numpy(), point)])
        contested += len(found) > 1
        if len(found) == 1:
            result[r, c] = names.index(found.pop()) + 1
    return result, contested


@pytest.mark.parametrize("grid", [NORTH_UP, ROTATED], ids=["north-up", "rotated"])
def test_polygons_by_pixel_centre(grid: Grid, tmp_path: Path) -> None:
    frame = blobs(grid)
    frame.to_file(tmp_path / "labels.gpkg")
    table = read_labels(tmp_path / "labels.gpkg", grid)
    truth, contested = expected(frame, grid, table.legend.names)
    assert table.legend.names == ("Forest", "soil", "water")
    assert np.array_equal(image(table, grid), truth)
    assert table.contested == contested > 0


@pytest.mark.parametrize("suffix", [".shp", ".geojson", ".fgb"])
def test_other_formats_and_crs_give_the_same(suffix: str, tmp_path: Path) -> None:
    frame = blobs(NORTH_UP)
    frame.to_file(tmp_path / "labels.gpkg")
    frame.to_crs(4326).to_file(tmp_path / f"other{suffix}")
    one, other = (read_labels(tmp_path / n, NORTH_UP) for n in ("labels.gpkg", f"other{suffix}"))
    assert one.counts() == other.counts()
    assert np.array_equal(image(one, NORTH_UP), image(other, NORTH_UP))


def test_block_borders_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs(NORTH_UP).to_file(tmp_path / "labels.gpkg")
    whole = read_labels(tmp_path / "labels.gpkg", NORTH_UP)
    monkeypatch.setattr(labels_module, "BLOCK", 7)
    blocked = read_labels(tmp_path / "labels.gpkg", NORTH_UP)
    assert np.array_equal(image(whole, NORTH_UP), image(blocked, NORTH_UP))
    assert whole.contested == blocked.contested
    assert np.array_equal(whole.rows, blocked.rows)


def test_points_label_the_pixel_they_fall_into(tmp_path: Path) -> None:
    at = [(3.01, 4.99, 7), (3.9, 4.2, 7), (10.5, 10.5, 7), (10.6, 10.4, 9), (59.99, 79.99, 9), (-0.5, 3, 9)]
    points = [shapely.Point(NORTH_UP.pixel_to_map(r, c)) for r, c, _ in at]
    shapes = [shapely.MultiPoint(points[:2]), *points[2:]]
    gpd.GeoDataFrame({"code": [7, 7, 9, 9, 9]}, geometry=shapes, crs=UTM).to_crs(4326).to_file(
        tmp_path / "points.gpkg"
    )
    table = read_labels(tmp_path / "points.gpkg", NORTH_UP)
    # Integer classes keep their numbers; the pixel with a 7 and a 9 is contested.
    got = list(zip(table.rows.tolist(), table.cols.tolist(), table.classes.tolist(), strict=True))
    assert got == [(3, 4, 7), (59, 79, 9)]
    assert table.contested == 1


def write_raster(path: Path, values: NDArray[Any], grid: Grid, nodata: float | None = None) -> None:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.height,
        width=grid.width,
        count=1,
        dtype=values.dtype,
        transform=grid.transform,
        crs=grid.crs,
        nodata=nodata,
    ) as file:
        file.write(values, 1)


@pytest.mark.parametrize("nodata", [None, 0, 255])
def test_fine_raster_by_mode(nodata: int | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, (NORTH_UP.height, NORTH_UP.width))
    fine = np.kron(coarse, np.ones((4, 4), int))
    flips = rng.random(fine.shape) < 0.6
    fine[flips] = rng.integers(0, 4, int(flips.sum()))
    stored = np.where(fine == 0, 255, fine) if nodata == 255 else fine
    write_raster(tmp_path / "labels.tif", stored.astype(np.uint8), NORTH_UP.refined(4), nodata)
    table = read_labels(tmp_path / "labels.tif", NORTH_UP)
    truth, contested = np.zeros(coarse.shape, int), 0
    for r, c in np.ndindex(coarse.shape):
        cell = fine[4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
        n = np.bincount(cell.ravel(), minlength=4)
        winners = np.flatnonzero(n[1:] == n[1:].max()) + 1
        if n[winners[0]] >= n[0]:
            contested += len(winners) > 1
            truth[r, c] = winners[0] if len(winners) == 1 else 0
    assert np.array_equal(image(table, NORTH_UP), truth)
    assert table.contested == contested > 0
    assert table.legend.ids == (1, 2, 3)


def test_coarse_raster_in_another_crs(tmp_path: Path) -> None:
    """Each pixel gets the raster's value at its centre."""
    left, bottom, right, top = rasterio.warp.transform_bounds(UTM, 4326, *_bounds(NORTH_UP))
    size = (right - left) / 9
    grid = Grid(int((top - bottom) / size) + 2, 10, Affine(size, 0, left, 0, -size, top), CRS.from_epsg(4326))
    values = np.random.default_rng(0).integers(1, 4, (grid.height, grid.width)).astype(np.uint8)
    write_raster(tmp_path / "labels.tif", values, grid)
    got = image(read_labels(tmp_path / "labels.tif", NORTH_UP), NORTH_UP)
    r, c = np.mgrid[: NORTH_UP.height, : NORTH_UP.width] + 0.5
    xs, ys = NORTH_UP.transform @ (c.ravel(), r.ravel())
    lon, lat = rasterio.warp.transform(UTM, 4326, xs, ys)
    rows = ((top - np.array(lat)) / size).astype(int)
    cols = ((np.array(lon) - left) / size).astype(int)
    assert np.array_equal(got.ravel(), values[rows, cols])


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    xs, ys = zip(*grid.corners(), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def test_windows_without_labels_are_skipped(tmp_path: Path) -> None:
    x, y = NORTH_UP.pixel_to_map(25, 25)
    frame = gpd.GeoDataFrame({"class": ["a", "b"]}, geometry=[shapely.box(x, y, x + 40, y + 40)] * 2, crs=UTM)
    frame.to_file(tmp_path / "labels.gpkg")
    with open_labels(tmp_path / "labels.gpkg", NORTH_UP) as source:
        kept = list(source.windows([Window(0, 0, 20, 20), Window(20, 20, 20, 20), Window(40, 40, 20, 20)]))
    assert kept == [Window(20, 20, 20, 20)]


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"id": [1, 2], "class": ["a", "b"]}, ("a", "b")),
        ({"id": [1, 2], "Class_Name": ["a", "b"], "area": [1.5, 2.5]}, ("a", "b")),
        ({"lc_id": [4, 5], "lc_name": ["wood", "road"]}, ("road", "wood")),
        ({"anything": ["x", "y"]}, ("x", "y")),
        ({"class": [3, 8]}, ("class 3", "class 8")),
        ({"class": [0, 8]}, ("class 8",)),
        ({"class": [10, 3000]}, ("class 10", "class 3000")),
        ({"class": ["10", "2"]}, ("class 2", "class 10")),
        ({"class": ["0", "311"]}, ("class 311",)),
        ({"class": ["10", "2a"]}, ("10", "2a")),
        ({"class": [" a", "b "], "note": ["", ""]}, ("a", "b")),
    ],
)
def test_default_class_field_and_values(
    columns: dict[str, Any], chosen: tuple[str, ...], tmp_path: Path
) -> None:
    x, y = NORTH_UP.pixel_to_map(10, 10)
    boxes = [shapely.box(x, y, x + 50, y + 50), shapely.box(x + 100, y, x + 150, y + 50)]
    gpd.GeoDataFrame(columns, geometry=boxes, crs=UTM).to_file(tmp_path / "labels.gpkg")
    assert read_labels(tmp_path / "labels.gpkg", NORTH_UP).legend.names == chosen


def test_skipped_classes_are_gone_and_unknown_ones_noted(tmp_path: Path) -> None:
    blobs(NORTH_UP).to_file(tmp_path / "labels.gpkg")
    table = read_labels(tmp_path / "labels.gpkg", NORTH_UP, skip_classes=("soil",))
    assert table.legend.names == ("Forest", "water")
    assert set(table.classes.tolist()) == set(table.legend.ids)
    assert table.absent == ()
    table = read_labels(tmp_path / "labels.gpkg", NORTH_UP, skip_classes=("sand", "soil"))
    assert table.legend.names == ("Forest", "water")
    assert table.absent == ("sand",)
    with pytest.raises(LabelError, match="no pixel with a class that is not skipped"):
        read_labels(tmp_path / "labels.gpkg", NORTH_UP, skip_classes=("Forest", "soil", "water"))


def _frame(**columns: Any) -> gpd.GeoDataFrame:
    x, y = NORTH_UP.pixel_to_map(10, 10)
    boxes = [shapely.box(x, y, x + 50, y + 50), shapely.box(x + 100, y, x + 150, y + 50)]
    return gpd.GeoDataFrame(columns or {"class": ["a", "b"]}, geometry=boxes, crs=UTM)


def _write_bad(kind: str, folder: Path) -> Path:
    path = folder / "labels.gpkg"
    if kind == "missing":
        return folder / "none.shp"
    if kind == "text":
        path.write_text("not a data set")
    elif kind == "no crs":
        _frame().set_crs(None, allow_override=True).to_file(folder / "labels.shp")
        (folder / "labels.prj").unlink(missing_ok=True)
        return folder / "labels.shp"
    elif kind == "elsewhere":
        frame = _frame()
        frame.geometry = frame.translate(100_000, 0)
        frame.to_file(path)
    elif kind == "nearby":
        frame = _frame()
        frame.geometry = frame.translate(0, 300)
        frame.to_file(path)
    elif kind == "lines":
        frame = _frame()
        frame.geometry = frame.boundary
        frame.to_file(path)
    elif kind == "empty":
        _frame().iloc[:0].to_file(path)
    elif kind == "claimed twice":
        frame = _frame()
        frame.geometry = [frame.geometry[0]] * 2
        frame.to_file(path)
    elif kind == "no class values":
        _frame(**{"class": [None, " "]}).to_file(path)
    elif kind == "fractions":
        _frame(**{"class": [1.5, 2.0]}).to_file(path)
    elif kind == "unclear":
        _frame(species=["a", "b"], owner=["x", "y"]).to_file(path)
    elif kind == "image":
        path = folder / "image.tif"
        values = np.random.default_rng(0).integers(0, 60_000, (60, 80)).astype(np.uint16)
        write_raster(path, values, NORTH_UP)
    elif kind == "raster elsewhere":
        path = folder / "far.tif"
        write_raster(path, np.ones((60, 80), np.uint8), NORTH_UP.cropped(Window(500, 500, 60, 80)))
    elif kind == "raster of zeros":
        path = folder / "zeros.tif"
        write_raster(path, np.zeros((60, 80), np.uint8), NORTH_UP)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "does not exist"),
        ("text", "neither a vector file nor a raster"),
        ("no crs", "no coordinate reference system"),
        ("elsewhere", "outside the images"),
        ("nearby", "outside the images"),
        ("lines", "LineString"),
        ("empty", "no features"),
        ("claimed twice", "more than one class"),
        ("no class values", "has a class"),
        ("fractions", "fractions"),
        ("unclear", "species, owner"),
        ("image", "values"),
        ("raster elsewhere", "outside the images"),
        ("raster of zeros", "no labelled pixel"),
    ],
)
def test_unusable_label_files_say_why(kind: str, says: str, tmp_path: Path) -> None:
    path = _write_bad(kind, tmp_path)
    with pytest.raises(LabelError) as caught:
        read_labels(path, NORTH_UP)
    assert says in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_field_lists_the_fields(tmp_path: Path) -> None:
    _frame(kind=["a", "b"], owner=["x", "y"]).to_file(tmp_path / "labels.gpkg")
    with pytest.raises(LabelError, match="'clas'") as caught:
        read_labels(tmp_path / "labels.gpkg", NORTH_UP, class_field="clas")
    assert "kind, owner" in str(caught.value)
    assert read_labels(tmp_path / "labels.gpkg", NORTH_UP, class_field="Kind").legend.names == ("a", "b")


def test_very_large_classes_are_thinned_evenly_and_rare_ones_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.ones((60, 80), np.uint8)
    values[30, ::4] = 2
    write_raster(tmp_path / "labels.tif", values, NORTH_UP)
    thin = labels_module.Thinning(limit=1000)
    for row in range(0, 60, 20):
        thin.add(Window(row, 0, 20, 80), values[row : row + 20])
    rows, cols, classes = thin.table()
    assert (classes == 2).sum() == 20
    assert 400 < (classes == 1).sum() <= 1000
    # Every quarter of the scene keeps about its share.
    quarters, _, _ = np.histogram2d(rows, cols, bins=2, range=((0, 60), (0, 80)))
    assert quarters.min() > 0.7 * quarters.mean()


def test_labels_of_many_blocks_are_limited_with_rare_classes_first() -> None:
    values = np.ones((400, 400), np.uint8)
    values[::40, ::40] = 2
    values[5, 5] = values[395, 395] = 3
    rows, cols = (a.astype(np.int32) for a in np.nonzero(values))
    legend = Legend.from_names(["grass", "tree", "pond"])
    table = LabelTable(rows, cols, values[rows, cols], legend)
    kept = limit_blocks(table, 10, 100, seed=0)
    blocks = {(r // 10, c // 10) for r, c in zip(kept.rows.tolist(), kept.cols.tolist(), strict=True)}
    assert 90 <= len(blocks) <= 100
    # Whole blocks stay. Both ponds are among them, and about a third of the blocks have trees.
    assert len(kept) == 100 * len(blocks)
    assert kept.counts()["pond"] == 2
    assert kept.counts()["tree"] >= 30
    assert limit_blocks(table, 10, 1600, seed=0) is table


@pytest.mark.parametrize("kind", ["vector", "raster"])
@pytest.mark.parametrize(
    ("scene_lon", "label_crs", "label_lon"),
    [
        (285.0, "EPSG:4326", -75.0),
        (-75.0, "EPSG:4326", 285.0),
        (180.0, "EPSG:4326", -180.0),
        (180.0, "EPSG:32760", None),
        (-180.0, "EPSG:32760", None),
        (180.0, "EPSG:3857", None),
    ],
)
def test_longitudes_in_other_words(
    kind: str, scene_lon: float, label_crs: str, label_lon: float | None, tmp_path: Path
) -> None:
    """Labels in degrees or across 180 degrees, whichever range of longitudes they and the scene use."""
    step = 1e-4
    grid = Grid(60, 80, Affine(step, 0, scene_lon - 40 * step, 0, -step, -17), CRS.from_epsg(4326))
    frame = gpd.GeoDataFrame(
        {"class": [1, 2]},
        geometry=[
            shapely.box(*grid.pixel_to_map(30, 10), *grid.pixel_to_map(10, 70)),
            shapely.box(*grid.pixel_to_map(50, 20), *grid.pixel_to_map(40, 30)),
        ],
        crs=4326,
    )
    expected = np.zeros((60, 80), np.uint8)
    expected[10:30, 10:70], expected[40:50, 20:30] = 1, 2
    if label_lon is not None:
        there = Grid(240, 320, Affine(step / 4, 0, label_lon - 40 * step, 0, -step / 4, -17), grid.crs)
        frame = frame.set_geometry(frame.translate(label_lon - scene_lon))
    else:
        to = Transformer.from_crs("EPSG:4326", label_crs, always_xy=True)
        around = 2 * np.pi * 6_378_137 if label_crs == "EPSG:3857" else 0.0

        def convert(xy: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = to.transform(*xy.T)
            # Beyond the end of the world map x goes on, as in files across 180 degrees.
            return np.stack([np.where((x < 0) & (around > 0), x + around, x), y], axis=1)

        dense = frame.geometry.segmentize(step)
        frame = gpd.GeoDataFrame(
            {"class": [1, 2]}, geometry=shapely.transform(dense.to_numpy(), convert), crs=label_crs
        )
        left, bottom, right, top = frame.total_bounds
        pixel = 2.5
        size = (int((top - bottom) / pixel) + 41, int((right - left) / pixel) + 41)
        there = Grid(
            *size,
            Affine(pixel, 0, left - 20 * pixel, 0, -pixel, top + 20 * pixel),
            CRS.from_string(label_crs),
        )
    path = tmp_path / ("labels.gpkg" if kind == "vector" else "labels.tif")
    if kind == "vector":
        frame.to_file(path)
    else:
        burnt = rasterize(
            zip(frame.geometry, frame["class"], strict=True),
            out_shape=(there.height, there.width),
            transform=there.transform,
            dtype="uint8",
        )
        write_raster(path, burnt, there)
    found = image(read_labels(path, grid), grid)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("first", [-180.0, 0.0])
@pytest.mark.parametrize("crs", ["EPSG:32760", "EPSG:4326"])
def test_raster_around_the_world(crs: str, first: float, tmp_path: Path) -> None:
    """A scene across the seam of a label raster, or across 180 degrees inside it, has labels everywhere."""
    to = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to.transform(180.0, -17.0)
    step = 10.0 if crs == "EPSG:32760" else 1e-4
    grid = Grid(60, 80, Affine(step, 0, x - 40 * step, 0, -step, y + 30 * step), CRS.from_string(crs))
    fine = Grid(10, 360_000, Affine(1e-3, 0, first, 0, -1e-3, -16.995), CRS.from_epsg(4326))
    # The class of each column, a thousandth of a degree wide, follows from its longitude.
    values = (np.arange(360_000) + round(first * 1000)) % 360_000 % 7 + 1
    write_raster(tmp_path / "world.tif", np.tile(values, (10, 1)).astype(np.uint8), fine)
    table = read_labels(tmp_path / "world.tif", grid)
    col, row = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    back = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lon = back.transform(*(grid.transform * (col, row)))[0] % 360
    expected = np.floor(lon * 1000).astype(int) % 7 + 1
    found = image(table, grid)
    assert (found > 0).all()
    # A pixel next to a column's edge may fall on its other side by rounding.
    assert (found == expected).mean() > 0.98


def test_polygons_around_the_world(tmp_path: Path) -> None:
    """Polygons of whole continents: far from the scene, the scene's projection folds over."""
    x, y = Transformer.from_crs(4326, 32631, always_xy=True).transform(3.0, 45.0)
    grid = Grid(40, 50, Affine(30, 0, x - 750, 0, -30, y + 600), CRS.from_epsg(32631))
    frame = gpd.GeoDataFrame(
        {"class": [1, 2, 3]},
        geometry=[
            shapely.box(-180, -85, 3.0, 85),
            shapely.box(3.0, -85, 180, 85),
            shapely.box(-180, -85, 180, 85) - shapely.box(2, 44, 4, 46),
        ],
        crs=4326,
    )
    frame.to_file(tmp_path / "world.gpkg")
    found = image(read_labels(tmp_path / "world.gpkg", grid), grid)
    # 3 degrees east is the zone's middle: grid north.
    assert (found[:, :25] == 1).all()
    assert (found[:, 25:] == 2).all()
