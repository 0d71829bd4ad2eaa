"""The four orders in which a token grid is scanned.

Source: the network's cross-scan; row-major, column-major, then the reverse of each.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

DIRECTIONS = 4
"""K: row-major, column-major, row-major reversed, column-major reversed."""


@lru_cache(maxsize=16)
def _cpu_scan_order(size: int) -> Tensor:
    # All callers share the cached tensor, and autograd refuses tensors that were made in inference mode.
    with torch.inference_mode(False):
        row_major = torch.arange(size * size, dtype=torch.int64)
        column_major = row_major.view(size, size).t().reshape(-1)
        return torch.stack([row_major, column_major, row_major.flip(0), column_major.flip(0)])


def scan_order(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Token visited at each step of each direction.

    Returns int64 ``(4, size²)``: ``order[k, t]`` is the row-major index of the token that
    direction ``k`` meets at step ``t``. All callers share it: do not modify it.
    """
    return _cpu_scan_order(size).to(device)
