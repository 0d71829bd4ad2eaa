"""The memory and the machines that a run may take.

The command line reads its options here, so nothing heavy is imported.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from das2f_map.errors import InputError
from das2f_map.settings import check_settings, setting

MOST_MEMORY: Final = 4 << 30
"""Bytes that a run takes at most unless the user gives a limit."""

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", re.I)


@dataclass(frozen=True)
class Resources:
    """Limits of a run, and the processes that compute its blocks.

    Attributes
    ----------
    max_memory:
        Bytes that the run may take on this machine; ``None`` for the memory that is free, at most 4 GiB.
    workers:
        Processes on this machine that compute blocks; ``None`` computes them in this process.
    cluster:
        Address of a Dask scheduler whose workers compute the blocks; ``None`` for none.

    Raises
    ------
    InputError
        A value is out of range, or both ``workers`` and ``cluster`` are given.
    """

    max_memory: int | None = None
    workers: int | None = setting(
        None,
        kind=int,
        ge=1,
        help="Processes on this machine that compute blocks; one for each GPU where there are several.",
    )
    cluster: str | None = None

    def __post_init__(self) -> None:
        check_settings(self, "No map can be made with")
        if self.workers is not None and self.cluster is not None:
            raise InputError(
                "--workers and --cluster contradict each other", "a cluster brings its own workers"
            )

    @property
    def spread(self) -> bool:
        """Whether other processes compute the blocks."""
        return self.workers is not None or self.cluster is not None


def bytes_of(size: str | int | None) -> int | None:
    """Bytes of a size such as ``"2G"``, ``"800M"`` or ``1000000``; ``None`` stays ``None``.

    Raises
    ------
    InputError
        The text is no size, or the size is 0.
    """
    if size is None:
        return None
    match = _SIZE.fullmatch(str(size))
    found = 0 if match is None else int(float(match[1]) * _UNITS[match[2].upper()])
    if found < 1:
        raise InputError(f"{size!r} is no size of memory", "give one such as 2G or 800M")
    return found


def available_memory() -> int:
    """Bytes of memory that this process could still take; a control group's limit counts."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    except (OSError, ValueError):  # another system
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (int(Path(p).read_text(encoding="ascii")) for p in (limit, used))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        found.append(max(0, most - now))
    return min(found)


def resident_memory() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def in_words(size: float) -> str:
    """A number of bytes for people: ``3.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
