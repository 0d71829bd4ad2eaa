"""Parts of STAC Items that maps and models share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely

from das2f_map.errors import MissingDependencyError
from das2f_map.installation import install_extra
from das2f_map.legend import Legend
from das2f_map.scene.fingerprint import sha256_of

ITEM_SUFFIX: Final = ".stac.json"
FILE: Final = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
CLASSIFICATION: Final = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
_SHA256: Final = "1220"
"""Multihash's code for SHA-256, and the length of the digest."""
_DECIMALS: Final = 7
"""Of degrees: about a centimetre."""


def require_pystac() -> None:
    """Raise :class:`MissingDependencyError` where pystac is not installed."""
    try:
        import pystac  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingDependencyError("a STAC Item needs pystac", install_extra("stac")) from error


def file_fields(file: Path, sha256: str | None = None) -> dict[str, Any]:
    """Size and checksum of a file, as the file extension has them.

    Parameters
    ----------
    file:
        Where it lies now.
    sha256:
        Its SHA-256, hexadecimal, where that is known.
    """
    return {"file:size": file.stat().st_size, "file:checksum": _SHA256 + (sha256 or sha256_of(file))}


def class_objects(legend: Legend, *, nodata: bool, words: str = "title") -> list[dict[str, Any]]:
    """The classes of a legend, as the classification extension has them.

    Parameters
    ----------
    legend:
        The classes.
    nodata:
        Whether value 0, which has no class, is listed too.
    words:
        The field that has the class's own name, for people: ``title`` or ``description``.
    """
    found = [{"value": 0, "name": "nodata", words: "no data", "nodata": True}] if nodata else []
    used = {"nodata"}
    for c in legend.each():
        base = re.sub(r"[^0-9A-Za-z_-]+", "-", c.name).strip("-") or f"class-{c.id}"
        name = base if base not in used else f"{base}-{c.id}"
        used.add(name)
        found.append({"value": c.id, "name": name, words: c.name, "color_hint": c.color[1:].upper()})
    return found


def footprint(
    rings: Iterable[list[tuple[float, float]]],
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """GeoJSON geometry and bounding box of ground, both ``None`` without any.

    Parts over the 180th meridian are cut there; the box's west is then larger than its east.

    Parameters
    ----------
    rings:
        Outlines in degrees, longitude first. Longitudes go on over 180 or below -180, not back.
    """
    parts: list[shapely.Polygon] = []
    wests, easts = [], []
    for ring in rings:
        whole = shapely.Polygon(ring)
        turns = 360 * np.floor((whole.bounds[0] + 180) / 360)
        whole = shapely.transform(whole, lambda xy, t=turns: xy - [t, 0])
        wests.append(whole.bounds[0])
        easts.append(whole.bounds[2])
        beyond = whole.intersection(shapely.box(180, -90, 540, 90))
        parts += [*_polygons(whole.intersection(shapely.box(-180, -90, 180, 90)))]
        parts += [*_polygons(shapely.transform(beyond, lambda xy: xy - [360, 0]))]
    if not parts:
        return None, None
    shape = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    shape = shapely.set_precision(shape, 10.0**-_DECIMALS, mode="pointwise")
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(_oriented(shape)))
    low, high = shape.bounds[1], shape.bounds[3]
    west, east = min(wests), max(easts)
    if east > 180:
        east = -180 + (east - 180) if east - west < 360 else 180.0
        west = west if east != 180.0 else -180.0
    return geometry, [round(v, _DECIMALS) for v in (west, low, east, high)]


def _polygons(shape: Any) -> list[shapely.Polygon]:
    return [p for p in getattr(shape, "geoms", [shape]) if p.geom_type == "Polygon" and not p.is_empty]


def _oriented(shape: Any) -> Any:
    """Outer rings counterclockwise, as GeoJSON wants them."""
    if shape.geom_type == "Polygon":
        return shapely.geometry.polygon.orient(shape)
    return shapely.MultiPolygon([shapely.geometry.polygon.orient(p) for p in shape.geoms])
