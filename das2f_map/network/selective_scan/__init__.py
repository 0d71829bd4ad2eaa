"""Selective scan: one function, interchangeable backends.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        y_t = C_t · h_t + D x_t

Source: Gu & Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", algorithm 2,
with the zero-order hold on A and the Euler step on B that its implementations use.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from das2f_map.network.selective_scan import chunked, compiled, mamba_cuda, reference, triton_scan

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BACKENDS", "Backend", "default_backend", "selective_scan", "use_backend"]


@dataclass(frozen=True)
class Backend:
    """A way to compute the scan.

    ``unavailable(device, dtype, width, states)`` gives the reason why such tensors cannot be scanned with it,
    empty if they can; the sizes default to the published ones.
    """

    name: str
    scan: Callable[..., Tensor]
    unavailable: Callable[..., str]


def _anywhere(device: torch.device, dtype: torch.dtype, width: int = 64, states: int = 24) -> str:
    return ""


def _mamba_unavailable(device: torch.device, dtype: torch.dtype, width: int = 64, states: int = 24) -> str:
    if device.type != "cuda":
        return "runs on CUDA tensors only"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"does not support {dtype}"
    return mamba_cuda.unavailable_reason()


BACKENDS: dict[str, Backend] = {
    b.name: b
    for b in (
        # `auto` takes the first one that can be used. The fastest comes first, except that `chunked` goes
        # before `sequential`: for gradients it takes less than half the memory (and is faster on CUDA).
        Backend("mamba-ssm", mamba_cuda.mamba_scan, _mamba_unavailable),
        Backend("compiled", compiled.compiled_scan, compiled.unavailable),
        Backend("triton", triton_scan.triton_scan, triton_scan.unavailable),
        Backend("chunked", chunked.chunked_scan, _anywhere),
        Backend("sequential", reference.sequential_scan, _anywhere),
    )
}

_forced: ContextVar[str | None] = ContextVar("das2f_map_scan_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """A context in which every scan uses this backend, unless its call names another."""
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"no selective-scan backend {name!r}; there are: auto, {', '.join(BACKENDS)}")
    token = _forced.set(None if name == "auto" else name)
    try:
        yield
    finally:
        _forced.reset(token)


def default_backend(
    device: torch.device,
    dtype: torch.dtype,
    width: int = 64,
    states: int = 24,
    *,
    gradients: bool = True,
) -> Backend:
    """The backend that ``auto`` takes for such tensors; ``gradients``: whether a backward pass may follow.

    It is the fastest that works, with one exception. Where only PyTorch operations can train on the CPU,
    `chunked` is taken: `sequential` is up to a third faster, but keeps every step's states.
    """
    backends = list(BACKENDS.values())
    if device.type == "cpu":  # on the CPU Triton only interprets, for tests
        backends = [b for b in backends if b.name != "triton"]
    if device.type == "cpu" and not gradients:
        # `chunked` goes last: in `sequential` one step of many patches stays in a processor's cache, which
        # saves more than fewer steps do.
        backends.sort(key=lambda b: b.name == "chunked")
    # One always is: `chunked` and `sequential` work anywhere.
    return next(b for b in backends if not b.unavailable(device, dtype, width, states))


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    order: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Scan token sequences in K orders.

    Parameters
    ----------
    x:
        Inputs, ``(B, L, D)``, floating point; the directions share them.
    dt:
        Step sizes after softplus, ``(B, K, L, D)``.
    A:
        State decay rates, negative, ``(K, D, N)``.
    B, C:
        Input and output vectors, ``(B, K, L, N)``.
    D:
        Skip weights, ``(K, D)``.
    order:
        int64 ``(K, L)``: the token that direction ``k`` meets at step ``t``.
    backend:
        A name in ``BACKENDS``; by default the one that :func:`use_backend` set, or else
        :func:`default_backend` gives.

    Returns
    -------
    Outputs ``(B, K, L, D)`` in token order, differentiable in all floating-point arguments.

    Raises
    ------
    ValueError
        When the named backend does not exist or cannot handle these tensors.
    """
    name = backend if backend not in (None, "auto") else _forced.get()
    kind = (x.device, x.dtype, x.shape[2], A.shape[2])
    if name is None:
        gradients = torch.is_grad_enabled() and any(t.requires_grad for t in (x, dt, A, B, C, D))
        return default_backend(*kind, gradients=gradients).scan(x, dt, A, B, C, D, order)
    if name not in BACKENDS:
        raise ValueError(f"no selective-scan backend {name!r}; there are: {', '.join(BACKENDS)}")
    chosen = BACKENDS[name]
    if reason := chosen.unavailable(*kind):
        raise ValueError(f"selective-scan backend {name!r} cannot be used: {reason}")
    return chosen.scan(x, dt, A, B, C, D, order)
