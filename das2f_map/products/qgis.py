"""Styles that QGIS (3.22 and later) applies when it opens a product.

A ``.qml`` with the name of a file is its default style. A raster and a vector file of the same name share
that ``.qml``, so it always holds both a raster and a vector part; QGIS reads the part that fits the layer.
In a GeoPackage, default styles are rows of the table ``layer_styles``.
"""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from das2f_map.legend import NODATA_CLASS, Legend, LegendClass
from das2f_map.products.vector_files import GEOMETRY_COLUMN

_VERSION = "3.22.0-Białowieża"
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_SE = "http://www.opengis.net/se"
_SLD = "http://www.opengis.net/sld"

_LAYER_STYLES = """
CREATE TABLE IF NOT EXISTS layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256),
    f_table_schema TEXT(256),
    f_table_name TEXT(256),
    f_geometry_column TEXT(256),
    styleName TEXT(30),
    styleQML TEXT,
    styleSLD TEXT,
    useAsDefault BOOLEAN,
    description TEXT,
    owner TEXT(30),
    ui TEXT(30),
    update_time DATETIME DEFAULT CURRENT_TIMESTAMP
)
"""


def style_raster(raster: Path, legend: Legend) -> Path:
    """Write ``<name>.qml`` next to a class raster: each class named and in its colour, nodata transparent.

    Returns its path. Raises ``OSError`` when it cannot be written.
    """
    return _write_qml(raster, legend)


def style_vectors(vectors: Path, legend: Legend, layers: Mapping[int, str]) -> Path:
    """Give polygons their default style.

    Parameters
    ----------
    vectors:
        A GeoPackage with a layer for each class gets a table ``layer_styles``. Any other file gets a
        ``<name>.qml`` next to it, which styles features by ``class_id``.
    legend:
        Of the map.
    layers:
        Layer name of each class id, for a GeoPackage.

    Returns
    -------
    Path
        The file written to.
    """
    if vectors.suffix.lower() != ".gpkg":
        return _write_qml(vectors, legend)
    # sqlite3's own context manager ends the transaction but does not close.
    with closing(sqlite3.connect(vectors)) as database, database:
        for c in legend.each():
            add_default_style(
                database, layers[c.id], c.name[:30], layer_qml(c), layer_sld(c), f"Land cover: {c.name}"
            )
    return vectors


def add_default_style(
    database: sqlite3.Connection, layer: str, name: str, qml: str, sld: str, description: str
) -> None:
    """Give a layer of an open GeoPackage its default style, in QGIS's own form and, if not empty, as SLD."""
    database.execute(_LAYER_STYLES)
    database.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, "
        "styleName, styleQML, styleSLD, useAsDefault, description, owner, update_time) "
        "VALUES ('', '', ?, ?, ?, ?, ?, 1, ?, '', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
        (layer, GEOMETRY_COLUMN, name, qml, sld, description),
    )
    database.execute(
        "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, description, last_change) "
        "VALUES ('layer_styles', 'attributes', 'layer_styles', '', "
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
    )


def layer_qml(c: LegendClass) -> str:
    """Style of one class's polygon layer: a plain fill."""
    root = empty_style()
    renderer = ET.SubElement(
        root, "renderer-v2", type="singleSymbol", symbollevels="0", enableorderby="0", forceraster="0"
    )
    symbols = ET.SubElement(renderer, "symbols")
    _fill(symbols, "0", c)
    ET.SubElement(root, "layerGeometryType").text = "2"
    return style_text(root)


def both_qml(legend: Legend) -> str:
    """Style with a paletted raster part and a categorised polygon part."""
    root = empty_style()
    pipe = ET.SubElement(root, "pipe")
    renderer = ET.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ET.SubElement(renderer, "rasterTransparency")
    palette = ET.SubElement(renderer, "colorPalette")
    for c in legend.each():
        ET.SubElement(palette, "paletteEntry", value=str(c.id), label=c.name, color=c.color, alpha="255")
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")
    # The raster declares its nodata; the style names 0 too, in case the declaration gets lost.
    data = ET.SubElement(root, "noData")
    ranges = ET.SubElement(data, "noDataList", bandNo="1", useSrcNoData="1")
    ET.SubElement(ranges, "noDataRange", min=str(NODATA_CLASS), max=str(NODATA_CLASS))

    vector = ET.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class_id", symbollevels="0", enableorderby="0"
    )
    categories = ET.SubElement(vector, "categories")
    symbols = ET.SubElement(vector, "symbols")
    for index, c in enumerate(legend.each()):
        ET.SubElement(
            categories,
            "category",
            value=str(c.id),
            symbol=str(index),
            label=c.name,
            render="true",
            type="long",
        )
        _fill(symbols, str(index), c)
    ET.SubElement(root, "layerGeometryType").text = "2"
    ET.SubElement(root, "blendMode").text = "0"
    return style_text(root)


def layer_sld(c: LegendClass) -> str:
    """The same plain fill as OGC SLD 1.1, for other programs that read ``layer_styles``."""
    ET.register_namespace("sld", _SLD)
    ET.register_namespace("se", _SE)
    root = ET.Element(f"{{{_SLD}}}StyledLayerDescriptor", version="1.1.0")
    layer = ET.SubElement(root, f"{{{_SLD}}}NamedLayer")
    ET.SubElement(layer, f"{{{_SE}}}Name").text = c.name
    style = ET.SubElement(layer, f"{{{_SLD}}}UserStyle")
    feature = ET.SubElement(style, f"{{{_SE}}}FeatureTypeStyle")
    rule = ET.SubElement(feature, f"{{{_SE}}}Rule")
    ET.SubElement(rule, f"{{{_SE}}}Name").text = c.name
    symbolizer = ET.SubElement(rule, f"{{{_SE}}}PolygonSymbolizer")
    fill = ET.SubElement(symbolizer, f"{{{_SE}}}Fill")
    ET.SubElement(fill, f"{{{_SE}}}SvgParameter", name="fill").text = c.color
    return ET.tostring(root, encoding="unicode")


def empty_style(categories: str = "Symbology") -> ET.Element:
    """The root of a style with some of QGIS's categories."""
    return ET.Element("qgis", version=_VERSION, styleCategories=categories)


def _fill(symbols: ET.Element, name: str, c: LegendClass) -> None:
    """A fill whose outline does not show: wider outlines of neighbours would thicken every edge."""
    symbol = ET.SubElement(
        symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0"
    )
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill"}, enabled="1", locked="0")
    colour = ",".join(map(str, (*c.rgb, 255)))
    properties = {
        "color": colour,
        "style": "solid",
        "outline_color": colour,
        "outline_style": "solid",
        # A hairline in the fill's own colour closes the gaps that antialiasing leaves between neighbours.
        "outline_width": "0",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    options = ET.SubElement(layer, "Option", type="Map")
    for key, value in properties.items():
        ET.SubElement(options, "Option", type="QString", name=key, value=value)
    for key, value in properties.items():
        ET.SubElement(layer, "prop", k=key, v=value)


def style_text(root: ET.Element) -> str:
    """A style as QGIS reads it from a file or a table."""
    ET.indent(root)
    return _DOCTYPE + ET.tostring(root, encoding="unicode") + "\n"


def _write_qml(product: Path, legend: Legend) -> Path:
    path = product.with_suffix(".qml")
    path.write_text(both_qml(legend), encoding="utf-8")
    return path
