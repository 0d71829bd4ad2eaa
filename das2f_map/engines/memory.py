"""Estimates of the memory that blocks take, and the signs that it has run out."""

from __future__ import annotations

import torch

from das2f_map.errors import DeviceError
from das2f_map.network import NetworkConfig
from das2f_map.scene.grid import PAN_PER_MS

BLOCK_SIZE = 64
"""MS pixels a side of a block, unless an engine has room for a larger one."""

_FLOAT = 4
"""Bytes of a float32."""


# Libraries that PyTorch calls have no error class for it, so the message tells.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "could not create a primitive",  # oneDNN; other causes are rare
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "bad_alloc",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error was raised because a device's or the machine's memory was too small."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def free(device: torch.device) -> None:
    """Give back device memory that PyTorch holds but does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def too_small(device: torch.device | str) -> DeviceError:
    """The error for a device whose memory is too small for a single patch."""
    if str(device).startswith("cpu"):
        return DeviceError(
            "there is too little free memory for a single patch", "close other programs, or raise the limit"
        )
    return DeviceError(
        f"{device} has too little free memory for a single patch", "free its memory, or use --device cpu"
    )


def overhead(device: torch.device) -> int:
    """Bytes that libraries take on their first call, and the C library's heap does not give back.

    Measured on the CPU. CUDA's own memory, which a device has before any block comes, is not counted.
    """
    return 48 << 20 if device.type == "cpu" else 0


def block_bytes(config: NetworkConfig, size: int) -> int:
    """Bytes of a block's float32 images, halo included."""
    side = size + config.patch_size - 1
    return _FLOAT * side * side * (config.ms_bands + PAN_PER_MS**2)


def patch_bytes(config: NetworkConfig) -> int:
    """Estimate of the float32 bytes that a patch takes on its way through the network.

    Tokens and gates of both images, scan inputs of a branch in all directions, and the MLP's inner values.
    """
    per_token = config.width * (4 * config.mlp_ratio + 24) + 8 * (config.dt_rank + 2 * config.state_size)
    return _FLOAT * config.tokens * per_token
