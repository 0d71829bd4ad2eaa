"""The maps of a mosaic as their files say: grids, classes by one legend, and rasters of confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
import rasterio.errors

from das2f_map.errors import InputError
from das2f_map.legend import MOST_CLASSES, Legend
from das2f_map.products.class_file import ClassFile
from das2f_map.products.map_figure import classes_of
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import is_file


@dataclass(frozen=True, eq=False)
class MapToJoin:
    """A map that becomes a part of a mosaic, as its file says.

    Attributes
    ----------
    path, confidence:
        Its class raster, and the raster of its confidence on the same grid; ``None`` for none.
    grid:
        Its geometry.
    legend:
        Its classes.
    ids:
        Pixel value → id in this legend.
    named:
        Whether the file names its classes.
    unsure:
        Id of rejected pixels; ``None`` if there is none.
    """

    path: str
    confidence: str | None
    grid: Grid
    legend: Legend
    ids: Mapping[int, int]
    named: bool
    unsure: int | None

    @classmethod
    def of(cls, path: str, confidence: str | None) -> MapToJoin:
        """The facts of a map; reads all its pixels once.

        Raises
        ------
        InputError
            It is no raster of classes, has no CRS or no pixel with a class; or the confidence cannot be read
            or has another grid.
        """
        with ClassFile.open(path, "map") as file:
            file.require_crs()
            file.tell_names()
            legend, ids = classes_of(file, sorted(file.distinct(MOST_CLASSES + 1)))
            if legend is None or not ids:
                raise InputError(f"map {path} has no pixel with a class", "is it the right file?")
            found = cls(path, confidence, file.grid, legend, ids, file.legend is not None, file.names.unsure)
        if confidence is not None:
            with open_confidence(confidence) as values:
                if Grid.from_rasterio(values) != found.grid:
                    raise InputError(
                        f"confidence {confidence} is not on the grid of map {path}", "give the map's own one"
                    )
        return found


@dataclass(frozen=True)
class JoinedLegend:
    """The legend of a mosaic.

    Attributes
    ----------
    legend:
        The classes.
    unsure:
        Id of rejected pixels; ``None`` if there is none.
    ids:
        For each map, pixel value → id in the legend.
    notices:
        Sentences on maps that number their classes otherwise.
    """

    legend: Legend
    unsure: int | None
    ids: tuple[dict[int, int], ...]
    notices: tuple[str, ...]


def join_legends(maps: Sequence[MapToJoin]) -> JoinedLegend:
    """One legend for all maps: that of the first one. Classes of the same name are the same class.

    Maps whose files name no class have the same classes where they have the same values. The class of
    rejected pixels may be missing in some maps.

    Raises
    ------
    InputError
        Two maps do not have the same classes.
    """
    first = maps[0]
    if not any(m.named for m in maps):
        codes = sorted({code for m in maps for code in m.ids})
        legend, ids = Legend.of_codes(codes, {})
        return JoinedLegend(legend, None, tuple({c: ids[c] for c in m.ids} for m in maps), ())
    legend, unsure = first.legend, first.unsure
    if unsure is None and any(m.unsure is not None for m in maps):
        legend, unsure = legend.with_unsure()
    known = {c.name: c.id for c in legend.each() if c.id != unsure}
    every, notices = [], []
    for m in maps:
        names = {c.id: c.name for c in m.legend.each() if c.id != m.unsure}
        if {*names.values()} != {*known}:
            alone = sorted({*names.values()} ^ {*known})
            raise InputError(
                f"maps {first.path} and {m.path} do not have the same classes: only one has "
                f"{', '.join(alone[:5])}{', …' if len(alone) > 5 else ''}",
                "a mosaic is made of maps of one legend, such as those of one model",
            )
        own = {i: known[name] for i, name in names.items()}
        if m.unsure is not None and unsure is not None:
            own[m.unsure] = unsure
        if any(i != j for i, j in own.items()):
            notices.append(f"{m.path} numbers its classes otherwise: they are matched by name")
        every.append({code: own[i] for code, i in m.ids.items()})
    return JoinedLegend(legend, unsure, tuple(every), tuple(notices))


def open_confidence(path: str) -> Any:
    """A raster of confidence, open."""
    try:
        return rasterio.open(path)
    except (rasterio.errors.RasterioError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {path} as a raster: {error.__cause__ or error}", "gdalinfo shows what GDAL sees"
        ) from error


def beside(path: str, named: str | None) -> str | None:
    """The raster of confidence that a map's run report names, where it is or next to the map."""
    if named is None:
        return None
    for found in (Path(named), Path(path).parent / Path(named).name):
        if is_file(found):
            return str(found)
    return None
