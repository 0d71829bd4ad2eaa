"""Portable selective scan in two levels, for any device, dtype and autograd.

The L steps are cut into chunks of about √L. Within a chunk the recurrence

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t

runs step by step from a zero state, for all chunks at once, and gives ``h_end``. If the state before a chunk
is H, the state at its end is ``h_end + exp(A Σ dt) H``. A carry over the chunk ends thus finds every chunk's
initial state, and a second sweep gives the outputs. That makes 3√L dependent steps instead of L, each over
√L times more data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from das2f_map.network.selective_scan.reference import to_steps, to_tokens

# Patches are scanned in groups whose states take about this much, so that they fit in a processor's cache.
_CPU_GROUP_BYTES = 6 * 2**20
_GPU_GROUP_BYTES = 512 * 2**20


def _chunk_length(steps: int) -> int:
    """The divisor of ``steps`` nearest to its square root."""
    root = math.sqrt(steps)
    return min((n for n in range(1, steps + 1) if steps % n == 0), key=lambda n: abs(n - root))


def chunked_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor) -> Tensor:
    """Arguments and result as :func:`das2f_map.network.selective_scan.selective_scan`."""
    batch, k, steps, width = dt.shape
    patch_bytes = k * steps * width * A.shape[2] * x.element_size()
    group_bytes = _CPU_GROUP_BYTES if x.device.type == "cpu" else _GPU_GROUP_BYTES
    group = max(1, group_bytes // patch_bytes)
    differentiate = torch.is_grad_enabled() and any(v.requires_grad for v in (x, dt, A, B, C, D))
    parts = []
    for i in range(0, max(batch, 1), group):
        part = slice(i, i + group)
        arguments = (x[part], dt[part], A, B[part], C[part], D, order)
        if differentiate:  # keeps only the inputs; the backward pass makes one group's states again at a time
            parts.append(checkpoint(_scan_group, *arguments, use_reentrant=False))
        else:
            parts.append(_scan_group(*arguments))
    return torch.cat(parts)


def _scan_group(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor) -> Tensor:
    k, steps = dt.shape[1:3]
    length = _chunk_length(steps)
    x = to_steps(x[:, None].expand(-1, k, -1, -1), order)
    dt, B, C = (to_steps(v, order) for v in (dt, B, C))

    def by_step(v: Tensor) -> Tensor:
        """(B, K, L, F) → (length, B, K, chunks, F), so that a step of all chunks is contiguous."""
        v = v.reshape(*v.shape[:2], steps // length, length, v.shape[3])
        return v.movedim(3, 0).contiguous()

    dt_s, b_s, c_s = by_step(dt), by_step(B), by_step(C)
    decay = torch.exp(dt_s[..., None] * A[None, None, :, None])  # (length, B, K, chunks, D, N)
    drive = by_step(dt * x)[..., None] * b_s[..., None, :]

    h = drive[0]
    for s in range(1, length):
        h = torch.addcmul(drive[s], decay[s], h)
    through = torch.exp(dt_s.sum(dim=0)[..., None] * A[None, :, None])  # decay over a whole chunk
    carry = torch.zeros_like(h[:, :, 0])
    initial = []
    for c in range(h.shape[2]):
        initial.append(carry)
        carry = torch.addcmul(h[:, :, c], through[:, :, c], carry)

    h = torch.stack(initial, dim=2)
    y = []
    for s in range(length):
        h = torch.addcmul(drive[s], decay[s], h)
        y.append(torch.matmul(h, c_s[s][..., None])[..., 0])
    out = torch.stack(y, dim=3).flatten(2, 3)  # (B, K, chunks, length, D) → (B, K, L, D)
    return to_tokens(out + D[:, None] * x, order)
