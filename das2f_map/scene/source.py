"""One georeferenced raster file, opened, checked and read by window.

A :class:`RasterSource` always presents its image the usual way up: columns run to the east (or as near as the
rotation allows) and the image is not mirrored. It turns south-up and mirrored files while reading, so its
callers need not care.
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
from rasterio.windows import Window as RasterioWindow

from das2f_map.errors import InputError, ReadError
from das2f_map.scene.bands import FileBand, roles_of
from das2f_map.scene.compiled_pixels import blank
from das2f_map.scene.finite import all_finite
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.raster_file import check_georeferencing, not_utf8, open_raster, upright
from das2f_map.scene.virtual_image import VirtualImage
from das2f_map.types import Bool, Float32


class RasterSource:
    """A raster file as measurements: image bands, nodata as NaN, scale and offset applied.

    Parameters
    ----------
    path:
        A local path, anything else that GDAL opens (``https://``, ``s3://``, ``/vsicurl/``…), or a virtual
        image.
    role:
        ``"MS"`` or ``"PAN"``, for messages.
    nodata:
        A value before scale and offset. A pixel is invalid if it has this value in all bands that are read,
        in addition to the pixels that the file declares. (In one band alone the value may be a measurement:
        dark water in NIR.)

    Attributes
    ----------
    path:
        The path as given, as text; the name of a virtual image.
    image:
        The path as given, as text; or the virtual image.
    grid:
        The file's own grid, the usual way up (see the module's note).
    bands:
        All bands of the file, alpha bands too. A band marked as alpha but described as a colour counts as an
        image band: many programs mark the fourth of four bands of bytes as alpha, whatever it holds.
    nodata_value:
        Declared nodata value of the first band that is read; ``None`` if there is none or if the file has a
        mask of its own.
    dtype:
        NumPy's common type of all bands that are read.

    Raises
    ------
    InputError
        The file is missing, not a raster, has no usable georeferencing or no real-valued bands.
    """

    def __init__(self, path: str | Path | VirtualImage, role: str, *, nodata: float | None = None) -> None:
        self.path = str(path)
        self.image = path if isinstance(path, VirtualImage) else self.path
        self.role = role
        self._nodata = nodata
        self._dataset = open_raster(self.image, role)
        try:
            self._prepare()
        except UnicodeDecodeError as error:
            self._dataset.close()
            raise InputError(*not_utf8(f"{role} file {self.path}")) from error
        except BaseException:  # an interrupt, too, must not leave the file open
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
        """Choose these bands to read, in this order."""
        ds = self._dataset
        self._indexes = list(numbers)
        self._alpha = [i for i in self._alpha if i not in self._indexes]
        # Each of these lists is made anew for all bands of the file whenever it is asked for.
        every = ds.dtypes, ds.scales, ds.offsets, ds.mask_flag_enums, ds.nodatavals
        dtypes, scales, offsets, flags, values = ([one[i - 1] for i in self._indexes] for one in every)
        odd = [d for d in dtypes if "complex" in d or d.startswith("c")]
        if odd:
            raise InputError(
                f"{self.role} file {self.path} has complex values ({odd[0]})",
                "give intensities or reflectances instead",
            )
        self._dtypes = [np.dtype(d) for d in dtypes]
        self.dtype: str = np.result_type(*self._dtypes).name
        self._scales = np.array(scales)
        self._offsets = np.array(offsets)
        self._without_scale = [
            i for i, s in zip(self._indexes, self._scales, strict=True) if not (np.isfinite(s) and s != 0)
        ]
        # Alpha bands are read apart: GDAL's mask would also use one that is read as an image band.
        self._has_mask = any(not {MaskFlags.all_valid, MaskFlags.alpha} & set(f) for f in flags)
        # If a file has a mask of its own, GDAL ignores the declared nodata value.
        self.nodata_value: float | None = values[0] if MaskFlags.nodata in flags[0] else None
        self._ignored_nodata = [
            (place, value)
            for place, (value, f) in enumerate(zip(values, flags, strict=True))
            if value is not None and MaskFlags.nodata not in f
        ]
        self._plain_nodata = self._as_plain_nodata(flags, values)

    def _as_plain_nodata(
        self, flags: Sequence[Sequence[MaskFlags]], values: Sequence[float | None]
    ) -> tuple[float | None, ...] | None:
        """The nodata value of each band that is read, where the file is plain; else ``None``.

        The bands of a plain file have one type, whole numbers of at most 16 bits, which float32 holds. They
        have no scale, offset or mask, and nodata values of the same type at most.
        """
        dtype = self._dtypes[0]
        if set(self._dtypes) != {dtype} or dtype.kind not in "iu" or dtype.itemsize > 2:
            return None
        if self._alpha or self._ignored_nodata or (self._scales != 1.0).any() or (self._offsets != 0.0).any():
            return None
        limits = np.iinfo(dtype)
        found: list[float | None] = []
        for flag, value in zip(flags, values, strict=True):
            if set(flag) == {MaskFlags.all_valid}:
                found.append(None)
            elif (
                set(flag) != {MaskFlags.nodata}
                or value is None
                or not (limits.min <= value <= limits.max and float(value).is_integer())
            ):
                return None
            else:
                found.append(value)
        return tuple(found)

    @property
    def always_valid(self) -> bool:
        """Whether every pixel of the file is certain to be valid."""
        return (
            self._plain_nodata is not None
            and self._nodata is None
            and not any(value is not None for value in self._plain_nodata)
        )

    @property
    def plain_files(self) -> tuple[Path, ...] | None:
        """The GeoTIFF and its side files; ``None`` for what may draw on other files, or is not on a disk."""
        files = tuple(Path(file) for file in self._dataset.files)
        plain = self._dataset.driver == "GTiff" and bool(files) and all(f.is_file() for f in files)
        return files if plain else None

    @property
    def read_bands(self) -> tuple[int, ...]:
        """Numbers of the bands that are read, from 1, in their order."""
        return tuple(self._indexes)

    def with_bands(self, numbers: Sequence[int]) -> RasterSource:
        """The same open file, reading these bands of it (numbers in the file, from 1), in this order.

        An alpha band among them is read as an image band and masks nothing. Closing one source closes both.
        """
        other = copy.copy(self)
        other._use(numbers)
        return other

    def dtype_of(self, number: int) -> str:
        """Data type of a band of the file; bands count from 1."""
        return str(self._dataset.dtypes[number - 1])

    def tag(self, name: str) -> str | None:
        """A metadata item of the file; ``None`` if it has none of that name."""
        try:
            value = self._dataset.tags().get(name)
        except UnicodeDecodeError as error:
            raise InputError(*not_utf8(f"{self.role} file {self.path}")) from error
        return None if value is None else str(value)

    def can_hold(self, value: float) -> bool:
        """Whether a pixel of any band that is read can have a value, before scale and offset."""
        for dtype in self._dtypes:
            if np.issubdtype(dtype, np.floating):
                # Only the size decides: comparing values rounds their decimals, and NaN is invalid anyway.
                with np.errstate(over="ignore"):
                    if not np.isfinite(value) or np.isfinite(dtype.type(value)):
                        return True
            elif float(value).is_integer() and np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max:
                return True
        return False

    @property
    def band_count(self) -> int:
        """Number of bands that are read; by default all but alpha."""
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
        nodata, inside = self._plain_nodata, window.intersection(self.grid.window) == window
        if nodata is not None and inside and not window.is_empty:
            return self._read_plain(window, nodata)
        return self._in_units(*self.read_raw(window))

    def _read_plain(self, window: Window, nodata: Sequence[float | None]) -> Float32:
        """As :meth:`read`, for a window inside a plain file; GDAL converts the values as it copies them."""
        on_file = self._file_window(window)
        values = np.empty((len(self._indexes), window.height, window.width), dtype=np.float32)
        try:
            self._dataset.read(self._indexes, window=on_file.to_rasterio(), out=values)
        except RasterioError as error:
            raise self._damaged(error, on_file) from error
        given = self._nodata
        same = None
        if given is not None and float(given).is_integer():
            same = np.logical_and.reduce([band == np.float32(given) for band in values])
        for band, value in zip(values, nodata, strict=True):
            if value is not None:
                blank(band, value)
        if same is not None:
            values[:, same] = np.nan
        if self._flip_rows:
            values = values[:, ::-1]
        return values[:, :, ::-1] if self._flip_cols else values

    def read_reduced(self, window: Window, height: int, width: int) -> Float32:
        """As :meth:`read`, for a window inside the file, in fewer pixels, from overviews if there are any.

        A small window gives averages; a large one gives values of single pixels.
        """
        # GDAL's averages would include pixels that have a nodata value which GDAL ignores.
        average = window.height * window.width < 30_000_000 and not self._ignored_nodata
        method = Resampling.average if average else Resampling.nearest
        return self._in_units(*self._fetched(window, height, width, method))

    def read_raw_reduced(self, window: Window, height: int, width: int) -> tuple[npt.NDArray[Any], Bool]:
        """As :meth:`read_raw`, for a window inside the file, in fewer pixels: values of single pixels."""
        return self._fetched(window, height, width)

    def read_raw(self, window: Window) -> tuple[npt.NDArray[Any], Bool]:
        """As :meth:`read`: the file's own numbers, 0 outside it, and their validity; both (bands, h, w)."""
        shape = (self.band_count, window.height, window.width)
        inside = window.intersection(self.grid.window)
        if inside.is_empty:
            return np.zeros(shape, dtype=self.dtype), np.zeros(shape, dtype=np.bool_)
        raw, valid = self._fetched(inside, inside.height, inside.width)
        if inside == window:
            return raw, valid
        out, known = np.zeros(shape, dtype=raw.dtype), np.zeros(shape, dtype=np.bool_)
        rows, cols = inside.shifted(-window.row, -window.col).slices()
        out[:, rows, cols], known[:, rows, cols] = raw, valid
        return out, known

    def _fetched(
        self, window: Window, height: int, width: int, method: Resampling = Resampling.nearest
    ) -> tuple[npt.NDArray[Any], Bool]:
        """A window inside the file in so many pixels: its numbers and their validity; both (bands, h, w)."""
        on_file = self._file_window(window)
        place, shape = on_file.to_rasterio(), (len(self._indexes), height, width)
        try:
            raw = self._read(place, shape, method)
            valid = np.ones(raw.shape, dtype=np.bool_)
            if self._has_mask:
                valid &= self._dataset.read_masks(self._indexes, window=place, out_shape=shape) != 0
            for alpha in self._alpha:
                valid &= self._dataset.read(alpha, window=place, out_shape=shape[1:]) != 0
        except RasterioError as error:
            raise self._damaged(error, on_file) from error
        return self._checked(raw, valid)

    def _file_window(self, window: Window) -> Window:
        """A window of :attr:`grid` as a window of the file, which may be upside down or mirrored."""
        row = self.grid.height - window.row_stop if self._flip_rows else window.row
        col = self.grid.width - window.col_stop if self._flip_cols else window.col
        return Window(row, col, window.height, window.width)

    def _read(
        self, place: RasterioWindow, shape: tuple[int, int, int], method: Resampling
    ) -> npt.NDArray[Any]:
        """Values of the chosen bands; rasterio can read bands of different types only one by one."""
        if len(set(self._dtypes)) == 1:
            raw: npt.NDArray[Any] = self._dataset.read(
                self._indexes, window=place, out_shape=shape, resampling=method
            )
            return raw
        bands = (
            self._dataset.read(i, window=place, out_shape=shape[1:], resampling=method) for i in self._indexes
        )
        return np.stack(list(bands)).astype(self.dtype, copy=False)

    def _checked(self, raw: npt.NDArray[Any], valid: Bool) -> tuple[npt.NDArray[Any], Bool]:
        """Values and validity turned the usual way up, with nodata that GDAL ignores marked as invalid."""
        for place, value in self._ignored_nodata:
            band = raw[place]
            if np.isnan(value):
                valid[place] &= ~np.isnan(band)
            else:
                valid[place] &= band != self._in_type_of(place, value)
        if self._nodata is not None:
            same = [band == self._in_type_of(place, self._nodata) for place, band in enumerate(raw)]
            valid &= ~np.logical_and.reduce(same)
        if self._flip_rows:
            raw, valid = raw[:, ::-1], valid[:, ::-1]
        if self._flip_cols:
            raw, valid = raw[:, :, ::-1], valid[:, :, ::-1]
        return raw, valid

    def _in_type_of(self, place: int, value: float) -> Any:
        """A nodata value in a band's type: given as a float64, it may equal a float32 only once rounded."""
        dtype = self._dtypes[place]
        with np.errstate(over="ignore"):
            return dtype.type(value) if np.issubdtype(dtype, np.floating) else value

    def _in_units(self, raw: npt.NDArray[Any], valid: Bool) -> Float32:
        """Values as float32 with scale and offset applied, NaN where invalid."""
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
        # Whole numbers of up to 64 bits are finite in float32.
        if not valid.all() or not (raw.dtype.kind in "iu" or all_finite(values)):
            values[~(valid & np.isfinite(values))] = np.nan
        return values

    def _damaged(self, error: RasterioError, on_file: Window) -> ReadError:
        cause, place = error.__cause__ or error, f"row {on_file.row}, column {on_file.col}"
        return ReadError(
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
