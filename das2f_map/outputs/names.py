"""Names that follow from an output's name: the private folder of its runs, and its side files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from das2f_map.errors import OutputError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|/vsi[a-z0-9_]+(/|$)")

_ONE_SLASH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+:)/(?!/)")

_PREFIX, _SUFFIX = ".", ".das2f-map"

WORK_NAME = "work"
"""Folder for work files in a private folder."""

# Side files hold colour tables, styles or spatial indices. If old ones stayed, readers would use them with
# the new output.
BOUND_SUFFIXES = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")
"""Endings that are added to an output's whole name, in any format: ``map.tif.aux.xml``."""

# Extension of an output → extensions that replace it in the names of its side files.
_SIBLING_EXTENSIONS = {
    ".tif": (".qml",),
    ".tiff": (".qml",),
    ".shp": (".shx", ".dbf", ".prj", ".cpg", ".qix", ".sbn", ".sbx", ".idm", ".ind", ".qpj", ".qml"),
    ".geojson": (".qml",),
    ".json": (),
    ".fgb": (".qml",),
    ".parquet": (".qml",),
}


def siblings(path: Path) -> list[Path]:
    """The paths of all side files that ``path`` may have; they need not exist."""
    bound = [path.with_name(path.name + suffix) for suffix in BOUND_SUFFIXES]
    return bound + [path.with_suffix(e) for e in _SIBLING_EXTENSIONS.get(path.suffix.lower(), ())]


def private_path(final: Path) -> Path:
    """The private folder for runs that write ``final``: ``.NAME.das2f-map``, in the folder of ``final``."""
    return final.parent.resolve() / f"{_PREFIX}{final.name}{_SUFFIX}"


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; one that is too long is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def require_utf8(final: Path) -> None:
    """Raise :class:`OutputError` if a path, or a folder in it, has a name that is not UTF-8."""
    place = str(final.parent.resolve() / final.name)
    if any("\ud800" <= ch <= "\udfff" for ch in place):
        raise OutputError(
            f"output {os.fsencode(place).decode('utf-8', 'backslashreplace')} has a name that is not UTF-8",
            "choose another name or folder",
        )


def has_private_name(path: Path) -> bool:
    """Whether a path has the name of a private folder."""
    return path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX)


def final_path(private: Path) -> Path:
    """The output that a private folder belongs to; the inverse of :func:`private_path`."""
    return private.with_name(private.name[len(_PREFIX) : -len(_SUFFIX)])


def enclosing_private(path: Path) -> Path | None:
    """The private folder that contains a path, directly or further up; ``None`` if there is none."""
    return next((folder for folder in path.parents if has_private_name(folder)), None)


def shown_folder(path: Path) -> Path:
    """The folder to name in a message about a file.

    For a file in a private folder it is the folder of the output, because users do not know the private one.
    """
    private = enclosing_private(path)
    return path.parent if private is None else private.parent


def require_local(path: Path) -> None:
    """Raise :class:`OutputError` for an address such as ``s3://bucket/map.tif``, unless its folder exists."""
    if _ADDRESS.match(str(path)) and not path.parent.is_dir():
        # A path has lost the second slash, and that of file:///folder/map.tif the third one too.
        given = _ONE_SLASH.sub(lambda found: found[1] + ("///" if found[1] == "file:" else "//"), str(path))
        hint = "write to a local folder, and copy the finished files, e.g. with aws s3 cp or gsutil cp"
        if given.startswith("file:"):
            hint = f"give the path alone: {given.removeprefix('file://')}"
        raise OutputError(f"output {given} is an address, and outputs are local files", hint)
