"""Run `classify` in forked processes that are killed at random moments, and resume it. Called as a program.

    python resumed_runs.py MS PAN MODEL FOLDER KILLS

The imports are done once, before the forks. Prints what the exit statuses were.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import das2f_map.mapping.planned as planned_module
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.workflows.classify import classify

SIDE = 12
"""MS pixels a side of a block, so that a small scene has many."""
LEAST = 5
"""Kills of a map that tell something; one with fewer is made anew, with shorter runs."""


def forked(ms: str, pan: str, model: str, output: Path, *, resume: bool) -> int:
    """The process that makes a map."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        planned_module.BLOCK_SIZE = SIDE
        PerPatchEngine.block_size = SIDE  # type: ignore[assignment, method-assign]  # a property elsewhere
        classify(
            ms,
            pan,
            output,
            model=model,
            vectors=output.with_suffix(".gpkg"),
            confidence=output.with_name("confidence.tif"),
            probabilities=output.with_name("probabilities.tif"),
            coregistration="off",
            engine="patch",
            device="cpu",
            resume=resume,
        )
        status = 0
    except BaseException:  # the child ends here, whatever happens
        traceback.print_exc()
    finally:
        os._exit(status)


def statuses_of(
    ms: str, pan: str, model: str, output: Path, kills: int, seconds: float, rng: random.Random
) -> list[int]:
    """Exit statuses of the runs that a map took; each but the last was killed."""
    statuses: list[int] = []
    while True:
        child = forked(ms, pan, model, output, resume=bool(statuses))
        if len(statuses) < kills:
            time.sleep(rng.uniform(0.1, 0.4) * seconds)
            os.kill(child, signal.SIGKILL)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if statuses[-1] != -signal.SIGKILL:
            return statuses


def main() -> None:
    ms, pan, model, folder, kills = *sys.argv[1:4], Path(sys.argv[4]), int(sys.argv[5])
    (folder / "whole").mkdir()
    started = time.monotonic()
    whole = forked(ms, pan, model, folder / "whole" / "m.tif", resume=False)
    assert os.waitpid(whole, 0)[1] == 0
    # A resumed run has less to do, so later kills come sooner.
    seconds, rng = time.monotonic() - started, random.Random(0)
    for _ in range(5):
        (folder / "killed").mkdir()
        statuses = statuses_of(ms, pan, model, folder / "killed" / "m.tif", kills, seconds, rng)
        if statuses[-1] or len(statuses) > LEAST:
            break
        # The machine did other work during the first run, and is quicker now.
        seconds /= 2
        shutil.rmtree(folder / "killed")
    print(*statuses, sep="\n", flush=True)


if __name__ == "__main__":
    main()
