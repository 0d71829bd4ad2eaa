"""Habits that users have from other command lines: near misses, narrow terminals, completion, settings."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from command import ENVIRONMENT, Run, listing
from typer.main import get_command

import das2f_map
from das2f_map.cli.app import app
from das2f_map.cli.completion import VECTOR_EXTENSIONS
from das2f_map.errors import InputError, OutputError
from das2f_map.installation import install_extra, requirement
from das2f_map.products.vector_files import DRIVERS
from das2f_map.scene.area import Area
from das2f_map.scene.grid import Grid
from das2f_map.workflows.classify import classify

ROOT = Path(das2f_map.__file__).parents[1]


def words(text: str) -> str:
    """A text without the frame that Typer draws."""
    return " ".join(text.replace("│", " ").split())


def boxes(path: Path, scene: tuple[Path, Path], size: float = 64) -> Path:
    """A square in the middle of the scene, ``size`` metres a side."""
    with rasterio.open(scene[0]) as src:
        x, y = src.transform * (10, 10)
        geopandas.GeoDataFrame(geometry=[shapely.box(x, y - size, x + size, y)], crs=src.crs).to_file(path)
    return path


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("--engine", "shard", "shared"),
        ("--device", "gpu", "cuda"),
        ("--device", "cuda:", "cuda"),
        ("--precision", "fp23", "fp32"),
    ],
)
def test_near_misses_are_usage_errors(
    option: str, value: str, meant: str, run: Run, scene: tuple[Path, Path], tmp_path: Path
) -> None:
    outcome = run("classify", *scene, "-o", tmp_path / "map.tif", option, value)
    assert outcome.code == 2
    assert f"unknown {option[2:]} {value!r}; did you mean {meant!r}?" in words(outcome.err)
    assert listing(tmp_path) == set()


def test_other_choices_are_usage_errors_too(run: Run, scene: tuple[Path, Path], tmp_path: Path) -> None:
    outcome = run("train", *scene, "--labels", "l.gpkg", "-o", tmp_path / "m", "--head", "pool")
    assert outcome.code == 2
    assert "unknown value 'pool'; did you mean 'pooled'?" in words(outcome.err)
    outcome = run("train", *scene, "--labels", "l.gpkg", "-o", tmp_path / "m", "--assess", "cross")
    assert (outcome.code, "auto, holdout, folds or none" in words(outcome.err)) == (2, True)


def test_ends_of_open_ranges_are_usage_errors(run: Run, scene: tuple[Path, Path], tmp_path: Path) -> None:
    """No pixel would be left with the one, all with the other."""
    for value, says in (("1", "less than 1"), ("0", "greater than 0"), ("nan", "")):
        outcome = run("classify", *scene, "-o", tmp_path / "map.tif", "--reject", value)
        assert (outcome.code, says in words(outcome.err)) == (2, True), outcome.err
        assert "--reject" in outcome.err


@pytest.mark.parametrize(
    "command",
    [
        ("classify", "MS", "PAN", "-o", "s3://bucket/map.tif", "--no-vectors"),
        ("classify", "MS", "PAN", "-o", "/vsis3/bucket/map.tif", "--no-vectors"),
        ("classify", "MS", "PAN", "-o", "OUT/map.tif", "--vectors", "https://host/map.gpkg"),
        ("align", "MS", "PAN", "-o", "gs://bucket/aligned"),
    ],
    ids=lambda c: c[0],
)
def test_addresses_as_outputs(
    command: tuple[str, ...], run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    named = {"MS": str(scene[0]), "PAN": str(scene[1]), "OUT/map.tif": str(tmp_path / "map.tif")}
    more = ("--model", str(model)) if command[0] == "classify" else ()
    outcome = run(*(named.get(word, word) for word in command), *more)
    assert outcome.code == 6
    address = next(word for word in command if "bucket" in word or "host" in word)
    assert outcome.errors == [f"error: output {address} is an address, and outputs are local files"]
    assert "copy" in outcome.hints[0]
    assert listing(tmp_path) == set()


def test_an_output_as_a_file_address(
    run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("classify", *scene, "--model", model, "-o", f"file://{tmp_path}/map.tif", "--no-vectors")
    assert outcome.code == 6
    assert f"output file://{tmp_path}/map.tif is an address" in outcome.errors[0]
    assert outcome.hints == [f"hint: give the path alone: {tmp_path}/map.tif"]
    assert listing(tmp_path) == set()


@pytest.mark.parametrize("option", ["--vectors", "--confidence", "--probabilities", "--entropy"])
@pytest.mark.parametrize("value", ["", "."])
def test_an_output_without_a_name_is_not_the_default(
    option: str, value: str, run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    outcome = run("classify", *scene, "--model", model, "-o", tmp_path / "map.tif", option, value)
    assert outcome.code == 6
    assert outcome.errors == [f"error: {option} names no file: its path is empty"]
    assert listing(tmp_path) == set()
    with pytest.raises(OutputError, match=f"{option} names no file"):
        classify(*scene, tmp_path / "map.tif", model=model, **cast(Any, {option[2:]: value}))
    assert listing(tmp_path) == set()


@pytest.mark.parametrize("value", ["inf", "nan", "1e400"])
@pytest.mark.parametrize("command", ["classify", "vectorize"])
def test_a_smallest_area_that_is_no_number(
    value: str, command: str, run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    given: tuple[str | Path, ...] = (*scene, "--model", model) if command == "classify" else (scene[1],)
    outcome = run(command, *given, "-o", tmp_path / "map.tif", "--min-area", value)
    if command == "vectorize":
        outcome = run(command, *given, "-o", tmp_path / "map.gpkg", "--min-area", value)
    assert outcome.code in (2, 3)
    assert "area" in outcome.err
    assert listing(tmp_path) == set()


def test_images_in_an_archive_are_spelled(run: Run, scene: tuple[Path, Path], tmp_path: Path) -> None:
    ms, pan = scene
    archive = tmp_path / "pair.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(ms, "ms.tif")
        packed.write(pan, "in/pan.tif")
    spelled = f"/vsizip/{archive}/in/pan.tif or /vsizip/{archive}/ms.tif"
    for pair in ((archive, pan), (ms, archive)):
        outcome = run("inspect", *pair)
        assert outcome.code == 3
        assert outcome.hints == [f"hint: it is an archive; name the file in it: {spelled}"]
    assert run("inspect", f"/vsizip/{archive}/ms.tif", f"/vsizip/{archive}/in/pan.tif", "--json").code == 0


def test_a_bundle_goes_to_a_local_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net.pth", "ms.tif", "pan.tif"):
        Path(name).touch()
    outcome = run("models", "import", "net.pth", "--ms", "ms.tif", "--pan", "pan.tif", "-o", "s3://b/model")
    assert (outcome.code, "outputs are local" in outcome.err) == (6, True)
    assert not Path("s3:").exists()


def test_one_band_as_ms(run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    with rasterio.open(scene[0]) as src:
        profile = {**src.profile, "count": 1}
        with rasterio.open(tmp_path / "blue.tif", "w", **profile) as dst:
            dst.write(src.read(1), 1)
    outcome = run("classify", tmp_path / "blue.tif", scene[1], "-o", tmp_path / "map.tif", "--model", model)
    assert outcome.code == 5
    assert "gdalbuildvrt -separate" in outcome.hints[0]
    assert "blue.tif green.tif red.tif nir.tif" in outcome.hints[0]
    assert "the product's folder" in outcome.hints[0]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


def test_an_area_from_the_web(
    run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read as MS and PAN are; the pixels that are announced are those inside it."""
    (tmp_path / "web").mkdir()
    (tmp_path / "out").mkdir()
    boxes(tmp_path / "web" / "area.geojson", scene)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/area.geojson"
        outcome = run(
            *("classify", *scene, "-o", tmp_path / "out" / "map.tif", "--no-vectors", "--model", model),
            *("--aoi", address),
        )
    finally:
        server.shutdown()
        server.server_close()
    assert outcome.code == 0, outcome.err
    assert "64 pixels inside the area (8 × 8)" in outcome.err
    report = json.loads((tmp_path / "out" / "map.json").read_text())
    assert report["aoi"] == address
    with rasterio.open(tmp_path / "out" / "map.tif") as src:
        assert src.shape == (8, 8)


def test_pixels_of_an_area_are_not_those_of_its_box(scene: tuple[Path, Path], tmp_path: Path) -> None:
    with rasterio.open(scene[0]) as src:
        grid = Grid(src.height, src.width, src.transform, src.crs)
        corners = [src.transform * point for point in ((2, 2), (22, 2), (2, 22))]
        rows, cols = np.mgrid[:24, :28] + 0.5
        inside = ((rows > 2) & (cols > 2) & (rows - 2 + cols - 2 < 20)).sum()
        frame = geopandas.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=src.crs)
    frame.to_file(tmp_path / "triangle.gpkg")
    area = Area.from_file(tmp_path / "triangle.gpkg", grid)
    assert abs(area.pixels - inside) <= 20, "but for centres on the long edge"
    assert area.pixels < area.window.height * area.window.width * 0.6


def test_an_area_is_looked_for_before_the_shift(run: Run, scene, model: Path, tmp_path: Path) -> None:
    outcome = run("classify", *scene, "-o", tmp_path / "m.tif", "--model", model, "--aoi", "none.gpkg")
    assert outcome.code == 3
    assert "none.gpkg does not exist" in outcome.errors[0]
    assert "PAN lies" not in outcome.err
    assert listing(tmp_path) == set()


def test_flags_have_no_metavar(run: Run) -> None:
    for command in ((), ("classify",), ("models",), ("models", "list"), ("train",)):
        shown = run(*command, "--help").out
        assert "<bool>" not in shown
        assert "--help" in shown
    assert "--aoi" in run("classify", "--help").out


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "das2f_map", "--version"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"das2f-map {das2f_map.__version__}\n"


def test_names_of_models_are_whole_in_a_narrow_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = run("models", "list").out
    names = [m["name"] for m in json.loads(run("models", "list", "--json").out)]
    assert names
    for name in names:
        assert name in shown
    assert "…" not in shown


def test_the_list_of_models_imports_no_torch_and_no_numpy() -> None:
    code = (
        "import sys; from das2f_map.workflows.models import list_models; list_models(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "rasterio", "geopandas", "numpy"} & set(done.stdout.split())


# What the shell completes


def completed(command: str, parameter: str, begun: str) -> set[str]:
    """Values that the shell offers for a parameter of a command."""
    found: Any = get_command(app)
    for name in command.split():
        found = found.commands[name]
    (wanted,) = (p for p in found.params if p.name == parameter)
    context = found.make_context(command, [], resilient_parsing=True)
    return {item.value for item in wanted.shell_complete(context, begun)}


@pytest.mark.parametrize(
    ("command", "parameter", "begun", "offered"),
    [
        ("classify", "engine", "", {"auto", "shared", "patch", "onnx"}),
        ("classify", "engine", "s", {"shared"}),
        ("classify", "device", "c", {"cpu", "cuda", "cuda:0"}),
        ("inspect", "device", "c", {"cpu", "cuda", "cuda:0"}),
        ("classify", "precision", "b", {"bf16"}),
        ("train", "head", "po", {"pooled"}),
        ("classify", "model", "land", {"landsat8-gulf"}),
        ("export", "model", "land", {"landsat8-gulf"}),
        ("models show", "model", "land", {"landsat8-gulf"}),
        ("train", "start", "", {"auto", "none", "landsat8-gulf"}),
        ("classify", "vectors", "out/map.g", {"out/map.gpkg", "out/map.geojson"}),
        ("classify", "vectors", "../map", {f"../map{e}" for e in VECTOR_EXTENSIONS}),
        ("classify", "radiometry", "s", {"scene"}),
    ],
)
def test_completion(command: str, parameter: str, begun: str, offered: set[str]) -> None:
    assert completed(command, parameter, begun) == offered


def test_all_vector_formats_are_completed() -> None:
    assert set(VECTOR_EXTENSIONS) == set(DRIVERS)


def test_the_shell_gets_them() -> None:
    """As bash asks for them."""
    done = subprocess.run(
        [sys.executable, "-m", "das2f_map"],
        capture_output=True,
        text=True,
        check=True,
        env={
            **ENVIRONMENT,
            "_DAS2F_MAP_COMPLETE": "complete_bash",
            "COMP_WORDS": "das2f-map classify --engine s",
            "COMP_CWORD": "3",
        },
    )
    assert done.stdout.split() == ["shared"]


# Settings from the environment and a file


def settings(run: Run, *before: str | Path) -> dict[tuple[str, str], tuple[Any, str]]:
    """Values that `doctor` shows: (command, option) → value, source."""
    outcome = run(*before, "doctor", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["configuration"]
    return {(one["command"], one["option"]): (one["value"], one["source"]) for one in found}


def test_order_of_the_sources(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        'device = "cpu"\nmin-area = 9\n[classify]\ndevice = "cuda"\nprecision = "bf16"\nno-vectors = true\n'
        '[train]\nskip-class = ["a", "b"]\nsteps = 7\n[models.show]\njson = true\n'
    )
    monkeypatch.setenv("DAS2F_MAP_PRECISION", "fp16")
    monkeypatch.setenv("DAS2F_MAP_CLASSIFY_ENGINE", "patch")
    monkeypatch.setenv("DAS2F_MAP_TURNS", "")
    found = settings(run, "--config", file)
    assert found[("classify", "--device")] == ("cuda", f"{file}, [classify]")
    assert found[("train", "--device")] == ("cpu", f"{file}, its top")
    assert found[("classify", "--precision")] == ("fp16", "DAS2F_MAP_PRECISION")
    assert found[("classify", "--engine")] == ("patch", "DAS2F_MAP_CLASSIFY_ENGINE")
    assert found[("classify", "--min-area")] == ("9", f"{file}, its top")
    assert found[("train", "--skip-class")] == (["a", "b"], f"{file}, [train]")
    assert found[("models show", "--json")] == (True, f"{file}, [models.show]")
    assert ("classify", "--turns") not in found
    monkeypatch.setenv("DAS2F_MAP_CONFIG", str(file))
    assert settings(run) == found
    shown = run("doctor").out
    assert "DAS2F_MAP_CLASSIFY_ENGINE" in shown
    monkeypatch.delenv("DAS2F_MAP_CONFIG")
    monkeypatch.delenv("DAS2F_MAP_CLASSIFY_ENGINE")
    monkeypatch.delenv("DAS2F_MAP_PRECISION")
    assert settings(run) == {}


def test_settings_reach_the_command(
    run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my.toml"
    file.write_text(f'model = "{model}"\n[classify]\nengine = "shared"\nvectors = "{tmp_path}/a.fgb"\n')
    monkeypatch.setenv("DAS2F_MAP_BATCH_SIZE", "50")
    outcome = run("--config", file, "classify", *scene, "-o", tmp_path / "map.tif", "--engine", "patch")
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "map.json").read_text())
    assert (report["engine"], report["settings"]["batch_size"]) == ("patch", 50)
    assert (tmp_path / "a.fgb").is_file()


def test_wrong_values_name_their_source(
    run: Run, scene: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("classify", *scene, "-o", tmp_path / "map.tif")
    monkeypatch.setenv("DAS2F_MAP_ENGINE", "shard")
    outcome = run(*command)
    assert outcome.code == 2
    assert "did you mean 'shared'?" in words(outcome.err)
    assert "It comes from DAS2F_MAP_ENGINE." in words(outcome.err)
    monkeypatch.setenv("DAS2F_MAP_ENGINE", "")
    monkeypatch.setenv("DAS2F_MAP_BATCH_SIZE", "many")
    outcome = run(*command)
    assert (outcome.code, "from DAS2F_MAP_BATCH_SIZE" in words(outcome.err)) == (2, True)
    monkeypatch.setenv("DAS2F_MAP_BATCH_SIZE", "1")
    monkeypatch.setenv("DAS2F_MAP_TURNS", "3")
    outcome = run(*command)
    assert (outcome.code, "1, 2, 4 or 8" in words(outcome.err)) == (2, True)
    assert "It comes from DAS2F_MAP_TURNS." in words(outcome.err)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("devise = 'cpu'", "did you mean 'device'?"),
        ("[classfy]\ndevice = 'cpu'", "'classfy'"),
        ("[classify]\noverwrite = true", "belongs to one run"),
        ("[classify]\nno_vectors = 'maybe'", "true or false"),
        ("[classify]\ndevice = ['cpu']", "a text or a number"),
        ("[train]\nskip_class = [1]", "a list of texts"),
        ("device", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)
def test_files_that_cannot_be_used(text: str, says: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(text)
    outcome = run("--config", tmp_path / "my.toml", "models", "list")
    assert outcome.code == 2, outcome.err
    assert says in words(outcome.err)


def test_missing_file(run: Run) -> None:
    outcome = run("--config", "none.toml", "models", "list")
    assert outcome.code == 2
    assert "none.toml cannot be read" in words(outcome.err)


def test_variables_that_no_option_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAS2F_MAP_DEVISE", "cpu")
    outcome = run("models", "list")
    assert outcome.code == 0
    assert "DAS2F_MAP_DEVISE sets no option; did you mean DAS2F_MAP_DEVICE?" in outcome.err
    logging.getLogger().handlers[:] = []


# Hints and Python


def test_extras_are_installed_from_where_the_package_is(tmp_path: Path) -> None:
    assert install_extra("train") == f"pip install '{ROOT}[train]'"
    elsewhere = tmp_path / "site-packages"
    assert requirement("train", None, elsewhere) == "das2f-map[train]"
    folder = {"url": "file:///home/me/my%20map", "dir_info": {"editable": True}}
    assert requirement("onnx", folder, elsewhere) == "/home/me/my map[onnx]"
    wheel = {"url": "file:///home/me/das2f_map-0.1.0-py3-none-any.whl", "archive_info": {}}
    assert requirement("onnx", wheel, elsewhere) == f"das2f-map[onnx] @ {wheel['url']}"
    git = {"url": "https://host/das2f-map.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    assert requirement("onnx", git, elsewhere) == "das2f-map[onnx] @ git+https://host/das2f-map.git@abc"


def test_tables_in_memory_are_refused_by_name(scene: tuple[Path, Path], tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326)
    with pytest.raises(InputError, match="aoi cannot be a GeoDataFrame"):
        das2f_map.classify(*scene, tmp_path / "m.tif", aoi=cast(Any, frame))
    with pytest.raises(InputError, match="mask cannot be"):
        das2f_map.classify(*scene, tmp_path / "m.tif", mask=cast(Any, frame))
    with pytest.raises(InputError, match="labels cannot be a GeoDataFrame"):
        das2f_map.train(*scene, cast(Any, frame), tmp_path / "model")
