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


@contextmanager
def libtiff_kept_quiet() -> Iterator[None]:
    """Leave libtiff's own lines out of standard error; everything else that comes meanwhile is passed on.

    The failure itself reaches the caller as an exception all the same. Standard error belongs to the
    process, so it is held back for all threads; of nested or simultaneous uses only the first does anything.
    """
    global _depth
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
    try:
        sys.stderr.flush()
        terminal = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no standard error
        yield
        return
    try:
        held = _file_in_memory()
        os.dup2(held, 2)
        try:
            yield
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os.dup2(terminal, 2)
            rest = _OWN.sub(b"", _content(held))
            os.close(held)
            if rest:
                os.write(terminal, rest)
    finally:
        os.close(terminal)


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
