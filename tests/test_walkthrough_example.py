"""The walk-through of the example, as a user runs it: its figures and its map are those of a usable model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rasterio
from command import run_example


@pytest.mark.slow
def test_a_first_look_is_of_use(tmp_path: Path) -> None:
    """The limits leave room for other processors, whose sums differ in the last digit."""
    run_example("walkthrough.sh", tmp_path)
    card = json.loads((tmp_path / "model" / "model.json").read_text(encoding="utf-8"))
    assert card["verdict"]["usable"]
    assert card["verdict"]["overall_accuracy"] > 0.8
    assert "not tested" not in card["verdict"]["text"]
    maps = []
    for name in ("landcover.tif", "bundled.tif"):
        with rasterio.open(tmp_path / name) as file:
            maps.append(file.read(1))
    assert maps[0].shape == (112, 112)
    assert (maps[0] == maps[1]).mean() > 0.8
