"""Fixtures of the training tests. ``from small_scene import …`` works in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from small_scene import Scene, make_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Made once: tests only read it."""
    return make_scene(tmp_path_factory.mktemp("scene"))
