"""The form by which an interpreter labels a reference sample in QGIS (3.22 and later).

It is part of the layer's default style, so that QGIS shows it without a click. It offers the class names in a
list and hides whatever tells the map's class: the interpreter must not know it.
"""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from das2f_map.products.qgis import add_default_style, empty_style, style_text

NO_CLASS_YET = "– not labelled yet –"
"""First entry of the lists, for null."""

_NULL_IN_A_LIST = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"
"""By this value QGIS stores null from a list."""

_TO_DO, _DONE = "228,26,28,255", "55,126,184,255"
"""Colours of the outlines of units without and with a class."""


@dataclass(frozen=True)
class LabellingForm:
    """Fields of a layer as an interpreter sees them.

    Attributes
    ----------
    layer:
        Name of the layer in its GeoPackage.
    number:
        Field with the number of a unit: shown, not to be changed.
    choices:
        Fields with a class, and their labels; the first decides whether a unit is labelled.
    hidden:
        Fields that are not shown.
    classes:
        Names to choose from.
    squares:
        Whether units are squares, not points.
    """

    layer: str
    number: str
    choices: dict[str, str]
    hidden: Sequence[str]
    classes: Sequence[str]
    squares: bool


def add_form(geopackage: Path, form: LabellingForm) -> None:
    """Make a form the default style of a layer of a GeoPackage.

    Raises ``sqlite3.Error`` when the file cannot be written.
    """
    with closing(sqlite3.connect(geopackage)) as database, database:
        add_default_style(database, form.layer, "Labelling", form_qml(form), "", "Form for labelling")


def form_qml(form: LabellingForm) -> str:
    """The style: units without a class in red, those with one in blue; lists of classes; no other field."""
    root = empty_style("Symbology|Fields|Forms|AttributeTable")
    _renderer(root, form)
    fields = ET.SubElement(root, "fieldConfiguration")
    for name in ("fid", *form.hidden):
        _field(fields, name, "Hidden")
    _field(fields, form.number, "TextEdit")
    for name in form.choices:
        listed = _field(fields, name, "ValueMap")
        entries = ET.SubElement(listed, "Option", name="map", type="List")
        for label, value in ((NO_CLASS_YET, _NULL_IN_A_LIST), *((c, c) for c in form.classes)):
            entry = ET.SubElement(entries, "Option", type="Map")
            ET.SubElement(entry, "Option", name=label, value=value, type="QString")
    aliases = ET.SubElement(root, "aliases")
    for name, label in ({form.number: "Unit"} | form.choices).items():
        ET.SubElement(aliases, "alias", field=name, name=label)
    table = ET.SubElement(
        root,
        "attributetableconfig",
        actionWidgetStyle="dropDown",
        sortExpression=f'"{form.number}"',
        sortOrder="0",
    )
    columns = ET.SubElement(table, "columns")
    for name in (form.number, *form.choices, "fid", *form.hidden):
        hidden = "0" if name == form.number or name in form.choices else "1"
        ET.SubElement(columns, "column", type="field", name=name, hidden=hidden, width="-1")
    ET.SubElement(root, "editorlayout").text = "generatedlayout"
    editable = ET.SubElement(root, "editable")
    ET.SubElement(editable, "field", name=form.number, editable="0")
    ET.SubElement(root, "previewExpression").text = f'"{form.number}"'
    ET.SubElement(root, "layerGeometryType").text = "2" if form.squares else "0"
    return style_text(root)


def _field(parent: ET.Element, name: str, widget: str) -> ET.Element:
    """The configuration of a field; its options belong into the element that is returned."""
    field = ET.SubElement(parent, "field", name=name, configurationFlags="None")
    editor = ET.SubElement(field, "editWidget", type=widget)
    return ET.SubElement(ET.SubElement(editor, "config"), "Option", type="Map")


def _renderer(root: ET.Element, form: LabellingForm) -> None:
    first = next(iter(form.choices))
    renderer = ET.SubElement(root, "renderer-v2", type="RuleRenderer", symbollevels="0", forceraster="0")
    rules = ET.SubElement(renderer, "rules", key="{00000000-0000-0000-0000-000000000000}")
    symbols = ET.SubElement(renderer, "symbols")
    for number, (test, label, colour) in enumerate(
        (("IS NULL", "to do", _TO_DO), ("IS NOT NULL", "labelled", _DONE))
    ):
        ET.SubElement(
            rules,
            "rule",
            key=f"{{00000000-0000-0000-0000-00000000000{number + 1}}}",
            symbol=str(number),
            label=label,
            filter=f'"{first}" {test}',
        )
        _outline(symbols, str(number), colour, squares=form.squares)


def _outline(symbols: ET.Element, name: str, colour: str, *, squares: bool) -> None:
    """An outline without a fill, so that the image stays visible below."""
    kind, of_layer = ("fill", "SimpleFill") if squares else ("marker", "SimpleMarker")
    symbol = ET.SubElement(
        symbols, "symbol", type=kind, name=name, alpha="1", clip_to_extent="1", force_rhr="0"
    )
    layer = ET.SubElement(symbol, "layer", {"class": of_layer}, enabled="1", locked="0")
    properties = {
        "color": "0,0,0,0",
        "style": "no",
        "name": "circle",
        "size": "4",
        "size_unit": "MM",
        "outline_color": colour,
        "outline_style": "solid",
        "outline_width": "0.6",
        "outline_width_unit": "MM",
    }
    options = ET.SubElement(layer, "Option", type="Map")
    for key, value in properties.items():
        ET.SubElement(options, "Option", type="QString", name=key, value=value)
    for key, value in properties.items():
        ET.SubElement(layer, "prop", k=key, v=value)
