"""Deliveries of Maxar (DigitalGlobe): recognised by the names of their images.

A name such as ``16JAN25120000-M2AS_R1C2-056083330010_01_P001.TIF`` has the time, the bands (M or P), the
level, the tile and the order. The images of one order are joined; each tile is placed by its own
georeferencing. The bands are those that the IMD or XML file lists, in its order.

| bands without an IMD or XML file | roles |
|---|---|
| 4 | blue, green, red, nir |
| 8 | coastal, blue, green, yellow, red, red_edge, nir, nir_2 |

These products state a scale to radiance, but not to reflectance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from das2f_map.errors import InputError
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.delivery import Delivery
from das2f_map.scene.products.metadata import first_text, parse_groups, parse_xml
from das2f_map.scene.products.stack import BandSource
from das2f_map.scene.raster_file import open_raster

_IMAGE = re.compile(
    r"(?i)(?P<time>\d{2}[A-Z]{3}\d{6,8}(?:_\d+)?)-(?P<bands>[MPS])(?P<level>\d[A-Z]{1,2})(?:_R\d+C\d+)?"
    r"-(?P<order>[\w]+)\.(?P<end>TIFF?|NTF|IMD|XML)"
)
_IMAGES = ("tif", "tiff", "ntf")
_ROLES = {
    "C": "coastal",
    "B": "blue",
    "G": "green",
    "Y": "yellow",
    "R": "red",
    "RE": "red_edge",
    "N": "nir",
    "N2": "nir_2",
    "P": "pan",
}
_USUAL = {4: ("B", "G", "R", "N"), 8: ("C", "B", "G", "Y", "R", "RE", "N", "N2")}


@dataclass(frozen=True)
class _Metadata:
    """Facts of an IMD or XML file; empty where there is none."""

    names: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    satellite: str = ""
    time: str = ""


def find(delivery: Delivery, chosen: str | None = None) -> DeliveredScene | None:
    """The pair in a delivery, or ``None`` if it has no Maxar product.

    Parameters
    ----------
    delivery:
        The files.
    chosen:
        The file that the user names: its order is taken, if the delivery has several.

    Raises
    ------
    InputError
        MS or PAN is missing, or there are several orders.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name in delivery.names:
        match = _IMAGE.fullmatch(PurePosixPath(name).name)
        if match and match["end"].lower() in _IMAGES:
            groups.setdefault((match["bands"].upper(), match["order"].upper()), []).append(name)
    if not groups:
        return None
    named = None if chosen is None else _IMAGE.fullmatch(PurePosixPath(chosen).name)
    wanted = named["order"].upper() if named else None
    orders = sorted({order for _, order in groups})
    if len(orders) > 1 and wanted is None:
        raise InputError(
            f"{delivery.place} has images of {len(orders)} Maxar orders or parts: {', '.join(orders[:5])}",
            "name the IMD file of one of them, or give MS and PAN as two files",
        )
    order = wanted or orders[0]
    for bands, what in (("M", "MS"), ("P", "PAN")):
        if (bands, order) not in groups:
            has = ", ".join(sorted({b for b, o in groups if o == order})) or "no image"
            raise InputError(
                f"Maxar delivery {delivery.place}, {order}, has no {what} image: it has {has}",
                "give the folder that holds both images (…-M…TIF and …-P…TIF)"
                + ("; S is a pansharpened image, which is no pair" if "S" in has else ""),
            )
    return _scene(delivery, order, sorted(groups["M", order]), sorted(groups["P", order]))


def _scene(delivery: Delivery, order: str, ms: list[str], pan: list[str]) -> DeliveredScene:
    facts, pan_facts = _metadata(delivery, order, "M"), _metadata(delivery, order, "P")
    files = tuple(delivery.path(n) for n in ms)
    with open_raster(files[0], "MS") as image:
        count = image.count
    codes: Sequence[str] | None = facts.bands if len(facts.bands) == count else _USUAL.get(count)
    if codes is None:
        raise InputError(
            f"MS image {files[0]} has {count} bands, and no IMD or XML file of the delivery names them",
            "give MS and PAN as two files, with --bands",
        )
    pan_files = tuple(delivery.path(n) for n in pan)
    first = _IMAGE.fullmatch(PurePosixPath(ms[0]).name)
    return DeliveredScene(
        place=delivery.place,
        kind=f"Maxar {first['level'].upper() if first else ''}".strip(),
        name=order,
        ms=tuple(BandSource(_ROLES.get(c, c), c, files, n) for n, c in enumerate(codes, start=1)),
        pan=BandSource("pan", "P", pan_files),
        files=delivery.files((*facts.names, *pan_facts.names, *ms, *pan)),
        sensor=facts.satellite,
        date=facts.time,
        notes=()
        if facts.bands == tuple(codes)
        else ("bands are named by their number: no IMD or XML file lists them",),
    )


def _metadata(delivery: Delivery, order: str, bands: str) -> _Metadata:
    """The facts in the IMD file of an order's image, else in its XML file."""
    found: dict[str, str] = {}
    for name in delivery.names:
        match = _IMAGE.fullmatch(PurePosixPath(name).name)
        if match and match["order"].upper() == order and match["bands"].upper() == bands:
            found.setdefault(match["end"].lower(), name)
    if "imd" in found:
        return _read_imd(delivery, found["imd"])
    return _read_xml(delivery, found["xml"]) if "xml" in found else _Metadata()


def _read_imd(delivery: Delivery, name: str) -> _Metadata:
    lines = list(parse_groups(delivery.text(name)))
    facts = {key: value for _, key, value in reversed(lines)}
    bands = tuple(v[5:] for _, k, v in lines if k == "BEGIN_GROUP" and v.startswith("BAND_"))
    return _Metadata((name,), bands, facts.get("satId", ""), _time(facts.get("firstLineTime", "")))


def _read_xml(delivery: Delivery, name: str) -> _Metadata:
    root = parse_xml(delivery.text(name), delivery.path(name))
    imd = next(root.iter("IMD"), None)
    if imd is None:
        return _Metadata()
    bands = tuple(e.tag[5:] for e in imd if e.tag.startswith("BAND_"))
    time = _time(first_text(imd, "FIRSTLINETIME", "TLCTIME"))
    return _Metadata((name,), bands, first_text(imd, "SATID"), time)


def _time(text: str) -> str:
    """Date and time without parts of a second."""
    return f"{text[:19]}Z" if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text) else ""
