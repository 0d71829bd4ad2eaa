"""Every command from its arguments to its files and what it prints."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import geopandas
import matplotlib.image
import numpy as np
import pytest
import rasterio
import shapely
import torch
from command import COMMAND, ENVIRONMENT, Run, subprocess_run
from parity import DATA, published_state_dict
from scipy.ndimage import gaussian_filter
from small_scene import make_scene
from synthetic import make_pair, pair_grids, write_raster
from tiny import NAMES

import das2f_map
from das2f_map.errors import InputError
from das2f_map.training.request import TrainRequest

COMMANDS = (
    (),
    ("classify",),
    ("train",),
    ("evaluate",),
    ("export",),
    ("clean",),
    ("doctor",),
    ("preview",),
    ("vectorize",),
    ("mosaic",),
    ("style",),
    ("rerun",),
    ("models",),
    ("models", "list"),
    ("models", "show"),
    ("models", "import"),
)
PIXELS = 24 * 28 - 3 * 4
"""Valid pixels of the scene."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: tuple[str, ...], run: Run) -> None:
    outcome = run(*command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert "das2f-map" in outcome.out
    if command and command != ("models",):
        assert "Example: das2f-map " + " ".join(command) in outcome.out


def test_export(run: Run, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    outcome = run("export", model, "-o", tmp_path / "m.onnx", "--opset", "18")
    assert (outcome.code, outcome.err) == (0, "")
    assert "batch × 4 × 8 × 8" in outcome.out
    assert "water, forest, bare soil" in outcome.out
    outcome = run("export", model, "-o", tmp_path / "m.onnx", "--overwrite", "--json")
    report = json.loads(outcome.out)
    assert report["opset"] == 17
    assert report["largest_error"] < report["tolerance"]
    shown = run("models", "show", tmp_path / "m.onnx", "--json")
    assert json.loads(shown.out) == json.loads(run("models", "show", model, "--json").out)


def test_doctor(run: Run) -> None:
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    told = json.loads(run("doctor", "--json").out)
    assert told["versions"]["das2f-map"] == das2f_map.__version__
    for text in (torch.__version__, told["cpu"]["scan_kernel"], told["uses"][0]["classify_one_stage"]):
        assert text in " ".join(outcome.out.split())


def test_version_and_no_arguments(run: Run) -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"das2f-map {das2f_map.__version__}\n")
    assert subprocess_run("--version").out == outcome.out
    assert "classify" in (run().out + run().err)


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = {
        "torch",
        "rasterio",
        "geopandas",
        "matplotlib",
        "numpy",
        "pandas",
        "lightning",
        "pydantic",
        "scipy",
    }
    code = "import sys; from das2f_map.cli.app import app; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


def test_a_command_imports_its_own_module_alone() -> None:
    code = (
        "import sys; from das2f_map.cli.app import main; sys.argv = ['das2f-map', '-q', 'models', 'list']\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert "landsat8-gulf" in done.stdout
    found = {m for m in done.stderr.split() if m.startswith("das2f_map.cli.")}
    assert "das2f_map.cli.models" in found
    assert not {f"das2f_map.cli.{name}" for name in ("classify", "train", "labels")} & found


def _classify(run: Run, scene: tuple[Path, Path], model: Path, out: Path, *more: str | Path) -> dict:
    outcome = run("-q", "classify", *scene, "-o", out / "map.tif", "--model", model, "--json", *more)
    assert (outcome.code, outcome.err) == (0, "")
    report: dict = json.loads(outcome.out)
    return report


def test_classify_shows_a_table_and_its_files(run: Run, scene, model: Path, tmp_path: Path) -> None:
    outcome = run("classify", *scene, "-o", tmp_path / "map.tif", "--model", model, "--device", "cpu")
    assert outcome.code == 0
    with rasterio.open(tmp_path / "map.tif") as src:
        ids, counts = np.unique(src.read(1), return_counts=True)
        assert src.shape == (24, 28)
    names = dict(zip((2, 5, 9), NAMES, strict=True))
    found = {names[i]: n for i, n in zip(ids.tolist(), counts.tolist(), strict=True) if i}
    assert len(found) > 1
    assert sum(found.values()) == PIXELS
    lines = outcome.out.splitlines()
    assert lines[0] == f"{tmp_path / 'map.tif'}, by tiny"
    for name, pixels in found.items():
        (row,) = (line for line in lines if f"■ {name} " in line)
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        # 64 m² a pixel on the grid, within UTM's scale of the ground.
        assert (cells[0], cells[1]) == (f"■ {name}", f"{pixels:,}")
        assert float(cells[2].replace(",", "")) == pytest.approx(pixels * 64 / 1e4, abs=0.01)
        assert cells[3] == f"{100 * pixels / PIXELS:.1f} %"
        assert 1 / 3 <= float(cells[4]) <= 1
    shown = {Path(line) for line in lines if line.startswith(str(tmp_path))} - {Path(lines[0])}
    assert shown == {tmp_path / f"map.{e}" for e in ("tif", "gpkg", "json")}
    assert all(path.is_file() for path in shown)
    # Notes on how it goes are for the terminal, not for a pipe.
    assert "672 pixels (28 × 24) with tiny" in outcome.err
    assert "672 pixels" not in outcome.out


def test_json_is_the_report(run: Run, scene, model: Path, tmp_path: Path) -> None:
    report = _classify(run, scene, model, tmp_path)
    assert report == json.loads((tmp_path / "map.json").read_text())
    assert report["model"]["name"] == "tiny"
    assert sum(c["pixels"] for c in report["classes"]) == PIXELS


def test_quiet_says_nothing_but_the_result(run: Run, scene, model: Path, tmp_path: Path) -> None:
    outcome = run("-q", "classify", *scene, "-o", tmp_path / "map.tif", "--model", model, "--no-vectors")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"{tmp_path / 'map.tif'}" in outcome.out.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["gpkg", "shp", "geojson", "fgb", "parquet"])
def test_polygons_by_extension(extension: str, run: Run, scene, model: Path, tmp_path: Path) -> None:
    if extension == "parquet":
        pytest.importorskip("pyarrow", reason="GeoParquet needs the extra `parquet`")
    path = tmp_path / f"polygons.{extension}"
    report = _classify(run, scene, model, tmp_path, "--vectors", path)
    assert report["outputs"]["vectors"] == str(path)
    assert not (tmp_path / "map.gpkg").exists()
    read = geopandas.read_parquet if extension == "parquet" else geopandas.read_file
    present = [c for c in report["classes"] if c["pixels"]]
    if extension == "gpkg":
        layers = [read(path, layer=c["name"]) for c in present]
    else:
        frame = read(path)
        name = next(n for n in frame.columns if n.startswith("class_n"))  # Shapefile: ten letters
        layers = [frame[frame[name] == c["name"]] for c in present]
    for layer, c in zip(layers, present, strict=True):
        assert layer.crs.to_epsg() == 32632
        assert layer.geometry.is_valid.all()
        assert layer.area.sum() == pytest.approx(64 * c["pixels"])
        assert layer["area_m2"].sum() == pytest.approx(c["area_m2"], rel=1e-6)


def test_without_polygons(run: Run, scene, model: Path, tmp_path: Path) -> None:
    report = _classify(run, scene, model, tmp_path, "--no-vectors")
    assert "vectors" not in report["outputs"]
    assert not list(tmp_path.glob("*.gpkg"))


def test_confidence(run: Run, scene, model: Path, tmp_path: Path) -> None:
    report = _classify(run, scene, model, tmp_path, "--confidence", tmp_path / "sure.tif", "--no-vectors")
    with rasterio.open(tmp_path / "map.tif") as a, rasterio.open(tmp_path / "sure.tif") as b:
        assert (a.transform, a.crs, a.shape) == (b.transform, b.crs, b.shape)
        classes, sure = a.read(1), b.read(1, masked=True).filled(np.nan)
    np.testing.assert_array_equal(np.isnan(sure), classes == 0)
    assert np.nanmin(sure) >= 1 / 3 - 1e-6  # the best of three
    assert np.nanmax(sure) <= 1
    for c in report["classes"]:
        if c["pixels"]:
            assert c["mean_confidence"] == pytest.approx(sure[classes == c["id"]].mean(), rel=1e-4)


def test_unsure_pixels(run: Run, scene, model: Path, tmp_path: Path) -> None:
    """Counted in a line of their own, in the table too, and not as wrong answers."""
    options = ("--reject", "0.7", "--entropy", tmp_path / "entropy.tif", "--no-vectors")
    report = _classify(run, scene, model, tmp_path, *options)
    with rasterio.open(tmp_path / "map.tif") as a, rasterio.open(tmp_path / "entropy.tif") as b:
        classes, entropy, crs, transform = a.read(1), b.read(1), a.crs, a.transform
    np.testing.assert_array_equal(np.isnan(entropy), classes == 0)
    assert entropy[classes == 255].mean() > entropy[(classes > 0) & (classes < 255)].mean()
    rejected = int((classes == 255).sum())
    assert 0 < rejected < PIXELS
    assert (report["unsure"], report["classes"][-1]["pixels"]) == (255, rejected)
    assert any("not calibrated" in w for w in report["warnings"])
    outcome = run("classify", *scene, "-o", tmp_path / "again.tif", "--model", model, *options[:2])
    assert outcome.code == 0
    assert any("unsure" in line and f"{rejected}" in line for line in outcome.out.splitlines())
    assert "warning: the probabilities of model" in outcome.err

    x, y = transform * (8, 10)
    box = shapely.box(x, y - 5 * 8, x + 8 * 8, y)
    geopandas.GeoDataFrame({"class": [NAMES[0]]}, geometry=[box], crs=crs).to_file(tmp_path / "truth.gpkg")
    unsure_here = int((classes[10:15, 8:16] == 255).sum())
    figures = json.loads(
        run("evaluate", tmp_path / "map.tif", "--reference", tmp_path / "truth.gpkg", "--json").out
    )
    assert (figures["pixels"], figures["rejected_reference_pixels"]) == (40 - unsure_here, unsure_here)


def test_area_of_interest(run: Run, scene, model: Path, tmp_path: Path) -> None:
    with rasterio.open(scene[0]) as src:
        x, y = src.transform * (10, 6)
        crs = src.crs
    box = shapely.box(x, y - 5 * 8, x + 7 * 8, y)
    geopandas.GeoDataFrame(geometry=[box], crs=crs).to_file(tmp_path / "aoi.geojson")
    report = _classify(run, scene, model, tmp_path, "--aoi", tmp_path / "aoi.geojson")
    assert sum(c["pixels"] for c in report["classes"]) == 35
    with rasterio.open(tmp_path / "map.tif") as src:
        assert src.shape == (5, 7)
        assert src.transform * (0, 0) == pytest.approx((x, y))


@pytest.mark.slow
def test_small_polygons_are_merged(run: Run, scene, model: Path, tmp_path: Path) -> None:
    def smallest(report: dict) -> tuple[int, float]:
        layers = [geopandas.read_file(tmp_path / "map.gpkg", layer=c["name"]) for c in report["classes"]]
        areas = np.concatenate([layer.area for layer in layers])
        assert areas.sum() == pytest.approx(64 * PIXELS)
        return len(areas), float(areas.min())

    before = smallest(_classify(run, scene, model, tmp_path))
    with rasterio.open(tmp_path / "map.tif") as src:
        raster = src.read(1)
    report = _classify(run, scene, model, tmp_path, "--overwrite", "--min-area", "320")
    after = smallest(report)
    assert before[1] == 64
    assert after[1] >= 320
    assert after[0] < before[0]
    with rasterio.open(tmp_path / "map.tif") as src:
        merged = src.read(1)
    assert report["merged_pixels"] == np.count_nonzero(merged != raster) > 0
    assert {c["id"]: c["pixels"] for c in report["classes"]} == {
        c["id"]: np.count_nonzero(merged == c["id"]) for c in report["classes"]
    }


def test_overwrite_replaces_everything(run: Run, scene, model: Path, tmp_path: Path) -> None:
    for name in ("map.tif", "map.gpkg", "map.json", "map.qml"):
        (tmp_path / name).write_text("old")
    _classify(run, scene, model, tmp_path, "--overwrite")
    assert all(
        (tmp_path / name).read_bytes() != b"old" for name in ("map.tif", "map.gpkg", "map.json", "map.qml")
    )


def test_evaluate(run: Run, scene, model: Path, tmp_path: Path) -> None:
    """The reference is a box of 40 pixels, so that the figures follow from the map's pixels."""
    _classify(run, scene, model, tmp_path, "--no-vectors")
    with rasterio.open(tmp_path / "map.tif") as src:
        classes, transform, crs = src.read(1), src.transform, src.crs
    best = int(np.bincount(classes[classes > 0]).argmax())
    name = dict(zip((2, 5, 9), NAMES, strict=True))[best]
    (x, y) = transform * (8, 10)
    box = shapely.box(x, y - 5 * 8, x + 8 * 8, y)
    geopandas.GeoDataFrame({"class": [name]}, geometry=[box], crs=crs).to_file(tmp_path / "truth.gpkg")
    right = int((classes[10:15, 8:16] == best).sum())

    outcome = run("evaluate", tmp_path / "map.tif", "--reference", tmp_path / "truth.gpkg", "--json")
    assert outcome.code == 0
    figures = json.loads(outcome.out)
    assert figures["overall_accuracy"] == pytest.approx(right / 40)
    assert figures["matched_by"] == "name"

    outcome = run("evaluate", tmp_path / "map.tif", "--reference", tmp_path / "truth.gpkg")
    assert outcome.code == 0
    assert f"{100 * right / 40:.1f} %" in outcome.out
    others = [n for n in NAMES if n != name]
    assert f"no reference pixel on the map has the class: {', '.join(others)}" in outcome.out


@pytest.mark.slow
def test_preview(run: Run, scene, model: Path, tmp_path: Path) -> None:
    _classify(run, scene, model, tmp_path, "--no-vectors")
    picture = tmp_path / "map.png"
    outcome = run("preview", tmp_path / "map.tif", "-o", picture, "--title", "Test")
    assert (outcome.code, outcome.out) == (0, f"{picture}\n")
    pixels = matplotlib.image.imread(picture)[..., :3]
    colours = {tuple(c) for c in (pixels.reshape(-1, 3) * 255).round().astype(int).tolist()}
    with rasterio.open(tmp_path / "map.tif") as src:
        table, present = src.colormap(1), [int(i) for i in np.unique(src.read(1)) if i]
    assert {table[i][:3] for i in present} <= colours
    assert run("preview", tmp_path / "map.tif", "-o", picture).code == 6
    assert run("preview", tmp_path / "map.tif", "-o", picture, "--overwrite").code == 0


def test_models_list_and_show(run: Run, model: Path) -> None:
    listed = json.loads(run("models", "list", "--json").out)
    bundled = {p.parent.name for p in (Path(das2f_map.__file__).parents[1] / "models").glob("*/model.json")}
    assert {m["name"] for m in listed} == bundled
    table = run("models", "list")
    assert table.code == 0
    for entry in listed:
        assert entry["name"] in table.out
        assert run("models", "show", entry["name"]).code == 0
    shown = run("models", "show", model)
    assert shown.code == 0
    for word in ("tiny", *NAMES, "blue", "nir", "pan", "6 to 10 m", "not measured"):
        assert word in shown.out
    card = json.loads(run("models", "show", model, "--json").out)
    assert card == json.loads((model / "model.json").read_text())


@pytest.mark.parametrize("bundle", ["net", pytest.param("net.zip", marks=pytest.mark.slow)])
def test_models_import(bundle: str, run: Run, scene, tmp_path: Path) -> None:
    torch.save(published_state_dict(1), tmp_path / "net.pth")
    names = [f"kind {i}" for i in range(11)]
    outcome = run(
        *("models", "import", tmp_path / "net.pth", "-o", tmp_path / bundle, "--name", "published"),
        *("--ms", scene[0], "--pan", scene[1], "--classes", ", ".join(names), "--licence", "none"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path / bundle}: 1-stage network of 11 classes (kind 0, kind 1,")
    loaded = das2f_map.load_model(tmp_path / bundle)
    assert (loaded.card.name, loaded.card.legend.names) == ("published", tuple(names))
    vectors = np.load(DATA / "parity_1stage.npz")
    with torch.no_grad():
        logits = loaded.network()(*(torch.as_tensor(vectors[f"input/{k}"]).float() for k in ("ms", "pan")))
    truth = vectors["output/logits"]
    assert np.abs(logits.numpy() - truth).max() <= 1e-4 * np.abs(truth).max()
    # The class count must agree.
    outcome = run(
        *("models", "import", tmp_path / "net.pth", "-o", tmp_path / "two", "--classes", "a,b"),
        *("--ms", scene[0], "--pan", scene[1]),
    )
    assert outcome.code == 5
    assert "has 11 classes, --classes names 2" in outcome.err
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_train(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs the extra train")
    scene = make_scene(tmp_path)
    outcome = run(
        *("train", scene.ms, scene.pan, "--labels", scene.labels, "-o", tmp_path / "model"),
        *("--steps", "2", "--batch-size", "4", "--assess", "holdout", "--seed", "3", "--licence", "CC0"),
        "--json",
    )
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["model"] == str(tmp_path / "model")
    assert result["steps"] in (1, 2)
    assert result["verdict"]["text"]
    assert -1 <= result["random_split"]["optimism"] <= 1
    assert result["shares"]["labels"].keys() == result["shares"]["scenes"].keys()
    assert not result["interrupted"]
    assert "Labelled pixels: " in outcome.err
    card = json.loads(run("models", "show", tmp_path / "model", "--json").out)
    assert card["licence"] == "CC0"
    assert card["metrics"]["test"] == result["test"]
    assert card["training"]["settings"]["batch_size"] == 4
    assert card["training"]["settings"]["distillation"] == 1
    assert {"model.json", "model.safetensors", "training.json", "training.png"} <= {
        p.name for p in (tmp_path / "model").iterdir()
    }
    assert not list(tmp_path.glob("*.training"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ms.tif pan.tif --labels l.gpkg", ["ms.tif pan.tif l.gpkg"]),
        ("--scene a b c --scene d e f", ["a b c", "d e f"]),
        ("ms.tif pan.tif --labels l.gpkg --scene a b c", ["ms.tif pan.tif l.gpkg", "a b c"]),
        ("--scene a b c --scenes {list}", ["a b c", "{f}/x {f}/y {f}/z"]),
        ("--scenes {list}", ["{f}/x {f}/y {f}/z"]),
    ],
)
def test_train_takes_scenes_in_three_ways(
    given: str, expected: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainRequest] = []

    def note(request: TrainRequest, progress: object) -> None:
        asked.append(request)
        raise InputError("enough")

    monkeypatch.setattr("das2f_map.workflows.train.run_training", note)
    (tmp_path / "list.csv").write_text("ms,pan,labels\nx,y,z\n")
    words = given.format(list=tmp_path / "list.csv").split()
    outcome = run("train", *words, "-o", tmp_path / "model", "--fast", "--haze", "0.5")
    assert outcome.code == 3
    (request,) = asked
    found = [f"{s.pair.ms} {s.pair.pan} {s.labels.path}" for s in request.scenes]
    assert found == [text.format(f=tmp_path) for text in expected]
    assert (request.settings.fast, request.settings.haze) == (True, 0.5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "name a scene"),
        ("ms.tif pan.tif", "--labels is missing"),
        ("--labels l.gpkg", "MS is missing"),
        ("ms.tif --scene a b c", "--labels is missing"),
        ("--scene a b", "--scene takes three values: MS PAN LABELS"),
        ("--scene a --fast c", "--scene takes three values"),
        ("--scene=a b c", "--scene takes three values"),
    ],
)
def test_train_says_what_a_scene_lacks(given: str, says: str, run: Run, tmp_path: Path) -> None:
    outcome = run("train", "-o", tmp_path / "model", *given.split())
    assert outcome.code == 2
    assert says in " ".join(outcome.err.replace("│", " ").split())


@pytest.mark.slow
def test_terminals_without_unicode(scene, model: Path, tmp_path: Path) -> None:
    """Characters that the terminal lacks are replaced in tables and escaped in JSON."""
    ascii_only = ENVIRONMENT | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = ["classify", *map(str, scene), "--model", str(model), "--no-vectors"]
    for name, more in (("table", ()), ("json-é", ("--json",))):
        done = subprocess.run(
            [*COMMAND, *command, "-o", str(tmp_path / f"{name}.tif"), *more],
            env=ascii_only,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        out = done.stdout.decode("ascii")
        if more:
            assert json.loads(out)["outputs"]["raster"] == str(tmp_path / f"{name}.tif")
        else:
            assert all(n in out for n in ("table.tif, by tiny", "Confidence", "forest"))


def test_inspect(run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "look.png"
    outcome = run("inspect", *scene, "--model", model, "-o", picture)
    assert outcome.code == 0
    for said in (
        "24",
        "28 × 24",
        "EPSG:32632",
        "uint16",
        "MS and PAN pixels nest 4 : 1",
        "1.8 %",
        "model tiny fits",
    ):
        assert said in outcome.out
    assert f"Next: das2f-map classify {scene[0]} {scene[1]} -o landcover.tif --model {model}" in outcome.out
    assert outcome.out.splitlines()[-1] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    outcome = run("-q", "inspect", *scene, "--model", model, "--json")
    told = json.loads(outcome.out)
    assert told["models"][0] == {
        "name": "tiny",
        "fits": True,
        "fits_rescaled": True,
        "reasons": [],
        "cautions": [],
        "bands": {"blue": 1, "green": 2, "red": 3, "nir": 4},
    }
    assert told["invalid_share"] == 12 / (24 * 28)
    assert told["estimate"]["pixels"] == 24 * 28 - 12


@pytest.mark.slow
def test_a_shift(run: Run, model: Path, tmp_path: Path) -> None:
    """PAN's content lies 1.5 rows and 1 column further on: corrected, kept or refused, as the options say."""
    ms_grid, pan_grid = pair_grids(ms_shape=(96, 96))
    ground = gaussian_filter(np.random.default_rng(0).normal(size=(400, 400)), 3)
    ground = 2500 + 300 * ground / ground.std()
    means = ground[8:392, 8:392].reshape(96, 4, 96, 4).mean(axis=(1, 3))
    seen = (ground[7:391, 7:391] + ground[6:390, 7:391]) / 2
    weights = (0.8, 0.9, 1.0, 1.1)
    names = ("blue", "green", "red", "nir")
    files = (
        write_raster(tmp_path / "ms.tif", np.stack([means * w for w in weights]), ms_grid, names=names),
        write_raster(tmp_path / "pan.tif", seen[None], pan_grid),
    )
    area = geopandas.GeoSeries([shapely.box(*ms_grid.pixel_to_map(50, 40), *ms_grid.pixel_to_map(44, 46))])
    area.set_crs(ms_grid.crs.to_wkt()).to_file(tmp_path / "aoi.gpkg")
    always = ("classify", *files, "-o", tmp_path / "map.tif", "--model", model, "--no-vectors")
    always = (*always, "--aoi", tmp_path / "aoi.gpkg", "--device", "cpu", "--overwrite", "--json")
    for mode in ("on", "off"):
        outcome = run(*always, "--coregister", mode)
        assert outcome.code == 0
        told = json.loads(outcome.out)
        assert told["coregistration"]["corrected"] is (mode == "on")
        assert (told["scene"]["shift_corrected"] is not None) is (mode == "on")
    outcome = run(*always, "--max-shift", "1")
    assert outcome.code == 3
    assert "lies 1.8 PAN pixels" in outcome.err
    assert "more than 1" in outcome.err
    assert run(*always, "--max-shift", "2").code == 0


@pytest.mark.slow
def test_mask_and_nodata(run: Run, model: Path, tmp_path: Path) -> None:
    """The uppermost four rows hold an undeclared 7, the lowest two are masked."""
    files = make_pair(tmp_path, ms_shape=(24, 28))
    for path, rows in zip(files, (4, 16), strict=True):
        with rasterio.open(path, "r+") as file:
            values = file.read()
            values[:, :rows] = 7
            file.write(values)
    clouds = np.zeros((1, 24, 28))
    clouds[0, 22:] = 1
    mask = write_raster(tmp_path / "clouds.tif", clouds, pair_grids(ms_shape=(24, 28))[0], dtype="uint8")
    options = ("--model", model, "--mask", mask, "--nodata", "7")
    outcome = run("classify", *files, "-o", tmp_path / "map.tif", *options, "--no-vectors")
    assert outcome.code == 0
    with rasterio.open(tmp_path / "map.tif") as file:
        known = file.read(1) != 0
    assert known[4:22].all()
    assert not known[:4].any()
    assert not known[22:].any()
    told = json.loads(run("-q", "inspect", *files, *options, "--json").out)
    assert told["invalid_share"] == pytest.approx(4 / 24)
    assert told["masked_share"] == pytest.approx(2 / 24)
    assert told["next_command"].endswith(f"--nodata 7 --mask {mask}")


@pytest.mark.slow
def test_masks_by_number(run: Run, model: Path, tmp_path: Path) -> None:
    files = make_pair(tmp_path, ms_shape=(24, 28))
    values = np.zeros((1, 24, 28))
    values[0, 22:], values[0, 0, :14] = -1, -3
    mask = write_raster(tmp_path / "m.tif", values, pair_grids(ms_shape=(24, 28))[0], dtype="int16")
    look = ("inspect", *files, "--model", model)
    for options, share in (
        (("--mask-values", "-1"), 2 / 24),
        (("--mask-values=-1",), 2 / 24),
        (("--mask-values", "-3,-1"), 2 / 24 + 0.5 / 24),
        (("--mask-values", "-3--1"), 2 / 24 + 0.5 / 24),
        (("--mask-bits", "1"), 2 / 24),
    ):
        told = json.loads(run("-q", *look, "--mask", mask, *options, "--json").out)
        assert told["masked_share"] == pytest.approx(share)
        # What it says to type next is understood as well.
        words = shlex.split(told["next_command"])
        again = run("-q", *look, *words[words.index("--mask") :], "--json")
        assert json.loads(again.out)["masked_share"] == pytest.approx(share)
    nothing = run(*look, "--mask", mask, "--mask-values", "5").out
    assert "excludes nothing: its chosen values are nowhere" in nothing
    for option, other in (("--mask-values", "--mask-bits"), ("--mask-bits", "--mask-values")):
        outcome = run(*look, option, "3")
        assert outcome.code == 2
        assert f"for {option}" in outcome.err
        assert other not in outcome.err
    assert "--mask-bits" in run(*look, "--mask", mask, "--mask-bits", "-1").err
