"""Bands of separate files, and tiles, as one image: a VRT document that GDAL reads lazily.

The document only names files and their places. GDAL reads the pixels of a window from them when that window
is read, so that nothing is copied and memory does not grow with the scene.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags

from das2f_map.errors import InputError
from das2f_map.scene.paths import image_path, is_local
from das2f_map.scene.raster_file import check_georeferencing, open_raster
from das2f_map.scene.virtual_image import VirtualImage

_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
    "complex_int16": "CInt16",
    "complex64": "CFloat32",
    "complex128": "CFloat64",
}
"""rasterio's name of a data type → GDAL's."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that an XML document cannot hold; among them those that stand for bytes which are not UTF-8."""

_PLACE = 0.01
"""Largest part of a pixel by which a tile may lie off the grid of the first one."""


@dataclass(frozen=True)
class BandSource:
    """A band of a product.

    Attributes
    ----------
    role:
        Plain name of the light that the band measures, see :mod:`das2f_map.scene.bands`.
    label:
        The product's name of the band, for people.
    files:
        The file that has the band, or its tiles; paths or anything else that GDAL opens.
    number:
        Number of the band in each file, from 1.
    scale, offset:
        Reflectance is ``scale × number + offset``; ``None`` if the product does not state them.
    """

    role: str
    label: str
    files: tuple[str, ...]
    number: int = 1
    scale: float | None = None
    offset: float | None = None


@dataclass(frozen=True)
class _Header:
    """The facts of a file that a VRT document repeats."""

    path: str
    width: int
    height: int
    transform: Affine
    crs: CRS
    count: int
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    masked: tuple[bool, ...]
    blocks: tuple[tuple[int, int], ...]


def single_file(band: BandSource) -> str | None:
    """The band's file if it has no other band and no tiles, so that it can be opened as it is."""
    if len(band.files) != 1:
        return None
    return band.files[0] if _header(band.files[0], "PAN").count == 1 else None


def stacked(name: str, bands: Sequence[BandSource], role: str, *, reflectance: bool = False) -> VirtualImage:
    """An image of these bands, in this order, each described by its role.

    Parameters
    ----------
    name:
        The image's name, for messages.
    bands:
        At least one band. All must have the same grid; the tiles of a band may overlap or leave gaps, which
        are nodata.
    role:
        ``"MS"`` or ``"PAN"``, for messages.
    reflectance:
        Whether the bands' own scale and offset replace those of the files.

    Raises
    ------
    InputError
        A file cannot be opened, is not rectified or lacks the band; or the grids differ.
    """
    headers = {path: _header(path, role) for path in dict.fromkeys(f for b in bands for f in b.files)}
    mosaics = [_Mosaic([headers[f] for f in band.files], role) for band in bands]
    first = mosaics[0]
    for band, mosaic in zip(bands[1:], mosaics[1:], strict=True):
        if not mosaic.same_grid(first):
            raise InputError(
                f"{role} bands of {name} lie on different grids: {bands[0].label} has {first.size}, "
                f"{band.label} has {mosaic.size}",
                "bring them to one grid with gdalwarp, and give MS and PAN as two files",
            )
    root = ElementTree.Element("VRTDataset", rasterXSize=str(first.width), rasterYSize=str(first.height))
    ElementTree.SubElement(root, "SRS").text = first.crs.to_wkt(version="WKT2_2019")
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(map(repr, first.transform.to_gdal()))
    for number, (band, mosaic) in enumerate(zip(bands, mosaics, strict=True), start=1):
        root.append(_band(number, band, mosaic, name, reflectance))
    return VirtualImage(name, ElementTree.tostring(root, encoding="unicode"))


class _Mosaic:
    """Files side by side on one grid; often one file alone."""

    def __init__(self, tiles: Sequence[_Header], role: str) -> None:
        first = tiles[0]
        self.tiles, self.crs = tiles, first.crs
        corners = []
        for tile in tiles:
            col, row = ~first.transform * (tile.transform.c, tile.transform.f)
            off_grid = max(abs(col - round(col)), abs(row - round(row))) > _PLACE
            if tile.crs != first.crs or off_grid or not _same_pixels(tile.transform, first.transform):
                raise InputError(
                    f"{role} tiles {first.path} and {tile.path} do not lie on one grid",
                    "join them first, e.g. with gdalwarp, and give MS and PAN as two files",
                )
            corners.append((round(col), round(row)))
        left, top = min(c for c, _ in corners), min(r for _, r in corners)
        self.offsets = [(col - left, row - top) for col, row in corners]
        self.width = max(c + t.width for (c, _), t in zip(self.offsets, tiles, strict=True))
        self.height = max(r + t.height for (_, r), t in zip(self.offsets, tiles, strict=True))
        self.transform = first.transform * Affine.translation(left, top)

    @property
    def size(self) -> str:
        """Size and pixel size in words."""
        return f"{self.width} × {self.height} pixels of {abs(self.transform.a):g} × {abs(self.transform.e):g}"

    @property
    def has_gaps(self) -> bool:
        """Whether the tiles leave out ground, or may do so."""
        return bool(sum(t.width * t.height for t in self.tiles) != self.width * self.height)

    def same_grid(self, other: _Mosaic) -> bool:
        """Whether both have the same pixels."""
        near = all(
            math.isclose(one, another, rel_tol=1e-9, abs_tol=1e-9)
            for one, another in zip(self.transform, other.transform, strict=True)
        )
        same = (self.width, self.height) == (other.width, other.height) and bool(self.crs == other.crs)
        return same and near


def _same_pixels(one: Affine, other: Affine) -> bool:
    """Whether pixels have the same size and direction, as far as metadata are exact."""
    return all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
        for a, b in zip((one.a, one.b, one.d, one.e), (other.a, other.b, other.d, other.e), strict=True)
    )


def _header(path: str, role: str) -> _Header:
    """The facts of a file; raises ``InputError`` if it cannot be opened or is not rectified."""
    if _NOT_IN_XML.search(image_path(path)):
        raise InputError(
            f"{role} file {path!r} has a name that cannot be used: it has control characters",
            "rename it",
        )
    with open_raster(path, role) as ds:
        check_georeferencing(ds, f"{role} file {path}")
        return _Header(
            path,
            ds.width,
            ds.height,
            ds.transform,
            ds.crs,
            ds.count,
            tuple(ds.dtypes),
            tuple(ds.nodatavals),
            tuple(ds.scales),
            tuple(ds.offsets),
            tuple(MaskFlags.per_dataset in flags for flags in ds.mask_flag_enums),
            tuple(ds.block_shapes),
        )


def _band(
    number: int, band: BandSource, mosaic: _Mosaic, name: str, reflectance: bool
) -> ElementTree.Element:
    """The element of a band, with its files as sources."""
    place = band.number - 1
    for tile in mosaic.tiles:
        if not 1 <= band.number <= tile.count:
            raise InputError(
                f"{tile.path} has no band {band.number} for {band.role}: it has {tile.count}",
                f"the metadata of {name} do not match this file",
            )
    first = mosaic.tiles[0]
    element = ElementTree.Element("VRTRasterBand", dataType=_type(first, place), band=str(number))
    ElementTree.SubElement(element, "Description").text = band.role
    if first.nodata[place] is not None:
        ElementTree.SubElement(element, "NoDataValue").text = repr(first.nodata[place])
    scale, offset = first.scales[place], first.offsets[place]
    if reflectance and band.scale is not None:
        scale, offset = band.scale, band.offset or 0.0
    if (scale, offset) != (1.0, 0.0):
        ElementTree.SubElement(element, "Offset").text = repr(float(offset))
        ElementTree.SubElement(element, "Scale").text = repr(float(scale))
    for tile, at in zip(mosaic.tiles, mosaic.offsets, strict=True):
        element.append(_source(tile, at, str(band.number), _type(first, place)))
    # Without a nodata value a gap between tiles would be black ground.
    if any(t.masked[place] for t in mosaic.tiles) or (mosaic.has_gaps and first.nodata[place] is None):
        mask = ElementTree.SubElement(
            ElementTree.SubElement(element, "MaskBand"), "VRTRasterBand", dataType="Byte"
        )
        for tile, at in zip(mosaic.tiles, mosaic.offsets, strict=True):
            mask.append(_source(tile, at, f"mask,{band.number}", "Byte"))
    return element


def _source(tile: _Header, at: tuple[int, int], band: str, dtype: str) -> ElementTree.Element:
    """The element of a file as a source of a band's pixels, or of its mask's."""
    source = ElementTree.Element("SimpleSource")
    # A path that begins with a space would lose it.
    path = image_path(tile.path)
    path = path if not is_local(path) or path.startswith("/") else f"./{path}"
    file = ElementTree.SubElement(source, "SourceFilename", relativeToVRT="0", shared="0")
    file.text = gdal_path(path)
    ElementTree.SubElement(source, "SourceBand").text = band
    rows, cols = tile.blocks[0]
    ElementTree.SubElement(
        source,
        "SourceProperties",
        RasterXSize=str(tile.width),
        RasterYSize=str(tile.height),
        DataType=dtype,
        BlockXSize=str(cols),
        BlockYSize=str(rows),
    )
    for tag, (col, row) in (("SrcRect", (0, 0)), ("DstRect", at)):
        ElementTree.SubElement(
            source, tag, xOff=str(col), yOff=str(row), xSize=str(tile.width), ySize=str(tile.height)
        )
    return source


def _type(header: _Header, place: int) -> str:
    found = _TYPES.get(header.dtypes[place])
    if found is None:
        raise InputError(f"{header.path} has values of type {header.dtypes[place]}, which cannot be read")
    return found


_SCHEMES = {"http": "/vsicurl/http", "https": "/vsicurl/https", "s3": "/vsis3"}


def gdal_path(path: str) -> str:
    """A path or an address as GDAL itself takes it; rasterio takes more."""
    scheme, colon, rest = path.partition("://")
    if not colon or scheme not in _SCHEMES:
        return path
    return f"{_SCHEMES[scheme]}{'/' if scheme == 's3' else '://'}{rest}"
