"""Runs Triton kernels for tests: on the GPU where there is one, else through Triton's interpreter.

Triton decides at its import whether it interprets, so the cases run in a process of their own: a file of
cases calls :func:`report` when it is run, and a test file gets what it printed from :func:`errors_of`.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Case = Callable[[], dict[str, float]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def relative_error(result: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error in parts of the largest value; infinite where a value is not a number."""
    assert result.shape == truth.shape, f"{tuple(result.shape)} instead of {tuple(truth.shape)}"
    truth = truth.detach().double().cpu()
    error = (result.detach().double().cpu() - truth).abs().max() / truth.abs().max()
    return float(error.nan_to_num(float("inf")))


def report(cases: dict[str, Case]) -> None:
    """Run the cases and print their errors, or where one broke."""
    found: dict[str, object] = {}
    for name, case in cases.items():
        try:
            found[name] = case()
        except Exception:  # what broke is told by the test of this case
            found[name] = traceback.format_exc()
    print(json.dumps(found))


@functools.lru_cache
def _run(file: Path, interpret: bool) -> dict[str, dict[str, float] | str]:
    variables = {"TRITON_INTERPRET": "1" if interpret and DEVICE == "cpu" else "0"}
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(file)],
        capture_output=True,
        text=True,
        timeout=1800,  # a few minutes for the interpreter, longer on a machine that is busy
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, float] | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def errors_of(file: Path, case: str, *, interpret: bool = True) -> dict[str, float]:
    """What a case of a file came to; the file runs once. Skips where Triton is missing."""
    pytest.importorskip("triton", reason="needs Triton", exc_type=ImportError)
    found = _run(file, interpret)[case]
    assert isinstance(found, dict), found
    return found
