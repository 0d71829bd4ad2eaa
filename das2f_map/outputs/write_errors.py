"""One error for all the ways in which a write fails."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import rasterio.errors
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError
from rasterio._err import CPLE_BaseError

from das2f_map.errors import OutputError
from das2f_map.outputs.libtiff_messages import libtiff_kept_quiet
from das2f_map.outputs.names import shown_folder

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk."""

_NEARLY_NOTHING = 64 * 1024 * 1024
"""Bytes left on a disk below which a failed write is put down to a full disk; as much as a batch of
polygons takes, which SQLite gives back when it fails."""

WRITE_ERRORS = (
    OSError,
    CPLE_BaseError,
    rasterio.errors.RasterioError,
    DataSourceError,
    DataLayerError,
    FeatureError,
    FieldError,
    sqlite3.Error,
)
"""The errors of failed writes. GDAL's come wrapped in several classes; ``CPLE_BaseError`` is the bare one."""


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether a failed write comes from a full disk, as the error says or as the disk shows."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return True
        text = str(cause).lower()
        if "no space left" in text or "disk is full" in text or "disk quota" in text:
            return True
        cause = cause.__cause__ or cause.__context__
    # GDAL loses errno on its way up ("TIFFAppendToStrip:Write error at scanline 1024").
    try:
        return shutil.disk_usage(folder).free < _NEARLY_NOTHING
    except OSError:
        return False


def require_space(needed: Mapping[Path, int]) -> None:
    """Raise :class:`OutputError` if a disk has less room than the folders on it need; folder → bytes."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in needed.items():
        try:
            disk = folder.stat().st_dev
        except OSError:
            continue
        first, before = disks.get(disk, (folder, 0))
        disks[disk] = first, before + size
    for folder, size in disks.values():
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            continue
        if free < size:
            raise OutputError(
                f"the disk of {folder} has {_size(free)} free, and the outputs need "
                f"{_size(size)} while they are written",
                "free some space, choose an output on another disk, or leave outputs out",
            )


def _size(count: int) -> str:
    """A number of bytes in words."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"


def write_error(error: BaseException, path: Path) -> OutputError:
    """The error to show for a write to ``path`` that failed."""
    if disk_is_full(error, path.parent):
        return OutputError(
            f"cannot write {path.name}: the disk of {shown_folder(path)} is full",
            "free some space or choose an output on another disk",
        )
    return OutputError(f"cannot write {path.name} in {shown_folder(path)}: {one_line(error)}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what GDAL, GEOS and the system raise while ``path`` is written into an :class:`OutputError`."""
    try:
        with libtiff_kept_quiet():
            yield
    except WRITE_ERRORS as error:
        raise write_error(error, path) from error


def one_line(error: BaseException) -> str:
    """The message of an error on one line; its cause's message where its own says nothing."""
    text = str(error.strerror or error) if isinstance(error, OSError) else str(error)
    # "See previous exception for details" helps nobody; the details are the cause.
    if error.__cause__ is not None and ("previous" in text or not text):
        text = str(error.__cause__)
    return " ".join(text.split()) or type(error).__name__
