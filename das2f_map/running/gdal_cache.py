"""The size of GDAL's cache of tiles, which by default grows with the machine's memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import rasterio
import rasterio.env
from rasterio.session import DummySession


@contextmanager
def gdal_cache(size: int) -> Iterator[None]:
    """Inside the ``with`` block GDAL keeps at most so many bytes of tiles.

    A size that the user gives, as an environment variable or in a :class:`rasterio.Env`, holds instead.
    """
    given = "GDAL_CACHEMAX" in os.environ or (
        rasterio.env.hasenv() and "GDAL_CACHEMAX" in rasterio.env.getenv()
    )
    if given:
        yield
        return
    # This session looks for no credentials; opening a file does.
    with rasterio.Env(DummySession(), GDAL_CACHEMAX=size):
        yield
