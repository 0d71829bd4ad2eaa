"""A map whose run was ended goes on, and comes out as if nothing had ended it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rasterio.shutil
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map.mapping.planned as planned_module
import das2f_map.mapping.run as run_module
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.errors import InputError, OutputError
from das2f_map.products.map_files import MapWriter
from das2f_map.running.blocks import BlockClassifier, ClassifiedBlock
from das2f_map.running.forecast import RunForecast
from das2f_map.scene.grid import Window
from das2f_map.scene.model_input import InputBlock
from das2f_map.workflows.classify import classify, forecast_map

TIME = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
COLLAR = [(slice(0, 14), slice(0, 14)), (slice(0, 3), slice(0, 60))]


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    return make_pair(tmp_path, ms_shape=(40, 60), nodata=0, ms_invalid=COLLAR)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder, patch=8)
    return folder / "tiny"


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a map by name, but for the report, which has times, and the GeoPackage's times of change."""
    return {p.name: TIME.sub(b"", p.read_bytes()) for p in folder.iterdir() if p.name != "m.json"}


@pytest.mark.slow
def test_killed_twenty_times(scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    program = Path(__file__).with_name("resumed_runs.py")
    done = subprocess.run(
        [sys.executable, program, *scene, model, tmp_path, "20"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    statuses = [int(line) for line in done.stdout.split()]
    assert statuses[-1] == 0, done.stderr
    # A run may end just before it would be killed.
    assert statuses[:-1] == [-signal.SIGKILL] * (len(statuses) - 1)
    assert len(statuses) > 5
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


class Ended(Exception):
    """Takes the place of whatever ends a run."""


def run(scene: tuple[Path, Path], model: Path, output: Path, **options: object) -> list[Window]:
    """Make a map; the windows whose blocks were computed."""
    computed: list[Window] = []
    ends_after = options.pop("ends_after", None)

    class Watched(BlockClassifier):
        def compute(self, window: Window, block: InputBlock) -> ClassifiedBlock:
            if ends_after is not None and len(computed) == ends_after:
                raise Ended
            computed.append(window)
            return super().compute(window, block)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planned_module, "BLOCK_SIZE", 12)
        patched.setattr(PerPatchEngine, "block_size", 12)
        patched.setattr("das2f_map.running.plan.BlockClassifier", Watched)
        settings: dict[str, Any] = {"coregistration": "off", "engine": "patch", "device": "cpu"}
        classify(*scene, output, model=model, **(settings | options))
    return computed


@pytest.mark.slow
def test_goes_on_at_the_last_finished_block(scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    for name in ("whole", "ended"):
        (tmp_path / name).mkdir()
    every = run(scene, model, tmp_path / "whole" / "m.tif")
    assert len(every) == 4 * 5
    output = tmp_path / "ended" / "m.tif"
    with pytest.raises(Ended):
        run(scene, model, output, ends_after=7)
    assert [p.name for p in output.parent.iterdir()] == [".m.tif.das2f-map"]
    with pytest.raises(OutputError, match=r"was ended after 7 blocks") as caught:
        run(scene, model, output)
    assert caught.value.hint == "--resume goes on with it, --overwrite begins anew"
    with pytest.raises(Ended):
        run(scene, model, output, resume=True, ends_after=4)
    with pytest.raises(InputError, match="it differs in --reject"):
        run(scene, model, output, resume=True, reject=0.9)
    assert run(scene, model, output, resume=True) == every[11:]
    assert contents(output.parent) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finish", "sha256_of"])
def test_a_run_that_ends_when_all_blocks_are_done_keeps_them(
    name: str, scene: tuple[Path, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polygons and checksums of a large map take minutes, in which a batch system may end the run."""
    output = tmp_path / "out" / "m.tif"
    output.parent.mkdir()

    def ended(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(MapWriter if name == "finish" else run_module, name, ended)
        with pytest.raises(SystemExit):
            run(scene, model, output)
    assert [p.name for p in output.parent.iterdir()] == [".m.tif.das2f-map"]
    assert run(scene, model, output, resume=True) == []
    assert output.is_file()


@pytest.mark.slow
def test_another_run_is_dropped_where_that_is_asked_for(
    scene: tuple[Path, Path], model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of many scenes that are made anew by other options, one may have been ended in the middle."""
    output = tmp_path / "out" / "m.tif"
    output.parent.mkdir()
    for reject, computed in ((0.8, 3), (0.9, 5)):
        with pytest.raises(Ended):
            run(scene, model, output, ends_after=computed, resume=True, overwrite=True, reject=reject)
    assert "it differs in --reject, --smooth" in caplog.text
    assert "begins anew" in caplog.text
    assert len(run(scene, model, output, resume=True, overwrite=True, reject=0.9)) == 20 - 5


@pytest.mark.slow
def test_begins_anew_where_nothing_is_left_or_it_is_dropped(
    scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "m.tif"
    output.parent.mkdir()
    with pytest.raises(Ended):
        run(scene, model, output, ends_after=3)
    assert len(run(scene, model, output, overwrite=True)) == 20
    assert not (output.parent / ".m.tif.das2f-map").exists()
    output.unlink()
    assert len(run(scene, model, output, resume=True, overwrite=True)) == 20


@pytest.mark.slow
def test_a_file_behind_a_vrt_that_has_changed_is_refused(
    scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    """Blocks of two images would make one map: the VRT itself stays the same."""
    ms, virtual, output = scene[0], tmp_path / "v.vrt", tmp_path / "out" / "m.tif"
    rasterio.shutil.copy(ms, virtual, driver="VRT")
    output.parent.mkdir()
    with pytest.raises(Ended):
        run((virtual, scene[1]), model, output, ends_after=3)
    before = ms.stat()
    os.utime(ms)
    with pytest.raises(InputError, match="it differs in the input files"):
        run((virtual, scene[1]), model, output, resume=True)
    os.utime(ms, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(run((virtual, scene[1]), model, output, resume=True)) == 17


@pytest.mark.slow
def test_a_dry_run_counts_what_is_done(scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "m.tif"
    output.parent.mkdir()

    def planned(**options: object) -> RunForecast:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(planned_module, "BLOCK_SIZE", 12)
            patched.setattr(PerPatchEngine, "block_size", 12)
            settings: dict[str, object] = {"coregistration": "off", "engine": "patch", "device": "cpu"}
            return forecast_map(*scene, output, model=model, **(settings | options))

    with pytest.raises(Ended):
        run(scene, model, output, ends_after=15)
    before = {p: p.read_bytes() for p in output.parent.rglob("*") if p.is_file()}
    whole, rest = planned(), planned(resume=True)
    assert (whole.blocks, whole.finished_blocks) == (20, 0)
    assert (rest.blocks, rest.finished_blocks, rest.finished) == (20, 15, False)
    assert rest.key == whole.key
    # The last row of blocks has 4 of the 40 rows.
    assert rest.pixels_per_second is not None
    assert rest.seconds == pytest.approx(
        4 * 60 * rest.valid_share / rest.pixels_per_second + 40 * 60 * 1.5e-6, abs=0.11
    )
    # Blocks that are there need no room a second time: 5 bytes a pixel, but for the block without a class.
    assert whole.work_bytes - rest.work_bytes == 5 * (36 * 60 - 12 * 12)
    with pytest.raises(InputError, match="it differs in --reject"):
        planned(resume=True, reject=0.9)
    assert planned(resume=True, reject=0.9, overwrite=True).finished_blocks == 0
    with pytest.raises(InputError, match=r"it differs in --every \(repeat"):
        planned(resume=True, every=3)
    assert {p: p.read_bytes() for p in output.parent.rglob("*") if p.is_file()} == before
    run(scene, model, output, resume=True)
    done = planned(resume=True)
    assert (done.finished, done.finished_blocks, done.seconds, done.disk_bytes) == (True, 20, 0.0, 0)


def test_a_map_without_any_class_leaves_nothing(model: Path, tmp_path: Path) -> None:
    scene = make_pair(tmp_path, ms_shape=(20, 30), nodata=0, ms_invalid=[(slice(0, 20), slice(0, 30))])
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError):
        run(scene, model, tmp_path / "out" / "m.tif")
    assert not any((tmp_path / "out").iterdir())
