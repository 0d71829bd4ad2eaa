"""The size of the blocks and of GDAL's cache, so that a run keeps its limit of memory for any scene."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from das2f_map.errors import InputError
from das2f_map.outputs.work_files import MOST_HELD
from das2f_map.products.strips import STRIP_PIXELS
from das2f_map.running.resources import MOST_MEMORY, Resources, available_memory, in_words, resident_memory
from das2f_map.scene.grid import PAN_PER_MS

log = logging.getLogger(__name__)

SMALLEST_BLOCK: Final = 16
"""MS pixels a side of the smallest block that a limit of memory may lead to."""

_CACHE: Final = 256 << 20
_CACHE_SHARE: Final = 8
"""GDAL's cache of tiles takes this many bytes, and at most one part in so many of the limit."""

_READING: Final = 3
"""Blocks of input that one in the making takes: the file's numbers with their validity, in float32, and
reflected at the border; the last is normalised in place."""

_WAITING_BYTES: Final = 3 * MOST_HELD
"""The row of blocks that is being filled, and the outlines that are open: as far as they wait in memory, and
as they go to a file."""

_STRIP_BYTES: Final = 260
"""Bytes for each pixel of the strip that is summed and outlined. Measured: 240 in a map of fields of 12
pixels, 115 in one of 230."""

_WORKER_BYTES: Final = 400 << 20
"""Bytes of a worker before its first block: Python, PyTorch and GDAL."""

_STEP: Final = 50 << 20
_SPARE: Final = 32 << 20
"""A limit that is enough is named in such steps, with so many bytes to spare: the next run may begin with
more memory than this one."""


@dataclass(frozen=True)
class Demand:
    """The things that decide how much memory a run takes.

    Attributes
    ----------
    width, pixels:
        Columns and pixels of the map.
    bands:
        MS bands.
    halo:
        MS pixels that a block has more than its targets, along each side.
    results:
        Layers of float32 values that a block ends with.
    engine_bytes:
        Gives the engine's memory for a block of so many MS pixels a side; 0 where it is not this machine's.
    simplify_bytes:
        Bytes that simplifying polygons takes.
    """

    width: int
    pixels: int
    bands: int
    halo: int
    results: int
    engine_bytes: Callable[[int], int]
    simplify_bytes: int = 0

    def input_bytes(self, size: int) -> int:
        """Bytes of a block of input, normalised."""
        return 4 * (size + self.halo) ** 2 * (self.bands + PAN_PER_MS**2)

    def block_bytes(self, size: int, ahead: bool) -> int:
        """Bytes that a process takes to read and compute blocks of ``size`` MS pixels a side."""
        blocks = 1 + _READING + (1 if ahead else 0)
        results = 4 if ahead else 3
        return (
            self.engine_bytes(size) + blocks * self.input_bytes(size) + 4 * results * self.results * size**2
        )

    def writer_bytes(self, size: int) -> int:
        """Bytes that the row of blocks and the strip take until they are written, whatever the width."""
        strip = _STRIP_BYTES * min(self.pixels, max(STRIP_PIXELS, self.width))
        return min(6 * self.width * size, _WAITING_BYTES) + strip + self.simplify_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """How a run keeps its limit of memory.

    Attributes
    ----------
    block_size:
        MS pixels a side of a block.
    read_ahead:
        Whether a block is read, and another one written, while one is computed.
    cache_bytes:
        GDAL's cache of tiles, in each process.
    expected_bytes, limit_bytes:
        Memory that the run is expected to take on this machine, all processes together, and its limit.
    """

    block_size: int
    read_ahead: bool
    cache_bytes: int
    expected_bytes: int
    limit_bytes: int


def plan_memory(
    demand: Demand,
    resources: Resources,
    preferred: int,
    *,
    fixed: int | None = None,
    resident: int | None = None,
) -> MemoryPlan:
    """The largest blocks up to the preferred size with which a run keeps its limit.

    Parameters
    ----------
    demand:
        The run's memory by the size of its blocks.
    resources:
        The limit, and the number of processes.
    preferred:
        MS pixels a side of the blocks that suit the engine.
    fixed:
        Size of the blocks of a run that goes on, which cannot change.
    resident:
        Bytes of memory that this process has before the run; by default those that it has now.

    Raises
    ------
    InputError
        A limit that the user gives is too small for this scene.
    """
    here_now = resident_memory()
    now = here_now if resident is None else resident
    given = resources.max_memory
    limit = min(MOST_MEMORY, here_now + available_memory()) if given is None else given
    cache = _cache_of(limit)
    processes = resources.workers or 0

    def expected(size: int, ahead: bool, cache: int) -> int:
        here = now + cache + demand.writer_bytes(size)
        if resources.cluster is not None:
            return here
        if processes:
            return here + processes * (_WORKER_BYTES + cache + demand.block_bytes(size, False))
        return here + demand.block_bytes(size, ahead)

    sizes = [preferred] if fixed is None else [fixed]
    while fixed is None and sizes[-1] // 2 >= SMALLEST_BLOCK:
        sizes.append(sizes[-1] // 2)
    tries = [(size, True) for size in sizes] + [(sizes[-1], False)]
    size, ahead = next((t for t in tries if expected(*t, cache) <= limit), tries[-1])
    need = expected(size, ahead, cache)
    if need > limit:
        if given is not None:
            # A larger limit has larger caches, up to their most.
            enough = next(
                most
                for most in count(need // _STEP * _STEP, _STEP)
                if expected(size, ahead, _cache_of(most)) + _SPARE <= most
            )
            raise InputError(
                f"a limit of {_as_option(limit)} of memory is too small: this run needs {_as_option(enough)}",
                f"--max-memory {_as_option(enough)}",
            )
        log.warning("about %s of memory are needed, %s are free", in_words(need), in_words(limit))
    elif size < sizes[0]:
        log.info("Blocks of %d pixels keep the run under %s of memory", size, in_words(limit))
    return MemoryPlan(size, ahead, cache, need, limit)


def _cache_of(limit: int) -> int:
    """Bytes of GDAL's cache in each process under a limit of memory."""
    return max(16 << 20, min(_CACHE, limit // _CACHE_SHARE))


def _as_option(size: int) -> str:
    """A size as ``--max-memory`` takes it: ``700M``."""
    for unit, name in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)
