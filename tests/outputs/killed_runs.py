"""Runs that are killed, each in a process of its own. Called as a program with one of the names below."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from das2f_map.errors import OutputError
from das2f_map.outputs.staging import StagedOutputs

KILLED = 9


def write_outputs(folder: Path, text: str, *, overwrite: bool) -> None:
    """Three outputs in two folders, with side files that come, go and are shared."""
    with StagedOutputs(overwrite=overwrite) as out:
        raster = out.stage(folder / "m.tif")
        shape = out.stage(folder / "m.shp")
        report = out.stage(folder / "other" / "m.json")
        raster.write_text(text)
        raster.with_name("m.tif.aux.xml").write_text(text)
        raster.with_suffix(".qml").write_text(text)
        shape.write_text(text)
        shape.with_suffix(".dbf").write_text(text)
        shape.with_suffix(".qml").write_text(text)
        report.write_text(text)
        (out.work_folder(folder / "m.tif") / "blocks").write_text(text)


@functools.cache
def network() -> tuple[Any, Any]:
    from tiny import tiny_card, tiny_network

    card = tiny_card()
    return card, tiny_network(card).state_dict()


def write_bundle(folder: Path, text: str, *, overwrite: bool) -> None:
    """A bundle of two files and one more."""
    from das2f_map.bundle.files import save_bundle

    card, weights = network()
    save_bundle(
        folder / "model",
        card.model_copy(update={"description": text}),
        weights,
        add_files=lambda inside: (inside / "notes.txt").write_text(text) and None,
    )


WRITERS: dict[str, Callable[..., None]] = {"outputs": write_outputs, "bundle": write_bundle}


def in_child(do: Callable[[], None]) -> int:
    """Exit status of a forked process that does something; 0 if it gets to the end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            do()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_before(k: int, do: Callable[[], None]) -> int:
    """Exit status of a process that dies before its k-th change: a file or folder made, moved or removed."""
    changes = count(1)

    def counted(event: str, _: object) -> None:
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") and next(changes) == k:
            os._exit(KILLED)

    def work() -> None:
        sys.addaudithook(counted)
        do()

    return in_child(work)


def look(folder: Path) -> None:
    """A run on one of the outputs that gives up at once."""
    try:
        with StagedOutputs(overwrite=True) as out:
            out.stage(folder / "m.shp")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def at_every_change(folder: Path, writer: str, old: bool) -> None:
    """Folders 1, 2, 3…: killed before such a change. Prints the last one's exit status, and their number."""
    write = WRITERS[writer]
    if writer == "bundle":
        network()  # now, not in every child
    for k in count(1):
        place = folder / str(k)
        (place / "other").mkdir(parents=True)
        if old:
            write(place, "old", overwrite=False)
        status = killed_before(k, lambda place=place: write(place, "new", overwrite=old))
        if status != KILLED:
            print(json.dumps([status, k]))
            return


def twice(folder: Path, seed: int, times: int) -> None:
    """Runs killed before a random change, and so were the two after them; folders 1, 2, 3…"""
    draw = random.Random(seed)
    for n in range(1, times + 1):
        place = folder / str(n)
        (place / "other").mkdir(parents=True)
        write_outputs(place, "old", overwrite=False)
        # About fifty changes make a run, the moves in their middle.
        killed_before(draw.randint(10, 45), lambda place=place: write_outputs(place, "new", overwrite=True))
        for _ in range(2):
            killed_before(draw.randint(1, 30), lambda place=place: look(place))
    print(json.dumps(times))


def at_random(folder: Path, kills: int, seed: int) -> None:
    """Kill a process that writes one generation after another; print what each next run finds."""
    times = random.Random(seed)
    (folder / "other").mkdir()
    found = []

    def write_on(kill: int) -> None:
        for generation in count():
            write_outputs(folder, f"{kill}.{generation}", overwrite=True)

    for kill in range(kills):
        child = os.fork()
        if child == 0:
            try:
                write_on(kill)
            finally:
                os._exit(1)
        time.sleep(times.uniform(0.001, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        look(folder)
        visible = (p for p in folder.rglob("*") if p.is_file() and ".das2f-map" not in str(p))
        found.append({str(p.relative_to(folder)): p.read_text() for p in visible})
    print(json.dumps(found))


def write_real_map(folder: Path, number: int, *, overwrite: bool, model: Path, scene: Path) -> None:
    """All files of a map of a small scene; ``number`` is in its report as the smallest area."""
    from das2f_map.workflows.classify import classify

    classify(
        scene / "ms.tif",
        scene / "pan.tif",
        folder / "m.tif",
        confidence=folder / "c.tif",
        vectors=folder / "other" / "m.shp",
        model=model,
        min_area_m2=float(number),
        coregistration="off",
        overwrite=overwrite,
    )


def maps_at_random(folder: Path, kills: int, seed: int) -> None:
    """Kill runs of ``classify`` at random moments of work and commit; print what is found after each kill.

    One line of JSON a kill: seconds, number of the map in place after the next run has looked, faults.
    """
    import rasterio
    from synthetic import make_pair
    from tiny import tiny_bundle

    import das2f_map.workflows.classify  # noqa: F401 - once, not in every child

    times = random.Random(seed)
    scene, out = folder / "scene", folder / "out"
    scene.mkdir()
    (out / "other").mkdir(parents=True)
    (out / ".m.tif.partial").mkdir()  # not ours
    (out / ".m.tif.partial" / "notes.txt").write_text("mine")
    (out / "mine.txt").write_text("mine")
    make_pair(scene, ms_shape=(8, 8))
    # Threads do not survive a fork: this process imports everything and computes nothing.
    assert in_child(lambda: tiny_bundle(scene, patch=8) and None) == 0
    write = functools.partial(write_real_map, out, model=scene / "tiny", scene=scene)
    begin = time.monotonic()
    assert in_child(lambda: write(1, overwrite=False)) == 0
    length = time.monotonic() - begin
    whole = {str(p.relative_to(out)) for p in out.rglob("*")}
    last, killed, lost = 1, 0, 0
    for kill in count(2):
        if killed == kills:
            break
        child = os.fork()
        if child == 0:
            os.close(1)
            try:
                write(kill, overwrite=True)
            finally:
                os._exit(0)
        # Odd ones at any moment of the work; even ones while outputs are put into place.
        started = time.monotonic()
        if kill % 2:
            time.sleep(times.uniform(0, 0.9 * length))
        else:
            while not (out / "other" / ".m.shp.das2f-map" / "commit.json").exists():
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break  # it was quicker than this loop
            time.sleep(times.uniform(0, 0.012))
        after = time.monotonic() - started
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        killed += status == -signal.SIGKILL
        before = len(list(out.rglob("*.das2f-map")))
        for name in ("m.tif", "c.tif", "m.json", "other/m.shp"):
            try:  # the next run, which gives up at once
                with StagedOutputs(overwrite=True) as staged:
                    staged.stage(out / name)
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
        there = {str(p.relative_to(out)) for p in out.rglob("*")}
        faults = sorted(there ^ whole)
        number = int(json.loads((out / "m.json").read_text())["settings"]["min_area_m2"])
        if number not in (last, kill):
            faults.append(f"map {number}")
        for name in ("m.tif", "c.tif"):
            with rasterio.open(out / name) as dataset:
                dataset.read()
        last, lost = number, lost + bool(faults)
        print(json.dumps([round(after, 3), status, before, number == kill, faults]), flush=True)
    print(f"{killed} runs killed; after {lost} of them something was lost or left", file=sys.stderr)


def hold(folder: Path) -> None:
    """Write into outputs and wait for the end of standard input."""
    with StagedOutputs(overwrite=True) as out:
        out.stage(folder / "m.tif").write_text("new")
        (out.work_folder(folder / "m.tif") / "blocks").write_text("half of them")
        print("ready", flush=True)
        sys.stdin.read()


def crowd(folder: Path, workers: int, rounds: int) -> None:
    """Processes that all want one output. Prints for each how often it had it, and not alone."""
    children = []
    for worker in range(workers):
        child = os.fork()
        if child == 0:
            had = clashes = 0
            try:
                while had < rounds:
                    try:
                        with StagedOutputs(overwrite=True) as out:
                            out.stage(folder / "m.tif").write_text(str(worker))
                            try:
                                os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
                                (folder / "inside").unlink()
                            except FileExistsError:
                                clashes += 1
                            had += 1
                    except OutputError as error:
                        if "another run" not in error.message:
                            raise
            except BaseException:  # the child ends here, whatever happens
                traceback.print_exc()
            finally:
                (folder / f"worker{worker}").write_text(json.dumps([had, clashes]))
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    print(json.dumps([json.loads((folder / f"worker{w}").read_text()) for w in range(workers)]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.fsync = lambda descriptor: None  # only a power cut would lose what a killed process has written
    what, where, *more = sys.argv[1:]
    {
        "at_every_change": lambda: at_every_change(Path(where), more[0], more[1] == "old"),
        "twice": lambda: twice(Path(where), int(more[0]), int(more[1])),
        "at_random": lambda: at_random(Path(where), int(more[0]), int(more[1])),
        "maps_at_random": lambda: maps_at_random(Path(where), int(more[0]), int(more[1])),
        "hold": lambda: hold(Path(where)),
        "crowd": lambda: crowd(Path(where), int(more[0]), int(more[1])),
    }[what]()
