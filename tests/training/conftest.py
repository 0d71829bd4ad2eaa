"""Fixtures of the training tests. ``from small_scene import …`` works in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from small_scene import Scene, make_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Made once: tests only read it."""
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks gain nothing from threads, and lose much where cores are shared."""
    torch.set_num_threads(1)
