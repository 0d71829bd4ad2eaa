"""What can be known at the start is said at the start: before the shift is measured or a pixel classified."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from command import Run, listing

DISK = namedtuple("DISK", "total used free")


def test_a_disk_that_is_too_small(
    run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 × 28 pixels: 1 byte for the class, 4 for each of three probabilities; half of it has to fit."""
    pixels = 24 * 28
    arguments = ("classify", *scene, "--model", model, "-o", tmp_path / "m.tif", "--no-vectors")
    more = ("--probabilities", tmp_path / "p.tif")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK(0, 0, pixels * 13 // 2 - 1))
    found = run(*arguments, *more)
    assert found.code == 6
    assert len(found.errors) == 1
    assert "GB free" in found.errors[0]
    assert "engine" not in found.err  # the line that announces the work
    assert listing(tmp_path) == set()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK(0, 0, pixels * 13 // 2))
    assert run(*arguments, *more).code == 0


def test_an_area_that_cannot_be_used(run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    found = run(
        "classify", *scene, "--model", model, "-o", tmp_path / "m.tif", "--aoi", "/vsizip//none.zip/a"
    )
    assert found.code == 3
    assert "/vsizip//none.zip/a" in found.errors[0]
    assert "shift" not in found.err
    assert listing(tmp_path) == set()
