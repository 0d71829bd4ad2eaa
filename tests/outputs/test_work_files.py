"""Work files: gone with the run, or found again by the run that resumes it."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from maps import AWKWARD_LEGEND, UTM, patchy_classes, write_map

from das2f_map.errors import OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.whole_files import written_whole
from das2f_map.outputs.work_files import StateFolder, work_folder
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.products.polygons import write_polygons
from das2f_map.scene.grid import Window

PROGRAM = [sys.executable, str(Path(__file__).with_name("killed_runs.py"))]


def run(folder: Path, *, fails: bool, keeps: bool = False, resume: bool = False) -> list[str]:
    """Writes one output with a work file; the work files that it found."""
    found: list[str] = []
    try:
        with StagedOutputs(overwrite=True, resume=resume) as out:
            staged = out.stage(folder / "m.tif")
            work = out.work_folder(folder / "m.tif")
            found += [p.read_text() for p in work.iterdir()]
            (work / "blocks").write_text("half of them")
            staged.write_text("new")
            if keeps:
                out.keep_work()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return found


def test_work_files_go_away_with_the_run(tmp_path: Path) -> None:
    for fails in (True, False):
        assert run(tmp_path, fails=fails) == []
    assert [p.name for p in tmp_path.iterdir()] == ["m.tif"]


def test_work_files_that_are_kept_are_found_by_the_run_that_resumes(tmp_path: Path) -> None:
    assert run(tmp_path, fails=True, keeps=True) == []
    assert not (tmp_path / "m.tif").exists()
    # A resumed run that fails keeps them too.
    assert run(tmp_path, fails=True, resume=True) == ["half of them"]
    assert run(tmp_path, fails=False, resume=True) == ["half of them"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.tif"]
    assert run(tmp_path, fails=False, resume=True) == []


def test_a_run_that_starts_anew_says_that_it_removes_kept_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, fails=True, keeps=True)
    with caplog.at_level(logging.INFO):
        assert run(tmp_path, fails=False) == []
    assert [m.endswith(f"from {tmp_path / '.m.tif.das2f-map'}: work") for m in caplog.messages] == [True]


def test_work_files_outlive_a_killed_run(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "hold", str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"ready\n"
        killed.send_signal(signal.SIGKILL)
    assert run(tmp_path, fails=False, resume=True) == ["half of them"]


def test_a_refused_run_keeps_what_another_may_resume(tmp_path: Path) -> None:
    run(tmp_path, fails=True, keeps=True)
    (tmp_path / "m.tif").write_text("mine")
    with pytest.raises(OutputError, match="exists already"), StagedOutputs(resume=True) as out:
        out.stage(tmp_path / "m.tif")
    assert run(tmp_path, fails=False, resume=True) == ["half of them"]


def test_products_keep_their_work_files_in_the_private_folder(tmp_path: Path) -> None:
    classes = patchy_classes(97, 130, AWKWARD_LEGEND.ids)
    with ClassRasterWriter(tmp_path / "m.tif", UTM, AWKWARD_LEGEND) as writer:
        writer.write(Window(0, 0, 97, 130), classes)
        assert [p.name for p in tmp_path.iterdir()] == [".m.tif.das2f-map"]
        with pytest.raises(OutputError, match="another run"), StagedOutputs() as out:
            out.stage(tmp_path / "m.tif")
    seen = set()

    class Looking:
        def __call__(self, description: str, total: int | None) -> Looking:
            return self

        def __enter__(self) -> Looking:
            seen.update(p.name for p in tmp_path.iterdir())
            self.advance = lambda n: seen.update(p.name for p in tmp_path.iterdir())
            return cast(Any, self.advance)

        def __exit__(self, *_: object) -> None:
            pass

    write_polygons(
        tmp_path / "m.tif", tmp_path / "m.fgb", AWKWARD_LEGEND, min_area_m2=9000, progress=Looking()
    )
    assert {n for n in seen if n.startswith(".")} == {".m.fgb.das2f-map"}
    assert {p.name for p in tmp_path.iterdir()} == {"m.tif", "m.tif.aux.xml", "m.fgb", "m.qml"}


def test_products_take_the_work_folder_that_they_are_given(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with ClassRasterWriter(tmp_path / "m.tif", UTM, AWKWARD_LEGEND, work=work) as writer:
        writer.write(Window(0, 0, 97, 130), np.ones((97, 130), np.uint8))
        assert len(list(work.iterdir())) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["work"]
    write_polygons(tmp_path / "m.tif", tmp_path / "m.fgb", AWKWARD_LEGEND, min_area_m2=9000, work=work)
    assert list(work.iterdir()) == []


def test_staged_products_have_their_work_files_where_the_run_finds_them(tmp_path: Path) -> None:
    with StagedOutputs() as out:
        staged, other = out.stage(tmp_path / "m.tif"), out.stage(tmp_path / "m.fgb")
        with ClassRasterWriter(staged, UTM, AWKWARD_LEGEND) as writer:
            writer.write(Window(0, 0, 97, 130), np.ones((97, 130), np.uint8))
            assert len(list(out.work_folder(tmp_path / "m.tif").iterdir())) == 1
        with work_folder(other) as place:
            assert place == out.work_folder(tmp_path / "m.fgb")
        other.write_text("polygons")
    assert {p.name for p in tmp_path.iterdir()} == {"m.tif", "m.tif.aux.xml", "m.fgb"}


def test_polygons_beside_a_foreign_private_folder_are_refused(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "m.tif", patchy_classes(20, 20, AWKWARD_LEGEND.ids))
    (tmp_path / ".m.shp.das2f-map").write_text("mine")
    with pytest.raises(OutputError, match="is in the way"):
        write_polygons(raster, tmp_path / "m.shp", AWKWARD_LEGEND)
    assert (tmp_path / ".m.shp.das2f-map").read_text() == "mine"
    assert not (tmp_path / "m.shp").exists()


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with written_whole(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), written_whole(path) as partial:  # noqa: PT012 - it ends inside
        partial.write_text("second")
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError), written_whole(path):
        pass
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"state": "first"}
    # One of several processes that takes part in the writing.
    with written_whole(path, by_me=False):
        pass
    assert path.read_text() == "first"


def test_data_that_do_not_reach_the_disk_replace_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_text("first")

    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing)
        with pytest.raises(OSError, match="Input/output error"), written_whole(path) as partial:
            partial.write_text("second")
        with pytest.raises(OutputError, match=r"cannot write m\.tif"), StagedOutputs() as out:
            out.stage(tmp_path / "m.tif").write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"state": "first"}


def test_a_state_folder_is_free_only_for_its_own_state(tmp_path: Path) -> None:
    known = False
    state = StateFolder(tmp_path / "state", ("run.json", "last"), lambda: known)
    assert state.is_free()
    state.path.mkdir()
    assert state.is_free()
    with state.written("run.json") as partial:
        partial.write_text("{}")
        assert state.is_free()  # as if it were killed here
    assert not state.is_free(), "others may have files of that name"
    known = True
    assert state.is_free()
    (state.path / "notes.txt").write_text("mine")
    state.discard()
    assert [p.name for p in state.path.iterdir()] == ["notes.txt"]
    (state.path / "notes.txt").unlink()
    state.discard()
    assert not state.path.exists()
