"""Streams that are closed or full, and signals, never lose a map, print a traceback or look like a bug."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from command import COMMAND, ENVIRONMENT, listing

from das2f_map.outputs.names import private_path

FULL = Path("/dev/full")
NEEDS_FULL = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def shell(line: str, *, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    """A shell line in which ``$D`` is the command."""
    environment = {**ENVIRONMENT, "D": " ".join(COMMAND), "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    return subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@NEEDS_FULL
@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [("--version", False), ("--version", True), ("models list", False), ("models list --json", True)],
)
def test_full_output_is_one_plain_error(arguments: str, unbuffered: bool) -> None:
    done = shell(f"$D {arguments} >/dev/full", unbuffered=unbuffered)
    assert done.returncode == 6
    assert done.stderr.splitlines()[0].startswith("error: cannot print the result")
    assert "bug" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "streams"),
    [
        ("--version", "<&- >&- 2>&-"),
        ("--version", "2>&-"),
        ("--version", ">&-"),
        ("models list", ">&-"),
        ("models list", "2>/dev/full"),
    ],
)
def test_closed_streams(arguments: str, streams: str) -> None:
    done = shell(f"$D {arguments} {streams}")
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", ["--help", "models list", "models list --json"])
def test_a_reader_that_has_gone(arguments: str) -> None:
    done = shell(f"$D {arguments} | true; exit ${{PIPESTATUS[0]}}")
    assert done.returncode in (0, 141)  # all may have been read before `true` ended
    assert done.stderr == ""


@pytest.mark.slow
@NEEDS_FULL
@pytest.mark.parametrize(
    ("streams", "code"), [(">/dev/full", 6), ("2>/dev/full", 0), (">&- 2>&-", 0), ("2>&1 | true", 0)]
)
def test_the_map_is_there_whatever_becomes_of_the_streams(
    streams: str, code: int, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.tif"
    ms, pan = scene
    done = shell(f"$D classify {ms} {pan} --model {model} -o {out} {streams}")
    assert done.returncode == code
    with rasterio.open(out) as dataset:
        assert (dataset.height, dataset.width) == (24, 28)
        assert dataset.read(1).any()
    assert {p.name for p in tmp_path.iterdir()} == {"m.tif", "m.tif.aux.xml", "m.qml", "m.gpkg", "m.json"}


WRITING = """
import io, os, signal, sys

class Terminated(io.FileIO):
    ended = False

    def write(self, text):
        if not Terminated.ended:
            Terminated.ended = True
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(text)

sys.stderr = io.TextIOWrapper(io.BufferedWriter(Terminated(os.dup(2), "w")), line_buffering=True)
sys.argv = ["das2f-map", "classify", "none.tif", "none.tif", "-o", "map.tif"]
from das2f_map.cli.app import main
main()
"""


def test_the_signal_comes_while_a_line_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITING]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert "terminated" in done.stderr.splitlines()


UNREAD = """
import os, signal, sys, threading
from das2f_map.cli.app import main
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.workflows import doctor
from pathlib import Path

output, begun = Path(sys.argv.pop()), sys.argv.pop() == "begun"

def talk():
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    while True:
        print("a line of the run that nobody reads", file=sys.stderr)

def command():
    if not begun:
        talk()
    with StagedOutputs() as out:
        out.stage(output).write_text("half a map")
        talk()

doctor.diagnose = command
sys.argv.append("doctor")
main()
"""


@pytest.mark.parametrize("when", ["before", "begun"])
def test_a_run_whose_messages_nobody_reads_ends(when: str, tmp_path: Path) -> None:
    """The pipe of stderr is full when SIGTERM comes, before a file is begun and after that."""
    command = [sys.executable, "-c", UNREAD, when, str(tmp_path / "m.tif")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE)
    try:
        assert process.wait(timeout=30) == 143
    finally:
        process.kill()
        process.communicate()
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.1, 0.3, 0.5, 0.8, 1.2, 1.6, 2.2, 3.0])
def test_a_batch_system_may_end_a_run_at_any_time(
    after: float, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    command = [*COMMAND, "classify", *map(str, scene), "--model", str(model), "-o", str(tmp_path / "m.tif")]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(after)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    # Before Python has come to the program, the system ends it; a shell gives 143 for that, too.
    assert process.returncode in (143, -signal.SIGTERM, 0)
    assert "Traceback" not in messages
    assert "ignored" not in messages
    # A block may be finished by then: it is kept, as the last line says, and nothing is left otherwise.
    kept = "Finished blocks are kept" in messages
    assert private_path(tmp_path / "m.tif").exists() == kept
    if kept:
        subprocess.run([*command, "--resume"], env=ENVIRONMENT, check=True, timeout=120)
        assert (tmp_path / "m.tif").is_file()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


EARLY = (0.05, 0.15, 0.25, 0.35, 0.5)
COMMANDS = {
    "classify": "MS PAN -o OUT/m.tif --model MODEL",
    "train": "MS PAN --labels LABELS -o OUT/net --fast",
    "inspect": "MS PAN",
    "align": "MS PAN -o OUT/aligned",
    "sample": "MAP -o OUT/s.gpkg --points 5",
    "evaluate": "MAP --reference LABELS",
    "preview": "MAP -o OUT/m.png",
    "report": "MAP -o OUT/m.html",
    "vectorize": "MAP -o OUT/m.gpkg",
    "export": "MODEL -o OUT/m.onnx",
    "clean": "OUT",
    "doctor": "",
    "models list": "",
    "models show": "MODEL",
    "models import": "MAP --ms MS --pan PAN -o OUT/net",
    "labels check": "MS PAN --labels LABELS",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_an_early_end_of_each_command(
    name: str, scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    """SIGTERM in the first half second: one word or none, and nothing is left."""
    ms, pan = scene
    named = {"MS": ms, "PAN": pan, "MODEL": model, "MAP": tmp_path / "map.tif", "LABELS": tmp_path / "l.gpkg"}
    with rasterio.open(pan) as image:
        options = {"driver": "GTiff", "dtype": "uint8", "count": 1, "crs": image.crs, "nodata": 0}
        with rasterio.open(
            named["MAP"], "w", height=40, width=40, transform=image.transform, **options
        ) as made:
            made.write(np.tile(np.arange(1, 41, dtype=np.uint8) % 3 + 1, (1, 40, 1)))
        box = shapely.box(*image.bounds)
        geopandas.GeoDataFrame({"class": ["a"]}, geometry=[box], crs=image.crs).to_file(named["LABELS"])
    out = tmp_path / "out"
    out.mkdir()
    words = [str(named.get(word, word)).replace("OUT", str(out)) for word in COMMANDS[name].split()]
    before = listing(tmp_path)
    for after in EARLY:
        process = subprocess.Popen(
            [*COMMAND, *name.split(), *words],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(after)
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=60)
        if process.returncode not in (143, -signal.SIGTERM):
            continue  # it was over before
        assert "Traceback" not in messages
        assert messages.splitlines()[-1:] in ([], ["terminated"]), messages
        assert listing(tmp_path) == before


SWALLOWS = """
import os, signal, sys, time
from das2f_map.cli.app import main
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.workflows import doctor
from pathlib import Path

output = Path(sys.argv.pop())

def command():
    with StagedOutputs() as out:
        out.stage(output)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        except BaseException:  # swallowed, as callbacks of some libraries do
            pass
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.01)
        print("went on")

doctor.diagnose = command
sys.argv.append("doctor")
main()
"""


def test_a_run_ends_even_if_a_library_loses_the_exception(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS, str(tmp_path / "m.tif")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 143
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["terminated"]
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_map_keeps_its_code_with_foreign_data_in_the_environment(
    scene: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "m.tif"
    ms, pan = scene
    done = shell(
        f"PROJ_LIB={foreign} PROJ_DATA={foreign} GDAL_DATA={foreign} "
        f"$D classify {ms} {pan} --model {model} -o {out}"
    )
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "foreign" in line]
    assert len(lines) == 3
    with rasterio.open(ms) as image, rasterio.open(out) as dataset:
        assert dataset.crs.to_epsg() == image.crs.to_epsg() is not None
    with closing(sqlite3.connect(out.with_suffix(".gpkg"))) as connection:
        codes = connection.execute("SELECT DISTINCT srs_id FROM gpkg_contents WHERE data_type='features'")
        assert codes.fetchall() == [(dataset.crs.to_epsg(),)]
