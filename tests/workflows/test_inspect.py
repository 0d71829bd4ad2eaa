"""Findings of `inspect` on known scenes."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import geopandas
import matplotlib.image
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter
from synthetic import make_pair, pair_grids, scene_field, write_raster
from tiny import tiny_bundle

import das2f_map
from das2f_map.bundle import fit as models
from das2f_map.bundle.model import ModelBundle
from das2f_map.cli.inspect import print_inspection
from das2f_map.engines import Engine
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.errors import InputError, ModelError, OutputError
from das2f_map.products.report import RunReport
from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.trial import Trial, trial_run
from das2f_map.scene.block import SceneBlock
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.survey import survey_scene, thumbnail
from das2f_map.workflows import inspect as inspect_module
from das2f_map.workflows.inspect import inspect_pair


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """`tiny` fits the scenes of `make_pair`, `coarse` is for larger pixels, `five` needs five bands."""
    folder = tmp_path / "models"
    for name, bands in (("tiny", 4), ("coarse", 4), ("five", 5)):
        tiny_bundle(folder, name, bands=bands)
    card = json.loads((folder / "coarse" / "model.json").read_text())
    card["domain"]["ms_gsd_m"] = [20.0, 40.0]
    (folder / "coarse" / "model.json").write_text(json.dumps(card))
    paths = {n: folder / n for n in ("coarse", "five", "tiny")}
    monkeypatch.setattr(models, "bundled_models", lambda: paths)
    return paths


def test_a_single_pixel_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One MS pixel of 200 × 200 is in common, with 4 × 4 pixels at PAN's corner."""
    ms, pan = make_pair(tmp_path, ms_shape=(200, 200), offset=(796, 796))
    found = inspect_pair(ms, pan)
    assert found.scene.common_grid.height == found.scene.common_grid.width == 1
    assert found.overlap.model_dump() == pytest.approx(
        {"ms_share": 1 / 40_000, "pan_share": 1 / 40_000, "km2": 64e-6}
    )
    print_inspection(found)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "In the common part" in line]
    assert line.count("< 0.1 %") == 2


def test_a_scene_that_is_known(bundled: dict[str, Path], tmp_path: Path) -> None:
    names = ("red", "green", "blue", "nir")
    ms, pan = make_pair(
        tmp_path, ms_shape=(60, 80), ratio=2, offset=(0, 40), names=names, nodata=0,
        ms_invalid=[(slice(0, 6), slice(None))],
    )  # fmt: skip
    clouds = np.zeros((1, 60, 80))
    clouds[0, 30:45, 40:60] = 1
    mask = write_raster(tmp_path / "my clouds.tif", clouds, pair_grids(ms_shape=(60, 80))[0], dtype="uint8")
    found = inspect_pair(ms, pan, mask=MaskFile(mask, values=(1,)))
    assert found.scene.ratio == pytest.approx(2)
    # PAN starts 40 of its pixels to the right: 60 of 80 columns are common.
    assert found.overlap.model_dump() == pytest.approx(
        {"ms_share": 0.75, "pan_share": 0.75, "km2": 60 * 60 * 64 / 1e6}
    )
    assert found.sampled_pixels == 3600
    assert found.invalid_share == pytest.approx(0.1)
    assert found.masked_share == pytest.approx(15 * 20 / 3600)
    assert "PAN is resampled once" in found.alignment
    fits = {m.name: m for m in found.models}
    assert fits["tiny"].fits
    assert fits["tiny"].bands == {"blue": 3, "green": 2, "red": 1, "nir": 4}
    assert "MS pixels of 20 to 40 m, these have 8 m" in fits["coarse"].reasons[0]
    assert "needs 5 MS bands" in fits["five"].reasons[0]
    assert [(b.file, b.number, b.name, b.used_as) for b in found.bands] == [
        *(("MS", n, name, name) for n, name in enumerate(names, start=1)),
        ("PAN", 1, "pan", "pan"),
    ]
    with rasterio.open(ms) as src:
        values = src.read()[:, :, 20:]
    seen = (values[0] != 0) & (clouds[0, :, 20:] == 0)
    for band, truth in zip(found.bands, values, strict=False):
        v = truth[seen].astype(float)
        assert band.values is not None
        told = [getattr(band.values, k) for k in ("min", "p01", "mean", "p99", "max", "std")]
        p01, p99 = np.percentile(v, (1, 99))
        assert told == pytest.approx([v.min(), p01, v.mean(), p99, v.max(), v.std()], rel=1e-5)
    estimate = found.estimate
    assert estimate is not None
    assert estimate.model == "tiny"
    assert estimate.pixels == 3600 - 360 - 300
    assert estimate.seconds == pytest.approx(estimate.pixels / estimate.pixels_per_second, rel=0.05, abs=0.06)
    assert found.verdict.startswith("model tiny fits")
    assert shlex.split(found.next_command) == [
        *("das2f-map", "classify", str(ms), str(pan), "-o", "landcover.tif", "--mask", str(mask)),
        *("--mask-values", "1"),
    ]


@pytest.mark.parametrize(("gain", "said"), [(1.6, "1.6 times as fast"), (1.05, ""), (0.8, "")])
def test_gain_of_bfloat16_is_said_where_there_is_one(
    gain: float,
    said: str,
    bundled: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The kernels are not made for a model as small as this one, so engine and trial are stand-ins."""
    asked: list[str] = []

    def make(bundle: ModelBundle, choice: EngineChoice) -> Engine:
        asked.append(choice.precision)
        return make_engine(bundle, replace(choice, precision="auto"))

    def trial(classifier: BlockClassifier, part: Window) -> Trial:
        found = trial_run(classifier, part)
        assert found is not None
        return replace(found, rate=100 * gain ** (len(asked) - 1))

    monkeypatch.setattr(inspect_module, "bf16_is_a_choice", lambda *_: True)
    monkeypatch.setattr(inspect_module, "make_engine", make)
    monkeypatch.setattr(inspect_module, "trial_run", trial)
    found = inspect_pair(*make_pair(tmp_path, ms_shape=(24, 24)))
    assert asked == ["auto", "bf16"]
    assert found.estimate is not None
    if gain > 1:
        assert found.estimate.bf16_pixels_per_second == pytest.approx(100 * gain)
    else:
        assert found.estimate.bf16_pixels_per_second is None
    print_inspection(found)
    shown = " ".join(capsys.readouterr().out.split())
    assert ("--precision bf16" in shown) is bool(said)
    assert said in shown


def test_a_scene_that_no_model_fits(bundled: dict[str, Path], tmp_path: Path) -> None:
    ms, pan = make_pair(tmp_path, ms_shape=(40, 40), ms_gsd=100.0)
    found = inspect_pair(ms, pan)
    assert "no bundled model fits" in found.verdict
    assert found.next_command.startswith(f"das2f-map train {ms} {pan}")
    assert found.estimate is not None, "the time is known all the same"
    own = inspect_pair(ms, pan, model=bundled["tiny"], bands={"nir": 1, "blue": 4}, nodata=0)
    assert own.models[0].bands == {"blue": 4, "green": 2, "red": 3, "nir": 1}
    assert own.verdict.startswith("model tiny does not fit")
    assert own.next_command.endswith(f"--model {bundled['tiny']} --bands nir=1,blue=4 --nodata 0")


def test_values_in_another_unit(bundled: dict[str, Path], tmp_path: Path) -> None:
    ms, pan = make_pair(tmp_path, ms_shape=(24, 24))
    for path in (ms, pan):
        with rasterio.open(path, "r+") as out:
            out.scales = (1e-4,) * out.count
    found = inspect_pair(ms, pan)
    assert "fits but for the values" in found.verdict
    assert found.next_command.endswith("-o landcover.tif --radiometry scene")


@pytest.mark.parametrize(
    ("rows", "cols", "action", "says"),
    [
        pytest.param(0, 0, "leave", "not over 0.3 PAN pixel", marks=pytest.mark.slow),
        (2, 1, "correct", "corrected"),
        pytest.param(18, -8, "refuse", "over 8 PAN pixels", marks=pytest.mark.slow),
        pytest.param(None, None, "leave", "the pair is left as it is", marks=pytest.mark.slow),
    ],
)
def test_a_shift_is_told_and_what_classify_does_about_it(
    bundled: dict[str, Path], tmp_path: Path, rows: int | None, cols: int | None, action: str, says: str
) -> None:
    ms_grid, pan_grid = pair_grids(ms_shape=(96, 96))
    rng = np.random.default_rng(0)
    ground = gaussian_filter(rng.normal(size=(440, 440)), 3)
    ground = 2500 + 300 * ground / ground.std()
    means = ground[28:412, 28:412].reshape(96, 4, 96, 4).mean(axis=(1, 3))
    if rows is None or cols is None:
        pan = 2500 + 300 * rng.normal(size=(384, 384))
    else:
        pan = ground[28 - rows : 412 - rows, 28 - cols : 412 - cols]
        if rows == 2:  # half a pixel less, so that it has to be resampled
            pan = (pan + ground[29 - rows : 413 - rows, 28 - cols : 412 - cols]) / 2
    paths = (
        write_raster(tmp_path / "ms.tif", np.stack([means * w for w in (0.8, 0.9, 1.0, 1.1)]), ms_grid),
        write_raster(tmp_path / "pan.tif", pan[None], pan_grid),
    )
    found = inspect_pair(*paths, bands={"blue": 1, "green": 2, "red": 3, "nir": 4})
    assert found.shift is not None
    assert found.shift.action == action
    assert says in found.shift.because
    told = json.loads(found.model_dump_json())["shift"]
    assert list(told)[:5] == ["sentence", "action", "because", "verdict", "reason"]
    assert "windows" not in told
    area = geopandas.GeoSeries([shapely.box(*ms_grid.pixel_to_map(50, 40), *ms_grid.pixel_to_map(44, 46))])
    area.set_crs(ms_grid.crs.to_wkt()).to_file(tmp_path / "aoi.gpkg")

    def classified() -> RunReport:
        return das2f_map.classify(
            *paths, tmp_path / "map.tif", model=bundled["tiny"], vectors=False, aoi=tmp_path / "aoi.gpkg"
        )

    if action == "refuse":
        with pytest.raises(InputError, match=r"PAN pixels .* from MS"):
            classified()
        assert "too far" in found.verdict
        assert "fits" not in found.verdict
        assert found.next_command.startswith(f"das2f-map align {paths[0]} {paths[1]} --max-shift 2")
        return
    report = classified()
    assert report.coregistration.corrected is (action == "correct")
    assert report.scene.strategy == found.scene.strategy
    assert report.scene.shift_corrected == found.scene.shift_corrected
    assert found.verdict.startswith("model tiny fits")
    assert ("is not known" in found.verdict) is (rows is None)
    assert (report.scene.strategy == "native") is (action == "leave")
    assert ("both are read as they are" in found.alignment) is (report.scene.strategy == "native")


def test_nothing_valid_is_told_not_raised(bundled: dict[str, Path], tmp_path: Path) -> None:
    everywhere = [(slice(None), slice(None))]
    found = inspect_pair(*make_pair(tmp_path, nodata=0, ms_invalid=everywhere))
    assert found.verdict.startswith("nothing to classify")
    assert found.invalid_share == 1
    assert found.estimate is None
    assert not any(m.fits for m in found.models)


def test_what_is_wrong_with_the_request_is_raised(bundled: dict[str, Path], tmp_path: Path) -> None:
    ms, pan = make_pair(tmp_path)
    with pytest.raises(InputError, match="no band 7"):
        inspect_pair(ms, pan, bands={"nir": 7})
    with pytest.raises(OutputError, match="not a PNG"):
        inspect_pair(ms, pan, tmp_path / "look.jpg")
    (tmp_path / "look.png").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        inspect_pair(ms, pan, tmp_path / "look.png")
    assert (tmp_path / "look.png").read_text() == "mine"


@pytest.mark.slow
def test_large_scenes_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_pair(
        tmp_path, ms_shape=(640, 640), bands=1, nodata=0, ms_invalid=[(slice(None), slice(0, 320))]
    )
    read: list[Window] = []
    original = ScenePair.read_block

    def spy(self: ScenePair, window: Window, before: int, after: int) -> SceneBlock:
        read.append(window)
        return original(self, window, before, after)

    monkeypatch.setattr(ScenePair, "read_block", spy)
    with open_pair(*paths) as pair:
        survey = survey_scene(pair, max_pixels=100_000)
    assert survey.pixels == sum(w.height * w.width for w in read) < 120_000
    assert survey.invalid == pytest.approx(0.5, abs=0.25)


@pytest.mark.parametrize("crs", ["same", "EPSG:4326"])
def test_thumbnail(tmp_path: Path, crs: str) -> None:
    """Footprint averages of the field as exact as the coarse grid allows; holes and mask in their places."""
    ms_grid, pan_grid = pair_grids(ms_shape=(120, 90))
    if crs != "same":
        x, y = Transformer.from_crs("EPSG:32632", crs, always_xy=True).transform(
            *ms_grid.pixel_to_map(60, 45)
        )
        corner = Affine.translation(x, y) * Affine.scale(2 / 90_000, -2 / 90_000)
        pan_grid = Grid(340, 300, corner * Affine.translation(-150, -170), CRS.from_user_input(crs))
    hole = (slice(20, 60), slice(30, 50))
    paths = make_pair(
        tmp_path, ms_shape=(120, 90), smooth=True, nodata=0, ms_invalid=[hole], pan_grid=pan_grid
    )
    clouds = np.zeros((1, 120, 90))
    clouds[0, 70:100, 10:60] = 1
    mask = write_raster(tmp_path / "clouds.tif", clouds, ms_grid, dtype="uint8")
    with open_pair(*paths, mask=MaskFile(mask)) as pair:
        image = thumbnail(pair, longest=100)
        common = pair.grids.ms
    grid: Grid = image.grid
    assert max(grid.height, grid.width) <= 100
    field = scene_field(ms_grid, smooth=True)
    for values, truth in ((image.ms, field.render(grid)), (image.pan, field.panchromatic().render(grid))):
        ok = np.isfinite(values)
        assert ok.mean() > 0.4
        assert np.sqrt(np.mean((values - truth)[ok] ** 2)) < 0.15 * truth.std()
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    ms_col, ms_row = ~ms_grid.transform * (grid.transform * (col, row))
    for found, (r0, r1, c0, c1) in (
        (np.isnan(image.ms[0]), (20, 60, 30, 50)),
        (image.masked, (70, 100, 10, 60)),
    ):
        inner = (ms_row > r0 + 1) & (ms_row < r1 - 1) & (ms_col > c0 + 1) & (ms_col < c1 - 1)
        outer = (ms_row < r0 - 1) | (ms_row > r1 + 1) | (ms_col < c0 - 1) | (ms_col > c1 + 1)
        assert found[inner].all()
        assert not found[outer & (ms_row > 2) & (ms_row < 118)].any()
    assert common.crs == grid.crs


def test_the_picture(bundled: dict[str, Path], tmp_path: Path) -> None:
    """Masked pixels are tinted at their places in both images; invalid pixels are not black."""
    ms, pan = make_pair(
        tmp_path, ms_shape=(64, 64), nodata=0,
        ms_invalid=[(slice(0, 32), slice(0, 32))], pan_invalid=[(slice(0, 128), slice(0, 128))],
    )  # fmt: skip
    clouds = np.zeros((1, 64, 64))
    clouds[0, 32:, 32:] = 1
    mask = write_raster(tmp_path / "clouds.tif", clouds, pair_grids()[0], dtype="uint8")
    found = inspect_pair(ms, pan, tmp_path / "look.png", mask=mask)
    assert found.quicklook == str(tmp_path / "look.png")
    picture = matplotlib.image.imread(tmp_path / "look.png")[..., :3]
    pink = (picture[..., 0] - picture[..., 1] > 0.3) & (picture[..., 2] - picture[..., 1] > 0.1)
    half = picture.shape[1] // 2
    # The lower right quarter of each image, which fills most of its half of the picture; PAN itself is grey.
    rows, cols = np.nonzero(pink[: int(0.9 * len(pink)), half:])
    assert 0.15 < rows.size / pink[:, half:].size < 0.25
    assert rows.min() > 0.4 * len(pink)
    assert cols.min() > 0.4 * half
    assert pink[int(0.6 * len(pink)) : int(0.8 * len(pink)), int(0.6 * half) : int(0.9 * half)].mean() > 0.65
    upper_left = picture[80:300, 60:300]
    assert upper_left.min() > 0.6, "hatched, light"


@pytest.mark.slow
def test_a_trial_that_fails_is_told(bundled: dict[str, Path], tmp_path: Path) -> None:
    """An undeclared fill value is too large for the network."""
    ms, pan = make_pair(tmp_path, ms_shape=(24, 24), dtype="float32")
    with rasterio.open(ms, "r+") as file:
        values = file.read()
        values[:, :12] = -3.4e38
        file.write(values)
    with pytest.raises(InputError):
        das2f_map.classify(ms, pan, tmp_path / "map.tif", model=bundled["tiny"], coregistration="off")
    found = inspect_pair(ms, pan, model=bundled["tiny"])
    assert found.estimate is None
    assert "but a trial run of model tiny failed: " in found.verdict


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ms", "pan"])
def test_a_constant_band(file: str, bundled: dict[str, Path], tmp_path: Path) -> None:
    """A constant band does not fit with any radiometry."""
    ms, pan = make_pair(tmp_path, ms_shape=(40, 40), names=("blue", "green", "red", "nir"))
    with rasterio.open(ms if file == "ms" else pan, "r+") as out:
        out.write(np.full((out.height, out.width), 1234, out.dtypes[0]), 3 if file == "ms" else 1)
    name = "red" if file == "ms" else "pan"
    found = inspect_pair(ms, pan)
    fit = next(m for m in found.models if m.name == "tiny")
    assert (fit.fits, fit.fits_rescaled) == (False, False)
    assert f"band {name} has the same value 1234 everywhere in the scene" in fit.reasons
    assert not any("standard deviation" in r for r in fit.reasons if name in r)
    assert "--radiometry scene" not in found.next_command
    constant = next(b for b in found.bands if (b.used_as or b.role) == name)
    assert constant.values is not None
    assert constant.values.std == 0
    with pytest.raises(ModelError, match=f"band {name} has the same value 1234 everywhere"):
        das2f_map.classify(ms, pan, tmp_path / "map.tif", radiometry="scene")


def test_bands_without_names(bundled: dict[str, Path], tmp_path: Path) -> None:
    """More bands than a model takes and no names: the next command uses --bands, not train."""
    grid, pan_grid = pair_grids(ms_shape=(24, 24))
    ms = write_raster(tmp_path / "ms.tif", np.full((8, 24, 24), 500.0), grid, dtype="uint16")
    pan = write_raster(tmp_path / "pan.tif", np.full((1, 96, 96), 500.0), pan_grid, dtype="uint16")
    found = inspect_pair(ms, pan, nodata=0)
    assert "do not tell which is which" in found.verdict
    assert "--bands blue=N,green=N,red=N,nir=N --nodata 0" in found.next_command
    assert "--bands" in found.models[0].reasons[0]
    given = inspect_pair(ms, pan, bands={"blue": 7, "green": 6, "red": 4, "nir": 2})
    assert "which is which" not in given.verdict
