"""Damaged inputs are handled or refused in one line, and the runner of the cases sees each kind of fault."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from fuzz.cases import KINDS, Case
from fuzz.runner import Running, judged, listed

TESTS = Path(__file__).resolve().parent


@pytest.mark.slow
def test_150_cases(tmp_path: Path) -> None:
    """A few cases more in a second run: it goes on, and does not begin anew."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    command = [sys.executable, "-m", "fuzz.runner", "--seed", "0", "-o", str(tmp_path), "--cases"]
    begin = time.monotonic()
    done = subprocess.run([*command, "148"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    journal = tmp_path / "seed-0" / "cases.jsonl"
    first = journal.read_text()
    done = subprocess.run([*command, "150"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 of 150 cases handled" in done.stdout
    assert journal.read_text().startswith(first)
    results = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sorted(r["case"] for r in results) == list(range(150))
    assert {r["kind"] for r in results} == {kind.__name__.strip("_") for kind, _ in KINDS}
    # Some damage is refused, some does no harm: else the cases are too rough or too mild.
    assert 20 < sum(r["code"] == 0 for r in results) < 130
    assert [p.name for p in journal.parent.iterdir() if p.name.startswith("case-")] == []
    print(f"{time.monotonic() - begin:.0f} s")


class _SoundCase:
    """The folders of a case, without damage."""

    kind, arguments = "image", ("classify",)

    def __init__(self, folder: Path) -> None:
        self.base, self.inputs = folder / "base", folder / "in"
        self.out, self.work = folder / "out", folder / "work"
        for made in (self.base, self.inputs, self.out, self.work):
            made.mkdir()
        (self.inputs / "ms.tif").write_bytes(b"abc")


SOUND = "PAN lies 0.06 PAN pixels from MS\nerror: MS file ms.tif is none\nhint: check the path\n"


@pytest.mark.parametrize(
    ("err", "status", "fault"),
    [
        (SOUND, 3 << 8, ""),
        ("", 0, ""),
        (SOUND, 70 << 8, "exit code 70"),
        (SOUND, 1 << 8, "exit code 1"),
        (SOUND, 11, "signal 11"),
        ("Traceback (most recent call last):\n" + SOUND, 3 << 8, "traceback"),
        ("ERROR 1: PROJ: bad\n" + SOUND, 3 << 8, "chatter"),
        ("Warning 1: TIFFReadDirectory: bad\n", 0, "chatter"),
        ("/lib/x.py:3: UserWarning: odd\n", 0, "chatter"),
        ("error: one\nerror: two\n", 3 << 8, "2 lines of error"),
        ("error: one\nand more\n", 3 << 8, "'and more' at the end"),
        ("", 3 << 8, "0 lines of error"),
        (SOUND, 0, "an error with exit code 0"),
    ],
)
def test_faults_are_seen(err: str, status: int, fault: str, tmp_path: Path) -> None:
    case = _SoundCase(tmp_path)
    (tmp_path / "stderr").write_text(err)
    run = Running(0, cast(Case, case), tmp_path, listed(case.inputs), time.monotonic())
    faults = judged(run, status, resource.getrusage(resource.RUSAGE_SELF), {}).faults
    assert any(fault in one for one in faults) if fault else faults == []


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("in/ms.tif", "an input has changed"),
        ("in/ms.tif.aux.xml", "an input has changed"),
        ("base/x.aux.xml", "an input has changed"),
        ("work/core", "left: core"),
        ("out/map.tif", "left: map.tif"),
    ],
)
def test_files_that_are_touched_or_left_are_seen(place: str, fault: str, tmp_path: Path) -> None:
    case = _SoundCase(tmp_path)
    (tmp_path / "stderr").write_text(SOUND)
    run = Running(0, cast(Case, case), tmp_path, listed(case.inputs), time.monotonic())
    (tmp_path / place).write_bytes(b"changed")
    faults = judged(run, 3 << 8, resource.getrusage(resource.RUSAGE_SELF), {}).faults
    assert any(one.startswith(fault) for one in faults)
