"""Deliveries of Gaofen, SuperView and other Chinese satellites: recognised by the names of their images.

| image | endings |
|---|---|
| MS | ``-MSS``, ``-MSS1``, ``-MSS2``, ``-MUX``, ``_MSS1``… |
| PAN | ``-PAN``, ``-PAN1``, ``-PAN2``, ``_PAN``…; ``-BWDPAN`` of Gaofen-7, which looks nearly straight down |

Both names are the same but for that. The four bands are blue, green, red and nir; the XML file of the MS
image gives satellite, sensor and time. These products state no scale to reflectance.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from das2f_map.errors import InputError
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.delivery import Delivery
from das2f_map.scene.products.metadata import first_text, parse_xml
from das2f_map.scene.products.stack import BandSource
from das2f_map.scene.raster_file import open_raster

_IMAGE = re.compile(r"(?i)(?P<stem>.+)[-_](?P<bands>MSS|MUX|(?:BWD)?PAN)(?P<camera>\d?)\.(?P<end>tiff?)")
_BANDS = ("blue", "green", "red", "nir")
_SATELLITE = re.compile(r"(?i)(GF\d|SV\d|ZY\d|CB\w+|HJ\w+|BJ\d|JL\d|DP\d|SuperView)")
"""Begin of a product's name; other names that end like this may be anything."""


def find(delivery: Delivery, chosen: str | None = None) -> DeliveredScene | None:
    """The pair in a delivery, or ``None`` if it has no such product.

    Parameters
    ----------
    delivery:
        The files.
    chosen:
        The XML file that the user names: its pair is taken, if the delivery has several.

    Raises
    ------
    InputError
        MS or PAN is missing, there are several pairs, or MS has other than four bands.
    """
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for name in delivery.names:
        match = _IMAGE.fullmatch(PurePosixPath(name).name)
        if match and (_SATELLITE.match(match["stem"]) or _metadata_name(delivery, name)):
            key = (f"{PurePosixPath(name).parent}/{match['stem']}", match["camera"])
            pairs.setdefault(key, {})["PAN" if match["bands"].upper().endswith("PAN") else "MS"] = name
    if not pairs:
        return None
    complete = {key: found for key, found in pairs.items() if len(found) == 2}
    if chosen is not None:
        stem = PurePosixPath(chosen).stem
        named = {k: f for k, f in complete.items() if stem in {PurePosixPath(n).stem for n in f.values()}}
        complete = named or complete
    if not complete:
        (key, found), *_ = pairs.items()
        (what,) = {"MS", "PAN"} - found.keys()
        raise InputError(
            f"{delivery.place} has {next(iter(found.values()))}, but no {what} image of the same name",
            "give the folder that holds both images (…MSS….tiff and …PAN….tiff)",
        )
    if len(complete) > 1:
        raise InputError(
            f"{delivery.place} has {len(complete)} pairs: "
            f"{', '.join(PurePosixPath(f['MS']).name for f in list(complete.values())[:4])}",
            "name the XML file of one of them, or give MS and PAN as two files",
        )
    ((_, found),) = complete.items()
    return _scene(delivery, found["MS"], found["PAN"])


def _scene(delivery: Delivery, ms: str, pan: str) -> DeliveredScene:
    file = delivery.path(ms)
    with open_raster(file, "MS") as image:
        count = image.count
    if count != len(_BANDS):
        raise InputError(
            f"MS image {file} has {count} bands: which ones is not known",
            "give MS and PAN as two files, with --bands",
        )
    metadata = _metadata_name(delivery, ms)
    sensor = date = ""
    if metadata is not None:
        root = parse_xml(delivery.text(metadata), delivery.path(metadata))
        sensor = f"{first_text(root, 'SatelliteID')} {first_text(root, 'SensorID')}".strip()
        date = _time(first_text(root, "ReceiveTime", "CenterTime", "StartTime"))
    return DeliveredScene(
        place=delivery.place,
        kind="Gaofen or SuperView",
        name=PurePosixPath(ms).stem,
        ms=tuple(BandSource(role, f"band {n}", (file,), n) for n, role in enumerate(_BANDS, start=1)),
        pan=BandSource("pan", "PAN", (delivery.path(pan),)),
        files=delivery.files((*(() if metadata is None else (metadata,)), ms, pan)),
        sensor=sensor,
        date=date,
    )


def _metadata_name(delivery: Delivery, image: str) -> str | None:
    """The XML file next to an image."""
    name = PurePosixPath(image).with_suffix(".xml").as_posix()
    return next((n for n in delivery.names if n.casefold() == name.casefold()), None)


def _time(text: str) -> str:
    """ISO 8601 of a time such as ``2016-01-01 03:04:05``; empty if it is none."""
    match = re.match(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", text)
    return f"{match[1]}T{match[2]}Z" if match else ""
