"""Texts of metadata files → values: XML without entities, JSON, and lines of ``KEY = VALUE`` in groups."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import date
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from das2f_map.errors import InputError


def parse_xml(content: bytes, label: str) -> ElementTree.Element:
    """The root of an XML document, with tags as they are written, without namespaces.

    Raises ``InputError`` if it is malformed or declares entities, which could fill the memory.
    """
    checker = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise InputError(
            f"metadata file {label} declares XML entities", "no product does: check where it comes from"
        )

    checker.EntityDeclHandler = refuse
    try:
        checker.Parse(content, True)
        root = ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"metadata file {label} is no well-formed XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def first_text(root: ElementTree.Element, *tags: str) -> str:
    """The text of the first element with one of these tags that has any; empty if none has."""
    for tag in tags:
        for element in root.iter(tag):
            if element.text and element.text.strip():
                return element.text.strip()
    return ""


def parse_json(content: bytes, label: str) -> dict[str, Any]:
    """A JSON object. Raises ``InputError`` if the text is malformed or another value."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"metadata file {label} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"metadata file {label} is no JSON object")
    return found


def parse_groups(content: bytes) -> Iterator[tuple[str, str, str]]:
    """Group, key and value of each line ``KEY = VALUE``, as in Landsat's MTL and Maxar's IMD files.

    Values lose their quotes and a closing semicolon. A line that begins a group comes with its own key, such
    as ``GROUP``, and the group's name as the value. Other lines are left out.
    """
    group = ""
    for line in content.decode("utf-8", errors="replace").splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            continue
        value = value.rstrip(";").strip().strip('"')
        if key in ("GROUP", "BEGIN_GROUP"):
            group = value
        elif key == "END_GROUP":
            group = ""
            continue
        yield group, key, value


def number(text: str | None) -> float | None:
    """A finite number from its text; ``None`` if the text is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def sun_distance(day: date) -> float:
    """Distance of the earth from the sun on a day, astronomical units, within 0.0003."""
    return 1 - 0.01672 * math.cos(math.radians(0.9856 * (day.timetuple().tm_yday - 4)))
