"""What can be known at the start is said at the start: before the shift is measured or a pixel classified."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from command import Run, listing
from tiny import tiny_bundle

DISK = namedtuple("DISK", "total used free")


def test_a_disk_that_is_too_small(
    run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 × 28 pixels, of which half have to fit.

    1 byte for the class and 4 for each of three probabilities; a stored block has 4 more for the confidence.
    """
    pixels = 24 * 28
    arguments = ("classify", *scene, "--model", model, "-o", tmp_path / "m.tif", "--no-vectors")
    more = ("--probabilities", tmp_path / "p.tif")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK(0, 0, pixels * 30 // 2 - 1))
    found = run(*arguments, *more)
    assert found.code == 6
    assert len(found.errors) == 1
    assert "kB free" in found.errors[0]
    assert "engine" not in found.err  # the line that announces the work
    assert listing(tmp_path) == set()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK(0, 0, pixels * 30 // 2))
    assert run(*arguments, *more).code == 0


def test_an_area_that_cannot_be_used(run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    found = run(
        "classify", *scene, "--model", model, "-o", tmp_path / "m.tif", "--aoi", "/vsizip//none.zip/a"
    )
    assert found.code == 3
    assert "/vsizip//none.zip/a" in found.errors[0]
    assert "shift" not in found.err
    assert listing(tmp_path) == set()


def test_files_of_the_old_map_that_stay(
    run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    """Polygons of a map that is replaced without new ones no longer agree with the raster."""
    command = ("classify", *scene, "--model", model, "-o", tmp_path / "m.tif", "--device", "cpu")
    assert run(*command, "--confidence", tmp_path / "c.tif", "--every", "4").code == 0
    same = run(*command, "--confidence", tmp_path / "c.tif", "--overwrite", "--every", "2")
    assert (same.code, "of the map that is replaced" in same.err) == (0, False)
    old = (tmp_path / "m.gpkg").read_bytes()
    found = run(*command, "--overwrite", "--no-vectors", "--every", "3")
    assert found.code == 0
    assert f"{tmp_path / 'm.gpkg'}, {tmp_path / 'c.tif'}: of the map that is replaced" in found.err
    assert (tmp_path / "m.gpkg").read_bytes() == old


NOT_UTF8 = "caf\udce9"


def test_inputs_whose_names_are_not_utf8(
    run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    """They are read, and the report names them in UTF-8."""
    ms = tmp_path / f"{NOT_UTF8}.tif"
    shutil.copy(scene[0], ms)
    report = tmp_path / "m.json"
    assert run("classify", ms, scene[1], "--model", model, "-o", tmp_path / "m.tif", "--no-vectors").code == 0
    path = json.loads(report.read_text("utf-8"))["scene"]["ms"]["path"]
    assert path == str(tmp_path / "caf\\xe9.tif")


@pytest.mark.parametrize("name", [f"{NOT_UTF8}.tif", f"{NOT_UTF8}/m.tif"])
def test_outputs_whose_names_are_not_utf8(
    name: str, run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / name
    output.parent.mkdir(exist_ok=True)
    found = run("classify", *scene, "--model", model, "-o", output, "--no-vectors")
    assert found.code == 6
    assert "UTF-8" in found.errors[0]
    assert "caf\\xe9" in found.errors[0]
    assert listing(output.parent) - {NOT_UTF8} == set()


@pytest.mark.parametrize("length", [246, 255, 256, 3000])
def test_names_that_are_too_long(
    length: int, run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    """A file system takes 255 bytes; side files and the private folder have longer names than the output."""
    output = tmp_path / ("n" * (length - 4) + ".tif")
    found = run("classify", *scene, "--model", model, "-o", output, "--no-vectors")
    assert found.code == 6
    assert "too long" in found.errors[0]
    assert found.hints == ["hint: choose a shorter name"]
    assert listing(tmp_path) == set()


@pytest.mark.parametrize(
    "command",
    [
        "classify LONG PAN -o OUT/m.tif --model MODEL",
        "classify MS LONG -o OUT/m.tif --model MODEL",
        "classify LONG -o OUT/m.tif --model MODEL",
        "classify MS PAN -o OUT/m.tif --model LONG",
        "classify MS PAN -o OUT/m.tif --model MODEL --aoi LONG",
        "classify MS PAN -o OUT/m.tif --model MODEL --mask LONG",
        pytest.param("train MS PAN --labels LONG -o OUT/net", marks=pytest.mark.slow),
        pytest.param("train MS PAN --labels PAN -o OUT/net --from LONG", marks=pytest.mark.slow),
        pytest.param("train MS PAN --labels PAN -o LONG", marks=pytest.mark.slow),
        pytest.param("train --scenes LONG -o OUT/net", marks=pytest.mark.slow),
        "inspect MS PAN --model LONG",
        "align MS PAN -o LONG",
        "evaluate LONG --reference PAN",
        pytest.param("evaluate PAN --reference LONG", marks=pytest.mark.slow),
        pytest.param("evaluate PAN --reference PAN --other-map LONG", marks=pytest.mark.slow),
        "preview LONG -o OUT/m.png",
        "preview PAN -o LONG.png",
        "report LONG -o OUT/m.html",
        pytest.param("report PAN -o OUT/m.html --evaluation LONG", marks=pytest.mark.slow),
        "vectorize LONG -o OUT/m.gpkg",
        "style PAN --legend LONG",
        "rerun LONG",
        pytest.param("rerun LONG -o OUT/m.tif", marks=pytest.mark.slow),
        pytest.param("mosaic LONG PAN -o OUT/m.tif", marks=pytest.mark.slow),
        pytest.param("classify --pairs LONG", marks=pytest.mark.slow),
        pytest.param("sample LONG -o OUT/s.gpkg", marks=pytest.mark.slow),
        pytest.param("export LONG -o OUT/m.onnx", marks=pytest.mark.slow),
        pytest.param("export MODEL -o LONG.onnx", marks=pytest.mark.slow),
        "models show LONG",
        pytest.param("models import LONG --ms MS --pan PAN -o OUT/net", marks=pytest.mark.slow),
        pytest.param("labels check MS PAN --labels LONG", marks=pytest.mark.slow),
        "clean LONG",
        "--config LONG models list",
    ],
)
def test_paths_that_are_too_long_for_any_file(
    command: str, run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    """Python's own look at such a path raises an error, where another path is simply missing."""
    ms, pan = scene
    named = {"LONG": "l" * 5000, "MS": str(ms), "PAN": str(pan), "MODEL": str(model), "OUT": str(tmp_path)}
    words = []
    for word in command.split():
        first, slash, rest = word.partition("/")
        stem, dot, end = first.partition(".")
        words.append(named.get(stem, stem) + dot + end + slash + rest)
    found = run(*words)
    assert found.code in (2, 3, 4, 5, 6), found.err[-500:]
    assert found.code == 2 or len(found.errors) == 1
    assert listing(tmp_path) == set()


def test_an_output_without_a_name(run: Run, scene: tuple[Path, Path], model: Path) -> None:
    found = run("classify", *scene, "--model", model, "-o", "")
    assert found.code == 6
    assert "is a folder" in found.errors[0]


def test_labels_that_cannot_be_read(run: Run, scene: tuple[Path, Path], tmp_path: Path) -> None:
    """A training finds out about all its files before it measures a shift."""
    labels = tmp_path / "labels.txt"
    labels.write_text("no labels")
    before = listing(tmp_path)
    found = run("train", *scene, "--labels", labels, "-o", tmp_path / "model")
    assert found.code == 4
    assert "neither a vector file nor a raster" in found.errors[0]
    assert "shift" not in found.err
    assert listing(tmp_path) == before


@pytest.mark.slow  # a start of das2f-map train
def test_a_model_that_a_training_cannot_start_from(
    run: Run, scene: tuple[Path, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tiny_bundle(models := tmp_path_factory.mktemp("models"))
    found = run("train", *scene, "--labels", scene[0], "-o", tmp_path / "net", "--from", models / "tiny")
    assert found.code == 5
    assert "other sizes" in found.errors[0]
    assert "width 16 and 64" in found.errors[0]
    assert "shift" not in found.err
    assert listing(tmp_path) == set()
