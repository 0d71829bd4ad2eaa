"""A folder or archive with one MS and one PAN image, and no metadata that another reader knows.

| format | endings |
|---|---|
| GeoTIFF | ``.tif``, ``.tiff`` |
| JPEG 2000 | ``.jp2`` |
| Erdas Imagine | ``.img`` |
| NITF | ``.ntf``, ``.nitf`` |
| VRT | ``.vrt`` |
| ENVI | ``.hdr`` next to a file without ending, or with ``.dat``, ``.bil``, ``.bip``, ``.bsq``, ``.img`` |

The image with several bands is MS, the one with a single band PAN. Of more than two images those are taken
whose names say MS and PAN, such as ``scene_MS.tif`` and ``scene_PAN.tif``. They are read as two files are.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from das2f_map.errors import InputError
from das2f_map.scene.bands import own_bands
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.delivery import Delivery
from das2f_map.scene.products.stack import BandSource
from das2f_map.scene.source import RasterSource

_ENDINGS = (".tif", ".tiff", ".jp2", ".img", ".ntf", ".nitf", ".vrt")
_NAMED = (
    re.compile(r"(?i)(?:.*[^a-z])?(?:ms|mss|mux|mul|multi|multispectral|xs)(?:[^a-z].*)?"),
    re.compile(r"(?i)(?:.*[^a-z])?(?:p|pan|panchromatic)(?:[^a-z].*)?"),
)
"""Names of images, without their endings, that say MS and PAN."""

_ENVI = ("", ".dat", ".bil", ".bip", ".bsq", ".img")


def find(delivery: Delivery, chosen: str | None = None) -> DeliveredScene | None:
    """The pair in a delivery, or ``None`` if it has not exactly two images, nor two whose names say it.

    Parameters
    ----------
    delivery:
        The files.
    chosen:
        A metadata file that the user names; then nothing is looked for.

    Raises
    ------
    InputError
        There is one image alone; or two, of which not exactly one has a single band.
    """
    if chosen is not None:
        return None
    images = [n for n in delivery.names if _is_image(n, delivery)]
    if len(images) == 1:
        raise InputError(
            f"{delivery.place} has one image, {images[0]}: a scene needs two, MS and PAN",
            "put both into the folder, or name both",
        )
    if len(images) > 2:
        images = [n for kind in _NAMED for n in _alone(kind, images)]
    if len(set(images)) != 2:
        return None
    opened = {}
    for name in images:
        with RasterSource(delivery.path(name), "image") as source:
            opened[name] = own_bands(source.bands)
    pan = [n for n, bands in opened.items() if len(bands) == 1]
    if len(pan) != 1:
        counts = " and ".join(f"{n} with {len(b)} bands" for n, b in opened.items())
        raise InputError(
            f"{delivery.place} has the images {counts}: which one is PAN is not clear",
            "MS has several bands, PAN has one; stack single bands first: "
            "gdalbuildvrt -separate ms.vrt blue.tif green.tif red.tif nir.tif",
        )
    (ms,) = (n for n in images if n not in pan)
    return DeliveredScene(
        place=delivery.place,
        kind="a pair of images",
        name=PurePosixPath(ms).stem,
        ms=tuple(BandSource(b.role, b.name, (delivery.path(ms),), b.number) for b in opened[ms]),
        pan=BandSource("pan", "PAN", (delivery.path(pan[0]),), opened[pan[0]][0].number),
        files=delivery.files((ms, pan[0])),
        as_files=True,
    )


def _alone(kind: re.Pattern[str], images: list[str]) -> list[str]:
    """The one image of a kind by its name; none if there are several."""
    found = [n for n in images if kind.fullmatch(PurePosixPath(n).stem)]
    return found if len(found) == 1 else []


def _is_image(name: str, delivery: Delivery) -> bool:
    path = PurePosixPath(name)
    if path.suffix.lower() in _ENDINGS:
        return True
    headers = (path.with_suffix(".hdr").as_posix(), f"{name}.hdr")
    return path.suffix.lower() in _ENVI and any(h in delivery.names for h in headers)
