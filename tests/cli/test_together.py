"""Two runs on one output that start at the same time: one writes it, the other is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import rasterio
from command import COMMAND, ENVIRONMENT
from small_scene import Scene

from das2f_map.bundle.files import load_bundle


def together(*arguments: str | Path) -> list[tuple[int, str]]:
    """Exit status and messages of two processes, the one that succeeded first."""
    line = [*COMMAND, *map(str, arguments)]
    runs = [
        subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    messages = [run.communicate(timeout=280)[1] for run in runs]
    return sorted(zip((run.returncode for run in runs), messages, strict=True))


def check(ended: list[tuple[int, str]]) -> None:
    """Check that one run succeeded, and that the other was refused in one line."""
    assert [code for code, _ in ended] == [0, 6], ended
    errors = [line for line in ended[1][1].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "being written by another run" in errors[0] or "exists already" in errors[0]


@pytest.mark.slow
def test_two_maps(scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.tif"
    check(together("classify", *scene, "--model", model, "-o", out))
    with rasterio.open(out) as dataset:
        assert dataset.read(1).any()
    assert {p.name for p in tmp_path.iterdir()} == {"m.tif", "m.tif.aux.xml", "m.qml", "m.gpkg", "m.json"}


@pytest.mark.slow
def test_two_trainings(small_scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "mod"
    check(
        together(
            *("train", small_scene.ms, small_scene.pan, "--labels", small_scene.labels, "-o", out),
            *("--steps", "2", "--assess", "none", "--from", "none"),
        )
    )
    assert load_bundle(out).card.legend.names
    assert {p.name for p in tmp_path.iterdir()} == {"mod"}
