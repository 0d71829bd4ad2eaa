"""Names of the classes of a raster, wherever the file or GDAL has them.

This package's own tag; an attribute table or category names in the file, in ``.aux.xml`` or in ``.vat.dbf``,
also inside archives; those of the files that a virtual raster is made of; at last the colour table.
"""

from __future__ import annotations

import logging
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyogrio.errors
import pyogrio.raw
import rasterio
import rasterio.shutil
from pydantic import ValidationError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from das2f_map.errors import Das2fMapError
from das2f_map.legend import UNSURE_NAME, Legend, require_printable
from das2f_map.products.attribute_table import AttributeTable, Column, UnclearColumnError, side_file
from das2f_map.scene.paths import image_path, is_local, vector_path

log = logging.getLogger(__name__)

LEGEND_TAG = "DAS2F_MAP_LEGEND"
"""GeoTIFF metadata item with the legend as JSON."""

UNSURE_TAG = "DAS2F_MAP_UNSURE"
"""GeoTIFF metadata item with the id of the class of rejected pixels, in maps that may have such."""

_REMAPPED = re.compile(r"<(LUT|ScaleOffset|ScaleRatio|ColorTableComponent|PixelFunctionType|Exponent)>")
"""Elements of a virtual raster that change the values of its files, so that their names do not hold."""

_MOST_SOURCES = 200
_DEEPEST = 4
"""Virtual rasters inside each other that are looked into."""


@dataclass
class ClassNames:
    """Names and colours of pixel values, as far as a file tells.

    Attributes
    ----------
    names, colours:
        By value; colours as ``#rrggbb``.
    origin:
        Where the names are from, in words; empty without names.
    legend:
        The file's own legend, if this package wrote it.
    unsure:
        Value of rejected pixels; ``None`` if there is no class for them.
    unclear:
        Why the names of a table were left out; empty if they were not.
    """

    names: dict[int, str] = field(default_factory=dict)
    colours: dict[int, str] = field(default_factory=dict)
    origin: str = ""
    legend: Legend | None = None
    unsure: int | None = None
    unclear: str = ""


def names_of(
    dataset: Any, band: int, label: str, error: type[Das2fMapError], column: str | None, depth: int = 0
) -> ClassNames:
    """Names and colours of the values of a band.

    Parameters
    ----------
    dataset:
        The open file.
    band:
        Number of the band, from 1.
    label, error:
        Words for the file in messages; class of the errors.
    column:
        Column of the attribute table with the names; ``None`` for the plausible one.
    depth:
        Virtual rasters that lead to this file.

    Raises
    ------
    Das2fMapError
        A table is damaged or lacks the column; or files of a virtual raster name a value differently. Of the
        class ``error``.
    """
    tags = dataset.tags()
    if column is None and LEGEND_TAG in tags:
        try:
            legend = Legend.model_validate_json(tags[LEGEND_TAG])
        except ValidationError:
            pass  # Written by something else under the same name; the other places may still tell.
        else:
            unsure = tags.get(UNSURE_TAG, "")
            return ClassNames(
                {c.id: c.name for c in legend.each()},
                {c.id: c.color for c in legend.each()},
                "its own legend",
                legend,
                int(unsure) if unsure.isdecimal() else None,
            )
    described = _described(dataset)
    found = _from_tables(dataset, band, described, label, error, column)
    virtual = dataset.driver in ("VRT", "GTI") and not _REMAPPED.search(described)
    if virtual and not found.names and depth < _DEEPEST:
        below = _from_sources(dataset, label, error, column, depth)
        if below.names:
            return below
        found.unclear = found.unclear or below.unclear
    require_printable(found.names.values(), label, error)
    palette = _palette(dataset, band)
    if not found.names and not found.colours:
        # A palette has an entry for every value; unused ones are black or transparent.
        found.colours = palette
    else:
        found.colours = {**{v: c for v, c in palette.items() if v in found.names}, **found.colours}
    if LEGEND_TAG not in tags:
        found.unsure = next((v for v, name in found.names.items() if name == UNSURE_NAME), None)
    return found


def _palette(dataset: Any, band: int) -> dict[int, str]:
    """Colours of a colour table, but for black and transparent ones."""
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return {}
    return {
        value: "#{:02x}{:02x}{:02x}".format(*rgba[:3])
        for value, rgba in dataset.colormap(band).items()
        if any(rgba[:3]) and rgba[3]
    }


def _described(dataset: Any) -> str:
    """GDAL's own description of a raster as a virtual one, with all tables that GDAL sees."""
    try:
        # rasterio has no call for tables and category names; GDAL copies both into a virtual raster.
        with MemoryFile(ext=".vrt") as memory:
            rasterio.shutil.copy(dataset, memory.name, driver="VRT")
            return bytes(memory.read()).decode("utf-8", errors="replace")
    except RasterioError as error:
        log.debug("no description of %s: %s", dataset.name, error)
        return ""


def _from_tables(
    dataset: Any, band: int, described: str, label: str, error: type[Das2fMapError], column: str | None
) -> ClassNames:
    """Names and colours of the attribute tables and category names that belong to the file itself."""
    categories: dict[int, str] = {}
    tables: list[tuple[str, AttributeTable]] = []
    for element in (*_bands(described, "VRTRasterBand", band), *_side_bands(dataset.name, band)):
        texts = [c.text or "" for c in element.iterfind("CategoryNames/Category")]
        categories = categories or {value: text for value, text in enumerate(texts) if text.strip()}
        inside = element.find("GDALRasterAttributeTable")
        if inside is not None:
            tables.append(("its attribute table", AttributeTable.parse(inside)))
    beside = _vat_dbf(dataset, label, error)
    if beside is not None:
        tables.append(beside)
    found = ClassNames()
    missing = ""
    for origin, table in tables:
        found.colours = found.colours or table.colours()
        try:
            names = table.names(column)
        except UnclearColumnError as unclear:
            missing = missing or str(unclear)
            continue
        if names and not found.names:
            found.names, found.origin = names, origin
    if column is not None and tables and not found.names:
        raise error(
            f"{label} has no field {column!r} with class names in its attribute table", missing or None
        )
    if not found.names and missing:
        found.unclear = f"{missing}; --class-field chooses"
    if column is None and categories:
        found.origin = found.origin or "its category names"
        found.names = {**categories, **found.names}
    return found


def _bands(text: str, name: str, band: int) -> list[ET.Element]:
    """The elements that describe a band in GDAL's XML; none if it is no XML."""
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        return []
    return [e for e in root.iter(name) if e.get("band", "1") == str(band)]


def _side_bands(raster: str, band: int) -> list[ET.Element]:
    """The same of a side file ``.aux.xml``, for formats such as VRT of which GDAL does not read it."""
    if not is_local(raster):
        return []
    try:
        return _bands(side_file(Path(raster)).read_text("utf-8", "replace"), "PAMRasterBand", band)
    except OSError:
        return []


def _vat_dbf(dataset: Any, label: str, error: type[Das2fMapError]) -> tuple[str, AttributeTable] | None:
    """The attribute table that ArcGIS keeps beside a raster, also inside an archive."""
    for path in _vat_paths(dataset.files[0] if dataset.files else dataset.name):
        try:
            meta, _, _, cells = pyogrio.raw.read(vector_path(path), read_geometry=False)
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
            continue  # there is none
        except (pyogrio.errors.FeatureError, pyogrio.errors.FieldError, OSError) as reason:
            raise error(f"{label}: its table {Path(path).name} cannot be read: {reason}") from reason
        except (UnicodeDecodeError, LookupError) as reason:
            raise error(
                f"{label}: its table {Path(path).name} holds text that is not in the encoding that it claims",
                f"write the right one, such as ISO-8859-1, into {Path(path).with_suffix('.cpg').name}",
            ) from reason
        columns = []
        for name, values in zip(meta["fields"], cells, strict=True):
            kind = {"i": 0, "u": 0, "b": 0, "f": 1}.get(values.dtype.kind, 2)
            columns.append(Column(str(name), kind, 0, tuple(_cell(v) for v in values.tolist())))
        return f"its table {Path(path).name}", AttributeTable(tuple(columns))
    return None


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


def _vat_paths(raster: str) -> list[str]:
    """Where the table of a raster may be."""
    names = [f"{raster}.vat.dbf", f"{raster.rsplit('.', 1)[0]}.vat.dbf"]
    if not is_local(raster):
        return [n for n in names if n.startswith("/vsi")]
    try:
        here = {entry.name.lower(): str(entry) for entry in Path(raster).parent.iterdir()}
    except OSError:
        return []
    return [here[Path(n).name.lower()] for n in names if Path(n).name.lower() in here]


def _from_sources(
    dataset: Any, label: str, error: type[Das2fMapError], column: str | None, depth: int
) -> ClassNames:
    """Names of the files that a virtual raster is made of, which must agree."""
    merged = ClassNames()
    first: dict[int, str] = {}
    sources = _rasters_among(dataset.files[1:])
    for path in sources[:_MOST_SOURCES]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                opened = rasterio.open(image_path(path))
        except (RasterioError, UnicodeDecodeError):
            continue  # a side file
        with opened:
            if opened.count < 1:
                continue
            found = names_of(opened, 1, f"{label}: its part {path}", error, column, depth + 1)
        for value, name in found.names.items():
            if merged.names.setdefault(value, name) != name:
                raise error(
                    f"{label} is made of files that name value {value} differently: "
                    f"{merged.names[value]!r} in {first[value]}, {name!r} in {path}",
                    "make one file of them in which each value has one name",
                )
            first.setdefault(value, path)
        merged.colours = {**found.colours, **merged.colours}
        merged.unsure = merged.unsure if merged.unsure is not None else found.unsure
        merged.unclear = merged.unclear or found.unclear
    if merged.names:
        more = f" and {len(sources) - 1} more files" if len(sources) > 1 else ""
        merged.origin = f"its part {sources[0]}{more}"
    if len(sources) > _MOST_SOURCES and merged.names:
        log.warning("%s: class names of its first %d files only", label, _MOST_SOURCES)
    return merged


def _rasters_among(files: Sequence[str]) -> list[str]:
    """The files of a virtual raster but for side files."""
    return [f for f in files if not f.lower().endswith((".aux.xml", ".ovr", ".msk", ".prj", ".tfw"))]
