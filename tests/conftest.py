"""What all tests share. ``from synthetic import make_pair`` works from any test file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Tiny networks gain nothing from threads and lose much where test processes share the cores. Before
# torch is imported; the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

HERE = Path(__file__).resolve().parent
# Test files are imported without a package (importlib mode), so their helpers need a place on the path.
sys.path.insert(0, str(HERE))

from small_scene import Scene, make_scene  # noqa: E402 - the path is set above


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of further real scenes beside the repository, where there is one."""
    folder = HERE.parents[1] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real scenes in {folder}, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A made-up scene with labels, made once: tests only read it."""
    return make_scene(tmp_path_factory.mktemp("scene"))


WHOLE = ("cli", "engines", "qgis", "running", "workflows")
"""Folders of tests that run whole workflows, engines or processes: too much for `make quick`."""

WHOLE_FILES = (
    "bundle/test_fit.py",
    "network/test_parity.py",
    "scene/test_registration.py",
    "scene/test_remote.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make quick` leaves out."""
    for item in items:
        place = item.path.relative_to(HERE)
        if place.parts[0] in WHOLE or place.as_posix() in WHOLE_FILES:
            item.add_marker(pytest.mark.whole)
