"""`clean` removes what ended runs have left, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from das2f_map.errors import InputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.workflows.clean import clean

PROGRAM = Path(__file__).resolve().parents[1] / "outputs" / "killed_runs.py"


class Ended(Exception):
    """Takes the place of whatever ends a run."""


def ended_run(output: Path) -> None:
    """A run that leaves a work file of 10 bytes."""

    def run() -> None:
        with StagedOutputs() as out:
            out.stage(output)
            (out.work_folder(output) / "blocks").write_bytes(b"0123456789")
            out.keep_work()
            raise Ended

    with pytest.raises(Ended):
        run()


def test_ended_runs_are_removed_and_other_files_stay(tmp_path: Path) -> None:
    ended_run(tmp_path / "m.tif")
    (tmp_path / "other.tif").write_text("mine")
    foreign = tmp_path / ".x.das2f-map"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    (listed, _) = clean(tmp_path, dry_run=True)
    assert (listed.removed, listed.output) == (False, str(tmp_path / "m.tif"))
    assert listed.bytes > 10
    found = {Path(run.output).name: run for run in clean(tmp_path)}
    assert (found["m.tif"].removed, found["m.tif"].reason) == (True, "")
    assert (found["x"].removed, found["x"].reason) == (False, "not made by das2f-map")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".x.das2f-map", "notes.txt", "other.tif"]
    assert [run.output for run in clean(tmp_path)] == [str(tmp_path / "x")]


def test_a_run_that_still_writes_keeps_its_files(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), "hold", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        (run,) = clean(tmp_path)
        assert not run.removed
        assert "is being written by another run" in run.reason
        assert (tmp_path / ".m.tif.das2f-map" / "work" / "blocks").is_file()
        holder.communicate("")
    assert clean(tmp_path) == []
    assert (tmp_path / "m.tif").read_text() == "new"


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        clean(tmp_path / "nowhere")
