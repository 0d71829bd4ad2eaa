"""One georeferenced raster file, opened, checked and read by window.

A :class:`RasterSource` always presents its image the usual way up: columns run to the east
(or as near as the rotation allows) and the image is not mirrored. South-up and mirrored files
are turned while reading, so nothing above this module has to think of them.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from das2f_map.errors import InputError
from das2f_map.scene.bands import FileBand, roles_of
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool, Float32

_REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)|(https?|ftp|s3|gs|az|oss|swift)://")
_ACCESS_HINT = (
    "check the address and the connection; what is not public needs credentials in the environment, "
    "e.g. AWS_ACCESS_KEY_ID or GDAL_HTTP_BEARER"
)

_RECTIFY_HINT = "rectify it first, e.g. gdalwarp -t_srs EPSG:32631 {flag}in.tif out.tif, with your own CRS"


class RasterSource:
    """A raster file as measurements: image bands, nodata as NaN, scale and offset applied.

    Parameters
    ----------
    path:
        A local path, or whatever else GDAL opens (``https://``, ``s3://``, ``/vsicurl/``…).
    role:
        ``"MS"`` or ``"PAN"``, for messages.
    nodata:
        A pixel that has this value, before scale and offset, in all bands that are read is invalid, beside
        those that the file declares. (In one band alone it may be a measurement: dark water in NIR.)

    Attributes
    ----------
    path:
        As given, as text.
    grid:
        The file's own grid, the usual way up (see the module's note).
    bands:
        All bands of the file, alpha bands too. An alpha band that is described as a colour is none:
        many programs mark the fourth of four bands of bytes as alpha, whatever it holds.
    nodata_value:
        Of the first band that is read: the declared value, where nothing else in the file says what is valid.
    dtype:
        That holds the values of all bands that are read; where all have one type, that.

    Raises
    ------
    InputError
        The file is missing, not a raster, has no usable georeferencing or no real-valued bands.
    """

    def __init__(self, path: str | Path, role: str, *, nodata: float | None = None) -> None:
        self.path = str(path)
        self.role = role
        self._nodata = nodata
        self._dataset = _open(self.path, role)
        try:
            self._prepare()
        except BaseException:  # whatever it was, an interrupt too: tidied up, and raised on
            self._dataset.close()
            raise

    def _prepare(self) -> None:
        ds = self._dataset
        label = f"{self.role} file {self.path}"
        _check_georeferencing(ds, label)
        self.bands: tuple[FileBand, ...] = tuple(
            FileBand(i, _band_name(description, colour, i), _is_alpha(description, colour))
            for i, description, colour in zip(ds.indexes, ds.descriptions, ds.colorinterp, strict=True)
        )
        # GDAL takes alpha for a mask only if it is the last of two or four bands and there is no nodata.
        self._alpha = [b.number for b in self.bands if b.alpha]
        images = [b.number for b in self.bands if not b.alpha]
        if not images:
            raise InputError(
                f"{label} has no image bands",
                "if it is a container (HDF, netCDF, SAFE), name one of its subdatasets, see gdalinfo",
            )
        self._use(images)
        self._flip_rows, self._flip_cols, transform = _upright(ds.transform, ds.height, ds.width)
        self.grid = Grid(ds.height, ds.width, transform, ds.crs)

    def _use(self, numbers: Sequence[int]) -> None:
        """Read these bands, in this order."""
        ds = self._dataset
        self._indexes = list(numbers)
        self._alpha = [i for i in self._alpha if i not in self._indexes]
        dtypes = [ds.dtypes[i - 1] for i in self._indexes]
        odd = [d for d in dtypes if "complex" in d or d.startswith("c")]
        if odd:
            raise InputError(
                f"{self.role} file {self.path} has complex values ({odd[0]})",
                "give intensities or reflectances instead",
            )
        self._dtypes = [np.dtype(d) for d in dtypes]
        self.dtype: str = np.result_type(*self._dtypes).name
        self._scales = np.array([ds.scales[i - 1] for i in self._indexes])
        self._offsets = np.array([ds.offsets[i - 1] for i in self._indexes])
        self._without_scale = [
            i for i, s in zip(self._indexes, self._scales, strict=True) if not (np.isfinite(s) and s != 0)
        ]
        # Alpha bands are read as such: GDAL would take one for a mask though it is read as an image band.
        flags = [ds.mask_flag_enums[i - 1] for i in self._indexes]
        self._has_mask = any(not {MaskFlags.all_valid, MaskFlags.alpha} & set(f) for f in flags)
        # Where a file has a mask of its own, GDAL leaves the declared nodata value out of account.
        values = [ds.nodatavals[i - 1] for i in self._indexes]
        self.nodata_value: float | None = values[0] if MaskFlags.nodata in flags[0] else None
        self._beside_mask = [
            (place, value)
            for place, (value, f) in enumerate(zip(values, flags, strict=True))
            if value is not None and MaskFlags.nodata not in f
        ]

    def with_bands(self, numbers: Sequence[int]) -> RasterSource:
        """The same open file, reading these bands of it (numbers in the file, from 1), in this order.

        An alpha band among them is read as an image band and masks nothing. Closing either closes both.
        """
        other = copy.copy(self)
        other._use(numbers)
        return other

    def dtype_of(self, number: int) -> str:
        """Of a band of the file, counted from 1."""
        return str(self._dataset.dtypes[number - 1])

    def tag(self, name: str) -> str | None:
        """A metadata item of the file; ``None`` if it has none of that name."""
        value = self._dataset.tags().get(name)
        return None if value is None else str(value)

    def can_hold(self, value: float) -> bool:
        """Whether a pixel of any band that is read can have a value, before scale and offset."""
        for dtype in self._dtypes:
            if np.issubdtype(dtype, np.floating):
                # By size: decimals are rounded when values are compared, and NaN is invalid anyway.
                with np.errstate(over="ignore"):
                    if not np.isfinite(value) or np.isfinite(dtype.type(value)):
                        return True
            elif float(value).is_integer() and np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max:
                return True
        return False

    @property
    def band_count(self) -> int:
        """Bands that are read; by default all but alpha."""
        return len(self._indexes)

    def read(self, window: Window) -> Float32:
        """Read a window of :attr:`grid`, which may reach outside it.

        Returns
        -------
        float32 (bands, height, width)
            Values in the file's units after scale and offset; NaN where the file says nodata
            (nodata value, mask or alpha band), where a value is not finite, and outside the file.

        Raises
        ------
        InputError
            The file is damaged, or states a scale of 0 for a band that is read.
        """
        return self._in_units(*self.read_raw(window))

    def read_reduced(self, window: Window, height: int, width: int) -> Float32:
        """As :meth:`read`, for a window inside the file, in fewer pixels: from overviews if the file has
        some. Averages of a small window, else values from here and there."""
        # Averages would take in what only the declared nodata value tells to be invalid.
        average = window.height * window.width < 30_000_000 and not self._beside_mask
        return self._in_units(
            *self._in_fewer(window, height, width, Resampling.average if average else Resampling.nearest)
        )

    def read_raw_reduced(self, window: Window, height: int, width: int) -> tuple[npt.NDArray[Any], Bool]:
        """As :meth:`read_raw`, for a window inside the file, in fewer pixels: values from here and there."""
        return self._in_fewer(window, height, width, Resampling.nearest)

    def _in_fewer(
        self, window: Window, height: int, width: int, method: Resampling
    ) -> tuple[npt.NDArray[Any], Bool]:
        row = self.grid.height - window.row_stop if self._flip_rows else window.row
        col = self.grid.width - window.col_stop if self._flip_cols else window.col
        on_file = RasterioWindow(col, row, window.width, window.height)
        options = {"window": on_file, "out_shape": (len(self._indexes), height, width)}
        try:
            raw = self._read(resampling=method, **options)
            valid = np.ones(raw.shape, dtype=np.bool_)
            if self._has_mask:
                valid &= self._dataset.read_masks(self._indexes, **options) != 0
            for alpha in self._alpha:
                shape = (height, width)
                valid &= self._dataset.read(alpha, window=on_file, out_shape=shape) != 0
        except RasterioError as error:
            raise self._damaged(error, row, col) from error
        return self._checked(raw, valid)

    def read_raw(self, window: Window) -> tuple[npt.NDArray[Any], Bool]:
        """As :meth:`read`: the file's own numbers, 0 outside it, and which are valid; both (bands, h, w)."""
        shape = (self.band_count, window.height, window.width)
        inside = window.intersection(self.grid.window)
        if inside.is_empty:
            return np.zeros(shape, dtype=self.dtype), np.zeros(shape, dtype=np.bool_)
        row = self.grid.height - inside.row_stop if self._flip_rows else inside.row
        col = self.grid.width - inside.col_stop if self._flip_cols else inside.col
        on_file = RasterioWindow(col, row, inside.width, inside.height)
        try:
            raw = self._read(window=on_file)
            valid = np.ones(raw.shape, dtype=np.bool_)
            if self._has_mask:
                valid &= self._dataset.read_masks(self._indexes, window=on_file) != 0
            for alpha in self._alpha:
                valid &= self._dataset.read(alpha, window=on_file) != 0
        except RasterioError as error:
            raise self._damaged(error, row, col) from error
        raw, valid = self._checked(raw, valid)
        if inside == window:
            return raw, valid
        out, known = np.zeros(shape, dtype=raw.dtype), np.zeros(shape, dtype=np.bool_)
        top, left = inside.row - window.row, inside.col - window.col
        place = (slice(None), slice(top, top + inside.height), slice(left, left + inside.width))
        out[place], known[place] = raw, valid
        return out, known

    def _read(self, **options: Any) -> npt.NDArray[Any]:
        """The bands in use; rasterio reads bands of several types only one by one."""
        if len(set(self._dtypes)) == 1:
            raw: npt.NDArray[Any] = self._dataset.read(self._indexes, **options)
            return raw
        shape = options.pop("out_shape", None)
        if shape is not None:
            options["out_shape"] = shape[1:]
        return np.stack([self._dataset.read(i, **options) for i in self._indexes]).astype(
            self.dtype, copy=False
        )

    def _checked(self, raw: npt.NDArray[Any], valid: Bool) -> tuple[npt.NDArray[Any], Bool]:
        """The usual way up, and without nodata values that GDAL does not see to."""
        for place, value in self._beside_mask:
            band = raw[place]
            if np.isnan(value):
                valid[place] &= ~np.isnan(band)
            else:
                valid[place] &= band != self._as_in(place, value)
        if self._nodata is not None:
            same = [band == self._as_in(place, self._nodata) for place, band in enumerate(raw)]
            valid &= ~np.logical_and.reduce(same)
        if self._flip_rows:
            raw, valid = raw[:, ::-1], valid[:, ::-1]
        if self._flip_cols:
            raw, valid = raw[:, :, ::-1], valid[:, :, ::-1]
        return raw, valid

    def _as_in(self, place: int, value: float) -> Any:
        """A nodata value is given as a float64, and may be a float32's only when rounded."""
        dtype = self._dtypes[place]
        with np.errstate(over="ignore"):
            return dtype.type(value) if np.issubdtype(dtype, np.floating) else value

    def _in_units(self, raw: npt.NDArray[Any], valid: Bool) -> Float32:
        """With scale and offset, NaN where invalid."""
        if self._without_scale:
            number = self._without_scale[0]
            band = f"band {number} ({self.bands[number - 1].name})"
            scale = self._dataset.scales[number - 1]
            raise InputError(
                f"{self.role} file {self.path} states a scale of {scale:g} for {band}, which leaves no value",
                "gdalinfo shows it; without one: gdal_edit.py -scale 1 -offset 0 file",
            )
        if np.any(self._scales != 1.0) or np.any(self._offsets != 0.0):
            raw = raw * self._scales[:, None, None] + self._offsets[:, None, None]
        with np.errstate(over="ignore", invalid="ignore"):
            values = raw.astype(np.float32)
        values[~(valid & np.isfinite(values))] = np.nan
        return values

    def _damaged(self, error: RasterioError, row: int, col: int) -> InputError:
        cause = error.__cause__ or error
        return InputError(
            f"{self.role} file {self.path} cannot be read at row {row}, column {col}: {cause}",
            "the file seems to be damaged or cut short",
        )

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    def __enter__(self) -> RasterSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: str, role: str) -> rasterio.DatasetReader:
    is_local = "://" not in path and not path.startswith("/vsi") and ":" not in path[2:]
    if is_local and not Path(path).exists():
        raise InputError(f"{role} file {path} does not exist", "check the path")
    try:
        with warnings.catch_warnings():
            # What it warns of is an error here, raised with more to go on below.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        if is_local and Path(path).is_dir():
            raise InputError(f"{role} file {path} is a folder", "name the image file inside it") from error
        # What is there but is no image has been fetched.
        fetched = "not recognized as being in a supported" in str(error)
        hint = _ACCESS_HINT if _REMOTE.search(path) and not fetched else "gdalinfo shows what GDAL sees"
        raise InputError(f"{role} file {path} cannot be opened as a raster: {error}", hint) from error


def _check_georeferencing(ds: rasterio.DatasetReader, label: str) -> None:
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
    if not np.isfinite(t.determinant) or abs(t.determinant) <= 1e-6 * lengths:
        raise InputError(
            f"{label} has an unusable geotransform: its pixels have no area", "gdalinfo shows it; set it anew"
        )
    skew = abs(t.a * t.b + t.d * t.e) / lengths
    if skew > 0.01:
        raise InputError(
            f"{label} has a sheared geotransform: its rows and columns are not at right angles",
            "bring it to a north-up grid first, e.g. gdalwarp in.tif out.tif",
        )


def _upright(transform: Affine, height: int, width: int) -> tuple[bool, bool, Affine]:
    """Which axes to turn so that columns run east and the image is not mirrored, and the transform then."""
    flip_cols = transform.a < 0
    # A determinant under 0 is the usual handedness: rows run to the right hand of columns seen from above.
    flip_rows = (transform.determinant > 0) != flip_cols
    if flip_cols:
        transform = transform * Affine(-1, 0, width, 0, 1, 0)
    if flip_rows:
        transform = transform * Affine(1, 0, 0, 0, -1, height)
    return flip_rows, flip_cols, transform


def _is_alpha(description: str | None, colour: ColorInterp) -> bool:
    return colour == ColorInterp.alpha and roles_of([description or ""]) == (None,)


def _band_name(description: str | None, colour: ColorInterp, number: int) -> str:
    if description and description.strip():
        return description.strip()
    if colour in (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette):
        return f"band_{number}"
    return str(colour.name).lower()
