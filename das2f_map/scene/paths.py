"""Which paths name a file of this machine, and which something that only GDAL can look up."""

from __future__ import annotations

import re
from pathlib import Path

_FOR_GDAL = re.compile(r"/vsi|[A-Za-z][\w.+-]+:")


def is_local(path: str | Path) -> bool:
    """Whether a path names a file or folder of this machine.

    Not local is what begins with GDAL's virtual file systems (``/vsicurl/…``, ``/vsizip/…``), with the scheme
    of an address (``https://…``, ``s3://…``), or with a driver's name and a colon (``NETCDF:file.nc:band``).
    A single letter and a colon is a Windows drive, and local. So is a colon further on in a path, as in
    ``/data/12:30/ms.tif``.
    """
    return _FOR_GDAL.match(str(path)) is None


def missing_local_file(path: str | Path) -> bool:
    """Whether a path is local and nothing is there. Of other paths only GDAL can tell: never."""
    return is_local(path) and not Path(path).exists()
