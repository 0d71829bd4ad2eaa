"""Landsat Level-1 products, before and after the collections: recognised by their MTL file.

| satellite | MS bands | PAN | quality band |
|---|---|---|---|
| Landsat 7 (ETM+) | B1, B2, B3, B4 | B8 | from Collection 1 on |
| Landsat 8, 9 (OLI) | B2, B3, B4, B5 | B8 | always |

Pixels without a measurement have the number 0. Reflectance is at the top of the atmosphere, corrected for the
sun's elevation. Clouds are the pixels whose quality band marks them with high confidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from das2f_map.errors import InputError
from das2f_map.scene.mask import BitPattern, MaskFile
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.delivery import Delivery
from das2f_map.scene.products.metadata import number, parse_groups, parse_json, parse_xml
from das2f_map.scene.products.stack import BandSource

_MTL = re.compile(r"(?i)(.*)_MTL\.(txt|json|xml)")
_PREFERRED = ("txt", "json", "xml")
_BAND_FILE = re.compile(r"(?i)(L[COTEM]0?\d.*)_(?:SR_|ST_)?B\d{1,2}(?:_VCID_\d)?\.tiff?")
_NAME = re.compile(
    r"(?i)L[COEM]0?(?P<satellite>[789])(?:_L\d\w\w_\d{6}_\d{8}_\d{8}_0(?P<collection>[12])_|\d)"
)
"""Begin of a product's name: satellite, and collection where there is one."""

_SURFACE = re.compile(r"(?i)L[COTEM]0?\d.*_(SR_B\d|sr_band\d)\.tiff?")

_OLI, _ETM = {"blue": 2, "green": 3, "red": 4, "nir": 5}, {"blue": 1, "green": 2, "red": 3, "nir": 4}
_PAN = 8

_SATELLITES = {"7": _ETM, "8": _OLI, "9": _OLI}
"""Number of the satellite → role → number of the band. Others have no PAN band."""

_HIGH = 3
"""Value of a field of two bits for a confidence from 67 to 100 %."""


@dataclass(frozen=True)
class _Quality:
    """A coding of the quality band: key and usual end of its file, and the pixels that count as cloud."""

    key: str
    end: str
    patterns: tuple[BitPattern, ...]
    words: str


_QUALITY = {
    "": _Quality(
        "FILE_NAME_BAND_QUALITY",
        "BQA",
        (BitPattern.of(14, 2, _HIGH), BitPattern.of(12, 2, _HIGH)),
        "cloud and cirrus with high confidence",
    ),
    "01": _Quality(
        "FILE_NAME_BAND_QUALITY",
        "BQA",
        (BitPattern.of(4, 1, 1), BitPattern.of(7, 2, _HIGH), BitPattern.of(11, 2, _HIGH)),
        "cloud, and cloud shadow and cirrus with high confidence",
    ),
    "02": _Quality(
        "FILE_NAME_QUALITY_L1_PIXEL",
        "QA_PIXEL",
        tuple(BitPattern.of(bit, 1, 1) for bit in (1, 2, 3, 4)),
        "dilated cloud, cirrus, cloud and cloud shadow",
    ),
}
"""Number of the collection, empty before the first one → coding of its quality band."""

LANDSAT_QA_PIXEL = _QUALITY["02"]


def find(delivery: Delivery, chosen: str | None = None) -> DeliveredScene | None:
    """The product in a delivery, or ``None`` if there is no Landsat product.

    Parameters
    ----------
    delivery:
        The files.
    chosen:
        The MTL file that the user names; ``None`` to look for one.

    Raises
    ------
    InputError
        The product has no PAN band, lacks files, or is one of several.
    """
    name = chosen if chosen is not None and _MTL.fullmatch(chosen) else _metadata_file(delivery)
    if name is None:
        return None
    facts = _facts(delivery, name)
    if not any(key.startswith("FILE_NAME_BAND_") for key in facts):
        raise InputError(
            f"metadata file {delivery.path(name)} names no Landsat bands",
            "it seems to be damaged or another file",
        )
    return _scene(delivery, name, facts)


def is_one_band(name: str) -> bool:
    """Whether a file has the name of a single band of a Landsat product."""
    return _BAND_FILE.fullmatch(name) is not None


def _metadata_file(delivery: Delivery) -> str | None:
    """The MTL file of the one product in a delivery; ``None`` without any Landsat product."""
    found: dict[str, list[str]] = {}
    for name in delivery.names:
        if match := _MTL.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    if not found:
        files = [PurePosixPath(n).name for n in delivery.names]
        if any(_SURFACE.fullmatch(f) for f in files):
            raise _level_2(delivery.place)
        if any(is_one_band(f) for f in files):
            raise InputError(
                f"{delivery.place} has bands of a Landsat product, but no MTL file",
                "the product's ..._MTL.txt belongs into the same folder",
            )
        return None
    if len(found) > 1:
        raise InputError(
            f"{delivery.place} has {len(found)} Landsat products: "
            f"{', '.join(sorted(min(same) for same in found.values())[:5])}",
            "unpack the archive, and name one of these"
            if delivery.archive
            else "name one of these MTL files",
        )
    (same,) = found.values()
    return min(same, key=lambda n: _PREFERRED.index(n.rpartition(".")[2].lower()))


def _facts(delivery: Delivery, name: str) -> Mapping[str, str]:
    """Key → value of all groups of an MTL file; of keys that are there twice, the first."""
    content, label = delivery.text(name), delivery.path(name)
    found: dict[str, str] = {}
    if name.lower().endswith(".json"):
        _flatten(parse_json(content, label), found)
    elif name.lower().endswith(".xml"):
        for element in parse_xml(content, label).iter():
            if element.text and element.text.strip():
                found.setdefault(element.tag, element.text.strip())
    else:
        for _, key, value in parse_groups(content):
            found.setdefault(key, value)
    return found


def _flatten(tree: Mapping[str, Any], into: dict[str, str]) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _flatten(value, into)
        elif isinstance(value, (str, int, float)):
            into.setdefault(key, str(value))


def _scene(delivery: Delivery, mtl: str, facts: Mapping[str, str]) -> DeliveredScene:
    name = facts.get("LANDSAT_PRODUCT_ID") or facts.get("LANDSAT_SCENE_ID") or _stem(mtl)
    level = facts.get("PROCESSING_LEVEL") or facts.get("DATA_TYPE") or ""
    if level.startswith("L2"):
        raise _level_2(name)
    named = _NAME.match(name)
    spacecraft = facts.get("SPACECRAFT_ID") or (f"LANDSAT_{named['satellite']}" if named else "unknown")
    roles = _SATELLITES.get(spacecraft.rpartition("_")[2].lstrip("0"))
    instrument = facts.get("SENSOR_ID", "")
    if roles is None or instrument == "TIRS":
        raise InputError(
            f"Landsat product {name} of {spacecraft} {instrument}".rstrip() + " has no PAN band",
            "Landsat 7 (ETM+), 8 and 9 (OLI) have one",
        )
    collection = facts.get("COLLECTION_NUMBER") or (named["collection"] if named else "") or ""
    collection = collection.zfill(2) if collection else ""
    quality = _QUALITY.get(collection, LANDSAT_QA_PIXEL)
    finder = _Finder(delivery, mtl, name)
    ms = tuple(_band(finder, facts, role, band) for role, band in roles.items())
    pan = _band(finder, facts, "pan", _PAN)
    finder.require_all()
    mask = facts.get(quality.key)
    mask_name = finder.maybe(mask or f"{finder.stem}_{quality.end}.TIF")
    sun = number(facts.get("SUN_ELEVATION"))
    used = [mtl, *finder.names]
    return DeliveredScene(
        place=delivery.place,
        kind=f"Landsat {f'Collection {int(collection)}' if collection else 'pre-collection'} Level-1",
        name=name,
        ms=ms,
        pan=pan,
        files=delivery.files(used),
        sensor=f"{spacecraft.replace('_', ' ').title()} {instrument}".strip(),
        date=_date(facts),
        nodata=0.0,
        clouds=None if mask_name is None else MaskFile(delivery.path(mask_name), patterns=quality.patterns),
        cloud_words=quality.words
        if mask_name is not None
        else (f"its quality band {mask} is missing" if mask else "the product has no quality band"),
        reflectance="" if sun is None else f"top of the atmosphere, sun elevation {sun:g} degrees",
    )


def _stem(mtl: str) -> str:
    """The name that all files of a product begin with, from that of its MTL file."""
    return PurePosixPath(mtl).name.rpartition("_")[0]


def _level_2(name: str) -> InputError:
    return InputError(
        f"Landsat Level-2 product {name}: it has no PAN band",
        "use the Level-1 product of the same scene",
    )


class _Finder:
    """Files of a product by the names in its MTL file, which lie in the same folder."""

    def __init__(self, delivery: Delivery, mtl: str, product: str) -> None:
        self.names: list[str] = []
        self._delivery, self._product = delivery, product
        folder, self.stem = PurePosixPath(mtl).parent, _stem(mtl)
        self._there = {
            PurePosixPath(n).name.casefold(): n for n in delivery.names if PurePosixPath(n).parent == folder
        }
        self._missing: list[str] = []

    def maybe(self, file: str) -> str | None:
        """The file's name in the delivery; ``None`` if it is not there."""
        found = self._there.get(file.casefold())
        if found is not None:
            self.names.append(found)
        return found

    def path(self, file: str) -> str:
        """The file as GDAL opens it; a missing one is remembered."""
        found = self.maybe(file)
        if found is None:
            self._missing.append(file)
            return file
        return self._delivery.path(found)

    def require_all(self) -> None:
        """Raise ``InputError`` if files are missing."""
        if self._missing:
            raise InputError(
                f"Landsat product {self._product} lacks {', '.join(self._missing)} in {self._delivery.place}",
                "MS needs the bands blue, green, red and near infrared, PAN band 8: download them, too",
            )


def _band(finder: _Finder, facts: Mapping[str, str], role: str, band: int) -> BandSource:
    file = facts.get(f"FILE_NAME_BAND_{band}") or f"{finder.stem}_B{band}.TIF"
    mult, add = (number(facts.get(f"REFLECTANCE_{what}_BAND_{band}")) for what in ("MULT", "ADD"))
    sun = number(facts.get("SUN_ELEVATION"))
    scale = offset = None
    if mult is not None and add is not None and sun is not None and sun > 0:
        sine = math.sin(math.radians(sun))
        scale, offset = mult / sine, add / sine
    return BandSource(role, f"B{band}", (finder.path(file),), scale=scale, offset=offset)


def _date(facts: Mapping[str, str]) -> str:
    day, time = facts.get("DATE_ACQUIRED", ""), facts.get("SCENE_CENTER_TIME", "")
    return f"{day}T{time[:8]}Z" if day and re.match(r"\d\d:\d\d:\d\d", time) else day
