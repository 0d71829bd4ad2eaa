"""One georeferenced raster file, opened, checked and read by window.

A :class:`RasterSource` always presents its image the usual way up: columns run to the east
(or as near as the rotation allows) and the image is not mirrored. South-up and mirrored files
are turned while reading, so nothing above this module has to think of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError

from das2f_map.errors import InputError
from das2f_map.scene.bands import FileBand, roles_of
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.raster_file import check_georeferencing, open_raster, upright
from das2f_map.types import Bool, Float32


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
        self._dataset = open_raster(self.path, role)
        try:
            self._prepare()
        except BaseException:  # whatever it was, an interrupt too: tidied up, and raised on
            self._dataset.close()
            raise

    def _prepare(self) -> None:
        ds = self._dataset
        label = f"{self.role} file {self.path}"
        check_georeferencing(ds, label)
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
        self._flip_rows, self._flip_cols, transform = upright(ds.transform, ds.height, ds.width)
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
        on_file = self._in_file(window)
        place = on_file.to_rasterio()
        options = {"window": place, "out_shape": (len(self._indexes), height, width)}
        try:
            raw = self._read(resampling=method, **options)
            valid = np.ones(raw.shape, dtype=np.bool_)
            if self._has_mask:
                valid &= self._dataset.read_masks(self._indexes, **options) != 0
            for alpha in self._alpha:
                shape = (height, width)
                valid &= self._dataset.read(alpha, window=place, out_shape=shape) != 0
        except RasterioError as error:
            raise self._damaged(error, on_file) from error
        return self._checked(raw, valid)

    def read_raw(self, window: Window) -> tuple[npt.NDArray[Any], Bool]:
        """As :meth:`read`: the file's own numbers, 0 outside it, and which are valid; both (bands, h, w)."""
        shape = (self.band_count, window.height, window.width)
        inside = window.intersection(self.grid.window)
        if inside.is_empty:
            return np.zeros(shape, dtype=self.dtype), np.zeros(shape, dtype=np.bool_)
        on_file = self._in_file(inside)
        place = on_file.to_rasterio()
        try:
            raw = self._read(window=place)
            valid = np.ones(raw.shape, dtype=np.bool_)
            if self._has_mask:
                valid &= self._dataset.read_masks(self._indexes, window=place) != 0
            for alpha in self._alpha:
                valid &= self._dataset.read(alpha, window=place) != 0
        except RasterioError as error:
            raise self._damaged(error, on_file) from error
        raw, valid = self._checked(raw, valid)
        if inside == window:
            return raw, valid
        out, known = np.zeros(shape, dtype=raw.dtype), np.zeros(shape, dtype=np.bool_)
        rows, cols = inside.shifted(-window.row, -window.col).slices()
        out[:, rows, cols], known[:, rows, cols] = raw, valid
        return out, known

    def _in_file(self, window: Window) -> Window:
        """The window as the file has it, which may be upside down or mirrored."""
        row = self.grid.height - window.row_stop if self._flip_rows else window.row
        col = self.grid.width - window.col_stop if self._flip_cols else window.col
        return Window(row, col, window.height, window.width)

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

    def _damaged(self, error: RasterioError, on_file: Window) -> InputError:
        cause, place = error.__cause__ or error, f"row {on_file.row}, column {on_file.col}"
        return InputError(
            f"{self.role} file {self.path} cannot be read at {place}: {cause}",
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


def _is_alpha(description: str | None, colour: ColorInterp) -> bool:
    return colour == ColorInterp.alpha and roles_of([description or ""]) == (None,)


def _band_name(description: str | None, colour: ColorInterp, number: int) -> str:
    if description and description.strip():
        return description.strip()
    if colour in (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette):
        return f"band_{number}"
    return str(colour.name).lower()
