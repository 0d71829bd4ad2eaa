"""`align`: the report and the written pair, against a known field."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from synthetic import Field, pair_grids, write_raster

from das2f_map.errors import InputError
from das2f_map.scene.pair import open_pair
from das2f_map.scene.registration import coregister, decide, measure_shift
from das2f_map.workflows.align import align

MS, PAN = pair_grids(ms_shape=(72, 80))
SHIFT = (1.4, -0.7)


def field() -> Field:
    """Edges are in the same place in every band."""
    ground = Field.random(4, (4 * 8.0, 30 * 8.0), MS.pixel_to_map(0, 0), MS.crs, 3, waves=40)
    own = np.random.default_rng(4).uniform(0.85, 1.15, ground.amplitude.shape)
    return dataclasses.replace(
        ground,
        phase=np.broadcast_to(ground.phase[:1], ground.phase.shape).copy(),
        amplitude=ground.amplitude[:1] * own,
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """PAN's content lies 1.4 pixels down and 0.7 left; a corner is nodata in MS."""
    ms = field().render(MS)
    ms[:, :6, :9] = 0
    pan = field().panchromatic().render(PAN.moved(-SHIFT[0], -SHIFT[1]))
    names = ("blue", "green", "red", "nir")
    return (
        write_raster(tmp_path / "ms.tif", ms, MS, dtype="uint16", nodata=0, names=names),
        write_raster(tmp_path / "pan.tif", pan, PAN, dtype="uint16", nodata=0, names=["pan"]),
    )


def test_written_pair(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = align(*pair, tmp_path / "out")
    assert found.corrected
    assert found.classify == "corrected in the one resampling"
    with rasterio.open(pair[0]) as before, rasterio.open(tmp_path / "out" / "ms.tif") as after:
        # MS is not resampled: the same numbers in the same places.
        left, top = ~before.transform * (after.transform.c, after.transform.f)
        r, c = round(top), round(left)
        part = before.read()[:, r : r + after.height, c : c + after.width]
        np.testing.assert_array_equal(after.read(), part)
        assert (after.dtypes, after.nodata) == (before.dtypes, before.nodata)
        assert after.descriptions == before.descriptions
        ms_grid = after.transform
    with rasterio.open(tmp_path / "out" / "pan.tif") as out:
        assert out.transform.almost_equals(ms_grid @ ms_grid.scale(0.25), precision=1e-6)
        values = out.read(1)[8:-8, 8:-8]
        shape = (out.height, out.width)
    truth = field().panchromatic().render(MS.refined(4))[0]
    truth = truth[4 * r : 4 * r + shape[0], 4 * c : 4 * c + shape[1]][8:-8, 8:-8]
    assert np.isfinite(values).all()
    assert np.sqrt(np.mean((values - truth) ** 2)) < 0.02 * truth.std()
    with open_pair(tmp_path / "out" / "ms.tif", tmp_path / "out" / "pan.tif") as again:
        assert again.strategy == "native"
        length = measure_shift(again).length
    assert length is not None
    assert length < 0.05
    report = json.loads((tmp_path / "out" / "align.json").read_text())
    assert report["shift"]["rows"] == pytest.approx(SHIFT[0], abs=0.05)
    assert (tmp_path / "out" / "align.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_nothing_is_written_of_what_cannot_be_measured(pair: tuple[Path, Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(1, 4000, (1, PAN.height, PAN.width))
    pan = write_raster(tmp_path / "noise.tif", noise, PAN, dtype="uint16")
    with pytest.raises(InputError, match=r"cannot be measured|not relied on"):
        align(pair[0], pan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert align(pair[0], pan).classify == "the pair is left as it is"


@pytest.mark.slow
def test_screen_and_json(tmp_path: Path) -> None:
    """With few windows the report says that a change over the scene cannot be measured, though they agree."""
    grids = pair_grids(ms_shape=(28, 28))
    ms = write_raster(tmp_path / "ms.tif", field().render(grids[0]), grids[0])
    pan = write_raster(tmp_path / "pan.tif", field().panchromatic().render(grids[1]), grids[1])
    command = [sys.executable, "-m", "das2f_map.cli", "-q", "align", str(ms), str(pan)]
    screen = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "too few windows to tell" in screen.stdout
    assert "the windows agree" in screen.stdout
    assert "left as it is" in screen.stdout
    assert screen.stderr == ""
    printed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    shift = json.loads(printed.stdout)["shift"]
    assert (shift["verdict"], shift["varies"], shift["variation"]) == ("agree", None, None)
    assert 3 <= shift["windows_matched"] < 8


COMMAND = [sys.executable, "-m", "das2f_map.cli", "-q", "align"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mask", "alpha", "option"])
def test_valid_pixels_stay_valid(how: str, tmp_path: Path) -> None:
    """Integers without a nodata value: pixels that were valid stay valid, in every tile, as GDAL reads it."""
    grids = pair_grids(ms_shape=(150, 160))  # PAN: 600 x 640, in tiles of 256
    ground = field()
    ms, pan = np.rint(ground.render(grids[0])), np.rint(ground.panchromatic().render(grids[1]))
    invalid = np.zeros(pan.shape[1:], bool)
    invalid[-40:, -60:] = True
    ms[3, 50:60, 50:60] = 0  # dark water: a measurement in NIR
    if how == "option":
        pan[0, invalid] = 0
        ms[:, -10:, -15:] = 0
    ms_path = write_raster(tmp_path / "ms.tif", ms, grids[0], dtype="uint16")
    pan_path = tmp_path / "pan.tif"
    if how == "alpha":
        both = np.concatenate([pan, np.where(invalid, 0, 65535)[None]])
        write_raster(pan_path, both, grids[1], dtype="uint16", alpha="yes", photometric="minisblack")
    else:
        write_raster(pan_path, pan, grids[1], dtype="uint16")
    if how == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(pan_path, "r+") as ds:
            ds.write_mask(~invalid)
    options = ["--nodata", "0"] if how == "option" else []
    done = run(ms_path, pan_path, "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "out" / "pan.tif") as out:
        np.testing.assert_array_equal(out.read_masks(1) == 0, invalid)
        np.testing.assert_array_equal(out.read(1), pan[0])
    with rasterio.open(tmp_path / "out" / "ms.tif") as out:
        dark = out.read_masks()[:, 50:60, 50:60]
        assert (dark != 0).all()
        assert (out.read_masks(1)[-10:, -15:] == 0).all() == (how == "option")


@pytest.mark.slow
@pytest.mark.parametrize("value", ["-9999", "nan"])
def test_nodata_that_one_type_cannot_hold(value: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    with rasterio.open(pair[0]) as file:
        values, names = file.read(), file.descriptions
    ms = write_raster(tmp_path / "floats.tif", values, MS, names=names)
    done = run(ms, pair[1], "-o", tmp_path / "out", "--nodata", value)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_bands_to_measure_with(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """An empty fifth band; all five are written."""
    with rasterio.open(pair[0]) as ds:
        values = np.concatenate([ds.read(), np.zeros((1, ds.height, ds.width))])
    ms = write_raster(tmp_path / "five.tif", values, MS, dtype="uint16", nodata=0)
    assert run(ms, pair[1], "-o", tmp_path / "out").returncode == 3
    done = run(ms, pair[1], "-o", tmp_path / "out", "--bands", "a=1,b=2,c=3,d=4", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shift"]["rows"] == pytest.approx(SHIFT[0], abs=0.05)
    with rasterio.open(tmp_path / "out" / "ms.tif") as out:
        assert out.count == 5
    again = run(ms, pair[1], "-o", tmp_path / "out", "--bands", "a=1,b=2,c=3,d=4")
    assert again.returncode == 6
    over = run(ms, pair[1], "-o", tmp_path / "out", "--bands", "a=1,b=2,c=3,d=4", "--overwrite")
    assert over.returncode == 0


def test_shift_that_may_be_none(tmp_path: Path) -> None:
    """Contents in the same place: PAN keeps its numbers."""
    pan = field().panchromatic().render(PAN)
    ms_path = write_raster(tmp_path / "ms.tif", field().render(MS), MS, dtype="uint16")
    pan_path = write_raster(tmp_path / "pan.tif", pan, PAN, dtype="uint16")
    found = align(ms_path, pan_path, tmp_path / "out")
    assert not found.corrected
    with rasterio.open(tmp_path / "out" / "pan.tif") as out:
        np.testing.assert_array_equal(out.read(), np.rint(pan))


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_max_shift_is_a_number(value: str, pair: tuple[Path, Path]) -> None:
    done = run(*pair, "--max-shift", value)
    assert done.returncode == 2
    assert "--max-shift" in done.stderr


@pytest.mark.slow
def test_hint_and_max_shift_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert align(*pair, max_shift=5).classify == "corrected in the one resampling, with --max-shift 5"
    noise = np.random.default_rng(0).uniform(1, 4000, (1, PAN.height, PAN.width))
    pan = write_raster(tmp_path / "noise.tif", noise, PAN, dtype="uint16")
    done = run(pair[0], pan, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "without -o, align shows" in done.stderr
    assert "--coregister" not in done.stderr


@pytest.mark.parametrize(
    ("ratio", "offset", "strategy"),
    [
        pytest.param(4, (0.5, 0.5), "ms-to-pan-grid", marks=pytest.mark.slow),
        pytest.param(2, (0, 0), "pan-to-quarter-ms", marks=pytest.mark.slow),
    ],
)
def test_pairs_that_are_resampled_anyway(
    ratio: float, offset: tuple[float, float], strategy: str, tmp_path: Path
) -> None:
    """The image that is not resampled keeps its numbers; the other shows the field where it is."""
    ms_grid, pan_grid = pair_grids(ms_shape=(72, 80), ratio=ratio, offset=offset)
    ms_path = write_raster(tmp_path / "ms.tif", field().render(ms_grid), ms_grid)
    pan = field().panchromatic().render(pan_grid.moved(-1.4, 0.7))
    pan_path = write_raster(tmp_path / "pan.tif", pan, pan_grid)
    done = run(ms_path, pan_path, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["scene"]["strategy"] == strategy
    assert told["corrected"]
    with open_pair(tmp_path / "out" / "ms.tif", tmp_path / "out" / "pan.tif") as again:
        assert again.strategy == "native"
        length = measure_shift(again).length
    assert length is not None
    assert length < 0.3
    kept, source = ("pan", pan_path) if strategy == "ms-to-pan-grid" else ("ms", ms_path)
    with rasterio.open(source) as before, rasterio.open(tmp_path / "out" / f"{kept}.tif") as after:
        left, top = ~before.transform * (after.transform.c, after.transform.f)
        r, c = round(top), round(left)
        part = before.read()[:, r : r + after.height, c : c + after.width]
        np.testing.assert_array_equal(after.read(), part)


def test_whole_pixels_are_not_called_a_resampling(tmp_path: Path) -> None:
    with open_pair(
        write_raster(tmp_path / "ms.tif", field().render(MS), MS),
        write_raster(tmp_path / "pan.tif", field().panchromatic().render(PAN), PAN),
    ) as files:
        report = measure_shift(files)
        whole = decide(report.model_copy(update={"rows": 3.0, "cols": -1.0, "fit_before": None}))
        part = decide(report.model_copy(update={"rows": 3.4, "cols": -1.0, "fit_before": None}))
        assert whole.because == "corrected, by whole PAN pixels"
        assert part.because == "corrected in the one resampling"
        moved = files.shifted(whole.shift)
        assert moved.strategy == "native"
        assert "by whole pixels" in moved.notices[0]


@pytest.mark.slow
def test_an_aligned_pair_is_not_resampled_again(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """It is, if the files are not both of the written pair, or something moved them afterwards."""
    align(*pair, tmp_path / "out")
    ms, pan = tmp_path / "out" / "ms.tif", tmp_path / "out" / "pan.tif"

    def move(path: Path, pixels: float) -> None:
        with rasterio.open(path, "r+") as out:
            out.transform = out.transform @ out.transform.translation(pixels, 0)

    def corrected(*paths: Path) -> bool:
        with open_pair(*paths) as opened:
            return coregister(opened).corrected

    move(pan, 0.6)
    assert not corrected(ms, pan)
    assert "the pair was aligned before" in align(ms, pan).classify
    move(pan, 0.6)
    assert corrected(ms, pan), "1.2 PAN pixels are no remainder"
    move(pan, -0.6)
    with rasterio.open(pan, "r+") as out:
        out.update_tags(DAS2F_MAP_ALIGNED="another")
    assert corrected(ms, pan)
