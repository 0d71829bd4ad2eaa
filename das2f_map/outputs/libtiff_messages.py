"""What libtiff says by itself: some failures of the disk go straight to standard error, past GDAL."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OWN = re.compile(rb"^_tiff\w+: [^\n]*\n?", re.MULTILINE)
"""Of GDAL's virtual files as libtiff calls them, e.g. ``_tiffWriteProc: No space left on device.``"""

_lock = threading.Lock()
_depth = 0
_enabled = False


def keep_libtiff_quiet() -> None:
    """From now on :func:`libtiff_kept_quiet` does something: for a program that owns its standard error."""
    global _enabled
    _enabled = True


@contextmanager
def libtiff_kept_quiet() -> Iterator[None]:
    """Leave libtiff's own lines out of standard error; everything else that comes meanwhile is passed on.

    The failure itself reaches the caller as an exception all the same. Standard error belongs to the
    process, so it is held back for all threads; of nested or simultaneous uses only the first does anything.
    Nothing at all is done unless :func:`keep_libtiff_quiet` was called: in a library it is not ours to touch.
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
    """Standard error as it was, first of all; what cannot be passed on must not hide what really failed."""
    try:
        if len(opened) == 2:
            terminal, held = opened
            with suppress(OSError, ValueError, AttributeError):  # it may have been closed meanwhile
                sys.stderr.flush()
            os.dup2(terminal, 2)
            with suppress(OSError):  # the terminal takes no more: there is nobody left to tell
                rest = _OWN.sub(b"", _content(held))
                while rest:
                    rest = rest[os.write(2, rest) :]
    finally:
        for file in opened:
            os.close(file)


def _file_in_memory() -> int:
    """A file that a full disk does not matter to, where the system has such files."""
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
