"""After a run was killed there is the old set of outputs or the new one, and nothing else is lost."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from das2f_map.bundle.files import load_bundle
from das2f_map.errors import OutputError
from das2f_map.outputs.recovery import settle
from das2f_map.outputs.staging import StagedOutputs

PROGRAM = [sys.executable, str(Path(__file__).with_name("killed_runs.py"))]
OUTPUTS = ("m.tif", "m.shp", "other/m.json")
FILES = {*OUTPUTS, "m.tif.aux.xml", "m.qml", "m.dbf"}


def killed(what: str, folder: Path, *arguments: object) -> Any:
    done = subprocess.run(
        [*PROGRAM, what, str(folder), *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def give_up(folder: Path, *outputs: str, **options: bool) -> None:
    """A run on some outputs that ends before it has written any."""
    with pytest.raises(KeyboardInterrupt), StagedOutputs(overwrite=True, **options) as out:  # noqa: PT012 - it ends inside
        for output in outputs:
            out.stage(folder / output)
        raise KeyboardInterrupt


def content(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_text(errors="replace") for p in files}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """For a run over old outputs or over none: where it was killed before the first change, the second…"""

    @cache
    def folders(before: str) -> list[Path]:
        place = tmp_path_factory.mktemp(before)
        status, last = killed("at_every_change", place, "outputs", before)
        assert status == 0
        assert last > len(FILES)
        return [place / str(k) for k in range(1, last + 1)]

    return folders


@pytest.fixture
def in_the_moves(left: Callable[[str], list[Path]], tmp_path: Path) -> list[Path]:
    """Copies of some folders where a run was killed after it had moved a file, and before the last one."""
    last = Path("other/.m.json.das2f-map/staged/m.json")
    found = [p for p in left("old") if (p / last).exists() and any(p.rglob("replaced/m.tif"))]
    assert len(found) > 4
    chosen = [found[0], *found[1 :: len(found) // 3]]
    return [Path(shutil.copytree(p, tmp_path / p.name)) for p in chosen]


@pytest.mark.slow
@pytest.mark.parametrize("first", OUTPUTS)
@pytest.mark.parametrize("before", ["old", "nothing"])
def test_killed_anywhere_it_is_the_old_set_or_the_new_one(
    before: str, first: str, left: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    """The next run finds out from any of the outputs, and leaves nothing else there."""
    seen = set()
    for k, killed_there in enumerate(left(before), start=1):
        folder = Path(shutil.copytree(killed_there, tmp_path / str(k)))
        give_up(folder, first)
        # Hidden folders of the other outputs may hold unfinished files until a run comes to them.
        files = {name: text for name, text in content(folder).items() if ".das2f-map" not in name}
        assert set(files) == FILES or (before == "nothing" and not files), f"killed before change {k}"
        assert len(set(files.values())) <= 1, f"killed before change {k}"
        seen.add((*set(files.values()), "nothing")[0])
        give_up(folder, *OUTPUTS)
        assert content(folder) == files
        assert {p.name for p in folder.rglob("*") if p.is_dir()} == {"other"}
    assert seen == {before, "new"}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["old", "nothing"])
def test_a_killed_bundle_is_the_old_one_or_the_new_one(before: str, tmp_path: Path) -> None:
    status, last = killed("at_every_change", tmp_path, "bundle", before)
    assert status == 0
    seen = set()
    for k in range(1, last + 1):
        folder = tmp_path / str(k)
        with pytest.raises(KeyboardInterrupt), StagedOutputs() as out:  # noqa: PT012 - it ends inside
            out.stage_whole(folder / "model", lambda: None)
            raise KeyboardInterrupt
        files = content(folder)
        if not files:
            seen.add("nothing")
            continue
        assert set(files) == {"model/model.json", "model/model.safetensors", "model/notes.txt"}
        text = files["model/notes.txt"]
        assert load_bundle(folder / "model").card.description == text, f"killed before change {k}"
        seen.add(text)
        assert {p.name for p in folder.iterdir()} == {"model", "other"}
    assert seen == {before, "new"}


@pytest.mark.slow
def test_the_next_run_says_what_it_does_in_one_line_and_goes_on(
    in_the_moves: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    for folder in in_the_moves:
        caplog.clear()
        with caplog.at_level(logging.INFO), StagedOutputs(overwrite=True) as out:
            out.stage(folder / "m.tif").write_text("newer")
        assert len(caplog.records) == 2, caplog.text
        assert "undone" in caplog.messages[0]
        assert all(str(folder / name) in caplog.messages[0] for name in OUTPUTS)
        # The other thing left is what the run had worked out.
        assert caplog.messages[1].endswith(".m.tif.das2f-map: work")
        assert (folder / "m.tif").read_text() == "newer"
        assert (folder / "m.shp").read_text() == "old"


@pytest.mark.slow
def test_without_overwrite_the_old_outputs_are_put_back_and_refused(in_the_moves: list[Path]) -> None:
    for folder in in_the_moves:
        with pytest.raises(OutputError, match=r"m\.tif exists already"), StagedOutputs() as out:
            out.stage(folder / "m.tif")
        assert (folder / "m.tif").read_text() == "old"


@pytest.mark.slow
def test_files_that_a_user_has_put_there_meanwhile_stay(in_the_moves: list[Path]) -> None:
    for folder in in_the_moves:
        (folder / "m.tif").write_text("the user's own")
        for _ in range(2):
            with (
                pytest.raises(OutputError, match="cannot go back") as caught,
                StagedOutputs(overwrite=True) as out,
            ):
                out.stage(folder / "m.tif")
            assert "\n" not in caught.value.message
        assert (folder / "m.tif").read_text() == "the user's own"
        kept = folder / ".m.tif.das2f-map" / "replaced" / "m.tif"
        assert str(kept.parent) in caught.value.message
        # The hint is enough.
        kept.replace(folder / "m.tif")
        give_up(folder, *OUTPUTS)
        assert content(folder) == dict.fromkeys(FILES, "old")


@pytest.mark.slow
def test_old_files_are_not_removed_with_the_note_about_them(in_the_moves: list[Path]) -> None:
    for folder in in_the_moves:
        for note in folder.rglob("commit.json"):
            note.unlink()
        kept = {p: p.read_text() for p in folder.rglob("replaced/*")}
        for output in OUTPUTS:
            private = (folder / output).parent / f".{Path(output).name}.das2f-map"
            if any(p.parent.parent == private for p in kept):
                with (
                    pytest.raises(OutputError, match="holds old files"),
                    StagedOutputs(overwrite=True) as out,
                ):
                    out.stage(folder / output)
        assert {p: p.read_text() for p in kept} == kept


@pytest.mark.slow
def test_a_folder_that_was_renamed_after_the_crash(in_the_moves: list[Path], tmp_path: Path) -> None:
    for folder in in_the_moves:
        moved = folder.rename(tmp_path / f"moved{folder.name}")
        give_up(moved, "m.shp")
        assert {(moved / name).read_text() for name in FILES} == {"old"}


@pytest.mark.slow
def test_while_another_run_writes_one_of_the_outputs_nothing_is_touched(in_the_moves: list[Path]) -> None:
    folder = in_the_moves[0]
    before = content(folder)
    # As by a run that is just about to put things right.
    lock = os.open(folder / ".m.shp.das2f-map" / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    says = r"m\.shp is being written by another run"
    with pytest.raises(OutputError, match=says), StagedOutputs(overwrite=True) as out:
        out.stage(folder / "m.tif")
    assert content(folder) == before
    os.close(lock)
    give_up(folder, "m.tif")
    assert {(folder / name).read_text() for name in FILES} == {"old"}


@pytest.mark.slow
def test_work_files_of_the_killed_run_can_be_resumed_from(in_the_moves: list[Path]) -> None:
    for folder in in_the_moves:
        with StagedOutputs(overwrite=True, resume=True) as out:
            for output in reversed(OUTPUTS):
                out.stage(folder / output).write_text("resumed")
            assert (out.work_folder(folder / "m.tif") / "blocks").read_text() == "new"
        assert {(folder / name).read_text() for name in OUTPUTS} == {"resumed"}
        assert not any(p.name.startswith(".") for p in folder.iterdir())


@pytest.mark.slow
def test_resuming_a_run_that_was_killed_when_all_was_in_place_leaves_nothing(
    left: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    note = ".m.tif.das2f-map/commit.json"
    complete = [
        folder
        for folder in left("nothing")
        if (folder / note).exists()
        and json.loads((folder / note).read_text())["done"]
        and (folder / ".m.tif.das2f-map/work").exists()
    ]
    assert complete
    for place in complete:
        settled = Path(shutil.copytree(place, tmp_path / f"{place.name} settled"))
        settle(settled / "m.tif")
        assert content(settled) == dict.fromkeys(FILES, "new")
        folder = Path(shutil.copytree(place, tmp_path / place.name))
        with (
            pytest.raises(OutputError, match="exists already"),
            StagedOutputs(resume=True) as out,
        ):
            out.stage(folder / "m.tif")
        assert {(folder / name).read_text() for name in FILES} == {"new"}
        assert not any(p.name.startswith(".") for p in folder.iterdir())


@pytest.mark.slow
def test_what_puts_things_right_may_be_killed_too(tmp_path: Path) -> None:
    for n in range(1, killed("twice", tmp_path, 0, 12) + 1):
        check_after_everything(tmp_path / str(n))


def check_after_everything(folder: Path) -> None:
    give_up(folder, *OUTPUTS)
    files = content(folder)
    assert set(files) == FILES, folder.name
    assert len(set(files.values())) == 1, folder.name


@pytest.mark.slow
def test_what_puts_things_right_may_be_killed_anywhere(tmp_path: Path) -> None:
    for n in range(1, killed("twice", tmp_path, 1, 300) + 1):
        check_after_everything(tmp_path / str(n))


@pytest.mark.slow
def test_runs_killed_at_random_times(tmp_path: Path) -> None:
    found = killed("at_random", tmp_path, 30, 7)
    assert len(found) == 30
    for files in found:
        assert set(files) == FILES or not files
        assert len(set(files.values())) <= 1
    assert len({next(iter(files.values()), "") for files in found}) > 3, "runs got somewhere"
    give_up(tmp_path, *OUTPUTS)
    assert set(content(tmp_path)) in (FILES, set())


KILLED_AT_WORK = """
import os, sys
from pathlib import Path
from das2f_map.outputs.recovery import settle
from das2f_map.outputs.staging import StagedOutputs
folder = Path(sys.argv[1])
with StagedOutputs() as out:
    for name in ("m.tif", "m.gpkg", "other/c.tif"):
        (out.stage(folder / name)).write_text("half")
        (out.work_folder(folder / name) / "large").write_text("work")
    os._exit(9)
"""


def test_a_run_with_fewer_outputs_empties_the_folders_of_all(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED_AT_WORK, str(tmp_path)], check=False)
    assert done.returncode == 9
    left = {p.relative_to(tmp_path).parts[-1] for p in tmp_path.rglob("*") if p.name.endswith("das2f-map")}
    assert len(left) == 3
    with StagedOutputs() as out:
        out.stage(tmp_path / "m.tif").write_text("whole")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["m.tif", "other"]


@pytest.mark.slow
def test_maps_killed_at_random_moments(tmp_path: Path) -> None:
    """Runs of `classify` die at work and while their files are put into place: nothing is lost or left."""
    kills = 24  # killed_runs.py maps_at_random FOLDER 200 SEED does more
    done = subprocess.run(
        [*PROGRAM, "maps_at_random", str(tmp_path), str(kills), "3"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(status == -9 for _, status, *_ in found) == kills
    assert [faults for *_, faults in found if faults] == []
    assert {new for _, _, _, new, _ in found} == {False, True}
    assert (tmp_path / "out" / ".m.tif.partial" / "notes.txt").read_text() == "mine"


def test_a_folder_called_partial_that_is_not_ours_stays(tmp_path: Path) -> None:
    for name in (".model.partial", ".m.tif.partial", "model.training.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    before = content(tmp_path)
    with StagedOutputs(overwrite=True) as out:
        whole = out.stage_whole(tmp_path / "model", lambda: None)
        whole.mkdir()
        (whole / "model.json").write_text("new")
        out.stage(tmp_path / "m.tif").write_text("new")
    assert content(tmp_path) == {**before, "model/model.json": "new", "m.tif": "new"}


@pytest.mark.slow
def test_settling_undoes_the_moves_and_leaves_the_work(in_the_moves: list[Path]) -> None:
    for folder in in_the_moves:
        settle(folder / "m.tif")
        files = content(folder)
        assert {name: files.pop(name) for name in FILES} == dict.fromkeys(FILES, "old")
        assert files[".m.tif.das2f-map/work/blocks"] == "new"
        settle(folder / "m.tif")
        assert content(folder) == {**files, **dict.fromkeys(FILES, "old")}
