"""`das2f-map mosaic` from its arguments to what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from command import Run
from maps import UTM, write_map

from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid

LEGEND = Legend.from_names(["water", "forest"])


def test_tables_and_json(run: Run, tmp_path: Path) -> None:
    classes = np.full((10, 10), 1, np.uint8)
    east = Grid(10, 10, UTM.transform * UTM.transform.translation(5, 0), UTM.crs)
    write_map(tmp_path / "a.tif", classes, legend=LEGEND)
    write_map(tmp_path / "b.tif", classes + 1, legend=LEGEND, grid=east)
    arguments = ("mosaic", tmp_path / "a.tif", tmp_path / "b.tif", "-o", tmp_path / "m.tif")
    outcome = run(*arguments)
    assert outcome.code == 0
    assert "the first decides" in outcome.out
    assert "100.0 %" in outcome.out
    assert "no raster of confidence" in outcome.err
    again = run(*arguments)
    assert (again.code, again.errors) == (6, [f"error: output {tmp_path}/m.tif exists already"])
    report = json.loads(run("-q", *arguments, "--overwrite", "--json").out)
    assert [s["pixels"] for s in report["seams"]] == [50]
    assert [c["pixels"] for c in report["classes"]] == [100, 50]
