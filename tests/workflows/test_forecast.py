"""`classify --dry-run` tells what the run does, and writes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import in_process
from synthetic import make_pair
from tiny import tiny_bundle

from das2f_map.errors import InputError, OutputError
from das2f_map.workflows.classify import classify, forecast_map


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    """The left half of the scene is nodata."""
    return make_pair(tmp_path, ms_shape=(70, 140), nodata=0, ms_invalid=[(slice(0, 70), slice(0, 70))])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder, patch=8)
    return folder / "tiny"


@pytest.mark.slow
def test_the_plan_is_that_of_the_run(
    scene: tuple[Path, Path],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    options = ["--model", model, "--engine", "patch", "--device", "cpu", "--coregister", "off"]
    command = ["classify", *scene, "-o", out / "m.tif", "--confidence", out / "c.tif", *options]
    run = in_process(capsys, monkeypatch)
    told = run(*command, "--dry-run", "--json")
    assert told.code == 0
    plan = json.loads(told.out)
    assert not any(out.iterdir())
    assert (plan["rows"], plan["columns"]) == (70, 140)
    assert plan["blocks"] == math.ceil(70 / plan["block_size"]) * math.ceil(140 / plan["block_size"])
    assert (plan["engine"], plan["device"], plan["precision"]) == ("patch", "cpu", "fp32")
    assert plan["valid_share"] == pytest.approx(0.5, abs=0.1)
    assert plan["seconds"] > 4900 / plan["pixels_per_second"] * 0.7
    assert {Path(o["path"]).name for o in plan["outputs"]} == {"m.tif", "m.json", "m.gpkg", "c.tif"}
    # Blocks that are kept, and rasters before they are compressed: 5 bytes a pixel each.
    assert plan["work_bytes"] == 10 * 70 * 140
    assert plan["disk_bytes"] == plan["work_bytes"] + sum(o["bytes"] for o in plan["outputs"])
    assert 0 < plan["memory_bytes"] <= plan["memory_limit_bytes"] <= 4 << 30
    assert run(*command).code == 0
    assert {p.name for p in out.iterdir()} > {"m.tif", "m.json", "m.gpkg", "c.tif"}
    told = run(*command, "--dry-run")
    assert told.code == 0
    assert told.out.count("exists: needs --overwrite") == 4
    assert "Plan; nothing is written" in told.out


def test_what_the_run_refuses_the_plan_refuses(scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": model, "engine": "patch", "device": "cpu", "coregistration": "off"}
    makers: tuple[Callable[..., Any], ...] = (forecast_map, classify)
    for make in makers:
        with pytest.raises(InputError, match="of memory is too small"):
            make(*scene, tmp_path / "m.tif", max_memory="10M", **options)
    with pytest.raises(OutputError, match="does not exist"):
        forecast_map(*scene, tmp_path / "no" / "m.tif", **options)
    with pytest.raises(OutputError, match="is also an input"):
        forecast_map(*scene, scene[0], **options)
    with pytest.raises(InputError, match="is no size of memory"):
        forecast_map(*scene, tmp_path / "m.tif", max_memory="much")
    with pytest.raises(TypeError, match="no option colour"):
        forecast_map(*scene, tmp_path / "m.tif", colour="red")
