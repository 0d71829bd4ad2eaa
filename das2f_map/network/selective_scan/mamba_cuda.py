"""mamba-ssm's fused CUDA selective scan, where it is installed and works."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from das2f_map.network.selective_scan.reference import to_steps, to_tokens


@lru_cache(maxsize=1)
def _kernel() -> tuple[Callable[..., Tensor] | None, str]:
    """mamba-ssm's function, or why it cannot be used. The import can succeed where every call fails."""
    if not torch.cuda.is_available():
        return None, "no CUDA device"
    try:
        module: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        function: Callable[..., Tensor] = module.selective_scan_fn
        u = torch.zeros(1, 8, 16, device="cuda", requires_grad=True)
        bc = torch.zeros(1, 1, 4, 16, device="cuda")
        y = function(u, u, torch.zeros(8, 4, device="cuda"), bc, bc, torch.zeros(8, device="cuda"))
        torch.autograd.grad(y.sum(), u)
        torch.cuda.synchronize()
    except Exception as error:  # a foreign CUDA extension may raise anything; another backend is used then
        return None, f"mamba-ssm does not work here: {type(error).__name__}: {error}"
    return function, ""


def unavailable_reason() -> str:
    """Why the kernel cannot be used; empty if it can."""
    return _kernel()[1]


def mamba_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor) -> Tensor:
    """Arguments and result as :func:`das2f_map.network.selective_scan.selective_scan`."""
    function = _kernel()[0]
    if function is None:
        raise RuntimeError(unavailable_reason())
    batch, k, steps, width = dt.shape
    x = to_steps(x[:, None].expand(-1, k, -1, -1), order)
    dt, B, C = (to_steps(v, order) for v in (dt, B, C))
    # mamba-ssm wants channels before steps, directions as groups of channels, and A, D in float32.
    y = function(
        x.transpose(2, 3).reshape(batch, k * width, steps).contiguous(),
        dt.transpose(2, 3).reshape(batch, k * width, steps).to(x.dtype).contiguous(),
        A.reshape(k * width, -1).float().contiguous(),
        B.transpose(2, 3).to(x.dtype).contiguous(),
        C.transpose(2, 3).to(x.dtype).contiguous(),
        D.reshape(-1).float().contiguous(),
    )
    return to_tokens(y.view(batch, k, width, steps).transpose(2, 3), order)
