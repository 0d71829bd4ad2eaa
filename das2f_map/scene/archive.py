"""Hints for files that GDAL does not read as they are: archives, and Arrow files."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import pyogrio

from das2f_map.scene.paths import is_file, is_local

_SYSTEMS = {".zip": "/vsizip/", ".tar": "/vsitar/", ".tgz": "/vsitar/", ".gz": "/vsitar/"}
_DATA = frozenset(
    {".shp", ".gpkg", ".geojson", ".json", ".fgb", ".gml", ".kml", ".tab", ".mif", ".sqlite"}
    | {".tif", ".tiff", ".img", ".vrt", ".nc", ".asc", ".jp2", ".png"}
)
_UNPACKED = frozenset({".parquet", ".geoparquet", ".feather", ".arrow", ".zip", ".tar", ".tgz", ".gz", ".7z"})
"""Extensions of files that can be read, if at all, outside an archive alone."""
_MOST = 3

_ARROW = (b"ARROW1\0\0", b"FEA1", b"\xff\xff\xff\xff\x10")
"""Beginnings of Arrow files: IPC or Feather, the old Feather, and an IPC stream."""


def archive_hint(path: str | Path) -> str | None:
    """A hint that spells the data files in a local archive for GDAL; ``None`` if there are none.

    The hint says to unpack an archive whose data can be read outside it alone.
    """
    text = str(path)
    system = _SYSTEMS.get(Path(text).suffix.lower())
    if system is None or not is_local(text) or not is_file(text):
        return None
    try:
        listed = [str(p) for p in pyogrio.vsi_listtree(system + text)]
    except NotADirectoryError:  # as GDAL says of an archive with a single file in it
        listed = [f"{system}{text}/{name}" for name in _names(text)]
    except (OSError, ValueError):  # no archive after all; UnicodeError among them
        return None
    found = _with_suffix(listed, _DATA)
    if found:
        return f"it is an archive; name the file in it: {_listed(found)}"
    packed = [p.removeprefix(system + text).lstrip("/") for p in _with_suffix(listed, _UNPACKED)]
    return f"it is an archive; unpack it, and give the file: {_listed(packed)}" if packed else None


def _names(archive: str) -> list[str]:
    """Names of the files in an archive; none if it cannot be read."""
    try:
        if archive.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as packed:
                return packed.namelist()
        with tarfile.open(archive) as tar:
            return tar.getnames()
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error):
        return []


def _with_suffix(paths: list[str], suffixes: frozenset[str]) -> list[str]:
    return sorted(p for p in paths if PurePosixPath(p).suffix.lower() in suffixes)


def _listed(found: list[str]) -> str:
    more = f" (and {len(found) - _MOST} more)" if len(found) > _MOST else ""
    return f"{' or '.join(found[:_MOST])}{more}"


def arrow_hint(path: str | Path) -> str | None:
    """A hint how to convert a local Arrow or Feather file; ``None`` for any other file."""
    text = str(path)
    if not is_local(text) or not is_file(text):
        return None
    with Path(text).open("rb") as file:
        if not file.read(8).startswith(_ARROW):
            return None
    converted = Path(text).with_suffix(".gpkg").name
    steps = f"import geopandas; geopandas.read_feather({text!r}).to_file({converted!r})"
    return f'convert it: python -c "{steps}"'
