"""What engines do alike when memory runs out."""

from __future__ import annotations

import torch

from das2f_map.errors import DeviceError

# Libraries that PyTorch calls have no class of their own for it.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "could not create a primitive",  # oneDNN, whose reason it hardly ever is else
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "bad_alloc",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's or the machine's memory was too small, as far as the error tells."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def free(device: torch.device) -> None:
    """Give back what PyTorch holds without using it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def too_small(device: torch.device | str) -> DeviceError:
    """The error where nothing is left to halve."""
    if str(device).startswith("cpu"):
        return DeviceError(
            "there is too little free memory for a single patch", "close other programs, or raise the limit"
        )
    return DeviceError(
        f"{device} has too little free memory for a single patch", "free its memory, or use --device cpu"
    )
