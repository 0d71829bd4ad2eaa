"""Many scenes on the command line: patterns, lists, the table, the exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import Run

FAST = ("--no-vectors", "--coregister", "off", "--device", "cpu")


@pytest.fixture
def folder(scene: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scene at two dates, a folder for maps, and the working folder there."""
    for day in ("0102", "0305"):
        for kind, path in zip(("ms", "pan"), scene, strict=True):
            shutil.copy(path, tmp_path / f"{day}_{kind}.tif")
    (tmp_path / "maps").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_patterns_and_a_list(folder: Path, model: Path, run: Run) -> None:
    paths = ("{date}_ms.tif", "{date}_pan.tif", "-o", "maps/{date}.tif")
    plan = run("classify", *paths, "--model", model, *FAST, "--dry-run")
    assert plan.code == 0
    assert "2 to map, 0 finished, 0 that cannot be planned" in plan.out
    assert "1,344" in plan.out
    assert not any((folder / "maps").iterdir())
    (folder / "0305_pan.tif").write_bytes((folder / "0305_pan.tif").read_bytes()[:2000])
    outcome = run("-q", "classify", *paths, "--model", model, *FAST, "--json", "--every", "2")
    assert outcome.code == 10
    assert outcome.errors[-1] == "error: 1 of 2 scenes failed"
    states = {s["output"]: s["state"] for s in json.loads(outcome.out)["scenes"]}
    assert states == {"maps/0102.tif": "done", "maps/0305.tif": "failed"}
    (folder / "lists").mkdir()
    (folder / "lists" / "pairs.csv").write_text(
        "ms,pan,output\n../0102_ms.tif,../0102_pan.tif,../maps/0102.tif\n"
    )
    again = run("classify", "--pairs", "lists/pairs.csv", "--model", model, *FAST, "--every", "2", "--resume")
    assert again.code == 0
    assert "1 scenes: 0 done, 1 skipped, 0 failed" in again.out
    other = run("classify", "--pairs", "lists/pairs.csv", "--model", model, *FAST, "--every", "3", "--resume")
    assert other.code == 10
    assert "hint: --overwrite with --resume makes such maps anew" in other.err
    taken = run("classify", "--pairs", "lists/pairs.csv", "--model", model, *FAST)
    assert taken.code == 6
    assert "exists already" in taken.errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pairs", "{date}_ms.tif", "{date}_pan.tif", "-o", "{date}.tif"], "patterns take the place"),
        (["a.tif", "--pairs", "p.csv"], "columns of the file"),
        (["--pairs", "p.csv", "--confidence", "c.tif"], "is a column"),
        (["{date}_ms.tif", "{date}_pan.tif"], "it names the maps"),
        (["a.tif", "b.tif"], "name a scene and a map"),
        (["-o", "m.tif"], "name a scene and a map"),
        (["a.tif", "b.tif", "-o", "m.tif", "--summary", "s.json"], "about many scenes"),
        (["{d}_ms.tif", "{d}_pan.tif", "-o", "{d}.tif", "--summary", "s.json", "--dry-run"], "no outcomes"),
        (["a.tif", "b.tif", "-o", "m.tif", "--every", "0"], "--every"),
    ],
)
def test_usage(arguments: list[str], said: str, folder: Path, run: Run) -> None:
    outcome = run("classify", *arguments)
    assert outcome.code == 2
    assert said in " ".join(outcome.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "named", "lacking"),
    [
        (["a.tif", "b.tif", "-o", "maps/{date}.tif"], "output maps/{date}.tif", "a.tif"),
        (["a.tif", "{date}.tif", "-o", "m.tif"], "pan {date}.tif", "a.tif"),
        (["a.tif", "b.tif", "-o", "m.tif", "--confidence", "{x}.tif"], "confidence {x}.tif", "a.tif"),
        (["{d}_ms.tif", "{d}_pan.tif", "-o", "maps/{date}.tif"], "output maps/{date}.tif", "{d}_ms.tif"),
        (["{d}_ms.tif", "{d}_pan.tif", "-o", "{d}.tif", "--summary", "{d}.json"], "summary {d}.json", "one"),
        (["--pairs", "pairs.csv"], "output {d}.tif", "a list such as pairs.csv"),
    ],
)
def test_fields_that_nothing_fills_in(
    arguments: list[str], named: str, lacking: str, folder: Path, run: Run
) -> None:
    """They would be the names of files."""
    (folder / "pairs.csv").write_text("ms,pan,output\n0102_ms.tif,0102_pan.tif,{d}.tif\n")
    before = {*folder.rglob("*")}
    outcome = run("classify", *arguments)
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) == 2
    assert outcome.errors[0].startswith(f"error: {named} has the field {{")
    assert f"which {lacking}" in outcome.errors[0]
    assert {*folder.rglob("*")} == before


def test_a_finished_map_is_not_made_again(folder: Path, model: Path, run: Run) -> None:
    own = ("0102_ms.tif", "0102_pan.tif", "-o", "maps/m.tif", "--model", model, *FAST)
    assert run("classify", *own, "--every", "2").code == 0
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (folder / "maps").iterdir()}
    again = run("classify", *own, "--every", "2", "--resume")
    assert again.code == 0
    assert "maps/m.tif is finished already" in again.err
    assert "draft of 1 in 2 × 2" in again.out
    plan = run("classify", *own, "--every", "2", "--resume", "--dry-run")
    assert plan.code == 0
    assert "nothing is left to do: the map is finished" in plan.out
    assert "--overwrite" not in plan.out
    for more in ([], ["--dry-run"]):
        other = run("classify", *own, "--every", "3", "--resume", *more)
        assert (other.code, other.errors) == (
            6,
            ["error: maps/m.tif was made otherwise: it differs in --every"],
        )
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (folder / "maps").iterdir()} == before
