"""Runs the command line, in this process or as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from das2f_map.cli.app import main

ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")},
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
}
COMMAND = (sys.executable, "-m", "das2f_map.cli")


def run_example(script: str, output: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of ``examples/`` as a user would, with the command of this environment."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        ["sh", str(root / "examples" / script), str(output)],
        env={**os.environ, "BIN": str(Path(sys.executable).parent), "PYTHONPATH": str(root), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The `error: …` lines."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def hints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("hint: ")]


Run = Callable[..., Outcome]


def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs the command's entry point here, which saves importing torch anew."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["das2f-map", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGINT, interrupt)
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, captured.out, captured.err)

    return run


def subprocess_run(*arguments: str | Path, **options: object) -> Outcome:
    """The command in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
        check=False,
        **options,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def listing(*folders: Path) -> set[str]:
    """Everything under some folders, hidden or not, with sizes."""
    return {f"{p} {p.stat().st_size if p.is_file() else ''}" for f in folders for p in f.rglob("*")}
