# ruff: noqa: PT012 (what is tested is how a with block with several statements ends)
from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from das2f_map.errors import OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import require_space, writing


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_outputs_appear_together_with_their_side_files(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with StagedOutputs() as out:
        a, b = out.stage(tmp_path / "a.tif"), out.stage(other / "b.gpkg")
        assert (a.name, b.name) == ("a.tif", "b.gpkg")
        assert tmp_path in a.parents
        assert other in b.parents
        a.write_text("A")
        a.with_name("a.tif.aux.xml").write_text("names")
        a.with_suffix(".qml").write_text("style")
        b.write_text("B")
        assert [n for n in names(tmp_path) if not n.startswith(".")] == ["other"]
        assert [n for n in names(other) if not n.startswith(".")] == []
    assert names(tmp_path) == ["a.qml", "a.tif", "a.tif.aux.xml", "other"]
    assert names(other) == ["b.gpkg"]
    assert (tmp_path / "a.tif").read_text() == "A"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OutputError("x")])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "old.tif").write_text("old")
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind), StagedOutputs(overwrite=True) as out:
        out.stage(tmp_path / "old.tif").write_text("new")
        out.stage(tmp_path / "b.shp").write_text("b")
        raise error
    assert names(tmp_path) == ["old.tif"]
    assert (tmp_path / "old.tif").read_text() == "old"


def test_existing_outputs_need_overwrite(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("old")
    with pytest.raises(OutputError) as caught, StagedOutputs() as out:
        out.stage(tmp_path / "a.tif")
    assert str(tmp_path / "a.tif") in caught.value.message
    assert "--overwrite" in (caught.value.hint or "")
    assert names(tmp_path) == ["a.tif"]


@pytest.mark.parametrize(("output", "foreign"), [("a.tif", "a.qml"), ("a.shp", "a.dbf"), ("a.fgb", "a.qml")])
def test_side_files_of_something_else_are_not_overwritten(tmp_path: Path, output: str, foreign: str) -> None:
    (tmp_path / foreign).write_text("mine")
    with pytest.raises(OutputError, match=foreign), StagedOutputs() as out:
        out.stage(tmp_path / output)
    assert (tmp_path / foreign).read_text() == "mine"


def test_overwriting_takes_away_what_belonged_to_the_old_output(tmp_path: Path) -> None:
    for name in ("a.tif", "a.tif.aux.xml", "a.tif.ovr", "a.qml", "b.shp", "b.shx", "b.dbf", "b.qix"):
        (tmp_path / name).write_text("old")
    for name in ("a.txt", "b.csv", "aa.tif", "a.gpkg"):
        (tmp_path / name).write_text("mine")
    with StagedOutputs(overwrite=True) as out:
        out.stage(tmp_path / "a.tif").write_text("new")
        staged = out.stage(tmp_path / "b.shp")
        staged.write_text("new")
        staged.with_suffix(".dbf").write_text("new")
        assert (tmp_path / "b.shx").read_text() == "old"
    content = {n: (tmp_path / n).read_text() for n in names(tmp_path)}
    assert {n for n, text in content.items() if text == "new"} == {"a.tif", "b.shp", "b.dbf"}
    assert {n for n, text in content.items() if text == "mine"} == {"a.txt", "b.csv", "aa.tif", "a.gpkg"}
    assert len(content) == 7


def test_raster_and_shapefile_of_the_same_name(tmp_path: Path) -> None:
    for _ in range(2):
        with StagedOutputs(overwrite=True) as out:
            tif, shp = out.stage(tmp_path / "m.tif"), out.stage(tmp_path / "m.shp")
            tif.write_text("t")
            shp.write_text("s")
            shp.with_suffix(".qml").write_text("style of both")
        assert names(tmp_path) == ["m.qml", "m.shp", "m.tif"]


def test_failing_rename_brings_the_old_files_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.tif", "a.tif.aux.xml", "b.gpkg"):
        (tmp_path / name).write_text("old")
    real = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target == tmp_path / "b.gpkg" and self.read_text() == "new":
            raise OSError(errno.EIO, "broken disk")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="broken disk"), StagedOutputs(overwrite=True) as out:
        out.stage(tmp_path / "a.tif").write_text("new")
        out.stage(tmp_path / "b.gpkg").write_text("new")
    assert names(tmp_path) == ["a.tif", "a.tif.aux.xml", "b.gpkg"]
    assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}


def test_old_files_that_cannot_go_back_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "map.tif"
    old.write_text("old")
    real = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.parent.name == "replaced" or (self.name == "map.tif" and Path(target) == old):
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    def run() -> None:
        with StagedOutputs(overwrite=True) as out:
            out.stage(old).write_text("new")
            monkeypatch.setattr(Path, "replace", failing)

    with pytest.raises(OutputError, match="nor old ones back") as caught:
        run()
    kept = list(tmp_path.rglob("replaced/map.tif"))
    assert [p.read_text() for p in kept] == ["old"]
    assert str(kept[0].parent) in caught.value.message


def test_impossible_outputs(tmp_path: Path) -> None:
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "in.tif").write_text("input")
    (tmp_path / "link.tif").symlink_to(tmp_path / "in.tif")
    for path, what in (
        (tmp_path / "folder.tif", "is a folder"),
        (tmp_path / "in.tif", "is also an input"),
        (tmp_path / "link.tif", "is also an input"),
        (tmp_path / "folder.tif" / ".." / "in.tif", "is also an input"),
        (tmp_path / "no" / "a.tif", "output folder .*no does not exist"),
    ):
        with (
            pytest.raises(OutputError, match=what),
            StagedOutputs(inputs=[tmp_path / "in.tif"], overwrite=True) as out,
        ):
            out.stage(path)
    with pytest.raises(OutputError, match="two outputs have the same path"), StagedOutputs() as out:
        out.stage(tmp_path / "a.tif")
        out.stage(tmp_path / "folder.tif" / ".." / "a.tif")
    assert names(tmp_path) == ["folder.tif", "in.tif", "link.tif"]


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Simulated: the superuser may write everywhere.
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(OutputError, match=f"cannot write into {tmp_path}: Permission denied"):
        StagedOutputs().stage(tmp_path / "a.tif")


def test_a_name_that_leaves_no_room_for_the_hidden_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name too long") as caught, StagedOutputs() as out:
        out.stage(tmp_path / f"{'m' * 245}.tif")
    assert caught.value.hint == "choose a shorter name"
    assert names(tmp_path) == []


def test_output_that_was_never_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"b\.tif was not written"), StagedOutputs() as out:
        out.stage(tmp_path / "a.tif").write_text("a")
        out.stage(tmp_path / "b.tif")
    assert names(tmp_path) == []


def test_full_disk_anywhere_in_the_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"disk of .* is full"), StagedOutputs() as out:
        out.stage(tmp_path / "a.tif")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match=r"disk of .* is full"), writing(tmp_path / "a.tif"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    said = r"cannot write a\.tif in .*: Input/output error"
    with pytest.raises(OutputError, match=said), writing(tmp_path / "a.tif"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert names(tmp_path) == []


def test_files_that_others_made_during_the_run_are_theirs(tmp_path: Path) -> None:
    def run() -> None:
        with StagedOutputs() as out:
            out.stage(tmp_path / "a.tif").write_text("ours")
            (tmp_path / "a.tif").write_text("theirs")
            (tmp_path / "a.qml").write_text("theirs")

    with pytest.raises(OutputError, match=r"a\.tif exists already"):
        run()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.tif": "theirs", "a.qml": "theirs"}


def test_room_on_a_disk_is_for_all_folders_on_it_together(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    free = shutil.disk_usage(tmp_path).free
    require_space({tmp_path: free // 4, other: free // 4})
    with pytest.raises(OutputError, match=r"GB free, and the outputs need .* GB while") as caught:
        require_space({tmp_path: free // 3 * 2, other: free // 3 * 2})
    assert str(tmp_path) in caught.value.message
    require_space({tmp_path / "missing": 10**30})  # staging says what is wrong with it
