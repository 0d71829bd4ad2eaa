from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from maps import AWKWARD_LEGEND, GEOGRAPHIC, ROTATED, UTM, patchy_classes, write_map
from rasterio.crs import CRS

from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend
from das2f_map.products import map_figure as module
from das2f_map.products.map_figure import ground_of, read_at_a_glance, round_length
from das2f_map.scene.grid import Grid
from das2f_map.workflows.preview import preview

CLASSES = patchy_classes(97, 130, AWKWARD_LEGEND.ids[:-1], seed=1)
FEET = Grid(97, 130, Affine(500.0, 0, 1_200_000, 0, -500.0, 700_000), CRS.from_epsg(2263))
POLAR = Grid(97, 130, Affine(1000.0, 0, 1_000_000, 0, -1000.0, 2_500_000), CRS.from_epsg(3413))
WEB = Grid(97, 130, Affine(30.0, 0, 900_000, 0, -30.0, 8_000_000), CRS.from_epsg(3857))
RED = (255, 0, 0, 255)
GRIDS = {
    "utm": UTM,
    "geographic": GEOGRAPHIC,
    "rotated": ROTATED,
    "feet": FEET,
    "polar": POLAR,
    "web mercator": WEB,
}


def pixels(path: Path) -> np.ndarray:
    """uint8 (h, w, 3)."""
    return (matplotlib.image.imread(path)[..., :3] * 255).round().astype(np.uint8)


def share_of(image: np.ndarray, color: str) -> float:
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return float((image == rgb).all(axis=-1).mean())


@pytest.mark.parametrize("name", GRIDS)
def test_draws_every_class_that_occurs_in_its_colour(tmp_path: Path, name: str) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES, grid=GRIDS[name])
    assert preview(path, tmp_path / "m.png", title="Title", dpi=80) == tmp_path / "m.png"
    image = pixels(tmp_path / "m.png")
    shown = {c.id: share_of(image, c.color) for c in AWKWARD_LEGEND.each()}
    assert shown[9] == 0
    total = sum(shown.values())
    assert total > 0.15
    for i, share in shown.items():
        assert share / total == pytest.approx((i == CLASSES).sum() / (CLASSES > 0).sum(), abs=0.03)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.png", "m.tif", "m.tif.aux.xml"]


def test_legend_has_names_and_shares_of_classes_that_occur(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES)
    glance = module.read_at_a_glance(path, 10**6)
    classes, grid, full = glance.classes, glance.grid, glance.full
    shares = {i: float((i == CLASSES).sum() / (CLASSES > 0).sum()) for i in (1, 2, 3, 5)}
    figure = module.draw_map(classes, grid, full, AWKWARD_LEGEND, shares, "A title")
    texts = [t.get_text() for axes in figure.axes for t in axes.texts] + [t.get_text() for t in figure.texts]
    assert {"Wald", "Wald 2", "Straße / Weg", "no data", "N", "A title"} <= set(texts)
    assert "wald" not in texts
    assert {f"{s:.1%}" for s in shares.values()} <= set(texts)
    assert "WGS 84 / UTM zone 33N (EPSG:32633)" in texts


@pytest.mark.parametrize("name", GRIDS)
def test_scale_bar_is_right_on_the_ground(tmp_path: Path, name: str) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES, grid=GRIDS[name])
    glance = module.read_at_a_glance(path, 10**6)
    classes, grid, full = glance.classes, glance.grid, glance.full
    figure = module.draw_map(classes, grid, full, AWKWARD_LEGEND, {1: 1.0}, None)
    map_axes, paper = figure.axes
    texts = [t.get_text() for t in paper.texts]
    (label,) = (t for t in texts if t.endswith((" km", " m")) and "pixels" not in t)
    metres = float(label.split()[0]) * (1000 if label.endswith("km") else 1)
    boxes = [p for p in paper.patches if hasattr(p, "get_height") and abs(p.get_height() - 0.07) < 1e-9]
    inches = sum(b.get_width() for b in boxes)
    # The ground distance of as many inches in the middle of the map, by PROJ and geodesics.
    left, right = map_axes.get_xlim()
    bottom, top = map_axes.get_ylim()
    width, height = figure.get_size_inches()
    box = map_axes.get_position()
    crs = pyproj.CRS.from_wkt(full.crs.to_wkt())
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    cx, cy = (left + right) / 2, (bottom + top) / 2

    def ground(dx: float, dy: float) -> float:
        a, b = to_degrees.transform(cx - dx / 2, cy - dy / 2), to_degrees.transform(cx + dx / 2, cy + dy / 2)
        return crs.get_geod().inv(*a, *b)[2]

    assert ground(inches / (box.width * width) * (right - left), 0) == pytest.approx(metres, rel=0.005)
    # And the map is not stretched: upwards it is the same.
    assert ground(0, inches / (box.height * height) * (top - bottom)) == pytest.approx(metres, rel=0.01)
    assert inches < 0.34 * box.width * width


def test_north_is_true_north() -> None:
    assert ground_of(UTM).north == pytest.approx(0, abs=0.001)
    # On a polar map with its axis along 45° W, north is towards the pole.
    x, y = POLAR.pixel_to_map(POLAR.height / 2, POLAR.width / 2)
    assert np.sin(ground_of(POLAR).north) == pytest.approx(-x / np.hypot(x, y), abs=1e-3)
    assert np.cos(ground_of(POLAR).north) == pytest.approx(-y / np.hypot(x, y), abs=1e-3)


def test_rotated_map_is_turned_the_right_way() -> None:
    image = np.full((60, 60, 4), 255, dtype=np.uint8)
    image[:10, :10] = RED  # the first pixel's corner
    grid = Grid(60, 60, Affine.translation(5e5, 5e6) * Affine.rotation(45) * Affine.scale(30, -30), UTM.crs)
    image, (left, bottom, right, top) = module.north_up(image, grid)
    x, y = grid.pixel_to_map(5, 5)
    row = int((top - y) / (top - bottom) * image.shape[0])
    col = int((x - left) / (right - left) * image.shape[1])
    assert tuple(image[row, col]) == RED
    assert image[0, 0, 3] == 0


def test_foreign_raster_without_names(tmp_path: Path) -> None:
    path = tmp_path / "f.tif"
    profile = {"driver": "GTiff", "width": 40, "height": 30, "count": 1, "dtype": "int16", "nodata": -1}
    values = np.full((30, 40), 4, dtype=np.int16)
    values[:5] = -1
    values[10:, :20] = 7
    with rasterio.open(path, "w", crs=UTM.crs, transform=UTM.transform, **profile) as d:
        d.write(values, 1)
    preview(path, tmp_path / "f.png", dpi=60)
    legend = Legend.from_names(["class 4", "class 7"], [4, 7])
    image = pixels(tmp_path / "f.png")
    assert all(share_of(image, c.color) > 0.1 for c in legend.each())


@pytest.mark.parametrize("value", [0, 1])
def test_map_of_one_value(tmp_path: Path, value: int) -> None:
    path = write_map(tmp_path / "m.tif", np.full((300, 4), value, dtype=np.uint8))
    preview(path, tmp_path / "m.png", dpi=50)
    assert (share_of(pixels(tmp_path / "m.png"), AWKWARD_LEGEND[1].color) > 0.01) == bool(value)


def test_large_maps_are_read_small(tmp_path: Path) -> None:
    classes = np.kron(patchy_classes(40, 60, (1, 2, 3)), np.ones((32, 32), dtype=np.uint8))
    path = write_map(tmp_path / "m.tif", classes, block=512)
    glance = module.read_at_a_glance(path, 60_000)
    small, grid, full = glance.classes, glance.grid, glance.full
    assert small.size <= 60_000
    assert (full.height, full.width) == classes.shape
    assert grid.corners() == pytest.approx(np.array(full.corners()))
    rows = ((np.arange(grid.height) + 0.5) * full.height / grid.height).astype(int)
    cols = ((np.arange(grid.width) + 0.5) * full.width / grid.width).astype(int)
    assert (small == classes[np.ix_(rows, cols)]).mean() > 0.95


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.tif", CLASSES)
    with pytest.raises(InputError, match=r"no\.tif does not exist"):
        preview(tmp_path / "no.tif", tmp_path / "m.png")
    with pytest.raises(OutputError, match=r"output folder .*no does not exist"):
        preview(path, tmp_path / "no" / "m.png", dpi=40)
    preview(path, tmp_path / "m.png", dpi=40)
    with pytest.raises(OutputError, match="exists already"):
        preview(path, tmp_path / "m.png", dpi=40)
    preview(path, tmp_path / "m.png", dpi=40, overwrite=True)
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "rgb.tif", "w", crs=UTM.crs, transform=UTM.transform, **profile):
        pass
    with pytest.raises(InputError, match="has 3 bands"):
        preview(tmp_path / "rgb.tif", tmp_path / "m.png")


def test_round_length() -> None:
    assert [round_length(x) for x in (1, 1.9, 2, 4.99, 5, 9, 10, 0.3, 7321)] == [
        1,
        1,
        2,
        2,
        5,
        5,
        10,
        0.2,
        5000,
    ]


@pytest.mark.parametrize("shape", [(40, 2**31 - 1), (2**31 - 1, 40)])
def test_a_strip_of_two_milliard_pixels(shape: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "strip.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}"><SRS>EPSG:32616</SRS>'
        "<GeoTransform>0,0.001,0,0,0,-0.001</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    glance = read_at_a_glance(path, 10_000)
    grid, full = glance.grid, glance.full
    assert (full.height, full.width) == shape
    assert glance.classes.size <= 10_000
    assert grid.height * grid.transform.e == pytest.approx(full.height * full.transform.e)
    assert preview(path, tmp_path / "p.png", max_pixels=10_000).exists()
