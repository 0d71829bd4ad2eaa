"""Whether the compiled kernels can be used, and one warning if they cannot."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

from das2f_map.engines.shared_scan import compiled as shared
from das2f_map.network import NetworkConfig
from das2f_map.network.selective_scan import compiled as scan

log = logging.getLogger(__name__)


def missing() -> str:
    """Why one of the compiled libraries cannot be used for the published network; empty if both can."""
    published = NetworkConfig(classes=1)
    size = (published.width, published.state_size)
    return scan.unavailable(torch.device("cpu"), torch.float32, *size) or shared.unavailable(
        published, torch.float32
    )


@lru_cache(maxsize=1)
def say_if_missing() -> None:
    """Log a warning if the compiled kernels cannot be used; once in a process."""
    if reason := missing():
        log.warning(
            "compiled kernels cannot be used: %s; slower PyTorch operations serve on the CPU; "
            "reinstall das2f-map with a C++ compiler at hand",
            reason,
        )
