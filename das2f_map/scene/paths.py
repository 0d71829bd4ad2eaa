"""Tell the paths of local files from those that only GDAL can look up."""

from __future__ import annotations

import os
import re
from pathlib import Path

from das2f_map.errors import InputError

_FOR_GDAL = re.compile(r"/vsi|[A-Za-z][\w.+-]+:")


def is_local(path: str | Path) -> bool:
    """Whether a path names a file or folder of this machine.

    A path is not local if it begins with one of GDAL's virtual file systems (``/vsicurl/…``, ``/vsizip/…``),
    with the scheme of an address (``https://…``, ``s3://…``), or with a driver's name and a colon
    (``NETCDF:file.nc:band``). A single letter and a colon is a Windows drive: local. A path with a colon
    further on, such as ``/data/12:30/ms.tif``, is local too.
    """
    return _FOR_GDAL.match(str(path)) is None


def missing_local_file(path: str | Path) -> bool:
    """Whether a path is local and no file or folder exists there.

    False for all other paths: only GDAL can tell whether they exist.
    """
    return is_local(path) and not Path(path).exists()


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
