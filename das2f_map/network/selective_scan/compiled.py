"""The selective scan compiled for the CPU (``scan.cpp``), float32, with its own backward pass.

The library is built with the package. Where the build found no compiler there is none, and another backend
does the work.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_LANES = 16
_STATE_STEP = 8
_MAX_STATES = 64
_ABI = 2
_LEVELS = ("portable", "AVX2", "AVX-512")
_INPUTS = ("x", "dt", "a", "b", "c", "d", "order")
_POINTERS = (*_INPUTS, "y", "grad_y", "grad_x", "grad_dt", "grad_a", "grad_b", "grad_c", "grad_d")


class _Scan(ctypes.Structure):
    """``Das2fScan`` of scan.cpp."""

    _fields_ = (
        *[(name, ctypes.c_int64) for name in ("batch", "directions", "steps", "width", "states")],
        *[(name, ctypes.c_void_p) for name in _POINTERS],
    )


@lru_cache(maxsize=1)
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The loaded library, or why there is none."""
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_scan{suffix}"
        if not path.exists():
            continue
        try:
            library = ctypes.CDLL(str(path))
            abi = library.das2f_scan_abi()
        except (OSError, AttributeError) as error:
            return None, f"{path.name} cannot be loaded: {error}"
        if abi != _ABI:
            return None, f"{path.name} belongs to another version of das2f-map; reinstall it"
        return library, ""
    return None, "not built (no working C++ compiler when das2f-map was installed)"


def instruction_set() -> str | None:
    """Name of the instruction set in use, ``None`` without the library."""
    library = _library()[0]
    return None if library is None else _LEVELS[_level(library)]


def _level(library: ctypes.CDLL) -> int:
    best = int(library.das2f_scan_level())
    # For tests and bug reports: run the code of a lesser processor.
    asked = os.environ.get("DAS2F_MAP_SIMD_LEVEL", "")
    return max(0, min(best, int(asked))) if asked.isdecimal() else best


def unavailable(device: torch.device, dtype: torch.dtype, width: int = 64, states: int = 24) -> str:
    """Why the compiled scan cannot handle tensors of this kind; empty if it can."""
    if device.type != "cpu":
        return "runs on CPU tensors only"
    if dtype is not torch.float32:
        return f"computes in float32, not {str(dtype).removeprefix('torch.')}"
    if width % _LANES or states > _MAX_STATES:
        return (
            f"needs a width in multiples of {_LANES} and at most {_MAX_STATES} states, "
            f"not {width} and {states}"
        )
    return _library()[1]


def _run(backward: bool, sizes: tuple[int, int, int, int, int], arrays: dict[str, Tensor]) -> None:
    library = _library()[0]
    assert library is not None
    pointers = {name: ctypes.c_void_p(t.data_ptr()) for name, t in arrays.items()}
    scan = _Scan(*sizes, **pointers)
    threads = min(torch.get_num_threads(), sizes[0] * sizes[1])
    failed = library.das2f_scan_run(ctypes.byref(scan), int(backward), threads, _level(library))
    if failed == 2:
        raise MemoryError("for a selective scan")
    if failed:
        raise RuntimeError(f"selective scan of unsupported sizes {sizes}")


class _CompiledScan(torch.autograd.Function):
    """The scan with its gradients, for states padded to a multiple of 8 and ``A`` as ``(K, N, D)``."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        dt, b = inputs[1], inputs[3]
        sizes = (*dt.shape, b.shape[3])
        y = torch.empty_like(dt)
        _run(False, sizes, dict(zip(_INPUTS, inputs, strict=True)) | {"y": y})
        ctx.save_for_backward(*inputs)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        _x, dt, a, b, c, d, _order = ctx.saved_tensors
        batch, k, steps, width = dt.shape
        sizes = (batch, k, steps, width, b.shape[3])
        out = {
            "grad_x": torch.empty_like(dt),
            "grad_dt": torch.empty_like(dt),
            "grad_a": a.new_empty(batch, *a.shape),
            "grad_b": torch.empty_like(b),
            "grad_c": torch.empty_like(c),
            "grad_d": d.new_empty(batch, *d.shape),
        }
        given = dict(zip(_INPUTS, ctx.saved_tensors, strict=True))
        _run(True, sizes, {**given, "grad_y": grad_y.contiguous(), **out})
        return (
            out["grad_x"].sum(dim=1),
            out["grad_dt"],
            out["grad_a"].sum(dim=0),
            out["grad_b"],
            out["grad_c"],
            out["grad_d"].sum(dim=0),
            None,
        )


def _check(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor) -> None:
    batch, k, steps, width = dt.shape
    states = A.shape[2]
    shapes = {
        "x": (x, (batch, steps, width)),
        "A": (A, (k, width, states)),
        "B": (B, (batch, k, steps, states)),
        "C": (C, (batch, k, steps, states)),
        "D": (D, (k, width)),
        "order": (order, (k, steps)),
    }
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}; with dt {tuple(dt.shape)} it must be {shape}")
    if order.numel() and not (order.min() >= 0 and order.max() < steps):
        raise ValueError(f"order names tokens outside 0 to {steps - 1}")


def compiled_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor) -> Tensor:
    """Arguments and result as :func:`das2f_map.network.selective_scan.selective_scan`.

    All are converted to float32. Raises ``ValueError`` if shapes do not fit together or ``order`` names a
    token that does not exist: the kernel checks neither.
    """
    _check(x, dt, A, B, C, D, order)
    x, dt, A, B, C, D = (t.to(torch.float32) for t in (x, dt, A, B, C, D))
    order = order.to(torch.int64)
    missing = -B.shape[3] % _STATE_STEP
    if missing:  # a state whose B and C are zero stays zero and adds nothing
        A, B, C = (F.pad(v, (0, missing)) for v in (A, B, C))
    tensors = (x, dt, A.transpose(1, 2), B, C, D, order)
    contiguous = [t.contiguous() for t in tensors]
    result: Tensor = _CompiledScan.apply(*contiguous)  # type: ignore[no-untyped-call]  # torch has no types there
    return result
