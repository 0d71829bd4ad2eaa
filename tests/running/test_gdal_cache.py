"""GDAL's cache of tiles is smaller while files are completed, unless the user chose its size."""

from __future__ import annotations

import ctypes
import sys

import pytest
import rasterio
import rasterio.env

from das2f_map.running.gdal_cache import gdal_cache, gdal_cache_for_writing

MIB = 1 << 20


def size() -> object:
    return rasterio.env.getenv()["GDAL_CACHEMAX"]


def test_the_cache_is_smaller_while_files_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    with gdal_cache(256 * MIB):
        with gdal_cache_for_writing(256 * MIB):
            assert size() == 128 * MIB
        assert size() == 256 * MIB
    with gdal_cache(64 * MIB), gdal_cache_for_writing(64 * MIB):
        assert size() == 64 * MIB


def test_a_size_that_the_user_gives_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with rasterio.Env(GDAL_CACHEMAX=300 * MIB), gdal_cache(256 * MIB), gdal_cache_for_writing(256 * MIB):
        assert size() == 300 * MIB
    monkeypatch.setenv("GDAL_CACHEMAX", "500")
    with rasterio.Env(), gdal_cache(256 * MIB), gdal_cache_for_writing(256 * MIB):
        assert "GDAL_CACHEMAX" not in rasterio.env.getenv()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives memory back")
def test_tiles_are_let_go_before_their_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    sizes: list[object] = []

    class Library:
        def malloc_trim(self, _pad: int) -> None:
            sizes.append(size())

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library())
    with gdal_cache(256 * MIB), gdal_cache_for_writing(256 * MIB):
        assert sizes == [MIB]
