"""Keep libtiff's messages off standard error: it prints some failures of the disk there, past GDAL."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OWN = re.compile(rb"^_tiff\w+: [^\n]*\n?", re.MULTILINE)
"""A line of libtiff, such as ``_tiffWriteProc: No space left on device.``"""

_lock = threading.Lock()
_depth = 0
_enabled = False


def keep_libtiff_quiet() -> None:
    """Switch :func:`libtiff_kept_quiet` on. Only for a program that owns its standard error."""
    global _enabled
    _enabled = True


@contextmanager
def libtiff_kept_quiet() -> Iterator[None]:
    """A context in which libtiff's own lines do not reach standard error. All other lines are passed on.

    They are passed on when the context ends. The caller still gets the failure as an exception. Standard
    error belongs to the process, so the lines of all threads are held back; of nested or simultaneous
    contexts only the first does anything. The context does nothing unless :func:`keep_libtiff_quiet` was
    called: a library must leave the standard error of its program alone.
    """
    global _depth
    if not _enabled:
        yield
        return
    with _lock:
        _depth += 1
        first = _depth == 1
    try:
        if first:
            with _held_back():
                yield
        else:
            yield
    finally:
        with _lock:
            _depth -= 1


@contextmanager
def _held_back() -> Iterator[None]:
    opened: list[int] = []
    try:
        with suppress(OSError, ValueError, AttributeError):  # there is no standard error, or no room for it
            sys.stderr.flush()
            opened.append(os.dup(2))
            opened.append(_file_in_memory())
            os.dup2(opened[1], 2)
        yield
    finally:
        _give_back(opened)


def _give_back(opened: list[int]) -> None:
    """Restore standard error, then pass on the lines that were held back.

    A line that cannot be passed on raises no error: that would hide the failure of the write.
    """
    try:
        if len(opened) == 2:
            terminal, held = opened
            with suppress(OSError, ValueError, AttributeError):  # it may have been closed meanwhile
                sys.stderr.flush()
            os.dup2(terminal, 2)
            with suppress(OSError):  # the terminal takes no more lines
                rest = _OWN.sub(b"", _content(held))
                while rest:
                    rest = rest[os.write(2, rest) :]
    finally:
        for file in opened:
            os.close(file)


def _file_in_memory() -> int:
    """A file in memory, which a full disk does not stop; on disk where the system has no such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _content(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    parts = []
    while part := os.read(file, 1 << 16):
        parts.append(part)
    return b"".join(parts)
