"""Memory that every block uses again.

A block's maps and scanned tokens take hundreds of megabytes. The system clears memory that is new to the
process page by page, which takes as long as filling it.
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

    A buffer is valid until its name is taken again. A workspace serves one caller at a time, on one device.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._kept: dict[Hashable, tuple[Tensor, ...]] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The buffer of a name: contiguous, uninitialised, with the type and device of ``like``."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or buffer.numel() < size
            or (buffer.dtype, buffer.device) != (like.dtype, like.device)
        ):
            del buffer
            self._buffers.pop(name, None)  # freed before the new one is made
            buffer = _huge_pages(size, like.dtype) if like.device.type == "cpu" else like.new_empty(size)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)

    def kept(self, of: Hashable, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The tensors from ``make``, made once for each key ``of`` and kept. Never write to them.

        A scene's blocks come in few sizes. Of more than 16 keys, those that were asked for last are kept.
        """
        found = self._kept.pop(of, None)
        self._kept[of] = found = make() if found is None else found
        while len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def clear(self) -> None:
        """Free all memory."""
        self._buffers.clear()
        self._kept.clear()


def _huge_pages(size: int, dtype: torch.dtype) -> Tensor:
    """Memory in huge pages where the system gives them.

    The scan uses values that lie a patch apart at the same time. In small pages they would need more entries
    than a processor's translation buffers have.
    """
    # Private: mmap's shared memory, the default, has no huge pages, and forked processes share it.
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
