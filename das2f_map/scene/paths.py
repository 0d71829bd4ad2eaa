"""Tell the paths of local files from those that only GDAL can look up, and spell local ones safely."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from das2f_map.errors import InputError

_FOR_GDAL = re.compile(r"/vsi|[A-Za-z][\w.+-]+:")

_NOT_AS_IT_IS = re.compile(r"^//|^[\x00-\x20]|[!;\t\r\n]|\?$|[\ud800-\udfff]")
"""Parts of a path that pyogrio does not pass on: it takes every path for a URI, and encodes it as UTF-8."""


def is_local(path: str | Path) -> bool:
    """Whether a path names a file or folder of this machine.

    A path is not local if it begins with one of GDAL's virtual file systems (``/vsicurl/…``, ``/vsizip/…``),
    with the scheme of an address (``https://…``, ``s3://…``), or with a driver's name and a colon
    (``NETCDF:file.nc:band``). A single letter and a colon is a Windows drive: local. A path with a colon
    further on, such as ``/data/12:30/ms.tif``, is local too, and so is the path of a file that exists.
    """
    text = str(path)
    return _FOR_GDAL.match(text) is None or (not text.startswith("/vsi") and os.path.lexists(text))


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder at a path; no look at the path raises an error.

    ``Path.exists`` raises ``OSError`` for a path that is too long, which names no file.
    """
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_file(path: str | Path) -> bool:
    """As :func:`exists`, for a file."""
    return exists(path) and Path(path).is_file()


def is_dir(path: str | Path) -> bool:
    """As :func:`exists`, for a folder."""
    return exists(path) and Path(path).is_dir()


def missing_local_file(path: str | Path) -> bool:
    """Whether a path is local and no file or folder exists there.

    False for all other paths: only GDAL can tell whether they exist. A path that is too long names no file.
    """
    return is_local(path) and not exists(path)


def passes_as_it_is(path: str | Path) -> bool:
    """Whether pyogrio hands a local path on to GDAL unchanged; a path that is not local counts as well."""
    return not is_local(path) or _NOT_AS_IT_IS.search(_absolute(path)) is None


def image_path(path: str | Path) -> str:
    """A spelling of an image's path that rasterio does not take for a URI; names the same file.

    A name that is not UTF-8 becomes a link, as for :func:`vector_path`.
    """
    text = str(path)
    if not is_local(text):
        return text
    if not _is_utf8(text):
        return vector_path(text)
    # An absolute path has no scheme. Most paths need no change, and messages quote them.
    return _absolute(text) if text.startswith("//") or _FOR_GDAL.match(text) else text


def vector_path(path: str | Path) -> str:
    """A spelling of an existing vector file's path that pyogrio does not take for a URI.

    A path with characters such as ``!`` or ``;`` becomes that of a link, in a folder for temporary files that
    goes away with the process. The files that belong to it, such as a Shapefile's, are linked too.
    """
    text = str(path)
    if not is_local(text):
        return text
    if not passes_as_it_is(text):
        return _linked(_absolute(text))
    return _absolute(text) if _FOR_GDAL.match(text) or _NOT_AS_IT_IS.search(text) else text


def _absolute(path: str | Path) -> str:
    text = str(Path(path).absolute())
    return "/" + text.lstrip("/") if text.startswith("//") else text


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= ch <= "\udfff" for ch in text)


@functools.cache
def _linked(path: str) -> str:
    file = Path(path)
    folder = Path(tempfile.mkdtemp(prefix="das2f-map-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if passes_as_it_is(file.name):
        (folder / "folder").symlink_to(file.parent, target_is_directory=True)
        return str(folder / "folder" / file.name)
    safe = re.sub(r"[^\w.-]", "_", file.stem, flags=re.ASCII) or "file"
    for other in file.parent.iterdir():
        if other.name == file.name or other.name.startswith(f"{file.stem}."):
            (folder / (safe + other.name[len(file.stem) :])).symlink_to(other)
    return str(folder / (safe + file.suffix))


def readable(path: object) -> str | None:
    r"""A path as text for a report; bytes that are not UTF-8 become ``\xff`` and the like."""
    return None if path is None else os.fsencode(str(path)).decode("utf-8", "backslashreplace")


PathText = Annotated[str, BeforeValidator(readable)]
"""A path in a report, which is UTF-8 whatever the name of the file."""


def given_path(value: object, argument: str) -> str:
    """A path that a caller gives for an argument, as text.

    Raises
    ------
    InputError
        The value is no path, for instance a table that is already read.
    """
    if isinstance(value, (str, os.PathLike)):
        return str(os.fspath(value))
    raise InputError(
        f"{argument} cannot be a {type(value).__name__}: it must be the path or URL of a file",
        "write a GeoDataFrame to a file first: frame.to_file('areas.gpkg')",
    )
