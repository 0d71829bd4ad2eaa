"""The data files of PROJ and GDAL: those that come with the packages, or those that the environment names.

Nothing here imports rasterio, pyogrio or pyproj: they read the environment when they are imported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PROJ_VARIABLES = ("PROJ_DATA", "PROJ_LIB")
"""The first that is set counts."""
GDAL_VARIABLE = "GDAL_DATA"

_PROJ_PLACES = {"rasterio": "proj_data", "pyogrio": "proj_data", "pyproj": "proj_dir/share/proj"}
_GDAL_PLACES = {"rasterio": "gdal_data", "pyogrio": "gdal_data"}
"""Package → folder of its own data in it. Packages of a distribution bring none: they share the system's."""
_GDAL_SUFFIXES = (".csv", ".json", ".wkt", ".xsd", ".gfs", ".dxf")


@dataclass(frozen=True)
class LibraryData:
    """Where the libraries look for their data.

    Attributes
    ----------
    variable:
        The environment variable that names folders; ``None`` if none is set.
    value:
        Its value.
    own:
        Package → folder of the data that come with it, ``None`` for those that bring none.
    """

    variable: str | None
    value: str
    own: dict[str, Path | None]

    @property
    def in_use(self) -> dict[str, str]:
        """Package → folders it takes its data from, as one text."""
        return {
            package: self.value if self.variable is not None else str(folder or "of the system")
            for package, folder in self.own.items()
        }

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that the variable names."""
        return tuple(Path(part) for part in self.value.split(os.pathsep) if part)


class ProjData(LibraryData):
    """The data of PROJ: ``proj.db`` and grids."""

    @cached_property
    def unusable(self) -> str:
        """Why the named folders cannot serve the installed packages; empty if they can."""
        if self.variable is None:
            return ""
        found = next((f for f in self.folders if (f / "proj.db").is_file()), None)
        if found is None:
            return "holds no proj.db"
        there = _layout(found / "proj.db")
        if there is None:
            return "holds a proj.db that cannot be read"
        needed = [_layout(own / "proj.db") for own in self.own.values() if own is not None]
        # PROJ takes a database of the same major layout that is at least as new in the minor one.
        if any(n is not None and (n[0] != there[0] or n[1] > there[1]) for n in needed):
            return "holds the proj.db of another version of PROJ"
        return ""


class GdalData(LibraryData):
    """The data of GDAL: tables and schemas."""

    @cached_property
    def unusable(self) -> str:
        """Why the named folder cannot serve the installed packages; empty if it can."""
        if self.variable is None:
            return ""
        there = _names(self.folders)
        if not there:
            return "holds nothing"
        lacks = any(_names([own]) - there for own in self.own.values() if own is not None)
        return "holds the data of another version of GDAL" if lacks else ""


def proj_data(environment: MutableMapping[str, str] = os.environ) -> ProjData:
    """Where rasterio, pyogrio and pyproj look for PROJ's data."""
    variable = next((v for v in PROJ_VARIABLES if environment.get(v)), None)
    return ProjData(variable, environment[variable] if variable else "", _own(_PROJ_PLACES))


def gdal_data(environment: MutableMapping[str, str] = os.environ) -> GdalData:
    """Where rasterio and pyogrio look for GDAL's data."""
    variable = GDAL_VARIABLE if environment.get(GDAL_VARIABLE) else None
    return GdalData(variable, environment[GDAL_VARIABLE] if variable else "", _own(_GDAL_PLACES))


def use_own_data(environment: MutableMapping[str, str] = os.environ) -> tuple[str, ...]:
    """Take variables out of the environment that name data of another installation; a sentence on each.

    With data of another version, GDAL forgets EPSG codes and goes on. This has to be called before the
    libraries are imported. A variable stays if a package brings no data of its own; the sentence says so.
    """
    remarks = []
    for data, variables in (
        (proj_data(environment), PROJ_VARIABLES),
        (gdal_data(environment), (GDAL_VARIABLE,)),
    ):
        while data.variable is not None and data.unusable:
            named = f"{data.variable}={data.value} {data.unusable}"
            lacking = [package for package, folder in data.own.items() if folder is None]
            if lacking:
                remarks.append(
                    f"{named}, and {' and '.join(lacking)} has no data of its own: EPSG codes "
                    f"may get lost; unset {data.variable}"
                )
                break
            del environment[data.variable]
            remarks.append(f"{named}: the data that came with das2f-map's packages are used")
            data = proj_data(environment) if variables is PROJ_VARIABLES else gdal_data(environment)
    return tuple(remarks)


def _own(places: dict[str, str]) -> dict[str, Path | None]:
    return {package: _folder_of(package, inner) for package, inner in places.items()}


def _folder_of(package: str, inner: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / inner
        if folder.is_dir():
            return folder
    return None


def _names(folders: Iterable[Path]) -> set[str]:
    """Names of the tables and schemas in some folders, without files of packagers."""
    found: set[str] = set()
    for folder in folders:
        try:
            found |= {p.name for p in folder.iterdir() if p.suffix in _GDAL_SUFFIXES}
        except OSError:
            continue
    return found


def _layout(database: Path) -> tuple[int, int] | None:
    """Version of the layout of a ``proj.db``, major and minor; ``None`` if the file does not say it."""
    import sqlite3
    from contextlib import closing

    query = "SELECT key, value FROM metadata WHERE key LIKE 'DATABASE.LAYOUT.VERSION.%'"
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = dict(connection.execute(query))
        return int(found["DATABASE.LAYOUT.VERSION.MAJOR"]), int(found["DATABASE.LAYOUT.VERSION.MINOR"])
    except (sqlite3.Error, KeyError, ValueError):
        return None
