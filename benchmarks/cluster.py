"""What a block costs the scheduler and the caller of a Dask cluster, without any engine.

    python benchmarks/cluster.py [--blocks 400] [--sides 64 256 512]

Starts a scheduler and two workers as processes. They return made-up classes and confidence (5 bytes a pixel)
as they would for blocks of a map, as many under way at a time as `classify --cluster` has. Prints seconds a
block, the CPU seconds of the caller and of the scheduler a block, and from these the pixels a second at which
one caller and one scheduler saturate, by size of the block.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client


def made_up(side: int, number: int) -> Any:
    """Classes and confidence of a block."""
    rng = np.random.default_rng(number)
    return rng.integers(1, 9, (side, side), dtype=np.uint8), rng.random((side, side), dtype=np.float32)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def own_seconds() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=400, help="blocks of each size")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 512], help="MS pixels a side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)]
        scheduler = subprocess.Popen([*start, "--port", "0", "--no-dashboard"], **quiet)
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
        workers = [
            subprocess.Popen([*worker, "--no-nanny", "--nthreads", "1", "--no-dashboard"], **quiet)
            for _ in range(2)
        ]
        try:
            while not file.exists():
                time.sleep(0.1)
            with Client(scheduler_file=str(file), timeout="60s") as client:
                client.wait_for_workers(2)
                client.submit(made_up, 8, 0).result()
                for side in options.sides:
                    wall, own, theirs = time.perf_counter(), own_seconds(), cpu_seconds(scheduler.pid)
                    waiting: list[Any] = []
                    for number in range(options.blocks):
                        waiting.append(client.submit(made_up, side, number, pure=False))
                        if len(waiting) >= 4:
                            waiting.pop(0).result()
                    for future in waiting:
                        future.result()
                    wall = (time.perf_counter() - wall) / options.blocks
                    own = (own_seconds() - own) / options.blocks
                    theirs = (cpu_seconds(scheduler.pid) - theirs) / options.blocks
                    print(
                        f"{side}²: {1e3 * wall:.1f} ms a block; CPU of the caller {1e3 * own:.1f} ms, of the "
                        f"scheduler {1e3 * theirs:.1f} ms; saturation at {side**2 / own:.2g} and "
                        f"{side**2 / max(theirs, 1e-9):.2g} pixels a second"
                    )
        finally:
            for process in [*workers, scheduler]:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
