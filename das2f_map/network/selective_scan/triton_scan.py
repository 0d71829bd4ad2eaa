"""The selective scan in Triton, forward and backward: for CUDA, with nothing to compile at installation.

States are float32 whatever the tensors are. For the backward pass only the state before every chunk of steps
is kept; the states within a chunk are computed again.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_CHUNK = 16
_CHANNELS = 32
"""Channels of a program: one per lane of a warp."""
_MAX_STATES = 64


@lru_cache(maxsize=1)
def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU (``TRITON_INTERPRET=1``)."""
    if missing():
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


@lru_cache(maxsize=1)
def missing() -> str:
    """Why Triton cannot be used here; empty if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        import triton

        if not hasattr(triton, "knobs"):
            return f"Triton {getattr(triton, '__version__', '')} is too old: 3.4 or newer is needed"
        from das2f_map.network.selective_scan import triton_kernels
    except Exception as error:  # a foreign compiler may raise anything; another backend is used then
        return f"Triton does not work here: {type(error).__name__}: {error}"
    del triton_kernels
    return ""


def unavailable(device: torch.device, dtype: torch.dtype, width: int = 64, states: int = 24) -> str:
    """Why the Triton scan cannot handle tensors of this kind; empty if it can."""
    if dtype not in _DTYPES:
        return f"computes in float32, not {str(dtype).removeprefix('torch.')}"
    if states > _MAX_STATES:
        return f"takes at most {_MAX_STATES} states, not {states}"
    if reason := missing():
        return reason
    if device.type != "cuda" and not interpreted():
        return "runs on CUDA tensors only"
    return ""


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _dense_rows(t: Tensor) -> Tensor:
    """The tensor with a dense last axis. B and C have one, as views of one projection: no copy."""
    return t if t.stride(-1) == 1 else t.contiguous()


class _TritonScan(torch.autograd.Function):
    """The scan with its gradients, for ``A`` as ``(K, N, D)``."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        from das2f_map.network.selective_scan import triton_kernels

        x, dt, a, b, c, d, order = inputs
        batch, k, steps, width = dt.shape
        states = a.shape[1]
        keep = any(ctx.needs_input_grad)
        chunks = -(-steps // _CHUNK) if keep else 0
        y = torch.empty(dt.shape, dtype=x.dtype, device=x.device)
        kept = torch.empty(batch, k, chunks, states, width, device=x.device)
        block = min(_CHANNELS, _power_of_two(width))
        if y.numel():
            with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch has no types there
                triton_kernels.scan_forward[(batch * k, -(-width // block))](
                    x,
                    dt,
                    a,
                    b,
                    c,
                    d,
                    order,
                    y,
                    kept,
                    k,
                    steps,
                    *b.stride()[:3],
                    *c.stride()[:3],
                    CHUNK=_CHUNK,
                    KEEP=keep,
                    WIDTH=width,
                    STATES=states,
                    NP=_power_of_two(states),
                    BD=block,
                    num_warps=1,
                )
        ctx.save_for_backward(*inputs, kept)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        from das2f_map.network.selective_scan import triton_kernels

        x, dt, a, b, c, d, order, kept = ctx.saved_tensors
        batch, k, steps, width = dt.shape
        states = a.shape[1]
        block = min(_CHANNELS, _power_of_two(width))
        blocks = -(-width // block)
        padded = _power_of_two(states)

        def new(*shape: int) -> Tensor:
            return torch.empty(*shape, device=x.device)

        grad_x, grad_dt = new(*dt.shape), torch.empty_like(dt)
        grad_a, grad_d = new(batch, *a.shape), new(batch, *d.shape)
        grad_b, grad_c = new(blocks, *b.shape), new(blocks, *c.shape)
        if dt.numel():
            with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch has no types there
                triton_kernels.scan_backward[(batch * k, blocks)](
                    x,
                    dt,
                    a,
                    b,
                    c,
                    d,
                    order,
                    kept,
                    grad_y.contiguous(),
                    new(batch, k, blocks, _CHUNK, padded, block),
                    grad_x,
                    grad_dt,
                    grad_a,
                    grad_b,
                    grad_c,
                    grad_d,
                    k,
                    steps,
                    *b.stride()[:3],
                    *c.stride()[:3],
                    CHUNK=_CHUNK,
                    WIDTH=width,
                    STATES=states,
                    NP=padded,
                    BD=block,
                    num_warps=1,
                )
        return (
            grad_x.sum(dim=1).to(x.dtype),
            grad_dt,
            grad_a.sum(dim=0),
            grad_b.sum(dim=0).to(b.dtype),
            grad_c.sum(dim=0).to(c.dtype),
            grad_d.sum(dim=0),
            None,
        )


def triton_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor) -> Tensor:
    """Arguments and result as :func:`das2f_map.network.selective_scan.selective_scan`.

    The floating-point types may differ between arguments; the result has the type of ``x``.
    """
    result: Tensor = _TritonScan.apply(  # type: ignore[no-untyped-call]  # torch has no types there
        x.contiguous(),
        dt.contiguous(),
        A.float().transpose(1, 2).contiguous(),
        _dense_rows(B),
        _dense_rows(C),
        D.float().contiguous(),
        order.contiguous(),
    )
    return result
