"""The selective scan step by step, as it is defined: the truth for every other backend."""

from __future__ import annotations

import torch
from torch import Tensor


def to_steps(tokens: Tensor, order: Tensor) -> Tensor:
    """Bring ``(B, K, L, F)`` from token order into each direction's order of steps."""
    return tokens.gather(2, order[None, :, :, None].expand_as(tokens))


def to_tokens(steps: Tensor, order: Tensor) -> Tensor:
    """Undo :func:`to_steps`."""
    return steps.gather(2, order.argsort(dim=1)[None, :, :, None].expand_as(steps))


def sequential_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor
) -> Tensor:
    """Arguments and result as :func:`das2f_map.network.selective_scan.selective_scan`."""
    k = dt.shape[1]
    x, dt, B, C = to_steps(x[:, None].expand(-1, k, -1, -1), order), *(to_steps(v, order) for v in (dt, B, C))
    h = x.new_zeros(x.shape[0], k, x.shape[3], A.shape[2])  # (B, K, D, N)
    y = []
    for t in range(x.shape[2]):
        decay = torch.exp(dt[:, :, t, :, None] * A)
        h = decay * h + (dt[:, :, t] * x[:, :, t])[..., None] * B[:, :, t, None, :]
        y.append((h * C[:, :, t, None, :]).sum(dim=-1) + D * x[:, :, t])
    return to_tokens(torch.stack(y, dim=2), order)
