"""Attribute tables and category names of class rasters, as GDAL and ArcGIS keep them.

Columns and their usage codes are those of GDAL's ``GDALRATFieldUsage``:
https://gdal.org/en/stable/api/raster_c_api.html
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from das2f_map.legend import Legend, LegendClass

_INTEGER, _REAL, _STRING = 0, 1, 2
_COUNT, _NAME, _MIN, _MAX, _MIN_MAX, _RED, _GREEN, _BLUE, _ALPHA = 1, 2, 3, 4, 5, 6, 7, 8, 9
_COLUMNS = (
    ("Value", _INTEGER, _MIN_MAX),
    ("Class_Name", _STRING, _NAME),
    ("Red", _INTEGER, _RED),
    ("Green", _INTEGER, _GREEN),
    ("Blue", _INTEGER, _BLUE),
    ("Alpha", _INTEGER, _ALPHA),
)

_NAME_COLUMNS = (
    *("classname", "classnames", "class", "name", "names", "label", "labels", "category", "categories"),
    *("landcover", "landuse", "lcname", "description", "legend", "title", "type"),
)
"""What columns of names are called, without case and signs; the first that occurs is taken."""

_VALUE_COLUMNS = (
    *("value", "values", "val", "code", "codes", "gridcode", "pixelvalue", "pixel", "dn"),
    *("classvalue", "classcode", "classid", "id", "number"),
)
"""The same for columns of pixel values."""

_OTHER_COLUMNS = frozenset(
    {"count", "histogram", "red", "green", "blue", "alpha", "opacity", "oid", "fid", "rowid", "objectid", "r"}
    | {"g", "b"}
)
"""Columns that hold neither."""

_WIDEST = 65_536
"""Values that one row of a table may give a name to."""


def side_file(raster: Path) -> Path:
    """The file where GDAL looks for data that the raster's own format cannot hold."""
    return raster.with_name(raster.name + ".aux.xml")


def write_attribute_table(raster: Path, legend: Legend, pixels: Mapping[int, int] | None = None) -> Path:
    """Write ``<raster>.aux.xml`` with a thematic attribute table and category names for band 1.

    With ``pixels``, the number of pixels by class id, the table has a column ``Count``.

    Replaces an existing one. Raises ``OSError`` when it cannot be written.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = {c.id: c.name for c in legend.each()}
    categories = ET.SubElement(band, "CategoryNames")
    # A list indexed by pixel value, so unused values need an entry as well.
    for value in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = names.get(value, "nodata" if value == 0 else "")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # Real: GDAL's whole numbers end at 2³¹.
    columns = _COLUMNS if pixels is None else (*_COLUMNS, ("Count", _REAL, _COUNT))
    for index, (name, kind, usage) in enumerate(columns):
        field = ET.SubElement(table, "FieldDefn", index=str(index))
        for key, content in (("Name", name), ("Type", str(kind)), ("Usage", str(usage))):
            ET.SubElement(field, key).text = content
    for index, c in enumerate(legend.each()):
        row = ET.SubElement(table, "Row", index=str(index))
        count = () if pixels is None else (pixels.get(c.id, 0),)
        for cell in (c.id, c.name, *c.rgb, 255, *count):
            ET.SubElement(row, "F").text = str(cell)
    ET.indent(root)
    path = side_file(raster)
    path.write_bytes(ET.tostring(root, encoding="utf-8") + b"\n")
    return path


@dataclass(frozen=True)
class Column:
    """A column of an attribute table.

    Attributes
    ----------
    name:
        As the file has it.
    kind:
        GDAL's code of its type: 0 whole numbers, 1 real numbers, 2 text.
    usage:
        GDAL's code of its use; 0 if the file does not say.
    cells:
        A text for each row.
    """

    name: str
    kind: int
    usage: int
    cells: tuple[str, ...]

    @property
    def plain(self) -> str:
        """The name without case and signs."""
        return "".join(ch for ch in self.name.casefold() if ch.isalnum())


class UnclearColumnError(ValueError):
    """The column that was asked for is not there, or several columns may hold the names."""


@dataclass(frozen=True)
class AttributeTable:
    """An attribute table of a raster.

    Attributes
    ----------
    columns:
        Its columns.
    first, step:
        Value of the first row, and from one row to the next, where no column holds the values.
    """

    columns: tuple[Column, ...]
    first: float = 0.0
    step: float = 1.0

    @classmethod
    def parse(cls, table: ET.Element) -> AttributeTable:
        """The table of GDAL's element ``GDALRasterAttributeTable``."""
        rows = [[f.text or "" for f in row.iterfind("F")] for row in table.iterfind("Row")]
        fields = [
            (f.findtext("Name") or "", _whole(f.findtext("Type")), _whole(f.findtext("Usage")))
            for f in table.iterfind("FieldDefn")
        ]
        return cls(
            tuple(
                Column(name, kind, usage, tuple(row[i] if i < len(row) else "" for row in rows))
                for i, (name, kind, usage) in enumerate(fields)
            ),
            _number(table.get("Row0Min"), 0.0),
            _number(table.get("BinSize"), 1.0),
        )

    def _column(self, *usages: int, names: Sequence[str] = (), kind: int | None = None) -> Column | None:
        for usage in usages:
            for c in self.columns:
                if c.usage == usage:
                    return c
        for name in names:
            for c in self.columns:
                if c.plain == name and (kind is None or c.kind == kind):
                    return c
        return None

    def _names_column(self, wanted: str | None) -> Column | None:
        texts = [c for c in self.columns if c.kind == _STRING and c.plain not in _OTHER_COLUMNS]
        if wanted is not None:
            alike = [c for c in self.columns if c.name.lower() == wanted.lower()]
            exact = [c for c in alike if c.name == wanted] or alike
            if len(exact) == 1:
                return exact[0]
            raise UnclearColumnError(f"the columns are: {', '.join(c.name for c in self.columns)}")
        found = self._column(_NAME, names=_NAME_COLUMNS, kind=_STRING)
        if found is not None or not texts:
            return found
        likely = [c for c in texts if any(w in c.plain for w in ("name", "label", "class"))]
        for some in (texts, likely):
            if len(some) == 1:
                return some[0]
        raise UnclearColumnError(f"several columns may hold the names: {', '.join(c.name for c in texts)}")

    def values(self) -> list[tuple[int, ...]]:
        """The pixel values of each row; none where the row says none."""
        low, high = self._column(_MIN), self._column(_MAX)
        single = self._column(_MIN_MAX)
        if single is None and (low is None or high is None):
            single = low or high or self._column(names=_VALUE_COLUMNS) or self._only_whole_numbers()
        length = max((len(c.cells) for c in self.columns), default=0)
        found: list[tuple[int, ...]] = []
        for index in range(length):
            if single is not None:
                found.append(_whole_values(single.cells[index], single.cells[index]))
            elif low is not None and high is not None:
                found.append(_whole_values(low.cells[index], high.cells[index]))
            else:
                # Without a column of values the number of a row gives its value.
                found.append((int(self.first + index * self.step),))
        return found

    def _only_whole_numbers(self) -> Column | None:
        """The only column of whole numbers that is no count and no colour."""
        taken = {_COUNT, _RED, _GREEN, _BLUE, _ALPHA}
        some = [
            c
            for c in self.columns
            if c.kind == _INTEGER and c.usage not in taken and c.plain not in _OTHER_COLUMNS
        ]
        return some[0] if len(some) == 1 else None

    def names(self, wanted: str | None = None) -> dict[int, str]:
        """Class names by pixel value.

        Parameters
        ----------
        wanted:
            Column of the names; by default the one that says so, that is called so, or the only text.

        Raises
        ------
        UnclearColumnError
            There is no such column, or several may hold the names. The message lists them.
        """
        column = self._names_column(wanted)
        if column is None:
            return {}
        return {
            value: column.cells[row]
            for row, values in enumerate(self.values())
            for value in values
            if column.cells[row].strip()
        }

    def colours(self) -> dict[int, str]:
        """``#rrggbb`` colours by pixel value."""
        columns = [
            c
            for c in (
                self._column(_RED, names=("red",)),
                self._column(_GREEN, names=("green",)),
                self._column(_BLUE, names=("blue",)),
            )
            if c is not None
        ]
        found: dict[int, str] = {}
        if len(columns) < 3:
            return found
        for row, values in enumerate(self.values()):
            try:
                levels = [float(c.cells[row]) for c in columns]
            except ValueError:
                continue
            if all(0 <= v <= 255 for v in levels):
                # Some writers give intensities from 0 to 1 in real columns.
                unit = all(c.kind == _REAL for c in columns) and max(levels) <= 1
                text = "#" + "".join(f"{round(v * 255 if unit else v):02x}" for v in levels)
                found.update(dict.fromkeys(values, text))
        return found


def _number(text: str | None, default: float) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        return default


def _whole(text: str | None) -> int:
    return int(_number(text, 0.0))


def _whole_values(low: str, high: str) -> tuple[int, ...]:
    """Whole numbers from one number to another; none if they are no numbers, or too many."""
    try:
        first, last = float(low), float(high)
        if not first <= last < first + _WIDEST:
            return ()
        return tuple(range(math.ceil(first), math.floor(last) + 1))
    except (ValueError, OverflowError):
        return ()


def legend_from(names: dict[int, str], colours: dict[int, str]) -> Legend | None:
    """A legend of the values 1 to 255 that have a name or colour; ``None`` if there are none.

    A missing name or colour is made up. A name that occurs again gets its value added.
    """
    ids = sorted(i for i in {*names, *colours} if 1 <= i <= 255)
    if not ids:
        return None
    unique: list[str] = []
    for i in ids:
        name = names.get(i, "").strip() or f"class {i}"
        unique.append(name if name not in unique else f"{name} ({i})")
    made = Legend.from_names(unique, ids)
    return Legend(
        classes=tuple(
            LegendClass(id=c.id, name=c.name, color=colours.get(c.id, c.color)) for c in made.each()
        )
    )
