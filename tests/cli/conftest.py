"""Fixtures for all tests of the command line: the command, and one small scene with a small model."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Run, in_process
from synthetic import make_pair
from tiny import tiny_bundle


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that the person who runs the tests has set in the environment do not count."""
    for name in [n for n in os.environ if n.startswith("DAS2F_MAP_") and "REQUIRE" not in n]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command in this process; the logging setup is restored afterwards."""
    root, own = logging.getLogger(), logging.getLogger("das2f_map")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield in_process(capsys, monkeypatch)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """MS and PAN of 24 × 28 MS pixels of 8 m, nodata 0 in a corner."""
    return make_pair(
        tmp_path_factory.mktemp("scene"),
        ms_shape=(24, 28),
        nodata=0,
        ms_invalid=[(slice(0, 3), slice(0, 4))],
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model bundle that fits the scene."""
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder, patch=8)
    return folder / "tiny"
