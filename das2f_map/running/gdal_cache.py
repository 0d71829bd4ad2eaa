"""The size of GDAL's cache of tiles, which by default grows with the machine's memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import rasterio
import rasterio.env
from rasterio.session import DummySession

_WRITING: Final = 128 << 20
"""Bytes of the cache while files are completed: a row of tiles of a map of 60,000 columns."""

_EMPTY: Final = 1 << 20
"""Bytes of a cache with next to no tiles."""


@contextmanager
def gdal_cache(size: int) -> Iterator[None]:
    """Inside the ``with`` block GDAL keeps at most so many bytes of tiles.

    A size that the user gives, as an environment variable or in a :class:`rasterio.Env`, holds instead.
    """
    if _given() is not None:
        yield
        return
    with _cache_of(size):
        yield


@contextmanager
def gdal_cache_for_writing(size: int) -> Iterator[None]:
    """Inside the ``with`` block the cache that :func:`gdal_cache` made ``size`` bytes large is smaller.

    All tiles that were read are let go, and so is their memory. The C library keeps memory for each thread:
    the threads that complete the files would not use the memory of the thread that read.
    """
    # Any other size is the user's.
    if size <= _WRITING or _given() != size:
        yield
        return
    with _cache_of(_EMPTY):
        _return_freed_memory()
    with _cache_of(_WRITING):
        yield


def _cache_of(size: int) -> rasterio.Env:
    # This session looks for no credentials; opening a file does.
    return rasterio.Env(DummySession(), GDAL_CACHEMAX=size)


def _given() -> object:
    """The size of the cache as the environment or a :class:`rasterio.Env` has it; ``None`` for neither."""
    if "GDAL_CACHEMAX" in os.environ:
        return os.environ["GDAL_CACHEMAX"]
    return rasterio.env.getenv().get("GDAL_CACHEMAX") if rasterio.env.hasenv() else None


def _return_freed_memory() -> None:
    """Let the system have the memory that was freed between parts still in use, where the C library can."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library other than glibc
            ctypes.CDLL(None).malloc_trim(0)
