"""Open a georeferenced raster file, check it, and find which way is up in it."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyproj
import rasterio
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from das2f_map.errors import Das2fMapError, InputError
from das2f_map.scene.archive import archive_hint
from das2f_map.scene.paths import image_path, is_dir, is_local, missing_local_file
from das2f_map.scene.virtual_image import VirtualImage

_REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)|(https?|ftp|s3|gs|az|oss|swift)://")
_NOT_KEPT = "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/:/vsiadls/:/vsioss/:/vsiswift/"
_ACCESS_HINT = (
    "check the address and the connection; what is not public needs credentials in the environment, "
    "e.g. AWS_ACCESS_KEY_ID or GDAL_HTTP_BEARER"
)

_PATIENCE = {
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
}
"""Options of GDAL for files at an address: without them it waits for ever for a server that says nothing."""

_FARTHEST_M = 1e8
"""Coordinates of no projection are as large, even two turns around the Earth away."""

_RECTIFY_HINT = "rectify it first, e.g. gdalwarp -t_srs EPSG:32631 {flag}in.tif out.tif, with your own CRS"


def open_raster(path: str | VirtualImage, role: str) -> rasterio.DatasetReader:
    """An open raster file; close it after use.

    Parameters
    ----------
    path:
        A local path, anything else that GDAL opens, or a virtual image.
    role:
        ``"MS"``, ``"PAN"`` or the like, for messages.

    Raises
    ------
    InputError
        The file is missing, a folder, out of reach, or no raster.
    """
    if isinstance(path, VirtualImage):
        # Its files were opened when it was made.
        return rasterio.open(path.xml)
    if missing_local_file(path):
        raise InputError(f"{role} file {path} does not exist", "check the path")
    if _REMOTE.search(path):
        for option, value in _PATIENCE.items():
            os.environ.setdefault(option, value)
    try:
        with warnings.catch_warnings():
            # rasterio warns of missing georeferencing; `check_georeferencing` raises an error with a hint.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(image_path(path))
    except UnicodeDecodeError as error:
        raise InputError(*not_utf8(f"{role} file {path}")) from error
    except RasterioError as error:
        if is_local(path) and is_dir(path):
            raise InputError(
                f"{role} file {path} is a folder",
                "name the image file inside it; or give a product's folder alone, without PAN",
            ) from error
        # If GDAL has fetched a file but does not recognise it, access is not the problem.
        fetched = "not recognized as being in a supported" in str(error)
        hint = _ACCESS_HINT if _REMOTE.search(path) and not fetched else "gdalinfo shows what GDAL sees"
        hint = archive_hint(path) or hint
        raise InputError(f"{role} file {path} cannot be opened as a raster: {error}", hint) from error
    if not dataset.count:
        with dataset:
            raise container_error(f"{role} file {path}", dataset.subdatasets)
    return dataset


def fetch_anew(path: str) -> None:
    """Let GDAL forget the bytes that it has fetched of a file at an address; does nothing for other files.

    GDAL keeps the part of an answer that came before the connection broke, and takes it for the whole.
    """
    if _REMOTE.search(path):
        # Of such a file GDAL drops all bytes when one who has opened it closes it.
        with suppress(RasterioError), rasterio.Env(CPL_VSIL_CURL_NON_CACHED=_NOT_KEPT):
            rasterio.open(image_path(path)).close()


def not_utf8(label: str) -> tuple[str, str]:
    """Message and hint for a file whose texts, such as names of bands or of the CRS, are not UTF-8."""
    return f"{label} has texts that are not UTF-8", "it seems to be damaged; gdalinfo shows its texts"


def container_error(
    label: str, subdatasets: Sequence[str], error: type[Das2fMapError] = InputError
) -> Das2fMapError:
    """The error for a file without bands of its own, such as netCDF, HDF or SAFE."""
    listed = ", ".join(subdatasets[:5]) + (" and others" if len(subdatasets) > 5 else "")
    return error(
        f"{label} is a container: it has no image bands of its own",
        f"name one of its subdatasets: {listed}" if listed else "gdalinfo shows what is in it",
    )


def check_georeferencing(ds: rasterio.DatasetReader, label: str) -> None:
    """Raise ``InputError`` unless a file has a CRS and a transform with right angles.

    ``label`` names the file in messages.
    """
    without_transform = ds.transform.is_identity
    if without_transform or ds.crs is None:
        if ds.gcps[0]:
            raise InputError(
                f"{label} is not rectified: it has only ground control points", _RECTIFY_HINT.format(flag="")
            )
        if ds.rpcs is not None:
            raise InputError(
                f"{label} is not rectified: it has only rational polynomial coefficients (RPC)",
                _RECTIFY_HINT.format(flag="-rpc "),
            )
    if without_transform:
        raise InputError(
            f"{label} has no georeferencing (pixel size and position)",
            "set it with gdal_translate -a_ullr, or keep the .tfw or .aux.xml file beside the image",
        )
    if ds.crs is None:
        raise InputError(
            f"{label} has no coordinate reference system", "if you know it: gdal_edit.py -a_srs EPSG:… file"
        )
    t = ds.transform
    lengths = np.hypot(t.a, t.d) * np.hypot(t.b, t.e)
    if not np.isfinite([*t]).all() or abs(t.determinant) <= 1e-6 * lengths:
        raise InputError(
            f"{label} has an unusable geotransform: its pixels have no area", "gdalinfo shows it; set it anew"
        )
    skew = abs(t.a * t.b + t.d * t.e) / lengths
    if skew > 0.01:
        raise InputError(
            f"{label} has a sheared geotransform: its rows and columns are not at right angles",
            "bring it to a north-up grid first, e.g. gdalwarp in.tif out.tif",
        )
    refuse_impossible_place(ds, label)


def refuse_impossible_place(
    ds: rasterio.DatasetReader, label: str, error: type[Das2fMapError] = InputError
) -> None:
    """Raise ``error`` if a file lies where its coordinate reference system has no place on Earth.

    Without one, its pixels must have coordinates that differ from each other. ``label`` names the file in
    messages.
    """
    corners = np.array([ds.transform * (c, r) for c in (0, ds.width) for r in (0, ds.height)])
    t = ds.transform
    with np.errstate(over="ignore", invalid="ignore"):
        pixel = min(np.hypot(t.a, t.d), np.hypot(t.b, t.e))
        told_apart = np.isfinite(corners).all() and np.spacing(np.abs(corners).max()) < pixel
    if not told_apart:
        raise error(
            f"{label} has an unusable geotransform: its pixels have no coordinates of their own",
            "gdalinfo shows it; set it anew",
        )
    if ds.crs is None:
        return
    if ds.crs.is_projected:
        _refuse_place_off_the_map(ds, label, error)
    if ds.crs.is_geographic:
        _refuse_place_off_the_globe(ds, label, error)


def _refuse_place_off_the_globe(ds: rasterio.DatasetReader, label: str, error: type[Das2fMapError]) -> None:
    turn = 2 * math.pi / ds.crs.units_factor[1]
    corners = [ds.transform * (c, r) for c in (0, ds.width) for r in (0, ds.height)]
    # World grids may reach half a pixel beyond the pole, and files may count longitudes from 0 or further on.
    margin = math.hypot(ds.transform.b, ds.transform.e)
    for name, values, limit in (
        ("latitude", [y for _, y in corners], turn / 4 + margin),
        ("longitude", [x for x, _ in corners], 2 * turn),
    ):
        worst = max(values, key=abs)
        if not abs(worst) <= limit:
            raise error(
                f"{label} claims to be in degrees ({ds.crs.to_string()[:40]}): {name} {worst:,.0f} is none",
                "its coordinate reference system is another; if you know it: gdal_edit.py -a_srs EPSG:… file",
            )


def _refuse_place_off_the_map(ds: rasterio.DatasetReader, label: str, error: type[Das2fMapError]) -> None:
    # Only some corners may lack a place: a full disk seen from space has empty ones.
    steps = [(c * ds.width / 4, r * ds.height / 4) for c in range(5) for r in range(5)]
    x, y = np.transpose([ds.transform * step for step in steps])
    try:
        to_degrees = pyproj.Transformer.from_crs(ds.crs.to_wkt(), "OGC:CRS84", always_xy=True)
    except ProjError:
        return  # its own message comes from whatever needs degrees
    placed = np.isfinite(to_degrees.transform(x, y)).all(axis=0)
    # Some projections go on around the Earth without end.
    placed &= np.maximum(np.abs(x), np.abs(y)) * ds.crs.linear_units_factor[1] < _FARTHEST_M
    if not placed.any():
        raise error(
            f"{label} lies nowhere on Earth: its coordinates, {x[0]:,.0f} and {y[0]:,.0f}, are none of its "
            f"coordinate reference system ({ds.crs.to_string()[:40]})",
            "one of the two is wrong; gdalinfo shows them, and gdal_edit.py -a_srs or -a_ullr sets them",
        )


def upright(transform: Affine, height: int, width: int) -> tuple[bool, bool, Affine]:
    """The axes to flip so that columns run east and the image is not mirrored.

    Returns
    -------
    tuple
        Whether to flip the rows, whether to flip the columns, and the transform of the flipped image.
    """
    flip_cols = transform.a < 0
    # An image that is not mirrored has a negative determinant: y grows upwards, but rows run downwards.
    flip_rows = (transform.determinant > 0) != flip_cols
    if flip_cols:
        transform = transform * Affine(-1, 0, width, 0, 1, 0)
    if flip_rows:
        transform = transform * Affine(1, 0, 0, 0, -1, height)
    return flip_rows, flip_cols, transform
