"""Tests of opening a pair, of reading its blocks, and of the pairs that are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from synthetic import make_pair, pair_grids, write_raster

from das2f_map.errors import InputError
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.pair import open_pair
from das2f_map.scene.source import RasterSource

HALOS = [(0, 0), (7, 8), (1, 0), (13, 2), (40, 25)]


@pytest.mark.parametrize("halo", HALOS, ids=str)
@pytest.mark.parametrize("grid", [{}, {"offset": (0.4, -0.3)}, {"ratio": 2, "offset": (0.5, 0.5)}], ids=str)
def test_halo_is_numpys_reflection(tmp_path: Path, halo: tuple[int, int], grid: dict[str, object]) -> None:
    """MS is reflected at MS scale and PAN at PAN scale, also with halos larger than the scene."""
    with open_pair(*make_pair(tmp_path, ms_shape=(14, 11), **grid)) as pair:
        whole = pair.read_block(pair.grids.ms.window, 0, 0)
        before, after = halo
        ms = np.pad(whole.ms, ((0, 0), halo, halo), mode="reflect")
        fine = (4 * before, 4 * after)
        pan = np.pad(whole.pan, ((0, 0), fine, fine), mode="reflect")
        for window in (pair.grids.ms.window, Window(0, 0, 1, 1), Window(5, 2, 4, 7), Window(9, 8, 2, 1)):
            block = pair.read_block(window, before, after)
            rows = slice(window.row, window.row_stop + before + after)
            cols = slice(window.col, window.col_stop + before + after)
            np.testing.assert_array_equal(block.ms, ms[:, rows, cols])
            fine_rows, fine_cols = (slice(4 * s.start, 4 * s.stop) for s in (rows, cols))
            np.testing.assert_array_equal(block.pan, pan[:, fine_rows, fine_cols])
            assert block.ms.dtype == block.pan.dtype == np.float32
            assert block.valid.shape == (window.height, window.width)


def test_a_scene_of_one_pixel(tmp_path: Path) -> None:
    with open_pair(*make_pair(tmp_path, ms_shape=(1, 1))) as pair:
        block = pair.read_block(Window(0, 0, 1, 1), 7, 8)
    assert block.ms.shape == (4, 16, 16)
    assert (block.ms == block.ms[:, :1, :1]).all()


def test_only_what_is_needed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, Window]] = []
    original = RasterSource.read

    def spy(self: RasterSource, window: Window) -> np.ndarray:
        read.append((self.role, window))
        return original(self, window)

    monkeypatch.setattr(RasterSource, "read", spy)
    with open_pair(*make_pair(tmp_path, bands=1)) as pair:
        assert read == []
        pair.read_block(Window(0, 30, 4, 4), 7, 8)
        # Above the scene the halo repeats rows 1 to 7, which are read anyway.
        assert read == [("MS", Window(0, 23, 12, 19)), ("PAN", Window(0, 92, 48, 76))]
    read.clear()
    with open_pair(*make_pair(tmp_path, bands=1, ratio=2)) as pair:
        pair.read_block(Window(30, 30, 4, 4), 7, 8)
    (_, ms), (_, pan) = read
    assert ms == Window(23, 23, 19, 19)
    assert (pan.height, pan.width) == (2 * 19 + 28, 2 * 19 + 28)


@pytest.mark.parametrize(
    ("window", "halo"),
    [
        (Window(0, 0, 0, 4), (0, 0)),
        (Window(-1, 0, 4, 4), (0, 0)),
        (Window(60, 60, 8, 8), (0, 0)),
        (Window(0, 0, 4, 4), (-1, 0)),
    ],
)
def test_bad_windows(tmp_path: Path, window: Window, halo: tuple[int, int]) -> None:
    with open_pair(*make_pair(tmp_path, bands=1)) as pair, pytest.raises(ValueError, match=r"grid|halo"):
        pair.read_block(window, *halo)


def test_native_values_are_the_files(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, offset=(-2, 3))
    with rasterio.open(paths[0]) as ms, rasterio.open(paths[1]) as pan, open_pair(*paths) as pair:
        assert pair.strategy == "native"
        block = pair.read_block(Window(10, 20, 5, 6), 0, 0)
        x, y = pair.grids.ms.pixel_to_map(10, 20)
        row, col = _pixel(ms.transform, x, y)
        np.testing.assert_array_equal(block.ms, ms.read()[:, row : row + 5, col : col + 6])
        row, col = _pixel(pan.transform, x, y)
        np.testing.assert_array_equal(block.pan, pan.read()[:, row : row + 20, col : col + 24])


def _pixel(transform: Affine, x: float, y: float) -> tuple[int, int]:
    col, row = ~transform * (x, y)
    assert (row, col) == pytest.approx((round(row), round(col)), abs=1e-6)
    return round(row), round(col)


def test_what_a_pair_tells(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, ratio=3, dtype="int16", bands=3)
    with open_pair(*paths) as pair:
        assert (pair.ms_path, pair.pan_path) == tuple(map(str, paths))
        assert pair.ms_band_names == ("blue", "green", "red")
        assert pair.ms_band_count == 3
        assert pair.ms_dtype == "int16"
        assert (pair.ms_gsd_m, pair.pan_gsd_m) == pytest.approx((8.0, 8.0 / 3))
        assert pair.ratio == pytest.approx(3)
        assert "3 times finer" in pair.notices[0]
        told = json.loads(pair.report().model_dump_json())
    assert told["strategy"] == "pan-to-quarter-ms"
    assert told["common_grid"]["crs"] == "EPSG:32632"
    assert told["pan"]["height"] == 192


def test_feet_are_metres(tmp_path: Path) -> None:
    with open_pair(*make_pair(tmp_path, crs="EPSG:2263", ms_gsd=20.0, origin=(1e6, 2e5))) as pair:
        assert pair.ms_gsd_m == pytest.approx(20 * 1200 / 3937)


# Nodata


def test_nodata_of_each_file(tmp_path: Path) -> None:
    """A target is valid if it is valid in all MS bands and all of its 16 PAN pixels are valid."""
    ms_path, pan_path = make_pair(
        tmp_path,
        nodata=0,
        ms_invalid=[(slice(3, 5), slice(6, 7))],
        pan_invalid=[(slice(81, 82), slice(43, 45))],
    )
    with rasterio.open(ms_path, "r+") as ds:
        ds.write(np.zeros((1, 1), np.uint16), 2, window=rasterio.windows.Window(30, 40, 1, 1))
    with open_pair(ms_path, pan_path) as pair:
        block = pair.read_block(pair.grids.ms.window, 0, 0)
    expected = np.ones((64, 64), bool)
    expected[3:5, 6] = expected[20, 10] = expected[20, 11] = expected[40, 30] = False
    np.testing.assert_array_equal(block.valid, expected)
    assert np.isnan(block.ms[1, 40, 30])
    assert np.isfinite(block.ms[0, 40, 30])
    assert np.isnan(block.pan).sum() == 2


@pytest.mark.parametrize("value", [70_000, -1, 1.5, float("nan"), float("inf")])
def test_nodata_that_a_type_cannot_hold(tmp_path: Path, value: float) -> None:
    ms, pan = make_pair(tmp_path, dtype="uint16", ms_shape=(16, 16))
    with pytest.raises(
        InputError, match=r"neither MS .*ms.tif \(uint16\) nor PAN .*pan.tif \(uint16\)"
    ) as caught:
        open_pair(ms, pan, nodata=value)
    assert f"the nodata value {value:g}" in caught.value.message
    assert "\n" not in caught.value.message
    with rasterio.open(ms) as ds:
        values, grid = ds.read().astype(float), Grid(ds.height, ds.width, ds.transform, ds.crs)
    values[:, 3, 4] = value
    floats = write_raster(tmp_path / "floats.tif", values, grid)
    with open_pair(floats, pan, nodata=value) as pair:
        assert pair.notices[-1] == (
            f"--nodata {value:g} has no effect on PAN {pan}: its uint16 values cannot be that"
        )
        assert pair.report().nodata_notices == [pair.notices[-1]]
        valid = pair.read_block(pair.grids.ms.window, 0, 0).valid
    assert np.argwhere(~valid).tolist() == [[3, 4]]


@pytest.mark.parametrize("value", [0, 65_535])
def test_nodata_that_a_type_can_hold(tmp_path: Path, value: float) -> None:
    with open_pair(*make_pair(tmp_path, dtype="uint16", ms_shape=(16, 16)), nodata=value) as pair:
        assert pair.notices == ()


@pytest.mark.parametrize("kind", ["nan", "undeclared nan", "inf", "mask", "alpha"])
def test_ways_to_be_invalid(tmp_path: Path, kind: str) -> None:
    ms_path, pan_path = make_pair(tmp_path, dtype="float32", ms_shape=(16, 16))
    with rasterio.open(ms_path) as ds:
        values, profile = ds.read(), ds.profile
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:6, 9] = 0
    if "nan" in kind or kind == "inf":
        values[:, mask == 0] = np.inf if kind == "inf" else np.nan
        profile["nodata"] = np.nan if kind == "nan" else None
    if kind == "alpha":
        profile.update(dtype="uint16", count=5)
        values = np.concatenate([values, mask[None] * 257.0]).astype("uint16")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(ms_path, "w", **profile) as ds:
        if kind == "alpha":
            ds.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * 3 + [ColorInterp.alpha]
        ds.write(values)
        if kind == "mask":
            ds.write_mask(mask)
    with open_pair(ms_path, pan_path) as pair:
        assert pair.ms_band_count == 4
        block = pair.read_block(pair.grids.ms.window, 0, 0)
    np.testing.assert_array_equal(block.valid, mask > 0)
    np.testing.assert_array_equal(np.isnan(block.ms).all(axis=0), mask == 0)


@pytest.mark.parametrize("kwargs", [{"ratio": 2}, {"offset": (0.4, 0.4)}, {"ratio": 3, "offset": (0.4, 0.4)}])
def test_resampling_has_no_dark_fringe(tmp_path: Path, kwargs: dict[str, object]) -> None:
    """Next to nodata, resampled values are close to values of the same scene without nodata."""
    hole = [(slice(20, 31), slice(17, 40))]
    with open_pair(*make_pair(tmp_path, smooth=True, dtype="float32", **kwargs)) as pair:
        whole = pair.read_block(pair.grids.ms.window, 0, 0)
    with open_pair(
        *make_pair(
            tmp_path, smooth=True, dtype="float32", nodata=0, ms_invalid=hole, pan_invalid=hole, **kwargs
        )
    ) as pair:
        block = pair.read_block(pair.grids.ms.window, 0, 0)
    for clean, holed in ((whole.ms, block.ms), (whole.pan, block.pan)):
        assert 0 < np.isnan(holed).sum() < 0.2 * holed.size
        difference = np.abs(holed - clean)[np.isfinite(holed)]
        assert difference.max() < 0.02 * clean.std()


def test_invalid_footprints_are_invalid(tmp_path: Path) -> None:
    """Ratio 2 with aligned edges: only the quarters of an invalid PAN pixel are lost, no ring around it."""
    hole = [(slice(20, 30), slice(40, 44))]
    with open_pair(*make_pair(tmp_path, ratio=2, nodata=0, pan_invalid=hole)) as pair:
        pan = pair.read_block(pair.grids.ms.window, 0, 0).pan[0]
    expected = np.zeros(pan.shape, bool)
    expected[40:60, 80:88] = True
    np.testing.assert_array_equal(np.isnan(pan), expected)


def test_an_edge_beside_nodata_is_not_thrown_out(tmp_path: Path) -> None:
    """A bright line one pixel from the valid area's border leaves the mean of each border pixel unchanged."""
    ms, pan_path = make_pair(tmp_path, ratio=2, nodata=0, dtype="float32")
    with rasterio.open(pan_path, "r+") as ds:
        values = ds.read()
        values[:] = 100.0
        values[:, :, 1] = 5000.0
        ds.write(values)
    with open_pair(ms, pan_path) as pair:
        pan = pair.read_block(pair.grids.ms.window, 0, 0).pan[0]
    # The line tilts the halves of a border pixel, but by less than a quarter of its height. All rows are
    # equal.
    assert np.abs(pan[:, :2] - 100).max() < 0.25 * 4900
    np.testing.assert_allclose(pan[:, :2].mean(axis=1), 100.0, atol=0.01)
    np.testing.assert_allclose(pan, np.broadcast_to(pan[:1], pan.shape), atol=0.01)


def test_scale_and_offset(tmp_path: Path) -> None:
    ms_path, pan_path = make_pair(tmp_path, nodata=0, ms_invalid=[(slice(0, 1), slice(0, 1))])
    with rasterio.open(ms_path, "r+") as ds:
        ds.scales, ds.offsets = (1e-4, 2e-4, 1e-4, 1e-4), (-0.1, 0.0, 0.0, 0.5)
        raw = ds.read().astype(float)
    with open_pair(ms_path, pan_path) as pair:
        ms = pair.read_block(pair.grids.ms.window, 0, 0).ms
    assert np.isnan(ms[:, 0, 0]).all()
    np.testing.assert_allclose(ms[0, 1:], raw[0, 1:] * 1e-4 - 0.1, rtol=1e-6)
    np.testing.assert_allclose(ms[1, 1:], raw[1, 1:] * 2e-4, rtol=1e-6)
    np.testing.assert_allclose(ms[3, 1:], raw[3, 1:] * 1e-4 + 0.5, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, float("nan")])
def test_a_scale_of_nothing(tmp_path: Path, scale: float) -> None:
    """A file with an unusable scale is refused if that band is read; other bands can be read."""
    paths = make_pair(tmp_path, dtype="uint16", ms_shape=(16, 16))
    with rasterio.open(paths[0], "r+") as ds:
        ds.scales = (1.0, scale, 1.0, 1.0)
    with open_pair(*paths) as pair:
        window = pair.grids.ms.window
        with pytest.raises(
            InputError, match=rf"MS file .*ms.tif states a scale of {scale:g} for band 2 \(green\)"
        ) as e:
            pair.read_block(window, 0, 0)
        assert "\n" not in e.value.message
        others = pair.with_bands([pair.bands[0], pair.bands[2]])
        assert others.read_block(window, 0, 0).valid.all()


# Refused pairs


def rewritten(path: Path, **changes: object) -> None:
    with rasterio.open(path) as ds:
        values, profile = ds.read(), ds.profile
    profile.update(changes)
    path.unlink()
    with rasterio.open(path, "w", **profile) as ds:
        ds.write(values.astype(profile["dtype"]))


def missing(ms: Path, pan: Path) -> None:
    ms.unlink()


def not_a_raster(ms: Path, pan: Path) -> None:
    pan.write_text("no image")


def a_folder(ms: Path, pan: Path) -> None:
    ms.unlink()
    ms.mkdir()


def no_crs(ms: Path, pan: Path) -> None:
    rewritten(ms, crs=None)


def no_georeferencing(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine.identity())


def only_gcps(ms: Path, pan: Path) -> None:
    rewritten(ms, transform=Affine.identity(), crs=None)
    with rasterio.open(ms, "r+") as ds:
        corners = [GroundControlPoint(r, c, 5e5 + 8 * c, 5.6e6 - 8 * r) for r in (0, 64) for c in (0, 64)]
        ds.gcps = corners, CRS.from_epsg(32632)


def only_rpcs(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine.identity(), crs=None)
    with rasterio.open(pan, "r+") as ds:
        line = [0.0, 0.0, 1.0] + [0.0] * 17
        one = [1.0] + [0.0] * 19
        ds.rpcs = RPC(0, 100, 50, 1, one, line, 128, 128, 9, 1, one, line, 128, 128, 1, 1)


def complex_values(ms: Path, pan: Path) -> None:
    rewritten(pan, dtype="complex64")


def elsewhere(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine(2, 0, 7e5, 0, -2, 5.6e6))


def elsewhere_in_another_crs(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine(2, 0, 1e5, 0, -2, 5.6e6), crs=CRS.from_epsg(32650))


def touching_only(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine(2, 0, 5e5 + 8 * 64 - 5, 0, -2, 5.6e6))


def equal_size(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine(8, 0, 5e5, 0, -8, 5.6e6))


def too_fine(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine(0.5, 0, 5e5, 0, -0.5, 5.6e6))


def two_ratios(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine(2, 0, 5e5, 0, -0.8, 5.6e6))


def too_fine_in_another_crs(ms: Path, pan: Path) -> None:
    rewritten(pan, transform=Affine(5e-6, 0, 9.001, 0, -5e-6, 50.549), crs=CRS.from_epsg(4326))


def pan_with_bands(ms: Path, pan: Path) -> None:
    with rasterio.open(pan) as ds:
        values, profile = ds.read(), ds.profile
    profile["count"] = 3
    with rasterio.open(pan, "w", **profile) as ds:
        ds.write(np.repeat(values, 3, axis=0))


def sheared(ms: Path, pan: Path) -> None:
    rewritten(ms, transform=Affine(8, 2, 5e5, 0, -8, 5.6e6))


def metres_as_degrees(ms: Path, pan: Path) -> None:
    rewritten(ms, crs=CRS.from_epsg(4326))


def beyond_the_earth(ms: Path, pan: Path) -> None:
    rewritten(ms, crs=CRS.from_epsg(3857), transform=Affine(8, 0, 5e8, 0, -8, 5.6e6))


def outside_the_projection(ms: Path, pan: Path) -> None:
    # The plane of EPSG:3035 is a disk of 13,000 km around the middle of Europe.
    rewritten(ms, crs=CRS.from_epsg(3035), transform=Affine(8, 0, 3e7, 0, -8, 3e6))


def no_number(ms: Path, pan: Path) -> None:
    rewritten(ms, transform=Affine(8, 0, float("nan"), 0, -8, 5.6e6))


REFUSED = [
    (beyond_the_earth, "MS file .*ms.tif lies nowhere on Earth: .*500,000,000.*EPSG:3857", "gdal_edit"),
    (outside_the_projection, "MS file .*ms.tif lies nowhere on Earth: .*30,000,000.*EPSG:3035", "gdal_edit"),
    (no_number, "MS file .*ms.tif has an unusable geotransform", "gdalinfo"),
    (
        metres_as_degrees,
        "MS file .*ms.tif claims to be in degrees .*: latitude 5,600,000 is none",
        "gdal_edit",
    ),
    (missing, "MS file .*ms.tif does not exist", "path"),
    (not_a_raster, "PAN file .*pan.tif cannot be opened as a raster", "gdalinfo"),
    (a_folder, "MS file .*ms.tif is a folder", "inside"),
    (no_crs, "MS file .*ms.tif has no coordinate reference system", "gdal_edit"),
    (no_georeferencing, "PAN file .*pan.tif has no georeferencing", "gdal_translate"),
    (only_gcps, "MS file .*ms.tif is not rectified: .*control points", "gdalwarp"),
    (only_rpcs, "PAN file .*pan.tif is not rectified: .*RPC", "gdalwarp .*-rpc"),
    (complex_values, "PAN file .*pan.tif has complex values", "intensities"),
    (elsewhere, "do not overlap.*ms.tif.*pan.tif", "same place"),
    (elsewhere_in_another_crs, "do not overlap.*ms.tif.*pan.tif", "same place"),
    (touching_only, "do not overlap by a whole MS pixel", "same place"),
    (equal_size, "ratio is 1, too far from 4", "sensor"),
    (too_fine, "ratio is 16, too far from 4", "sensor"),
    (two_ratios, "ratio is 10 × 4, too far from 4", "sensor"),
    (too_fine_in_another_crs, "ratio is .*, too far from 4", "sensor"),
    (pan_with_bands, "PAN file .*pan.tif has 3 bands", "gdal_translate -b"),
    (sheared, "sheared", "gdalwarp"),
]


@pytest.mark.parametrize(("spoil", "message", "hint"), REFUSED, ids=lambda v: getattr(v, "__name__", ""))
# Some files are spoiled by their missing georeferencing; rasterio warns as it writes them.
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_refused(tmp_path: Path, spoil: Callable[[Path, Path], None], message: str, hint: str) -> None:
    paths = make_pair(tmp_path)
    spoil(*paths)
    with pytest.raises(InputError, match=message) as caught:
        open_pair(*paths)
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None
    assert re.search(hint, caught.value.hint)


def test_swapped(tmp_path: Path) -> None:
    ms, pan = make_pair(tmp_path)
    with pytest.raises(InputError, match="swapped"):
        open_pair(pan, ms)
    one_band, pan = make_pair(tmp_path, bands=1)
    with pytest.raises(InputError, match="swapped: the PAN pixel is 4 times as large"):
        open_pair(pan, one_band)


def test_far_ratios_can_be_forced(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, ratio=10, ms_shape=(20, 20), bands=1)
    with pytest.raises(InputError, match="ratio is 10"):
        open_pair(*paths)
    with open_pair(*paths, force=True) as pair:
        assert pair.strategy == "pan-to-quarter-ms"
        assert pair.read_block(Window(0, 0, 20, 20), 0, 0).valid.all()


@pytest.mark.parametrize(
    ("ratio", "taken"), [(8.0001, True), (8.07, True), (8.1, False), (1.49, True), (1.48, False)]
)
def test_limits_of_the_ratio(tmp_path: Path, ratio: float, taken: bool) -> None:
    """A ratio within 1 % of a limit is taken, since files round their pixel sizes."""
    paths = make_pair(tmp_path, ratio=ratio, ms_shape=(20, 20), bands=1)
    if taken:
        with open_pair(*paths) as pair:
            assert pair.ratio == pytest.approx(ratio)
    else:
        with pytest.raises(
            InputError, match=rf"ratio is {ratio}, too far from 4 \(1.5 to 8 are taken, within 1 %\)"
        ):
            open_pair(*paths)


def test_a_file_cut_short(tmp_path: Path) -> None:
    paths = make_pair(tmp_path)
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"pan\.tif"), open_pair(*paths) as pair:
        pair.read_block(pair.grids.ms.window, 0, 0)


@pytest.mark.parametrize(
    ("name", "strategy", "shape"),
    [
        ("gulf", "pan-to-quarter-ms", (603, 626)),
        ("caldern", "pan-to-quarter-ms", (40, 40)),
        ("rotterdam1", "ms-to-pan-grid", (150, 150)),
        ("berlin", "native", (165, 123)),
        ("zion", "native", (357, 282)),
    ],
)
def test_real_scenes(shared_data: Path, name: str, strategy: str, shape: tuple[int, int]) -> None:
    folder = shared_data / name
    with open_pair(folder / "ms.tif", folder / "pan.tif") as pair:
        assert pair.strategy == strategy
        assert (pair.grids.ms.height, pair.grids.ms.width) == shape
        assert pair.ms_band_names == ("blue", "green", "red", "nir")
        assert pair.read_block(Window(3, 5, 30, 30), 7, 8).valid.mean() > 0.9


def test_grids_are_of_the_common_part(tmp_path: Path) -> None:
    """If PAN covers a part of MS, the common grid is that part, in the MS image's own pixels."""
    ms, _ = pair_grids()
    small = Grid(100, 80, ms.transform * Affine.translation(10, 20) * Affine.scale(0.25), ms.crs)
    with open_pair(*make_pair(tmp_path, pan_grid=small)) as pair:
        assert pair.grids.ms == ms.cropped(Window(20, 10, 25, 20))
        assert pair.grids.pan == pair.grids.ms.refined(4)
