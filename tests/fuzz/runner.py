"""Runs the cases of the fuzz test, each in a forked child of a process that has imported everything.

    PYTHONPATH=tests python -m fuzz.runner --cases 1500 --seed 7 -o out/fuzz

Results go to ``cases.jsonl`` in the folder, a line each, and a run that was ended goes on. A case fails on a
traceback, an exit code that is not documented, a signal, more than 60 s or 2 GiB, a line on the terminal that
is not this program's, files that are left behind, or an input that has changed. The seconds are those of the
processor, and of the clock where nothing else runs. Folders of failed cases stay.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NO_COLOR="1")

from fuzz.cases import Case

SECONDS, MIB = 60, 2048
_ROOM = 6 << 30
"""Bytes of addresses that a child may add: far over the limit of memory, and far from harming the machine."""
_EXIT_CODES = {0, 2, 3, 4, 5, 6, 7, 8}
_CHATTER = re.compile(
    r"(ERROR|Warning|INFO)( \d+)?:|\w*TIFF\w*:|libtiff|.*proj_create|.*CPLE_|.*\w+Warning:|  warnings\.warn|"
    r"Exception ignored|terminate called|Fatal|free\(\)|malloc|double free|\[W|\[E|.*GDAL_DATA"
)
"""The begin of a line that a library prints."""


@dataclass
class Result:
    """How a case ended; ``faults`` is empty if it is well."""

    case: int
    kind: str
    arguments: list[str]
    code: int
    seconds: float
    cpu: float
    mib: int
    faults: list[str] = field(default_factory=list)
    err: str = ""


@dataclass
class Running:
    """A case whose child has not ended."""

    number: int
    case: Case
    folder: Path
    before: dict[str, str]
    begin: float
    late: bool = False


NEEDED = (
    "typer.rich_utils",
    "typer.completion",
    "rich.console",
    "rich.table",
    "das2f_map.cli.app",
    "das2f_map.cli.accuracy_tables",
    "das2f_map.workflows.align",
    "das2f_map.mapping.run",
    "das2f_map.workflows.classify",
    "das2f_map.workflows.evaluate",
    "das2f_map.workflows.import_checkpoint",
    "das2f_map.workflows.inspect",
    "das2f_map.workflows.models",
    "das2f_map.workflows.preview",
    "das2f_map.workflows.train",
    "fuzz.base",
)
OPTIONAL = ("das2f_map.training.loop", "sklearn.ensemble", "pyarrow.parquet", "onnxruntime")


def import_everything() -> None:
    """Import what the commands import, so that a child need not. No thread is started: a child has none."""
    import matplotlib

    matplotlib.use("Agg")
    for name in NEEDED:
        importlib.import_module(name)
    for name in OPTIONAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import rasterio

    with rasterio.Env():
        pass  # which registers GDAL's drivers
    gc.collect()
    gc.freeze()  # else each child's first collection writes to all pages that it shares


def in_child(action: Callable[[], object]) -> int:
    """Process id of a forked child that does something, and ends with its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        found = action()
        code = found if isinstance(found, int) else 0
    except BaseException:  # the child ends here, whatever happens
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _command(arguments: list[str], folder: Path) -> int:
    """Run the command line as its script does, and give its exit code."""
    os.chdir(folder / "work")
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    sys.stdout, sys.stderr = (open(d, "w", encoding="utf-8", closefd=False) for d in (1, 2))  # noqa: SIM115 - open to the end
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + _ROOM, pages + _ROOM))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    sys.argv = ["das2f-map", *arguments]
    from das2f_map.cli.app import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def listed(*folders: Path) -> dict[str, str]:
    """Path → digest of every file below some folders, hidden or not."""
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for folder in folders
        for p in folder.rglob("*")
    }


def judged(run: Running, status: int, usage: Any, base: dict[str, float]) -> Result:
    """The result of a case that has ended."""
    code = os.waitstatus_to_exitcode(status)
    err = (run.folder / "stderr").read_text("utf-8", "replace") if (run.folder / "stderr").exists() else ""
    out = (run.folder / "stdout").read_text("utf-8", "replace") if (run.folder / "stdout").exists() else ""
    faults = []
    if run.late:
        faults.append(f"over {SECONDS} s")
    elif code < 0:
        faults.append(f"signal {-code}")
    elif code not in _EXIT_CODES:
        faults.append(f"exit code {code}")
    mib = usage.ru_maxrss // 1024
    if mib > MIB:
        faults.append(f"over {MIB} MiB")
    if "Traceback (most recent" in err + out:
        faults.append("traceback")
    lines = err.splitlines()
    faults += [f"chatter: {line[:200]}" for line in lines if _CHATTER.match(line)][:1]
    errors = [line for line in lines if line.startswith("error: ")]
    if code in _EXIT_CODES - {0, 2} and (len(errors) != 1 or not lines[-1].startswith(("error: ", "hint: "))):
        faults.append(
            f"{len(errors)} lines of error, and {lines[-1][:80] if lines else 'nothing'!r} at the end"
        )
    if code == 0 and errors:
        faults.append("an error with exit code 0")
    if listed(run.case.inputs) != run.before or _times(run.case.base) != base:
        faults.append("an input has changed, or a file was left beside it")
    left = listed(run.case.work)
    made = {p: d for p, d in listed(run.case.out).items() if code or Path(p).name.startswith(".")}
    if left or made:
        faults.append(f"left: {', '.join(Path(p).name for p in (left | made))}")
    seconds, cpu = round(time.monotonic() - run.begin, 2), round(usage.ru_utime + usage.ru_stime, 2)
    text = err[-2000:] if faults else ""
    return Result(run.number, run.case.kind, run.case.arguments, code, seconds, cpu, mib, faults, text)


def _crowding() -> float:
    """How many times longer things take than on a machine that does nothing else; 1 at least."""
    return max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def _times(folder: Path) -> dict[str, float]:
    return {str(p): p.stat().st_mtime for p in folder.rglob("*")}


def run_cases(numbers: list[int], seed: int, folder: Path, jobs: int) -> Iterator[Result]:
    """Run cases, so many at a time; folders of those that are well are removed."""
    base = folder / "base"
    if not (base / "done").exists():
        shutil.rmtree(base, ignore_errors=True)
        from fuzz.base import make_base

        if os.waitpid(in_child(lambda: make_base(base)), 0)[1]:
            raise RuntimeError("the sound files could not be made")
        (base / "done").touch()
    times = _times(base)
    waiting = list(reversed(numbers))
    running: dict[int, Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number = waiting.pop()
                place = folder / f"case-{number}"
                shutil.rmtree(place, ignore_errors=True)
                case = Case(seed, number, base, place)
                before = listed(case.inputs)
                begin = time.monotonic()
                child = in_child(partial(_command, case.arguments, place))
                running[child] = Running(number, case, place, before, begin)
            child, status, usage = os.wait4(-1, os.WNOHANG)
            if child in running:
                run = running.pop(child)
                result = judged(run, status, usage, times)
                if not result.faults:
                    shutil.rmtree(run.folder)
                yield result
                continue
            for known, run in running.items():
                if time.monotonic() - run.begin > SECONDS * _crowding() and not run.late:
                    run.late = True
                    os.kill(known, signal.SIGKILL)
            time.sleep(0.005)
    finally:
        for known in running:
            os.kill(known, signal.SIGKILL)
            os.waitpid(known, 0)


def fuzz(cases: int, seed: int, folder: Path, jobs: int = 2) -> list[Result]:
    """Results of cases 0 to ``cases``, those of an earlier run with this seed among them."""
    folder = folder.resolve() / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "cases.jsonl"
    found: dict[int, Result] = {}
    if journal.exists():
        for line in journal.read_text().splitlines():
            with contextlib.suppress(ValueError, TypeError):
                result = Result(**json.loads(line))
                found[result.case] = result
    missing = [n for n in range(cases) if n not in found]
    if missing:
        import_everything()
    with journal.open("a") as file:
        for result in run_cases(missing, seed, folder, jobs):
            found[result.case] = result
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            if result.faults:
                print(f"case {result.case}: {'; '.join(result.faults)}", flush=True)
    return [found[n] for n in range(cases)]


def main() -> None:
    """Run all cases and print a summary; the exit code is 1 if a case failed."""
    parser = argparse.ArgumentParser(
        description="Damaged inputs and odd options: each is handled, or refused."
    )
    parser.add_argument("--cases", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    begin = time.monotonic()
    results = fuzz(options.cases, options.seed, options.output, options.jobs)
    failed = [r for r in results if r.faults]
    print(f"seed {options.seed}: {len(results) - len(failed)} of {len(results)} cases handled")
    print(f"exit codes: {dict(sorted(Counter(r.code for r in results).items()))}")
    print(f"kinds: {dict(Counter(r.kind for r in results))}")
    print(f"processor time {sum(r.cpu for r in results):.0f} s")
    print(f"longest {max(r.seconds for r in results)} s, most memory {max(r.mib for r in results)} MiB")
    print(f"this run took {time.monotonic() - begin:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
