"""Class names of a raster in GDAL's side file ``.aux.xml`` (PAM): attribute table and category names.

Columns and their usage codes are those of GDAL's ``GDALRATFieldUsage``:
https://gdal.org/en/stable/api/raster_c_api.html
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from das2f_map.legend import Legend, LegendClass

_INTEGER, _REAL, _STRING = 0, 1, 2
_NAME, _MIN, _MAX, _MIN_MAX, _RED, _GREEN, _BLUE, _ALPHA = 2, 3, 4, 5, 6, 7, 8, 9
_COLUMNS = (
    ("Value", _INTEGER, _MIN_MAX),
    ("Class_Name", _STRING, _NAME),
    ("Red", _INTEGER, _RED),
    ("Green", _INTEGER, _GREEN),
    ("Blue", _INTEGER, _BLUE),
    ("Alpha", _INTEGER, _ALPHA),
)


def side_file(raster: Path) -> Path:
    """The file where GDAL looks for data that the raster's own format cannot hold."""
    return raster.with_name(raster.name + ".aux.xml")


def write_attribute_table(raster: Path, legend: Legend) -> Path:
    """Write ``<raster>.aux.xml`` with a thematic attribute table and category names for band 1.

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
    for index, (name, kind, usage) in enumerate(_COLUMNS):
        field = ET.SubElement(table, "FieldDefn", index=str(index))
        for key, content in (("Name", name), ("Type", str(kind)), ("Usage", str(usage))):
            ET.SubElement(field, key).text = content
    for index, c in enumerate(legend.each()):
        row = ET.SubElement(table, "Row", index=str(index))
        for cell in (c.id, c.name, *c.rgb, 255):
            ET.SubElement(row, "F").text = str(cell)
    ET.indent(root)
    path = side_file(raster)
    path.write_bytes(ET.tostring(root, encoding="utf-8") + b"\n")
    return path


def read_attribute_table(raster: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Names and ``#rrggbb`` colours by pixel value, from ``<raster>.aux.xml``; empty where it has none."""
    try:
        root = ET.fromstring(side_file(raster).read_bytes())
    except (OSError, ET.ParseError):
        return {}, {}
    for band in root.iter("PAMRasterBand"):
        if band.get("band", "1") != "1":
            continue
        categories = [c.text or "" for c in band.iterfind("CategoryNames/Category")]
        names = {value: text for value, text in enumerate(categories) if text}
        table = band.find("GDALRasterAttributeTable")
        if table is None:
            return names, {}
        table_names, colours = _parse_table(table)
        return {**names, **table_names}, colours
    return {}, {}


def _parse_table(table: ET.Element) -> tuple[dict[int, str], dict[int, str]]:
    fields = [
        ((f.findtext("Name") or "").lower(), int(f.findtext("Type") or 0), int(f.findtext("Usage") or 0))
        for f in table.iterfind("FieldDefn")
    ]

    def column(*usages: int, names: tuple[str, ...] = (), kind: int | None = None) -> int | None:
        for usage in usages:
            for i, f in enumerate(fields):
                if f[2] == usage:
                    return i
        for i, f in enumerate(fields):
            if f[0] in names and (kind is None or f[1] == kind):
                return i
        return None

    value_at = column(_MIN_MAX, _MIN, _MAX, names=("value",))
    name_at = column(_NAME, names=("class_name", "classname", "class", "name", "label"), kind=_STRING)
    colour_at = [column(u, names=(n,)) for u, n in ((_RED, "red"), (_GREEN, "green"), (_BLUE, "blue"))]
    names: dict[int, str] = {}
    colours: dict[int, str] = {}
    for index, row in enumerate(table.iterfind("Row")):
        cells = [f.text or "" for f in row.iterfind("F")]
        try:
            # Without a value column the number of a row gives its value.
            start, size = float(table.get("Row0Min", 0)), float(table.get("BinSize", 1))
            value = int(float(cells[value_at])) if value_at is not None else int(start + index * size)
            if name_at is not None and cells[name_at].strip():
                names[value] = cells[name_at]
            levels = [float(cells[i]) for i in colour_at if i is not None]
        except (ValueError, IndexError):
            continue
        if len(levels) == 3 and all(0 <= v <= 255 for v in levels):
            # Some writers give intensities from 0 to 1 in real columns.
            unit = all(fields[i][1] == _REAL for i in colour_at if i is not None) and max(levels) <= 1
            colours[value] = "#" + "".join(f"{round(v * 255 if unit else v):02x}" for v in levels)
    return names, colours


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
