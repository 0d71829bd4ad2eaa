"""A STAC Item: its assets are the bands, by ``eo:bands`` or ``bands`` and their common names or names.

| common name | role |
|---|---|
| blue, green, red, pan, coastal, yellow | the same |
| nir, nir08 | nir; nir08 only where no band is called nir |

An asset that lists no bands is one if its key or one of its roles is such a name. With the key or role ms or
multispectral it is the MS image, whose bands have their names in the file. An asset with the role thumbnail,
overview or visual is no band. Only ``http``, ``https``, ``s3`` and, for a local Item, local files are read.
Scale, offset and nodata come from ``raster:bands``. The mask of clouds comes from an asset with
``classification:bitfields`` or ``classification:classes``, or from Landsat's ``qa_pixel``.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from das2f_map.errors import InputError
from das2f_map.scene.bands import own_bands, roles_of
from das2f_map.scene.mask import BitPattern, MaskFile
from das2f_map.scene.paths import exists
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.delivery import Delivery, at_most, read_text
from das2f_map.scene.products.landsat import LANDSAT_QA_PIXEL
from das2f_map.scene.products.metadata import parse_json
from das2f_map.scene.products.stack import BandSource
from das2f_map.scene.source import RasterSource

_TIMEOUT_S = 30
_MOST = 40
"""JSON files of a folder that are looked at."""

_MS = ("blue", "green", "red", "nir")
_COMMON_NAMES = {"nir": ("nir", "nir08")}
"""Role → common names in the order of preference, where these are not the role alone."""

_ALONE = {**{name: name for name in (*_MS, "nir08", "pan")}, "panchromatic": "pan"}
"""Key or role of an asset that lists no bands → common name of the one band that it is."""

_WHOLE = {"ms", "multispectral"}
"""Keys and roles of an asset that lists no bands and is the MS image."""

_NOT_BANDS = {"thumbnail", "overview", "visual", "metadata", "graphic"}
"""Roles of assets that are pictures or texts."""

_CLOUD = re.compile(
    r"(?i)((dilated|thin)[_ ]?)?(clouds?|cirrus)([_ ]?shadows?|[_ ](medium|high)[_ ]probability)?"
)
"""Names of a bit field or a class that mean cloud, shadow or cirrus, but not a field of confidence."""


@dataclass(frozen=True)
class _Band:
    """A band of an asset: the asset's key, the number in its file, its common name and its raster fields."""

    key: str
    number: int
    common: str
    raster: Mapping[str, Any]
    alone: bool
    data: bool


def is_item_file(path: str) -> bool:
    """Whether a local JSON file is a STAC Item. Raises ``InputError`` if it is no JSON object."""
    return "stac_version" in parse_json(read_text(path), path)


def find(delivery: Delivery, chosen: str | None = None) -> DeliveredScene | None:
    """The pair of the one Item in a delivery, or ``None`` if it has no Item that names bands.

    Parameters
    ----------
    delivery:
        The files.
    chosen:
        A metadata file that the user names; then nothing is looked for.

    Raises
    ------
    InputError
        There are several Items, or this one has no MS bands or no PAN.
    """
    if chosen is not None:
        return None
    items: dict[str, dict[str, Any]] = {}
    for name in [n for n in delivery.names if n.lower().endswith((".json", ".geojson"))][:_MOST]:
        with suppress(InputError):  # another JSON file
            content = parse_json(delivery.text(name), name)
            if "stac_version" in content and any(_listed(a) for a in _assets(content).values()):
                items[name] = content
    if not items:
        return None
    if len(items) > 1:
        raise InputError(
            f"{delivery.place} has {len(items)} STAC Items: {', '.join(sorted(items)[:5])}",
            "name one of them",
        )
    ((name, item),) = items.items()
    if not delivery.archive:
        return read_file(delivery.path(name))
    found = _scene(item, delivery.path(name), lambda href: _inside(href, name, delivery))
    remote = [f for f in found.files if not f.startswith("/vsi")]
    return replace(found, files=(delivery.place, *remote))


def read_file(path: str) -> DeliveredScene:
    """The pair of a local Item. Raises ``InputError`` if it cannot be read or has no MS bands or no PAN."""
    folder = Path(path).parent
    return _scene(parse_json(read_text(path), path), path, lambda href: _local(href, folder, path))


def read_address(address: str) -> DeliveredScene:
    """The pair of an Item at an ``http`` or ``https`` address; raises as :func:`read_file` does."""
    request = urllib.request.Request(address, headers={"Accept": "application/geo+json, application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            content = at_most(answer, address)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"STAC Item {address} cannot be fetched: {reason}", "check the address and the connection"
        ) from error
    return _scene(parse_json(content, address), address, lambda href: _remote(href, address))


def _scene(item: Mapping[str, Any], place: str, resolve: Callable[[str], str]) -> DeliveredScene:
    name = str(item.get("id") or place)
    if item.get("type") != "Feature" or not isinstance(item.get("assets"), dict):
        kind = item.get("type") if isinstance(item.get("type"), str) else "something else"
        raise InputError(f"{place} is no STAC Item but {kind}", "give the address or file of one Item")
    assets = _assets(item)
    facts = item["properties"] if isinstance(item.get("properties"), dict) else {}
    bands = _bands(assets, resolve)
    chosen = {role: _choose(role, bands, place) for role in _MS}
    pan = _choose("pan", bands, place)
    missing = [role for role, band in chosen.items() if band is None]
    if pan is None:
        raise _without_pan(place, name, facts)
    if missing:
        raise InputError(
            f"STAC Item {place} has no asset for the band {' and '.join(missing)}",
            "its assets need eo:bands with common names; or give MS and PAN as two files",
        )
    ms = tuple(_source(role, band, assets, resolve) for role, band in chosen.items() if band is not None)
    pan_source = _source("pan", pan, assets, resolve)
    clouds, words = _clouds(assets, resolve)
    used = [f for b in (*ms, pan_source) for f in b.files]
    return DeliveredScene(
        place=place,
        kind="STAC Item",
        name=name,
        ms=ms,
        pan=pan_source,
        files=tuple(dict.fromkeys((place, *used, *(() if clouds is None else (str(clouds.path),))))),
        sensor=_sensor(facts),
        date=facts["datetime"] if isinstance(facts.get("datetime"), str) else "",
        nodata=_nodata([*(b for b in chosen.values() if b is not None), pan]),
        clouds=clouds,
        cloud_words=words,
        reflectance="by scale and offset of raster:bands",
    )


def _assets(item: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The assets that have an address, by their keys."""
    found = item.get("assets")
    if not isinstance(found, dict):
        return {}
    return {k: a for k, a in found.items() if isinstance(a, dict) and isinstance(a.get("href"), str)}


def _listed(asset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bands that an asset lists."""
    return _dicts(asset.get("eo:bands")) or _dicts(asset.get("bands"))


def _bands(assets: Mapping[str, Mapping[str, Any]], resolve: Callable[[str], str]) -> list[_Band]:
    """The bands of all assets that have a common name, or a name that tells one."""
    found, names = [], []
    for key, asset in assets.items():
        roles = {r.lower() for r in _list(asset.get("roles")) if isinstance(r, str)}
        if roles & _NOT_BANDS or key in _NOT_BANDS:
            continue
        data, words = "data" in roles or not roles, (key.lower(), *sorted(roles))
        listed = _listed(asset)
        raster = _dicts(asset.get("raster:bands")) or listed
        if not listed:
            common = next((_ALONE[w] for w in words if w in _ALONE), None)
            if common is not None:
                found.append(_Band(key, 1, common, raster[0] if raster else {}, True, data))
                names.append("")
            elif _WHOLE & {*words}:
                found += _of_file(key, resolve(asset["href"]), raster)
                names += [""] * (len(found) - len(names))
        for number, band in enumerate(listed, start=1):
            common = band.get("common_name") or band.get("eo:common_name")
            values = raster[number - 1] if number <= len(raster) else {}
            text = common.lower() if isinstance(common, str) else ""
            found.append(_Band(key, number, text, values, len(listed) == 1, data))
            names.append("" if text else str(band.get("name", "")))
    # Numbered names tell the satellite only together.
    told = roles_of(names)
    return [b if b.common else replace(b, common=role or "") for b, role in zip(found, told, strict=True)]


def _of_file(key: str, file: str, raster: Sequence[Mapping[str, Any]]) -> list[_Band]:
    """The bands of an MS image by their names in the file."""
    with RasterSource(file, "MS") as source:
        bands = own_bands(source.bands)
    return [
        _Band(key, b.number, b.role, raster[b.number - 1] if b.number <= len(raster) else {}, False, True)
        for b in bands
    ]


def _list(value: Any) -> list[Any]:
    """A list; empty if the value is another one."""
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    """A list of objects; empty if the value is another one."""
    return value if isinstance(value, list) and all(isinstance(v, dict) for v in value) else []


def _choose(role: str, bands: Sequence[_Band], place: str) -> _Band | None:
    """The band of a role; ``None`` if there is none."""
    for common in _COMMON_NAMES.get(role, (role,)):
        found = [b for b in bands if b.common == common]
        # An asset of one band is the band itself; others may be composites of it.
        found = [b for b in found if b.data] or found
        found = [b for b in found if b.alone] or found
        keys = sorted({b.key for b in found})
        if len(keys) > 1:
            raise InputError(
                f"STAC Item {place} has several assets for the band {role}: {', '.join(keys)}",
                "give MS and PAN as two files",
            )
        if found:
            return found[0]
    return None


def _without_pan(place: str, name: str, facts: Mapping[str, Any]) -> InputError:
    level = next(
        (
            v
            for k, v in facts.items()
            if k in ("landsat:correction", "processing:level") and isinstance(v, str)
        ),
        "",
    )
    if level.startswith("L2"):
        return InputError(
            f"Level-2 product {name} ({place}): it has no PAN band",
            "use the Level-1 product of the same scene",
        )
    return InputError(
        f"STAC Item {place} has no asset for the band pan", "give MS and PAN as two files, from two Items"
    )


def _source(
    role: str, band: _Band, assets: Mapping[str, Mapping[str, Any]], resolve: Callable[[str], str]
) -> BandSource:
    scale, offset = _number(band.raster.get("scale")), _number(band.raster.get("offset"))
    if scale is not None or offset is not None:
        scale, offset = 1.0 if scale is None else scale, offset or 0.0
    file = resolve(assets[band.key]["href"])
    return BandSource(role, band.key, (file,), band.number, scale, offset)


def _nodata(bands: Sequence[_Band]) -> float | None:
    """The nodata value of all bands; ``None`` if they have none or several."""
    values = {_number(b.raster.get("nodata")) for b in bands}
    return values.pop() if len(values) == 1 else None


def _number(value: Any) -> float | None:
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if real else None


def _sensor(facts: Mapping[str, Any]) -> str:
    instruments = facts.get("instruments")
    names = [facts.get("platform"), *(instruments if isinstance(instruments, list) else ())]
    return " ".join(n for n in names if isinstance(n, str))


def _clouds(
    assets: Mapping[str, Mapping[str, Any]], resolve: Callable[[str], str]
) -> tuple[MaskFile | None, str]:
    """The mask of clouds and the pixels that it leaves out; or ``None`` and the reason."""
    for asset in assets.values():
        first = next(iter(_dicts(asset.get("raster:bands")) or _dicts(asset.get("bands"))), {})
        for fields in (asset, first):
            patterns = dict(_bit_fields(fields))
            if patterns:
                return MaskFile(resolve(asset["href"]), patterns=tuple(patterns.values())), ", ".join(
                    patterns
                )
            values = dict(_classes(fields))
            if values:
                return MaskFile(resolve(asset["href"]), values=tuple(values.values())), ", ".join(values)
    if "qa_pixel" in assets:
        quality = LANDSAT_QA_PIXEL
        return MaskFile(resolve(assets["qa_pixel"]["href"]), patterns=quality.patterns), quality.words
    return None, "the Item has no asset with classification:bitfields or classification:classes of clouds"


def _bit_fields(fields: Mapping[str, Any]) -> Iterable[tuple[str, BitPattern]]:
    """Name and pattern of the bit fields that mark clouds."""
    for entry in _dicts(fields.get("classification:bitfields")):
        name, first, length = entry.get("name"), entry.get("offset"), entry.get("length", 1)
        if not isinstance(name, str) or not isinstance(first, int) or not 0 <= first < 63:
            continue
        if _CLOUD.fullmatch(name) and length == 1:
            yield name, BitPattern.of(first, 1, 1)


def _classes(fields: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """Name and value of the classes that are clouds."""
    for entry in _dicts(fields.get("classification:classes")):
        name, value = entry.get("name"), entry.get("value")
        if isinstance(name, str) and _CLOUD.fullmatch(name) and isinstance(value, int):
            yield name, value


def _local(href: str, folder: Path, item: str) -> str:
    """Where an asset of a local Item lies."""
    scheme = urllib.parse.urlsplit(href).scheme if "://" in href else ""
    if scheme in ("http", "https", "s3"):
        return href
    path = urllib.parse.unquote(urllib.parse.urlsplit(href).path) if scheme == "file" else href
    if (scheme and scheme != "file") or path.startswith("/vsi") or not path:
        raise _refused(href, item)
    found = os.path.normpath(folder / path)
    plain = os.path.normpath(folder / urllib.parse.unquote(path))
    return plain if not exists(found) and exists(plain) else found


def _inside(href: str, item: str, delivery: Delivery) -> str:
    """Where an asset of an Item in an archive lies."""
    if urllib.parse.urlsplit(href).scheme in ("http", "https", "s3"):
        return href
    name = posixpath.normpath(posixpath.join(posixpath.dirname(item), href))
    if name not in delivery.names:
        raise InputError(
            f"STAC Item {item} names the file {href}, which archive {delivery.place} lacks",
            "unpack the archive, and give the Item",
        )
    return delivery.path(name)


def _remote(href: str, item: str) -> str:
    """The address of an asset of an Item at an address."""
    address = urllib.parse.urljoin(item, href)
    if urllib.parse.urlsplit(address).scheme not in ("http", "https", "s3"):
        raise _refused(href, item)
    return address


def _refused(href: str, item: str) -> InputError:
    return InputError(
        f"STAC Item {item} names the file {href}, which is not read",
        "only http, https, s3 and, for a local Item, local files are",
    )
