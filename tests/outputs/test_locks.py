"""One run at a time on an output, and no lock that outlives its process."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest

from das2f_map.errors import OutputError
from das2f_map.outputs.locks import RunLock
from das2f_map.outputs.staging import StagedOutputs

PROGRAM = [sys.executable, str(Path(__file__).with_name("killed_runs.py"))]


def is_locked(path: Path) -> bool:
    """As the system says."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    (tmp_path / "m.tif").write_text("old")
    with subprocess.Popen(
        [*PROGRAM, "hold", str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(OutputError) as caught, StagedOutputs(overwrite=True) as out:
            out.stage(tmp_path / "m.tif")
        assert caught.value.message == f"output {tmp_path / 'm.tif'} is being written by another run"
        assert "wait" in (caught.value.hint or "")
        # The refused run has taken nothing from the other, which ends as it should.
        with StagedOutputs() as out:
            out.stage(tmp_path / "other.tif").write_text("other")
        first.stdin.close()
        assert first.wait() == 0
    assert (tmp_path / "m.tif").read_text() == "new"
    with StagedOutputs(overwrite=True) as out:
        out.stage(tmp_path / "m.tif").write_text("newer")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"m.tif": "newer", "other.tif": "other"}


def test_a_killed_run_leaves_the_lock_free_and_its_files_are_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m.tif").write_text("old")
    with subprocess.Popen(
        [*PROGRAM, "hold", str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "m.tif").read_text() == "old"
    with caplog.at_level(logging.INFO), StagedOutputs(overwrite=True) as out:
        out.stage(tmp_path / "m.tif").write_text("new")
        assert list(out.work_folder(tmp_path / "m.tif").iterdir()) == []
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert f"from {tmp_path / '.m.tif.das2f-map'}: staged, work" in caplog.text
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"m.tif": "new"}


def test_one_process_cannot_write_an_output_twice_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with StagedOutputs() as out:
        out.stage(tmp_path / "m.tif").write_text("first")
        for path in (tmp_path / "m.tif", tmp_path / "folder" / ".." / "m.tif"):
            with pytest.raises(OutputError, match="another run"), StagedOutputs() as second:
                second.stage(path)
    assert (tmp_path / "m.tif").read_text() == "first"


def test_locks_of_many_processes_exclude_each_other(tmp_path: Path) -> None:
    """Each makes and removes the lock file over and over while others open it."""
    done = subprocess.run(
        [*PROGRAM, "crowd", str(tmp_path), "3", "25"], capture_output=True, text=True, timeout=300, check=True
    )
    assert json.loads(done.stdout) == [[25, 0]] * 3, done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


class Meanwhile:
    """Does something just before, or just after, the first lock is taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: str, do: Callable[[], Any]) -> None:
        acquire, self.left = filelock.FileLock.acquire, 1

        def acquired(lock: filelock.FileLock, *args: Any, **options: Any) -> Any:
            self.left -= 1
            if when == "before" and self.left == 0:
                do()
            got = acquire(lock, *args, **options)
            if when == "after" and self.left == 0:
                do()
            return got

        monkeypatch.setattr(filelock.FileLock, "acquire", acquired)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lock_file_that_its_owner_removes_is_not_the_lock(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    meanwhile = Meanwhile(monkeypatch, when, path.unlink)
    lock = RunLock(path)
    assert lock.acquire()
    assert meanwhile.left < 0, "it was taken more than once"
    assert is_locked(path)
    lock.release()
    assert not is_locked(path)


def test_a_lock_file_that_another_run_has_made_anew_is_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    others: list[int] = []

    def taken_over() -> None:
        path.unlink()
        others.append(os.open(path, os.O_RDWR | os.O_CREAT))
        fcntl.flock(others[0], fcntl.LOCK_EX)

    Meanwhile(monkeypatch, "after", taken_over)
    lock = RunLock(path)
    assert not lock.acquire()
    os.close(others[0])
    assert lock.acquire()
    lock.release()


def test_without_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", missing)
    with StagedOutputs() as out:
        out.stage(tmp_path / "m.tif").write_text("new")
        # What this process does, it knows all the same.
        with pytest.raises(OutputError, match="another run"), StagedOutputs() as second:
            second.stage(tmp_path / "m.tif")
    assert f"The file system of {tmp_path} has no locks" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == ["m.tif"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_has_the_name_of_the_private_folder_is_left_alone(kind: str, tmp_path: Path) -> None:
    private = tmp_path / ".m.tif.das2f-map"
    (tmp_path / "mine").mkdir()
    if kind == "file":
        private.write_text("mine")
    elif kind == "link":
        private.symlink_to(tmp_path / "mine")
    else:
        (private / "staged").mkdir(parents=True)
        (private / "staged" / "m.tif").write_text("mine")
    before = {p: p.is_file() and p.read_text() for p in tmp_path.rglob("*")}
    for options in ({}, {"overwrite": True}):
        with pytest.raises(OutputError, match="is in the way") as caught, StagedOutputs(**options) as out:
            out.stage(tmp_path / "m.tif")
        assert str(private) in caught.value.message
        assert "\n" not in caught.value.message
    assert {p: p.is_file() and p.read_text() for p in tmp_path.rglob("*")} == before


def test_files_that_others_put_into_the_private_folder_are_left_alone(tmp_path: Path) -> None:
    with StagedOutputs() as out:
        staged = out.stage(tmp_path / "m.tif")
        staged.write_text("new")
        (staged.parent.parent / "notes.txt").write_text("mine")
    assert (tmp_path / "m.tif").read_text() == "new"
    assert [p.read_text() for p in tmp_path.rglob("notes.txt")] == ["mine"]
