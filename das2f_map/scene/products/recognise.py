"""Which product a path names, and the pair of images in it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from das2f_map.errors import InputError
from das2f_map.scene.paths import exists, is_dir, is_local
from das2f_map.scene.products import dimap, gaofen, landsat, maxar, pairs, stac
from das2f_map.scene.products.delivered import DeliveredScene
from das2f_map.scene.products.delivery import ARCHIVES, Delivery, is_archive
from das2f_map.scene.raster_file import open_raster

_READERS = (landsat.find, dimap.find, maxar.find, gaofen.find, stac.find, pairs.find)
"""Tried in this order. The last takes any two images, so it comes after those that know names."""

_METADATA = (".txt", ".xml", ".json", ".geojson", ".imd", ".til")
"""Extensions of metadata files that may be named in place of their folder, small letters."""

_WITHOUT_PAN = (
    (
        re.compile(r"(?i)MTD_MSI(L1C|L2A)\.xml"),
        "Sentinel-2 product",
        "a PAN image of another sensor would be needed",
    ),
)
"""Names of files that tell a product without a PAN band, its kind, and a hint."""

KNOWN = (
    "Landsat Level-1, DIMAP V2 (Pléiades, SPOT 6/7), Maxar, Gaofen or SuperView, a STAC Item, "
    "or one MS and one PAN image"
)


def recognise(scene: str) -> DeliveredScene:
    """The pair of images in a product.

    Parameters
    ----------
    scene:
        A folder, an archive, a metadata file, or the address of a STAC Item.

    Raises
    ------
    InputError
        There is no such file; it is one image; no kind of product is recognised; or the product is incomplete
        or has no PAN band.
    """
    if not is_local(scene):
        if is_archive(scene.partition("?")[0]):
            raise InputError(
                f"{scene} is an archive at an address, which is not read there",
                "download it, and give the file",
            )
        if re.match(r"https?://", scene) and not _is_image_address(scene):
            return stac.read_address(scene)
        raise _one_image(scene)
    path = Path(scene)
    if is_dir(path):
        return _found(Delivery.of_folder(scene), scene)
    if not exists(path):
        raise InputError(f"MS file or product {scene} does not exist", "check the path")
    if is_archive(scene):
        return _found(Delivery.of_archive(scene), scene)
    if path.suffix.lower() in _METADATA:
        if path.suffix.lower() in (".json", ".geojson") and stac.is_item_file(scene):
            return stac.read_file(scene)
        folder = str(path.parent)
        return _found(Delivery.of_folder(folder), scene, path.name)
    raise _one_image(scene)


def _found(delivery: Delivery, scene: str, chosen: str | None = None) -> DeliveredScene:
    """The product in a delivery, by the first reader that recognises one."""
    for find in _READERS:
        found = find(delivery, chosen)
        if found is not None:
            return replace(found, place=scene)
    for name in delivery.names:
        for pattern, kind, hint in _WITHOUT_PAN:
            if pattern.fullmatch(PurePosixPath(name).name):
                raise InputError(f"{kind} {scene}: it has no PAN band", hint)
    raise InputError(f"{scene} is no product that is recognised: {KNOWN}", "give MS and PAN as two files")


def _is_image_address(address: str) -> bool:
    return re.search(r"(?i)\.(tiff?|jp2|img|vrt|ntf)([?#]|$)", address) is not None


def _one_image(scene: str) -> InputError:
    """The error for one image alone: it says which files to give."""
    path = Path(scene)
    folder = str(path.parent)
    if landsat.is_one_band(path.name):
        return InputError(
            f"{scene} is one band of a Landsat product, and PAN is missing",
            f"give the product's folder, {folder}, or its archive or MTL file",
        )
    around = _product_with(scene) if path.is_file() else None
    if around is not None and around.as_files:
        return InputError(
            f"PAN is missing, and {scene} is one image",
            f"give MS and PAN, {around.ms[0].files[0]} and {around.pan.files[0]}, or their folder, {folder}",
        )
    if around is not None:
        return InputError(
            f"{scene} is one image of a product, {around.kind} {around.name}, and PAN is missing",
            f"give the product's folder, {folder}",
        )
    if path.is_file() and _is_single_band(scene):
        return InputError(
            f"{scene} is a single band, and a scene needs an MS image of several bands and PAN",
            "give both, or the product's folder; stack single bands first: "
            "gdalbuildvrt -separate ms.vrt blue.tif green.tif red.tif nir.tif",
        )
    return InputError(
        f"PAN is missing, and {scene} is no product",
        f"give two files, MS and PAN, or a product: a folder, an archive ({', '.join(ARCHIVES)}), "
        "a metadata file or a STAC Item",
    )


def _product_with(image: str) -> DeliveredScene | None:
    """The product in the folder of an image, if it holds this image."""
    with suppress(InputError):  # no product, or one that cannot be used
        folder = Path(image).parent
        found = _found(Delivery.of_folder(str(folder)), str(folder))
        if Path(image) in map(Path, found.files):
            return found
    return None


def _is_single_band(image: str) -> bool:
    try:
        with open_raster(image, "MS") as dataset:
            return bool(dataset.count == 1)
    except InputError:
        return False
