"""The Triton scan: its kernels against the sequential scan, and the reasons why it cannot run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from kernel_cases import errors_of

from das2f_map.network.selective_scan import BACKENDS, default_backend, triton_scan

CASES = Path(__file__).with_name("triton_scan_cases.py")
# Half types round their results; sums are float32. The interpreter truncates to bfloat16, a GPU rounds.
_TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["published-float32", "published-bfloat16", "odd-float32", "small-float16", "empty-float32"]
)
def test_values_and_gradients(case: str) -> None:
    size, dtype = case.split("-")
    errors = errors_of(CASES, case)
    assert len(errors) == (0 if size == "empty" else 7)
    for name, error in errors.items():
        assert error <= _TOLERANCE[dtype], name


@pytest.mark.slow
def test_long_and_short_steps() -> None:
    for name, error in errors_of(CASES, "limits").items():
        assert error <= 1e-6, name


def test_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    unavailable = BACKENDS["triton"].unavailable
    assert "not float64" in unavailable(cuda, torch.float64)
    assert "at most 64 states" in unavailable(cuda, torch.float32, 64, 65)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    triton_scan.missing.cache_clear()
    try:
        assert unavailable(cuda, torch.float32) == "Triton is not installed"
    finally:
        triton_scan.missing.cache_clear()
    monkeypatch.undo()
    pytest.importorskip("triton", reason="needs Triton")
    monkeypatch.setattr(triton_scan, "interpreted", lambda: False)
    assert unavailable(cpu, torch.float32) == "runs on CUDA tensors only"
    assert unavailable(cuda, torch.float32) == ""


def test_a_broken_triton_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "das2f_map.network.selective_scan.triton_kernels", None)
    monkeypatch.delattr("das2f_map.network.selective_scan.triton_kernels", raising=False)
    triton_scan.missing.cache_clear()
    try:
        reason = triton_scan.missing()
    finally:
        triton_scan.missing.cache_clear()
    assert reason.startswith("Triton does not work here: ")


def test_is_the_second_choice_on_cuda_and_none_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(BACKENDS)
    assert names.index("mamba-ssm") < names.index("triton") < names.index("chunked")
    monkeypatch.setattr(triton_scan, "missing", lambda: "")
    monkeypatch.setattr(triton_scan, "interpreted", lambda: True)  # so that Triton could run on the CPU
    if BACKENDS["mamba-ssm"].unavailable(torch.device("cuda"), torch.float32):
        assert default_backend(torch.device("cuda"), torch.float32).name == "triton"
    for width in (64, 20):
        assert default_backend(torch.device("cpu"), torch.float32, width).name != "triton"


def test_a_triton_that_is_too_old_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton before 3.4 keeps its settings elsewhere; the other backends must work all the same."""
    triton = pytest.importorskip("triton", reason="needs Triton")
    monkeypatch.delattr(triton, "knobs")
    for cached in (triton_scan.missing, triton_scan.interpreted):
        cached.cache_clear()
    try:
        assert "is too old: 3.4 or newer" in triton_scan.missing()
        assert not triton_scan.interpreted()
        assert default_backend(torch.device("cuda"), torch.float32).name in ("mamba-ssm", "chunked")
        assert default_backend(torch.device("cpu"), torch.float32).name in ("compiled", "chunked")
    finally:
        for cached in (triton_scan.missing, triton_scan.interpreted):
            cached.cache_clear()
