"""The measured shift against known shifts, put into rendered and real scenes by independent means."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from pyproj.transformer import TransformerGroup
from rasterio.crs import CRS
from rasterio.transform import from_origin
from scipy import ndimage
from synthetic import Field, pair_grids, write_raster

from das2f_map.errors import InputError
from das2f_map.scene.common_grid import relation
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import open_pair
from das2f_map.scene.registration import ShiftReport, coregister, measure_shift
from das2f_map.scene.source import RasterSource
from das2f_map.scene.spread import spread_blocks

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"


def ground(ms: Grid, seed: int = 0) -> Field:
    """A field of texture down to 3 MS pixels, with edges in the same place in every band."""
    unit = ms.pixel_size[0]
    field = Field.random(4, (3 * unit, 30 * unit), ms.pixel_to_map(0, 0), ms.crs, seed, waves=40)
    own = np.random.default_rng(seed + 100).uniform(0.85, 1.15, field.amplitude.shape)
    return dataclasses.replace(
        field,
        phase=np.broadcast_to(field.phase[:1], field.phase.shape).copy(),
        amplitude=field.amplitude[:1] * own,
    )


def shifted_pair(
    folder: Path,
    rows: float,
    cols: float,
    *,
    shape: tuple[int, int] = (64, 72),
    stretch: float = 0.0,
    **grid: float,
) -> tuple[Path, Path]:
    """A pair whose PAN content lies ``rows`` and ``cols`` PAN pixels further down and right than MS's.

    With ``stretch``, the shift grows by this many PAN pixels for each PAN pixel down and right.
    """
    ms, pan = pair_grids(ms_shape=shape, **grid)
    field = ground(ms)
    # PAN shows at a place the ground that lies that much further up and left.
    seen = pan.moved(-rows, -cols)
    seen = dataclasses.replace(seen, transform=seen.transform * Affine.scale(1.0 - stretch))
    noise = np.random.default_rng(1)
    ms_values, pan_values = field.render(ms), field.panchromatic().render(seen)
    ms_values = ms_values + noise.normal(0, 5, ms_values.shape)
    return (
        write_raster(folder / "ms.tif", ms_values, ms, nodata=0),
        write_raster(folder / "pan.tif", pan_values, pan, nodata=0),
    )


def measured(paths: tuple[Path, Path]) -> ShiftReport:
    with open_pair(*paths) as pair:
        return measure_shift(pair)


@pytest.mark.parametrize("put", [(0.0, 0.0), (0.43, -0.87), (-2.6, 1.2), (5.5, 4.5)], ids=str)
@pytest.mark.parametrize(
    "grid", [{}, {"offset": (0.5, -0.5)}, {"ratio": 2}, {"ratio": 3, "rotation": 20}], ids=str
)
def test_shifts_of_a_rendered_scene(tmp_path: Path, put: tuple[float, float], grid: dict[str, float]) -> None:
    report = measured(shifted_pair(tmp_path, *put, **grid))
    assert report.verdict == "agree"
    assert (report.rows, report.cols) == pytest.approx(put, abs=0.03)
    assert report.uncertainty is not None
    assert report.uncertainty < 0.1
    assert report.windows_agreeing == report.windows_matched >= 8
    assert report.fit_after is not None
    assert report.fit_before is not None
    assert report.fit_after > 0.99
    assert report.fit_after >= report.fit_before - 1e-6
    assert report.varies is not True


def test_directions_on_the_map(tmp_path: Path) -> None:
    """In a north-up pair of 8 m MS and 2 m PAN, down is south and right is east."""
    report = measured(shifted_pair(tmp_path, 1.5, -0.5))
    assert report.north_m == pytest.approx(-3.0, abs=0.06)
    assert report.east_m == pytest.approx(-1.0, abs=0.06)
    assert report.length_m == pytest.approx(np.hypot(3, 1), abs=0.06)
    assert report.pan_pixel_m == pytest.approx(2.0)
    assert "1.50 down, 0.50 left" in report.sentence()


@pytest.mark.slow
def test_files_in_different_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shift is found, and PROJ searches for the conversion a few times, not once for every window."""
    ms, _ = pair_grids(ms_shape=(64, 72))
    x, y = Transformer.from_crs(ms.crs.to_wkt(), "EPSG:32633", always_xy=True).transform(
        *ms.pixel_to_map(32, 36)
    )
    corner = Affine.translation(x - 340, y + 320) * Affine.scale(2, -2)
    pan = Grid(320, 340, corner, CRS.from_epsg(32633))
    field = ground(ms)
    # MS shows at a place the ground further on, so MS's content lies further up or left than PAN's.
    ms_path = write_raster(tmp_path / "ms.tif", field.render(ms.moved(1.3 / 4, -0.6 / 4)), ms)
    pan_path = write_raster(tmp_path / "pan.tif", field.panchromatic().render(pan), pan)
    made: list[object] = []

    def spy(*args: object, **options: object) -> TransformerGroup:
        made.append(args)
        return TransformerGroup(*args, **options)

    monkeypatch.setattr(relation, "TransformerGroup", spy)
    report = measured((ms_path, pan_path))
    assert report.windows_matched >= 8
    assert (report.rows, report.cols) == pytest.approx((1.3, -0.6), abs=0.05)
    assert 1 <= len(made) <= 4


@pytest.mark.slow
def test_a_large_shift_is_found_and_refused(tmp_path: Path) -> None:
    paths = shifted_pair(tmp_path, 30.0, -22.0, shape=(96, 96))
    report = measured(paths)
    assert (report.rows, report.cols) == pytest.approx((30.0, -22.0), abs=0.05)
    with open_pair(*paths) as pair:
        for mode in ("auto", "on"):
            with pytest.raises(InputError, match=r"37\.2 PAN pixels .*more than 8") as error:
                coregister(pair, mode)
            assert "--max-shift" in str(error.value.hint)
        assert coregister(pair, "off").pair is pair
        assert coregister(pair, max_shift=40).corrected


@pytest.mark.slow
def test_a_shift_that_changes_over_the_scene_is_told(tmp_path: Path) -> None:
    report = measured(shifted_pair(tmp_path, 0.0, 0.0, shape=(120, 120), stretch=2.0 / 480))
    assert report.varies is True
    assert report.variation is not None
    # Centres of windows lie between pixels 10 and 110 of 120.
    assert report.variation.range == pytest.approx(np.hypot(2, 2) * 100 / 120, rel=0.2)
    assert report.variation.lower_right == pytest.approx((2.0, 2.0), abs=0.3)
    assert report.variation.upper_left == pytest.approx((0.0, 0.0), abs=0.3)


@pytest.mark.slow
def test_what_moves_is_left_out(tmp_path: Path) -> None:
    """As over clouds, every band and PAN are shifted differently in half of the scene: the ground decides."""
    ms, pan = pair_grids(ms_shape=(120, 120))
    field, cloud = ground(ms), ground(ms, seed=5)
    ms_values, pan_values = field.render(ms), field.panchromatic().render(pan.moved(-0.6, 0.4))
    for band in range(4):
        ms_values[band, :, 70:] += 5 * cloud.render(ms.moved(0.3 * band, 0.1 * band))[band, :, 70:]
    pan_values[:, :, 280:] += 5 * cloud.panchromatic().render(pan.moved(4.0, 2.0))[:, :, 280:]
    paths = (
        write_raster(tmp_path / "ms.tif", ms_values, ms),
        write_raster(tmp_path / "pan.tif", pan_values, pan),
    )
    report = measured(paths)
    assert report.left_out["bands apart"] >= 6
    assert report.verdict == "agree"
    assert (report.rows, report.cols) == pytest.approx((0.6, -0.4), abs=0.05)


def test_nodata_mask_and_saturation(tmp_path: Path) -> None:
    paths = shifted_pair(tmp_path, 0.8, 0.6, shape=(96, 96))
    with rasterio.open(paths[0], "r+") as ds:
        values = ds.read()
        values[:, :30, :40] = 0
        values[1, 60:66, 60:90] = 9000
        ds.write(values)
    rubbish = np.zeros((1, 96, 96))
    rubbish[0, 70:, :50] = 1
    with rasterio.open(paths[1], "r+") as ds:
        pan = ds.read()
        pan[:, 280:, :200] = np.random.default_rng(3).uniform(0, 9000, (1, 104, 200))
        ds.write(pan)
    mask = write_raster(tmp_path / "mask.tif", rubbish, pair_grids(ms_shape=(96, 96))[0], dtype="uint8")
    with open_pair(*paths, mask=MaskFile(mask)) as pair:
        report = measure_shift(pair)
    assert report.left_out["nodata"] >= 4
    assert report.agreeing_share == 1
    assert (report.rows, report.cols) == pytest.approx((0.8, 0.6), abs=0.03)


@pytest.mark.parametrize("kind", ["flat", pytest.param("unrelated", marks=pytest.mark.slow), "tiny"])
def test_what_cannot_be_measured_is_said(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    ms, pan = pair_grids(ms_shape=(12, 12) if kind == "tiny" else (64, 64))
    rng = np.random.default_rng(0)
    ms_values, pan_values = (
        np.full((4, ms.height, ms.width), 500.0),
        np.full((1, pan.height, pan.width), 500.0),
    )
    if kind != "flat":
        ms_values += rng.normal(0, 50, ms_values.shape)
        pan_values += rng.normal(0, 50, pan_values.shape)
    paths = (
        write_raster(tmp_path / "ms.tif", ms_values, ms),
        write_raster(tmp_path / "pan.tif", pan_values, pan),
    )
    with open_pair(*paths) as pair:
        report = measure_shift(pair)
        assert report.verdict in ("unmeasured", "disagree")
        assert report.reason
        done = coregister(pair)
        assert not done.corrected
        assert done.pair is pair
        assert "left as it is" in done.warnings[0]
        with pytest.raises(InputError, match="cannot be measured"):
            coregister(pair, "on")


@pytest.mark.parametrize(
    ("put", "mode", "corrected"),
    [(0.9, "auto", True), (0.2, "auto", False), (0.2, "on", True), (0.9, "off", False)],
)
def test_modes(tmp_path: Path, put: float, mode: str, corrected: bool) -> None:
    with open_pair(*shifted_pair(tmp_path, put, 0.0)) as pair:
        done = coregister(pair, mode)
        assert done.corrected is corrected
        assert (done.pair.shift is not None) is corrected
        assert (done.report is None) is (mode == "off")
        told = json.loads(done.summary().model_dump_json())
        assert list(told) == ["mode", "corrected", "measured"]
        assert (told["mode"], told["corrected"]) == (mode, corrected)
        if done.report is None:
            assert told["measured"] is None
        else:
            whole = json.loads(done.report.model_dump_json())
            assert whole.pop("windows")
            assert list(told["measured"].items()) == list(whole.items())
        # The scene is too small to tell whether the shift changes; a warning says so if it is corrected.
        assert [w.startswith("too few windows to tell") for w in done.warnings] == [True] * corrected
        again = measure_shift(done.pair)
        assert again == measure_shift(pair)  # the files are measured, with the same result every time


@pytest.mark.slow
def test_a_change_that_cannot_be_looked_for_is_told(tmp_path: Path) -> None:
    """A warning says if a shift is corrected though too few windows could show that it changes."""
    folders = [tmp_path / name for name in ("apart", "together", "large")]
    for folder in folders:
        folder.mkdir()
    for folder, put, shape, told in zip(
        folders, (1.4, 0.0, 1.4), ((28, 28), (28, 28), (96, 96)), (True, False, False), strict=True
    ):
        with open_pair(*shifted_pair(folder, put, 0.0, shape=shape)) as pair:
            done = coregister(pair)
        assert done.report is not None
        assert (done.report.varies is None) is (shape == (28, 28))
        assert done.corrected is (put > 0)
        assert [w.startswith("too few windows to tell whether") for w in done.warnings] == [True] * told


def test_modes_are_checked(tmp_path: Path) -> None:
    with open_pair(*shifted_pair(tmp_path, 0.0, 0.0, shape=(30, 30))) as pair:
        with pytest.raises(ValueError, match="auto, on, off"):
            coregister(pair, "maybe")
        with pytest.raises(ValueError, match="positive"):
            coregister(pair, max_shift=0)
        with pytest.raises(ValueError, match="finite"):
            coregister(pair, max_shift=float("inf"))


@pytest.mark.slow
def test_only_windows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a small part of a large scene is read, even if nothing in it can be matched."""
    for name, count, size, pixel in (("ms.tif", 4, 8000, 8.0), ("pan.tif", 1, 32000, 2.0)):
        with rasterio.open(
            tmp_path / name,
            "w",
            driver="GTiff",
            width=size,
            height=size,
            count=count,
            dtype="uint8",
            photometric="MINISBLACK",
            nodata=0,
            crs=CRS.from_epsg(32632),
            transform=from_origin(500_000, 5_600_000, pixel, pixel),
            tiled=True,
            SPARSE_OK=True,
        ):
            pass
    read = {"MS": 0, "PAN": 0}
    largest = 0
    original = RasterSource.read

    def spy(self: RasterSource, window: Window) -> np.ndarray:
        nonlocal largest
        read[self.role] += window.height * window.width
        largest = max(largest, window.height * window.width)
        return original(self, window)

    monkeypatch.setattr(RasterSource, "read", spy)
    report = measured((tmp_path / "ms.tif", tmp_path / "pan.tif"))
    assert report.verdict == "unmeasured"
    assert report.left_out == {"nodata": 256}
    assert read["MS"] < 0.1 * 8000**2
    assert read["PAN"] < 0.1 * 32000**2
    assert largest < 1_000_000


def real_scene(name: str) -> tuple[Path, Path]:
    folder = ROOT / "examples" / "gulf" if name == "example" else REAL / name
    if not folder.is_dir():
        pytest.skip(f"no scene {name} beside the repository")
    return folder / "ms.tif", folder / "pan.tif"


def moved(source: Path, target: Path, rows: float, cols: float) -> Path:
    """PAN moved down and right by spline interpolation, less a border."""
    with rasterio.open(source) as ds:
        values = ndimage.shift(ds.read(1).astype(float), (rows, cols), order=5, mode="mirror")[8:-8, 8:-8]
        grid = Grid(ds.height - 16, ds.width - 16, ds.transform * Affine.translation(8, 8), ds.crs)
    return write_raster(target, values[None], grid)


@pytest.mark.slow
@pytest.mark.parametrize("put", [(0.65, -1.4), (-2.2, 0.3)], ids=str)
@pytest.mark.parametrize(
    ("name", "limit"), [("rotterdam1", 0.1), ("berlin", 0.1), ("caldern", 0.2), ("example", 0.2)]
)
def test_shifts_put_into_real_scenes(
    tmp_path: Path, name: str, limit: float, put: tuple[float, float]
) -> None:
    ms, pan = real_scene(name)
    # The measured shift includes the scene's own shift; berlin has none, by the way it was made.
    own = (0.0, 0.0) if name == "berlin" else _found(measured((ms, pan)))
    there = moved(pan, tmp_path / "pan.tif", *put)
    report = measured((ms, there))
    error = np.subtract(_found(report), np.add(own, put))
    assert np.sqrt(np.mean(error**2)) < limit
    with open_pair(ms, there) as pair:
        done = coregister(pair)
        assert done.corrected
        assert _fit(done.pair) > _fit(pair)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "around"), [("rotterdam1", 1.2), ("caldern", 0.0), ("example", 0.0)])
def test_own_shift_of_real_scenes(name: str, around: float) -> None:
    """A scene's own shift lies where the linear fit over the whole scene peaks.

    The peak is checked for rotterdam1 only: the example's clouds lie elsewhere than its ground.
    """
    ms, pan = real_scene(name)
    report = measured((ms, pan))
    assert report.length == pytest.approx(around, abs=0.15)
    assert report.verdict == "agree"
    if name == "rotterdam1":
        rows, cols = _found(report)
        peak = _fit_at(ms, pan, rows, cols)
        for down, right in ((0.2, 0), (-0.2, 0), (0, 0.2), (0, -0.2)):
            assert _fit_at(ms, pan, rows + down, cols + right) < peak


def _found(report: ShiftReport) -> tuple[float, float]:
    assert report.rows is not None
    assert report.cols is not None
    return report.rows, report.cols


def _fit_at(ms: Path, pan: Path, rows: float, cols: float) -> float:
    """R² of PAN explained by the bands on unchanged MS pixels; PAN is moved by splines and averaged 4 × 4."""
    with rasterio.open(ms) as m, rasterio.open(pan) as p:
        first_col, first_row = ~p.transform * m.transform * (0, 0)
        there = ndimage.shift(p.read(1).astype(float), (-first_row - rows, -first_col - cols), order=3)
        h, w = m.height, m.width
        averages = there[: 4 * h, : 4 * w].reshape(h, 4, w, 4).mean(axis=(1, 3))[3:-3, 3:-3].ravel()
        bands = m.read()[:, 3:-3, 3:-3].reshape(m.count, -1).astype(float)
    terms = np.concatenate([bands, np.ones((1, averages.size))]).T
    left = averages - terms @ np.linalg.lstsq(terms, averages, rcond=None)[0]
    return float(1 - left.var() / averages.var())


def _fit(pair: object) -> float:
    """R² of averaged PAN explained by the MS bands over the whole scene."""
    block = pair.read_block(pair.grids.ms.window, 0, 0)
    h, w = block.valid.shape
    pan = block.pan[0].reshape(h, 4, w, 4).mean(axis=(1, 3), dtype=float)[block.valid]
    bands = np.stack([*(b[block.valid].astype(float) for b in block.ms), np.ones(len(pan))], axis=1)
    left = pan - bands @ np.linalg.lstsq(bands, pan, rcond=None)[0]
    return float(1 - left.var() / pan.var())


@pytest.mark.slow
def test_the_first_windows_are_all_invalid(tmp_path: Path) -> None:
    """Only one far corner is valid, and there only blocks that the first guess does not read."""
    grids = pair_grids(ms_shape=(624, 624))
    ground = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2496, 2496)), 3)
    ground = 2500 + 300 * ground / ground.std()
    places = list(spread_blocks(Window(0, 0, 624, 624), 48, strata=64, seed=0))
    valid = np.zeros((624, 624), dtype=bool)
    for place in places[64:]:
        if min(place.row, place.col) >= 312:
            valid[place.row : place.row_stop, place.col : place.col_stop] = True
    means = np.where(valid, ground.reshape(624, 4, 624, 4).mean(axis=(1, 3)), 0)
    report = measured(
        (
            write_raster(tmp_path / "ms.tif", np.stack([means * w for w in (0.9, 1.1)]), grids[0], nodata=0),
            write_raster(tmp_path / "pan.tif", ground[None], grids[1], nodata=0),
        )
    )
    assert report.verdict == "agree"
    assert (report.rows, report.cols) == pytest.approx((0, 0), abs=0.03)
