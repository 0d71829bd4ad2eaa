"""A Dask scheduler and its workers as processes, as a user would start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import das2f_map

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(das2f_map.__file__).parents[1]),
}


@dataclass
class DaskProcesses:
    """A running scheduler: its address, its process and those of its workers."""

    address: str
    scheduler: subprocess.Popen[bytes]
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker of one thread."""
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
        self.workers.append(
            _started("dask_worker", self.address, *options, "--local-directory", str(self.folder))
        )
        return self.workers[-1]


def _started(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def dask_processes(folder: Path, workers: int) -> Iterator[DaskProcesses]:
    """A scheduler with workers; all are killed at the end."""
    file = folder / "scheduler.json"
    scheduler = _started(
        "dask_scheduler",
        "--scheduler-file",
        str(file),
        "--port",
        "0",
        "--no-dashboard",
        "--host",
        "127.0.0.1",
    )
    running: DaskProcesses | None = None
    try:
        until = time.monotonic() + 120
        while True:
            try:
                address = json.loads(file.read_text())["address"]
                break
            except (OSError, ValueError, KeyError):
                assert time.monotonic() < until, "no scheduler"
                time.sleep(0.1)
        running = DaskProcesses(address, scheduler, folder)
        for _ in range(workers):
            running.add_worker()
        yield running
    finally:
        for process in [scheduler, *(running.workers if running else [])]:
            process.kill()
            process.wait()
