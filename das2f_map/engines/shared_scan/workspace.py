"""Memory that every block uses again.

A block's maps and scanned tokens are hundreds of megabytes; memory that is new to the process has to be
cleared by the system page by page, which takes as long as filling it.
"""

from __future__ import annotations

import errno
import math
import mmap
from collections.abc import Callable, Hashable
from contextlib import suppress

import torch
from torch import Tensor

_MOST_KEPT = 16


class Workspace:
    """Named buffers that grow as needed, and tensors that are the same for blocks of the same size.

    What :meth:`take` returns is good until the name is taken again. Of one user at a time, on one device.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._kept: dict[Hashable, tuple[Tensor, ...]] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Contiguous, uninitialised, of a tensor's type and device."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or buffer.numel() < size
            or (buffer.dtype, buffer.device) != (like.dtype, like.device)
        ):
            del buffer
            self._buffers.pop(name, None)  # freed before its successor comes
            buffer = _huge_pages(size, like.dtype) if like.device.type == "cpu" else like.new_empty(size)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)

    def kept(self, of: Hashable, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What ``make`` gives, made once for whatever it depends on; never to be written to.

        A scene's blocks come in few sizes. Of many, the ones asked for last are kept.
        """
        found = self._kept.pop(of, None)
        self._kept[of] = found = make() if found is None else found
        while len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def clear(self) -> None:
        """Give all memory back."""
        self._buffers.clear()
        self._kept.clear()


def _huge_pages(size: int, dtype: torch.dtype) -> Tensor:
    """Memory in huge pages where the system gives them.

    What lies a patch apart is met at the same time: small pages would need more entries than a processor's
    translation buffers have.
    """
    # Private: what mmap gives otherwise has no huge pages, and forked processes would share it.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    length = max(size, 1) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, length, **private)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(f"{length:,} bytes for a block") from error
        raise
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=size)
