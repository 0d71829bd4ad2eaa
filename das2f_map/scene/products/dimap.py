"""DIMAP V2 deliveries of Pléiades, Pléiades Neo and SPOT 6/7: recognised by their DIM_*.XML files.

A delivery holds an MS and a P (PAN) product, each with a DIM_*.XML and its images, often cut into tiles. The
bands of a file are in the order of ``Raster_Index_List``. Where the metadata have none, the descriptions of
the image's bands count, and without those the order in which the bands are displayed: red, green, blue, near
infrared.

| band | role |
|---|---|
| B0, B | blue |
| B1, G | green |
| B2, R | red |
| B3, NIR | nir |
| RE | red_edge |
| DB | coastal |

Reflectance is at the top of the atmosphere. It comes from the gain and bias of reflectance, where the
metadata have these, else from those of radiance, the solar irradiance, the date and the sun's elevation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from das2f_map.errors import InputError
from das2f_map.scene.bands import roles_of
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.delivery import Delivery
from das2f_map.scene.products.metadata import first_text, number, parse_xml, sun_distance
from das2f_map.scene.products.stack import BandSource
from das2f_map.scene.raster_file import open_raster

_DIM = re.compile(r"(?i)DIM_.*\.XML")
_OLD = re.compile(r"(?i)METADATA\.DIM")
_SPECTRAL = re.compile(r"_(P|PAN|MS|MS-N|MS-X|MS-FS|PMS|PMS-N|PMS-X|PMS-FS)_")
"""Bands of a product in its file name."""

_MOST = 40
"""DIM files of a delivery; more are several orders."""

_ROLES = {
    "B0": "blue",
    "B1": "green",
    "B2": "red",
    "B3": "nir",
    "B": "blue",
    "G": "green",
    "R": "red",
    "NIR": "nir",
    "RE": "red_edge",
    "DB": "coastal",
}
_MS = ("MS", "MS-N", "MS-X", "MS-FS")
_PAN = ("P", "PAN")
_CHANNELS = ("RED_CHANNEL", "GREEN_CHANNEL", "BLUE_CHANNEL", "ALPHA_CHANNEL")
"""Elements of the display order, as the bands follow each other in a file."""

_USUAL = ("B2", "B1", "B0", "B3")
_UNKNOWN_IRRADIANCE = 999.0
"""Value that means that the irradiance is not given."""


@dataclass(frozen=True)
class _Product:
    """A DIM file of a delivery: its name there, its XML, and its kind of bands."""

    name: str
    root: Element
    spectral: str

    def text(self, *tags: str) -> str:
        return first_text(self.root, *tags)

    @property
    def title(self) -> str:
        return self.text("DATASET_NAME") or PurePosixPath(self.name).stem


def find(delivery: Delivery, chosen: str | None = None) -> DeliveredScene | None:
    """The pair in a delivery, or ``None`` if it has no DIMAP product.

    Parameters
    ----------
    delivery:
        The files.
    chosen:
        The file that the user names: a DIM file is one of the pair.

    Raises
    ------
    InputError
        MS or PAN is missing or there are several, or files are missing.
    """
    names = [n for n in delivery.names if _DIM.fullmatch(PurePosixPath(n).name)]
    if not names:
        _refuse_old(delivery)
        return None
    if chosen is not None and _DIM.fullmatch(chosen) and _is_part(delivery.place):
        # MS and PAN lie in folders next to each other.
        around = Delivery.of_folder(str(Path(delivery.place).parent))
        chosen = f"{Path(delivery.place).name}/{chosen}"
        delivery, names = around, [n for n in around.names if _DIM.fullmatch(PurePosixPath(n).name)]
    if len(names) > _MOST:
        raise InputError(f"{delivery.place} has {len(names)} DIMAP products", "name the folder of one scene")
    products = [p for p in (_product(delivery, n) for n in names) if p is not None]
    if not products:
        return None
    ms, pan = _one(products, _MS, "MS", delivery, chosen), _one(products, _PAN, "PAN", delivery, chosen)
    return _scene(delivery, ms, pan)


def _is_part(folder: str) -> bool:
    """Whether a folder has the name of one product of a delivery of several."""
    return Path(folder).name.upper().startswith("IMG_")


def _product(delivery: Delivery, name: str) -> _Product | None:
    """A DIM file; ``None`` if it is of another version or of another kind."""
    root = parse_xml(delivery.text(name), delivery.path(name))
    form = root.find("Metadata_Identification/METADATA_FORMAT")
    version = "" if form is None else form.get("version", "")
    if root.tag != "Dimap_Document" or (version and not version.startswith("2")):
        return None
    named = _SPECTRAL.search(PurePosixPath(name).name.upper())
    return _Product(
        name, root, first_text(root, "SPECTRAL_PROCESSING").upper() or (named[1] if named else "")
    )


def _refuse_old(delivery: Delivery) -> None:
    """Raise ``InputError`` if a delivery is of DIMAP's version 1, as of SPOT 1 to 5."""
    if any(_OLD.fullmatch(PurePosixPath(n).name) for n in delivery.names):
        raise InputError(
            f"{delivery.place} is a DIMAP V1 product, as of SPOT 1 to 5: only V2 is read",
            "give its MS and PAN images as two files (IMAGERY.TIF of each), with --bands",
        )


def _one(
    products: list[_Product], kinds: tuple[str, ...], role: str, delivery: Delivery, chosen: str | None
) -> _Product:
    """The one product with these bands."""
    found = [p for p in products if p.spectral in kinds]
    if len(found) > 1:
        found = [p for p in found if p.name == chosen] or found
    if not found:
        has = ", ".join(sorted({p.spectral or "unknown bands" for p in products}))
        raise InputError(
            f"DIMAP delivery {delivery.place} has no {role} product: it has {has}",
            "give the folder that holds both the MS and the P product"
            + ("; a pansharpened product is no pair" if "PMS" in has else ""),
        )
    if len(found) > 1:
        raise InputError(
            f"DIMAP delivery {delivery.place} has {len(found)} {role} products: "
            f"{', '.join(PurePosixPath(p.name).name for p in found[:4])}",
            "give MS and PAN as two files: their DIM_*.XML files",
        )
    return found[0]


def _scene(delivery: Delivery, ms: _Product, pan: _Product) -> DeliveredScene:
    bands = _bands(delivery, ms)
    unknown = [b.label for b in bands if b.role not in _ROLES.values()]
    pan_band = _bands(delivery, pan)[0]
    images = [*bands, pan_band]
    return DeliveredScene(
        place=delivery.place,
        kind="DIMAP V2",
        name=ms.title,
        ms=tuple(bands),
        pan=BandSource("pan", pan_band.label, pan_band.files, 1, pan_band.scale, pan_band.offset),
        files=tuple(
            dict.fromkeys(
                (
                    *delivery.files((ms.name, pan.name)),
                    *(() if delivery.archive else (f for b in images for f in b.files)),
                )
            )
        ),
        sensor=_sensor(ms),
        date=_date(ms),
        nodata=_nodata(ms),
        cloud_words="DIMAP deliveries have no quality band; their MASKS folder has polygons (CLD_*_MSK.GML)",
        reflectance="top of the atmosphere, by gains and biases of its metadata",
        notes=(f"bands of unknown light: {', '.join(unknown)}",) if unknown else (),
    )


def _bands(delivery: Delivery, product: _Product) -> list[BandSource]:
    """The bands of a product, in the order of its files."""
    found = []
    for group in product.root.iter("Data_Files"):
        files = tuple(_tiles(delivery, product, group))
        for number_in_file, band in _order(product, group, files):
            scale, offset = _reflectance(product, band) or (None, None)
            role = "pan" if product.spectral in _PAN else _ROLES.get(band, band)
            found.append(BandSource(role, band, files, number_in_file, scale, offset))
    if not found:
        raise InputError(
            f"DIMAP product {product.title} names no image files",
            f"{delivery.path(product.name)} seems to be damaged",
        )
    return found


def _tiles(delivery: Delivery, product: _Product, group: Element) -> Iterator[str]:
    """Images of one element ``Data_Files``, as GDAL opens them."""
    folder = PurePosixPath(product.name).parent
    there = {n.casefold(): n for n in delivery.names}
    for element in group.iter("DATA_FILE_PATH"):
        href = element.get("href", "")
        # Only a file of the delivery counts: a path that leads out of it is not among its names.
        name = there.get((folder / href).as_posix().casefold())
        if name is None:
            raise InputError(
                f"DIMAP product {product.title} lacks the file {href or 'of a tile'}",
                "download the whole product",
            )
        yield delivery.path(name)


def _order(product: _Product, group: Element, files: tuple[str, ...]) -> list[tuple[int, str]]:
    """Number in the file and id of each band."""
    listed = [
        (int(index), band)
        for index, band in (
            ((e.findtext("BAND_INDEX") or "").strip(), (e.findtext("BAND_ID") or "").strip())
            for e in (
                *group.iter("Raster_Index"),
                *product.root.iterfind("Raster_Data/Raster_Display//Raster_Index"),
            )
        )
        if index.isdecimal() and band
    ]
    if listed:
        return sorted(dict.fromkeys(listed))
    if product.spectral in _PAN:
        return [(1, "P")]
    return _described(files) or list(enumerate(_shown(product), start=1))


def _described(files: tuple[str, ...]) -> list[tuple[int, str]]:
    """The bands by their descriptions in the image, where these name the four usual lights."""
    if not files:
        return []
    with open_raster(files[0], "MS") as image:
        roles = roles_of([d or "" for d in image.descriptions])
    ids = {_ROLES[band]: band for band in _USUAL}
    if sorted(r or "" for r in roles) != sorted(ids):
        return []
    return [(n, ids[role]) for n, role in enumerate(roles, start=1) if role is not None]


def _shown(product: _Product) -> list[str]:
    """The bands in the order of display."""
    shown = [product.text(channel) for channel in _CHANNELS]
    if not all(b in _ROLES for b in shown[:3]):
        shown = list(_USUAL)
    if shown[3] not in _ROLES:
        shown[3] = next(b for b in (*_USUAL, "") if b not in shown[:3])
    return [band for band in shown if band]


def _reflectance(product: _Product, band: str) -> tuple[float, float] | None:
    """Scale and offset of reflectance for the numbers of a band."""
    own = _calibration(product, "Band_Reflectance", band)
    if own is not None:
        return own
    radiance = _calibration(product, "Band_Radiance", band)
    irradiance = _value(product, "Band_Solar_Irradiance", band, "VALUE")
    suns = [s for s in (number(e.text) for e in product.root.iter("SUN_ELEVATION")) if s is not None]
    day = _day(_date(product))
    if radiance is None or not irradiance or irradiance == _UNKNOWN_IRRADIANCE or not suns or day is None:
        return None
    sun = sum(suns) / len(suns)
    if sun <= 0:
        return None
    factor = math.pi * sun_distance(day) ** 2 / (irradiance * math.sin(math.radians(sun)))
    return radiance[0] * factor, radiance[1] * factor


def _calibration(product: _Product, tag: str, band: str) -> tuple[float, float] | None:
    """Scale and offset of an element with gain and bias: value = number / gain + bias."""
    gain, bias = (_value(product, tag, band, what) for what in ("GAIN", "BIAS"))
    return None if not gain or bias is None else (1 / gain, bias)


def _value(product: _Product, tag: str, band: str, what: str) -> float | None:
    for element in product.root.iter(tag):
        if (element.findtext("BAND_ID") or "").strip() == band:
            return number(element.findtext(what))
    return None


def _nodata(product: _Product) -> float | None:
    for element in product.root.iter("Special_Value"):
        if (element.findtext("SPECIAL_VALUE_TEXT") or "").strip().upper() == "NODATA":
            return number(element.findtext("SPECIAL_VALUE_COUNT"))
    return None


def _sensor(product: _Product) -> str:
    mission, index = product.text("MISSION"), product.text("MISSION_INDEX")
    return f"{mission} {index}".strip()


def _date(product: _Product) -> str:
    day, time = product.text("IMAGING_DATE"), product.text("IMAGING_TIME")
    return f"{day}T{time[:8]}Z" if day and re.match(r"\d\d:\d\d:\d\d", time) else day


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None
