"""The reader against exact footprint averages of a known field: values are right and nothing moves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from synthetic import errors, make_pair, pair_grids, scene_field, shift_between, write_raster

from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.pair import ScenePair, open_pair

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    name: str
    strategy: str
    ratio: float = 4
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    lost: tuple[int, int] = (0, 0)
    """Rows and columns of the MS image that are not in the common grid."""


CASES = [
    Case("nested", "native"),
    Case("nested, PAN starts 3 px in", "native", offset=(3, 3), lost=(1, 1)),
    Case("nested, PAN starts 2 px before", "native", offset=(-2, -2), lost=(1, 1)),
    Case("nested within a hair", "native", offset=(0.004, -0.006)),
    Case("half a PAN pixel", "ms-to-pan-grid", offset=(0.5, -0.5), lost=(1, 1)),
    Case("sub-pixel", "ms-to-pan-grid", offset=(0.3, 1.7), lost=(1, 1)),
    Case("0.02 px off", "ms-to-pan-grid", offset=(0.02, -0.02), lost=(1, 1)),
    Case("ratio 3.99", "ms-to-pan-grid", ratio=3.99, lost=(1, 1)),
    Case("ratio 4.1", "ms-to-pan-grid", ratio=4.1, lost=(0, 0)),
    Case("ratio 2", "pan-to-quarter-ms", ratio=2),
    Case("ratio 2, half a PAN pixel", "pan-to-quarter-ms", ratio=2, offset=(-0.5, -0.5), lost=(1, 1)),
    Case("ratio 3", "pan-to-quarter-ms", ratio=3),
    Case("ratio 3, sub-pixel", "pan-to-quarter-ms", ratio=3, offset=(0.4, -0.7), lost=(1, 1)),
    Case("ratio 5", "pan-to-quarter-ms", ratio=5, offset=(0.25, 0.1), lost=(1, 1)),
    Case("ratio 8", "pan-to-quarter-ms", ratio=8, offset=(0.5, 0.5), lost=(1, 1)),
    Case("rotated, nested", "native", rotation=25),
    Case("rotated, sub-pixel", "ms-to-pan-grid", rotation=25, offset=(0.3, -0.4), lost=(1, 1)),
    Case("rotated, ratio 2", "pan-to-quarter-ms", rotation=-70, ratio=2, offset=(0.5, -0.5), lost=(1, 1)),
    Case("rotated by 90", "pan-to-quarter-ms", rotation=90, ratio=3, offset=(0.2, 0.2), lost=(1, 1)),
    Case("upside down", "ms-to-pan-grid", rotation=180, offset=(0.2, 0.2), lost=(1, 1)),
]


def whole(pair: ScenePair) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    block = pair.read_block(pair.grids.ms.window, 0, 0)
    return block.ms, block.pan


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize(
    "smooth",
    [pytest.param(True, id="smooth"), pytest.param(False, id="detailed", marks=pytest.mark.slow)],
)
def test_footprint_averages(tmp_path: Path, case: Case, smooth: bool) -> None:
    grids = {"ratio": case.ratio, "offset": case.offset, "rotation": case.rotation, "ms_shape": (48, 56)}
    paths = make_pair(tmp_path, **grids, dtype="float32", smooth=smooth)
    ms_grid, _ = pair_grids(**grids)
    field = scene_field(ms_grid, smooth=smooth)
    with open_pair(*paths) as pair:
        assert pair.strategy == case.strategy
        assert pair.ratio == pytest.approx(case.ratio, rel=1e-6)
        if case.strategy != "ms-to-pan-grid" or case.ratio == 4:
            assert (pair.grids.ms.height, pair.grids.ms.width) == (48 - case.lost[0], 56 - case.lost[1])
        ms, pan = whole(pair)
        assert np.isfinite(ms).all()
        assert np.isfinite(pan).all()
        ms_shift = np.array(shift_between(ms, field, pair.grids.ms)) * 4
        pan_shift = np.array(shift_between(pan, field.panchromatic(), pair.grids.pan))
        # Both in PAN pixels of the common grid.
        assert np.abs(ms_shift).max() < 0.02
        assert np.abs(pan_shift).max() < 0.02
        ms_error = errors(ms, field, pair.grids.ms)
        pan_error = errors(pan, field.panchromatic(), pair.grids.pan)
        limit = 0.002 if smooth else 0.02
        assert np.sqrt(np.mean(ms_error**2)) < limit
        assert np.sqrt(np.mean(pan_error**2)) < limit
        # The outermost pixels are partly extrapolated; that must stay small, too.
        assert max(np.abs(ms_error).max(), np.abs(pan_error).max()) < 10 * limit


def test_the_shift_measure_itself(tmp_path: Path) -> None:
    """The measure finds the shift of a PAN file whose transform is moved after it was rendered."""
    paths = make_pair(tmp_path, dtype="float32")
    with rasterio.open(paths[1], "r+") as ds:
        ds.transform = ds.transform * Affine.translation(0.5, -0.25)
    field = scene_field(pair_grids()[0])
    with open_pair(*paths) as pair:
        _, pan = whole(pair)
        shift = shift_between(pan, field.panchromatic(), pair.grids.pan)
    assert shift == pytest.approx((-0.25, 0.5), abs=0.02)


def pan_grid_elsewhere(ms: Grid, crs: str, pixel: float, rotation: float = 0.0) -> Grid:
    """A PAN grid in another CRS at the same place, a bit smaller than MS."""
    target = CRS.from_user_input(crs)
    to = Transformer.from_crs(ms.crs.to_wkt(), target.to_wkt(), always_xy=True)
    x, y = to.transform(*ms.pixel_to_map(ms.height / 2, ms.width / 2))
    n = 180
    turn = Affine.translation(x, y) * Affine.rotation(rotation) * Affine.scale(pixel, -pixel)
    return Grid(n, n, turn * Affine.translation(-n / 2, -n / 2), target)


@pytest.mark.parametrize(
    ("crs", "pixel", "rotation"),
    [
        ("EPSG:32633", 2.0, 0.0),
        ("EPSG:32631", 2.0, 12.0),
        ("EPSG:4326", 2.0 / 90_000, 0.0),
        ("EPSG:3857", 3.0, 0.0),
        ("EPSG:32632", 2.0, 30.0),
    ],
)
def test_other_crs_or_rotation(tmp_path: Path, crs: str, pixel: float, rotation: float) -> None:
    ms_grid, _ = pair_grids()
    pan_grid = pan_grid_elsewhere(ms_grid, crs, pixel, rotation)
    paths = make_pair(tmp_path, pan_grid=pan_grid, dtype="float32")
    field = scene_field(ms_grid)
    with open_pair(*paths) as pair:
        assert pair.strategy == "pan-to-quarter-ms"
        assert pair.grids.ms.crs == ms_grid.crs
        row, col = pair.grids.ms.map_to_pixel(*ms_grid.pixel_to_map(0, 0))
        assert (row, col) == pytest.approx((round(row), round(col)), abs=1e-6)
        assert pair.notices
        block = pair.read_block(pair.grids.ms.window, 0, 0)
        # PAN is turned against MS, so it does not reach some corners of the common grid.
        assert 0.4 < block.valid.mean() < 1.0
        shift = shift_between(block.pan, field.panchromatic(), pair.grids.pan)
        assert np.abs(shift).max() < 0.02
        assert np.sqrt(np.mean(errors(block.pan, field.panchromatic(), pair.grids.pan) ** 2)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0.0, 25.0, -70.0], ids=lambda v: f"turned by {v:g}")
@pytest.mark.parametrize("crs", ["same", "EPSG:32633", "EPSG:4326"])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, -0.5), (0.3, 1.7)], ids=str)
@pytest.mark.parametrize("ratio", [2, 3, 3.99, 4, 5])
def test_nothing_moves_at_any_combination(
    tmp_path: Path, ratio: float, offset: tuple[float, float], crs: str, turn: float
) -> None:
    """All combinations of ratio, offset, CRS of PAN, and turn.

    The turn is that of both images in one CRS, or of MS alone if PAN has another CRS.
    """
    options = {"ms_shape": (36, 40), "ratio": ratio, "offset": offset, "rotation": turn}
    ms_grid, pan_grid = pair_grids(**options)
    if crs != "same":
        target = CRS.from_user_input(crs)
        to = Transformer.from_crs(ms_grid.crs.to_wkt(), target.to_wkt(), always_xy=True)
        x, y = to.transform(*ms_grid.pixel_to_map(18, 20))
        # About 8 m / ratio; a little less along columns if PAN is in degrees.
        step = 8 / ratio / (1 if target.is_projected else 90_000)
        n = round(34 * ratio)
        corner = Affine.translation(x, y) * Affine.scale(step, -step)
        moved = Affine.translation(offset[1] - n / 2, offset[0] - n / 2)
        pan_grid = Grid(n, n, corner * moved, target)
    paths = make_pair(tmp_path, **options, pan_grid=pan_grid, dtype="float32")
    field = scene_field(ms_grid)
    with open_pair(*paths) as pair:
        assert pair.grids.ms.crs == ms_grid.crs
        block = pair.read_block(pair.grids.ms.window, 0, 0)
        assert np.isfinite(block.pan).mean() > 0.4
        ms_shift = np.array(shift_between(block.ms, field, pair.grids.ms)) * 4
        pan_shift = np.array(shift_between(block.pan, field.panchromatic(), pair.grids.pan))
        assert np.abs([ms_shift, pan_shift]).max() < 0.02
        for image, truth, grid in (
            (block.ms, field, pair.grids.ms),
            (block.pan, field.panchromatic(), pair.grids.pan),
        ):
            assert np.sqrt(np.mean(errors(image, truth, grid) ** 2)) < 0.02


def test_valid_where_the_other_image_covers(tmp_path: Path) -> None:
    """Under a turned PAN, centres clearly inside its outline are valid, centres clearly outside are not."""
    ms_grid, _ = pair_grids()
    pan_grid = pan_grid_elsewhere(ms_grid, "EPSG:32633", 2.0, 20.0)
    paths = make_pair(tmp_path, pan_grid=pan_grid, dtype="float32")
    to_pan = Transformer.from_crs("EPSG:32632", "EPSG:32633", always_xy=True)
    with open_pair(*paths) as pair:
        pan = pair.read_block(pair.grids.ms.window, 0, 0).pan[0]
        grid = pair.grids.pan
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    u, v = ~pan_grid.transform * to_pan.transform(*(grid.transform * (col, row)))
    inside_by = np.min([v, u, pan_grid.height - v, pan_grid.width - u], axis=0)
    assert np.isfinite(pan[inside_by > 0.75]).all()
    assert np.isnan(pan[inside_by < 0.4]).all()


def test_two_names_of_one_crs_stay_native(tmp_path: Path) -> None:
    """ETRS89 UTM and WGS 84 UTM coincide for PROJ, so nothing is resampled."""
    ms_grid, pan_grid = pair_grids()
    other = Grid(pan_grid.height, pan_grid.width, pan_grid.transform, CRS.from_epsg(25832))
    with open_pair(*make_pair(tmp_path, pan_grid=other)) as pair:
        assert pair.strategy == "native"
        assert pair.grids.ms.crs == ms_grid.crs


def turned_file(path: Path, flip_rows: bool, flip_cols: bool) -> None:
    """Rewrite a raster south-up and/or mirrored: the same ground in the same place."""
    with rasterio.open(path) as ds:
        values, transform = ds.read(), ds.transform
        grid = Grid(ds.height, ds.width, transform, ds.crs)
    if flip_rows:
        values, transform = values[:, ::-1], transform * Affine(1, 0, 0, 0, -1, grid.height)
    if flip_cols:
        values, transform = values[:, :, ::-1], transform * Affine(-1, 0, grid.width, 0, 1, 0)
    write_raster(path, values, Grid(grid.height, grid.width, transform, grid.crs))


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["ms", "pan", "both"])
@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_south_up_and_mirrored(
    tmp_path: Path, which: tuple[int, ...], flips: tuple[bool, bool], rotation: float
) -> None:
    paths = make_pair(tmp_path, dtype="float32", ms_shape=(20, 24), rotation=rotation)
    with open_pair(*paths) as pair:
        ms, pan = whole(pair)
        grid = pair.grids.ms
    for n in which:
        turned_file(paths[n], *flips)
    with open_pair(*paths) as pair:
        assert pair.strategy == "native"
        assert np.allclose(list(pair.grids.ms.transform), list(grid.transform), atol=1e-6)
        np.testing.assert_array_equal(whole(pair)[0], ms)
        np.testing.assert_array_equal(whole(pair)[1], pan)


def test_pixel_is_point(tmp_path: Path) -> None:
    """A pixel-is-point GeoTIFF stores pixel centres, but GDAL's transform still refers to corners."""
    area, point = tmp_path / "area", tmp_path / "point"
    area.mkdir(), point.mkdir()
    make_pair(area, dtype="float32")
    make_pair(point, dtype="float32")
    for name in ("ms.tif", "pan.tif"):
        with rasterio.open(area / name) as ds:
            values, profile = ds.read(), ds.profile
        with rasterio.open(point / name, "w", **profile) as ds:
            ds.update_tags(AREA_OR_POINT="Point")
            ds.write(values)
    with (
        open_pair(area / "ms.tif", area / "pan.tif") as one,
        open_pair(point / "ms.tif", point / "pan.tif") as two,
    ):
        assert one.grids == two.grids
        assert two.strategy == "native"
        np.testing.assert_array_equal(whole(one)[0], whole(two)[0])
    # Mixed: the stored tie points differ by half of each file's pixel, the ground does not.
    with open_pair(area / "ms.tif", point / "pan.tif") as pair:
        assert pair.strategy == "native"


def test_non_square_pixels(tmp_path: Path) -> None:
    ms = Grid(40, 40, Affine(10.0, 0, 5e5, 0, -8.0, 5.6e6), CRS.from_epsg(32632))
    pan = Grid(120, 120, ms.transform * Affine.scale(1 / 3), ms.crs)
    field = scene_field(ms)
    write_raster(tmp_path / "ms.tif", field.render(ms), ms)
    write_raster(tmp_path / "pan.tif", field.panchromatic().render(pan), pan)
    with open_pair(tmp_path / "ms.tif", tmp_path / "pan.tif") as pair:
        assert pair.ms_gsd_m == pytest.approx(80**0.5)
        assert np.abs(shift_between(whole(pair)[1], field.panchromatic(), pair.grids.pan)).max() < 0.02


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("ratio", "offset"), [(2, (0.5, -0.5)), (4, (0.3, 1.7)), (3.99, (0.0, 0.0))])
def test_turned_files_that_are_resampled(
    tmp_path: Path, flips: tuple[bool, bool], ratio: float, offset: tuple[float, float]
) -> None:
    """South-up and mirrored files give the same values as upright ones, also if an image is resampled."""
    options = {"ratio": ratio, "offset": offset, "ms_shape": (20, 24), "dtype": "float32"}
    plain, turned = tmp_path / "plain", tmp_path / "turned"
    plain.mkdir(), turned.mkdir()
    with open_pair(*make_pair(plain, **options)) as pair:
        expected, grid = whole(pair), pair.grids.ms
    for which in ((0,), (1,), (0, 1)):
        paths = make_pair(turned, **options)
        for n in which:
            turned_file(paths[n], *flips)
        with open_pair(*paths) as pair:
            assert np.allclose(list(pair.grids.ms.transform), list(grid.transform), atol=1e-6)
            for found, truth in zip(whole(pair), expected, strict=True):
                np.testing.assert_allclose(found, truth, rtol=2e-6)


@pytest.mark.parametrize("ratio", [2, 4])
def test_pixel_is_point_and_pixel_is_area_together(tmp_path: Path, ratio: float) -> None:
    """A PAN file that stores its first pixel's centre in place of the corner still shows the same ground."""
    ms, pan = make_pair(tmp_path, ratio=ratio, offset=(0.5, 0.25), dtype="float32")
    with rasterio.open(pan) as ds:
        values, profile = ds.read(), ds.profile
    with rasterio.open(pan, "w", **profile) as ds:
        ds.update_tags(AREA_OR_POINT="Point")
        ds.write(values)
    assert b"\x01\x04\x00\x00\x01\x00\x02\x00" in pan.read_bytes(), "GTRasterTypeGeoKey: point"
    with open_pair(ms, pan) as pair:
        field = scene_field(pair_grids(ratio=ratio)[0])
        block = whole(pair)
        assert np.abs(shift_between(block[0], field, pair.grids.ms)).max() * 4 < 0.02
        assert np.abs(shift_between(block[1], field.panchromatic(), pair.grids.pan)).max() < 0.02


def test_geographic_pair(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, crs="EPSG:4326", ms_gsd=0.0003, origin=(9.0, 50.0), dtype="float32")
    with open_pair(*paths) as pair:
        assert pair.strategy == "native"
        # Lengths of a degree at 50° N on the WGS 84 ellipsoid: 111229 m of latitude, 71696 m of longitude.
        assert pair.ms_gsd_m == pytest.approx(0.0003 * (111_229 * 71_696) ** 0.5, rel=1e-3)
        assert pair.pan_gsd_m == pytest.approx(pair.ms_gsd_m / 4, rel=1e-4)


def test_web_mercator_is_measured_on_the_ground(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, crs="EPSG:3857", ms_gsd=10.0, origin=(1e6, 6_446_275.84))
    with open_pair(*paths) as pair:
        # Web Mercator's scale at 50° N is about 1 / cos(50°); the ellipsoid makes it a little smaller.
        assert pair.ms_gsd_m == pytest.approx(10 * np.cos(np.radians(50)), rel=5e-3)


def test_resampled_pan_averages_to_the_source(tmp_path: Path) -> None:
    """Quarters of a ratio-2 PAN pixel average to exactly that pixel: nothing gained or lost."""
    paths = make_pair(tmp_path, ratio=2, dtype="float32")
    with rasterio.open(paths[1]) as ds:
        source = ds.read(1)
    with open_pair(*paths) as pair:
        pan = whole(pair)[1][0]
    means = pan.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(means, source, rtol=1e-5)


RESAMPLED = {
    "ms-to-pan": {"offset": (0.3, -0.4)},
    "ratio 2": {"ratio": 2, "offset": (0.5, -0.5)},
    "ratio 5": {"ratio": 5},
    "rotated": {
        "pan_grid": Grid(200, 190, Affine(1.9, 0.3, 500_030.0, 0.3, -1.9, 5_599_950.0), CRS.from_epsg(32632))
    },
    "other crs": {"pan_grid": pan_grid_elsewhere(pair_grids()[0], "EPSG:32633", 2.0)},
}


@pytest.mark.parametrize("case", RESAMPLED, ids=str)
def test_any_block_gives_the_same(tmp_path: Path, case: str) -> None:
    """Windows of many sizes, in any order and with nodata inside, give equal values to the last bit."""
    hole = (slice(20, 30), slice(33, 40))
    paths = make_pair(tmp_path, **RESAMPLED[case], nodata=0, ms_invalid=[hole], pan_invalid=[hole])
    rng = np.random.default_rng(1)
    with open_pair(*paths) as pair:
        height, width = pair.grids.ms.height, pair.grids.ms.width
        ms, pan = whole(pair)
        assert np.isnan(ms).any()
        assert np.isnan(pan).any()
        for _ in range(40):
            r, c = int(rng.integers(height)), int(rng.integers(width))
            h, w = int(rng.integers(1, height - r + 1)), int(rng.integers(1, width - c + 1))
            block = pair.read_block(Window(r, c, h, w), 0, 0)
            np.testing.assert_array_equal(block.ms, ms[:, r : r + h, c : c + w])
            np.testing.assert_array_equal(block.pan, pan[:, 4 * r : 4 * (r + h), 4 * c : 4 * (c + w)])
