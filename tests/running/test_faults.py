"""Real faults in the middle of a run: each is one clear error, and no finished block is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rasterio.shutil
from block_runs import SIDE, after, contents, nothing_cached, run
from command import ENVIRONMENT
from synthetic import make_pair
from tiny import tiny_bundle

from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.errors import InputError, OutputError
from das2f_map.running.block_journal import JOURNAL_NAME, VALUES_NAME

pytestmark = [pytest.mark.slow, pytest.mark.whole]

BLOCKS = 4 * 5
WORK = Path(".m.tif.das2f-map") / "work"
Scene = tuple[Path, Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder, patch=8)
    return folder / "tiny"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_pair(tmp_path_factory.mktemp("scene"), ms_shape=(40, 60), dtype="float32")


@pytest.fixture(scope="module")
def whole(sound: Scene, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run without any fault."""
    folder = tmp_path_factory.mktemp("whole")
    run(*sound, model, folder)
    return contents(folder)


@pytest.fixture
def scene(sound: Scene, tmp_path: Path) -> Scene:
    """A copy of the pair, to be damaged."""
    folder = tmp_path / "scene"
    folder.mkdir()
    ms, pan = (Path(shutil.copy2(path, folder)) for path in sound)
    return ms, pan


def lines(folder: Path) -> int:
    """Blocks in the journal of a run that was ended."""
    return len((folder / WORK / JOURNAL_NAME).read_bytes().splitlines()) - 1


# --- inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [0, 1], ids=["MS", "PAN"])
def test_a_file_that_is_cut_short_during_the_run(
    image: int, scene: Scene, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    path, out = scene[image], tmp_path / "out"
    sound, times = path.read_bytes(), path.stat()

    def cut() -> None:
        os.truncate(path, len(sound) * 2 // 5)

    with (
        nothing_cached(),
        pytest.raises(InputError, match=rf"{path.name} cannot be read at row \d+, column \d+") as caught,
    ):
        run(*scene, model, out, progress=after(1, cut))
    assert "\n" not in str(caught.value)
    assert [p.name for p in out.iterdir()] == [WORK.parent.name]
    finished = lines(out)
    assert 0 < finished < BLOCKS
    # Another file in its place is not that of the plan.
    path.write_bytes(sound)
    with pytest.raises(InputError, match="differs in the input files"):
        run(*scene, model, out, resume=True)
    assert lines(out) == finished
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    run(*scene, model, out, resume=True)
    assert contents(out) == whole


@dataclass(frozen=True)
class Server:
    address: str
    mode: Path


@pytest.fixture
def server(scene: Scene, tmp_path: Path) -> Iterator[Server]:
    mode = tmp_path / "mode"
    mode.write_text("well")
    program = Path(__file__).parents[1] / "byte_server.py"
    command = [sys.executable, str(program), str(scene[0].parent), "--faults", str(mode)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}", mode)
        finally:
            process.kill()


def in_process_of_its_own(
    server: Server, model: Path, out: Path, *more: str | Path
) -> subprocess.CompletedProcess[str]:
    """A map of the files at an address, where GDAL caches nothing that it has fetched."""
    program = Path(__file__).parents[1] / "block_runs.py"
    remote = f"{server.address}/ms.tif", f"{server.address}/pan.tif"
    return subprocess.run(
        [sys.executable, str(program), *remote, *map(str, (model, out, *more))],
        env={**ENVIRONMENT, "CPL_VSIL_CURL_CACHE_SIZE": "1", "GDAL_HTTP_LOW_SPEED_TIME": "2"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("mode", ["busy 6", "cut 2", "slow 8", "silent 1"])
def test_an_address_that_fails_for_a_while(
    mode: str, server: Server, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """The reads are tried again, and the map is that of the local files."""
    done = in_process_of_its_own(server, model, tmp_path / "out", "--after", "1", server.mode, mode)
    assert done.returncode == 0, done.stderr
    assert server.mode.read_text() == "well", "so many requests came after the fault began"
    assert contents(tmp_path / "out") == whole


def test_an_address_that_is_gone(
    server: Server, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = in_process_of_its_own(server, model, out, "--after", "1", server.mode, "busy")
    assert done.returncode == InputError.exit_code, done.stderr
    *warnings, error = (line for line in done.stderr.splitlines() if "cannot be read at row" in line)
    # The block after it was being read ahead, and is tried again as often.
    assert [w.rpartition("once more in ")[2] for w in warnings[:3]] == ["0.5 s", "2 s", "8 s"]
    assert error.startswith(f"error: MS file {server.address}/ms.tif cannot be read at row ")
    assert 0 < lines(out) < BLOCKS
    server.mode.write_text("well")
    done = in_process_of_its_own(server, model, out, "--resume")
    assert done.returncode == 0, done.stderr
    assert contents(out) == whole


# --- outputs ----------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(filler: Path) -> None:
    """Fill a disk to the last byte with a file."""
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.parametrize("blocks", [7, BLOCKS], ids=["while blocks are written", "before the COGs"])
def test_a_disk_that_fills_up(
    blocks: int, sound: Scene, model: Path, whole: dict[str, bytes], disk: Path
) -> None:
    filler = disk / "filler"

    out = disk / "out"
    with pytest.raises(OutputError, match=rf"cannot write .*the disk of {out} is full"):
        run(*sound, model, out, progress=after(blocks, lambda: fill(filler)))
    assert [p.name for p in out.iterdir()] == [WORK.parent.name]
    assert lines(out) >= blocks
    filler.unlink()
    run(*sound, model, out, resume=True)
    assert contents(out) == whole


@pytest.mark.parametrize("room", [0, 2, 4, 6])
def test_a_disk_that_fills_up_while_a_cog_is_made(
    room: int,
    sound: Scene,
    model: Path,
    whole: dict[str, bytes],
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All blocks are written; then the translation of the rasters has so many pages of 4096 bytes left."""
    filler, out = disk / "filler", disk / "out"
    translate, begun, lock = rasterio.shutil.copy, [], threading.Lock()

    def on_a_full_disk(source: Path, target: Path, **options: Any) -> None:
        with lock:
            # Each time: work files that are let go between two translations leave room.
            fill(filler)
            os.truncate(filler, filler.stat().st_size - 4096 * room)
            begun.append(target)
        translate(source, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(rasterio.shutil, "copy", on_a_full_disk)
        with pytest.raises(OutputError, match=rf"cannot write .*the disk of {out} is full"):
            run(*sound, model, out)
    assert begun
    assert [p.name for p in out.iterdir()] == [WORK.parent.name]
    assert [p.name for p in (out / WORK).iterdir()] == [JOURNAL_NAME, VALUES_NAME]
    assert lines(out) == BLOCKS
    filler.unlink()
    assert computed(sound, model, out) == 0
    assert contents(out) == whole


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_output_folder_that_is_gone(
    comes_back: bool,
    sound: Scene,
    model: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a network drive that drops out."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"

    def goes() -> None:
        out.rename(elsewhere)

    with caplog.at_level("WARNING"), pytest.raises(OutputError, match=f"{out}") as caught:
        run(*sound, model, out, progress=after(4, goes))
    assert "\n" not in str(caught.value)
    assert any("finished blocks is gone" in message for message in caplog.messages)
    assert not out.exists()
    if comes_back:
        elsewhere.rename(out)
        assert lines(out) >= 4
    run(*sound, model, out, resume=True)
    assert contents(out) == whole


def test_a_second_run_that_would_resume_the_first(
    sound: Scene, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, refused = tmp_path / "out", []

    def second() -> None:
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(OutputError, match="is being written by another run"):
                run(*sound, model, out, **options)
            refused.append(options)

    run(*sound, model, out, progress=after(6, second))
    assert len(refused) == 3
    assert contents(out) == whole


# --- the journal ------------------------------------------------------------------------------------------


class Ended(Exception):
    """Takes the place of whatever ends a run."""


def ended(sound: Scene, model: Path, out: Path, blocks: int = 12) -> Path:
    """The work folder of a run that was ended after so many blocks."""

    def end() -> None:
        raise Ended

    with pytest.raises(Ended):
        run(*sound, model, out, progress=after(blocks, end))
    return out / WORK


def computed(sound: Scene, model: Path, out: Path) -> int:
    """Resume a run; the blocks that it computes."""
    count = 0
    compute = PerPatchEngine.logits

    def counting(self: PerPatchEngine, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        return compute(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PerPatchEngine, "logits", counting)
        run(*sound, model, out, resume=True)
    return count


def renumbered(line: bytes) -> bytes:
    """The line of another block of the same size."""
    found = json.loads(line)
    return json.dumps(found | {"block": found["block"] + 1}).encode() + b"\n"


def far_away(line: bytes) -> bytes:
    return json.dumps(json.loads(line) | {"start": 10**15}).encode() + b"\n"


def vast(line: bytes) -> bytes:
    return json.dumps(json.loads(line) | {"start": -1, "length": 10**15}).encode() + b"\n"


@pytest.mark.parametrize(
    "damage",
    [renumbered, far_away, vast, lambda line: b"\xff" + line[1:], lambda line: b"[" * 9000 + b"\n"],
    ids=["another number", "far away", "vast", "no JSON", "nested"],
)
def test_a_damaged_line_costs_its_block_alone(
    damage: Callable[[bytes], bytes], sound: Scene, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    work = ended(sound, model, tmp_path / "out")
    journal = work / JOURNAL_NAME
    found = journal.read_bytes().splitlines(keepends=True)
    stored = len(found) - 1
    assert stored >= 12
    found[6] = damage(found[6])
    if damage is renumbered:
        del found[7]
    journal.write_bytes(b"".join(found))
    missing = 2 if damage is renumbered else 1
    assert computed(sound, model, tmp_path / "out") == BLOCKS - stored + missing
    assert contents(tmp_path / "out") == whole


def test_a_journal_without_its_beginning(
    sound: Scene, model: Path, whole: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing says whose the blocks are: the run begins anew, and says so."""
    work = ended(sound, model, tmp_path / "out")
    journal = work / JOURNAL_NAME
    journal.write_bytes(b"\0" + journal.read_bytes()[1:])
    with caplog.at_level("WARNING"):
        assert computed(sound, model, tmp_path / "out") == BLOCKS
    assert any("damaged at its beginning" in message for message in caplog.messages)
    assert contents(tmp_path / "out") == whole


def test_a_journal_of_another_version(
    sound: Scene, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    work = ended(sound, model, tmp_path / "out")
    journal, values = work / JOURNAL_NAME, (work / VALUES_NAME).read_bytes()
    header, *others = journal.read_bytes().splitlines(keepends=True)
    own = json.loads(header)
    journal.write_bytes(json.dumps(own | {"das2f-map": 99}).encode() + b"\n" + b"".join(others))
    with pytest.raises(InputError, match="another version of das2f-map"):
        run(*sound, model, tmp_path / "out", resume=True)
    assert (work / VALUES_NAME).read_bytes() == values
    journal.write_bytes(header + b"".join(others))
    run(*sound, model, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == whole


def test_a_clock_that_is_set_back(
    sound: Scene, model: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the ended run are from years ahead, and the clock goes backwards while the run goes on."""
    out = tmp_path / "out"
    work = ended(sound, model, out)
    ahead = time.time() + 3e8
    for path in (*work.rglob("*"), work, work.parent, out):
        os.utime(path, (ahead, ahead))
    now = time.time()

    def backwards() -> float:
        nonlocal now
        now -= 3600.0
        return now

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", backwards)
        assert computed(sound, model, out) < BLOCKS
    assert contents(out) == whole


# --- interrupts -------------------------------------------------------------------------------------------

INTERRUPTED = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import das2f_map.mapping.planned as planned_module
from das2f_map.cli import app
from das2f_map.engines.per_patch import PerPatchEngine
planned_module.BLOCK_SIZE = {SIDE}
PerPatchEngine.block_size = {SIDE}
app.main()
"""


@pytest.mark.parametrize("between", [0.0, 0.01, 0.05, 0.2])
def test_two_interrupts(
    between: float, sound: Scene, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Ctrl-C, and once more before the run has ended."""
    out = tmp_path / "out"
    out.mkdir()
    words = [*sound, "-o", out / "m.tif", "--model", model, "--engine", "patch", "--device", "cpu"]
    words += ["--coregister", "off"]
    for name in ("confidence", "probabilities"):
        words += [f"--{name}", out / f"{name}.tif"]
    command = [sys.executable, "-c", INTERRUPTED, "classify", *map(str, words)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            try:
                if lines(out) >= 2:
                    break
            except OSError:
                pass
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        time.sleep(between)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "Traceback" not in messages
    assert messages.splitlines()[-1] == "interrupted"
    assert [p.name for p in out.iterdir()] == [WORK.parent.name]
    assert 2 <= lines(out) < BLOCKS
    assert computed(sound, model, out) <= BLOCKS - 2
    assert contents(out) == whole
