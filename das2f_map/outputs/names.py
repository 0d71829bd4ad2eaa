"""Names around an output: the private folder of its runs, and the files that readers take as part of it."""

from __future__ import annotations

from pathlib import Path

_PREFIX, _SUFFIX = ".", ".das2f-map"

WORK_NAME = "work"
"""Folder for work files in a private folder."""

# An old one of these files would lie about a new output: a colour table, a style or a spatial index of
# other data.
BOUND_SUFFIXES = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")
"""Follow an output's whole name, whatever its format."""

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
    """Every path that readers would take as belonging to ``path``, existing or not."""
    bound = [path.with_name(path.name + suffix) for suffix in BOUND_SUFFIXES]
    return bound + [path.with_suffix(e) for e in _SIBLING_EXTENSIONS.get(path.suffix.lower(), ())]


def private_path(final: Path) -> Path:
    """The private folder of the runs that write ``final``: hidden, beside it, and always the same."""
    return final.parent.resolve() / f"{_PREFIX}{final.name}{_SUFFIX}"


def has_private_name(path: Path) -> bool:
    """Whether a path is named as private folders are."""
    return path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX)


def final_path(private: Path) -> Path:
    """The output whose private folder this is."""
    return private.with_name(private.name[len(_PREFIX) : -len(_SUFFIX)])


def enclosing_private(path: Path) -> Path | None:
    """The private folder that a path lies in; ``None`` if it lies in none."""
    return next((folder for folder in path.parents if has_private_name(folder)), None)


def shown_folder(path: Path) -> Path:
    """The folder of a file as a user knows it: that of the output, for a file of a private folder."""
    private = enclosing_private(path)
    return path.parent if private is None else private.parent
