"""The door for rasters of classes: label rasters, reference rasters and maps are read here alone.

A :class:`ClassFile` has one band of class numbers. It honours the file's nodata value, masks and alpha band.
It finds the names of the classes wherever they are, see :mod:`das2f_map.products.class_names`, and logs where
they are from.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from das2f_map.errors import Das2fMapError, InputError
from das2f_map.legend import Legend
from das2f_map.products.attribute_table import legend_from
from das2f_map.products.class_names import ClassNames, names_of
from das2f_map.scene.archive import archive_hint
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.paths import image_path, missing_local_file
from das2f_map.scene.raster_file import container_error, not_utf8, refuse_impossible_place
from das2f_map.types import Bool

log = logging.getLogger(__name__)

NO_CLASS_NAMES = frozenset(
    {
        "nodata",
        "unclassified",
        "background",
        "unlabelled",
        "unlabeled",
        "none",
        "null",
        "undefined",
        "novalue",
    }
    | {"outside", "fill", "fillvalue", "masked", "notclassified", "unknown"}
)
"""Names of the value 0 that mean no class, in small letters without signs."""

_BLOCK = 1024

_EXTREME = (3.402e38, 3.4029e38, 1.79e308)
"""Sizes that stand for nodata: around the largest number of float32, and from near that of float64 on."""


class NoRasterError(InputError):
    """A file cannot be opened as a raster.

    Parameters
    ----------
    reason:
        The reader's own words.
    recognised:
        Whether it is a raster at all, as far as one can tell.
    """

    def __init__(self, message: str, hint: str | None, reason: str, *, recognised: bool) -> None:
        super().__init__(message, hint)
        self.reason = reason
        self.recognised = recognised


class ClassFile:
    """A raster of class numbers that is open for reading. Made by :meth:`open`; close it after use.

    Attributes
    ----------
    path:
        As given.
    label:
        Words for the file in messages.
    grid:
        Its geometry, as the file has it. The CRS may be missing, see :meth:`require_crs`.
    dtype:
        NumPy's type of the numbers.
    declares:
        Whether the file says where it has no data: by a nodata value, a mask or an alpha band.
    """

    def __init__(
        self, path: str, label: str, dataset: Any, error: type[Das2fMapError], column: str | None
    ) -> None:
        self.path = path
        self.label = label
        self._dataset = dataset
        self._error = error
        self._column = column
        bands = [(i, c) for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True)]
        self._alpha = [i for i, colour in bands if colour == ColorInterp.alpha]
        values = [i for i, colour in bands if colour != ColorInterp.alpha]
        if not values:
            raise container_error(label, dataset.subdatasets, error)
        if len(values) > 1:
            raise error(
                f"{label} has {len(values)} bands; a raster of classes has one",
                "give class numbers, not a picture; one band: gdal_translate -b 1 in.tif out.tif",
            )
        self._band = values[0]
        self.dtype = np.dtype(dataset.dtypes[self._band - 1])
        if self.dtype.kind not in "iuf":
            raise error(f"{label} is of type {self.dtype}, not a raster of class numbers")
        flags = dataset.mask_flag_enums[self._band - 1]
        self._nodata = dataset.nodatavals[self._band - 1]
        self._has_mask = not {MaskFlags.all_valid} & set(flags)
        self.declares = self._nodata is not None or self._has_mask or bool(self._alpha)
        refuse_impossible_place(dataset, label, error)
        self.grid = Grid.from_rasterio(dataset)
        self._told: set[int] = set()

    @classmethod
    def open(
        cls,
        path: str | Path,
        role: str,
        error: type[Das2fMapError] = InputError,
        *,
        column: str | None = None,
    ) -> ClassFile:
        """Open a raster of classes.

        Parameters
        ----------
        path:
            Any raster that GDAL opens.
        role:
            Words for the file before its path, in messages: ``map``, ``label raster``.
        error:
            Class of the errors that are raised, here and later.
        column:
            Column of its attribute table with the class names; by default the one that is plausible.

        Raises
        ------
        NoRasterError
            GDAL cannot open the file.
        Das2fMapError
            The file is missing, has no band or several, or one of complex numbers. Of the class ``error``.
        """
        text, label = str(path), f"{role} {path}"
        if missing_local_file(text):
            raise error(f"{label} does not exist", "check the path")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                dataset = rasterio.open(image_path(text))
        except UnicodeDecodeError as reason:
            raise error(*not_utf8(label)) from reason
        except RasterioError as reason:
            said = " ".join(str(reason).split())
            known = "not recognized as being in a supported file format" not in said
            detail = f": {said}" if known else ""
            raise NoRasterError(
                f"{label} is not a raster that GDAL can read{detail}",
                archive_hint(text) or "gdalinfo shows what GDAL sees",
                said,
                recognised=known,
            ) from reason
        try:
            return cls(text, label, dataset, error, column)
        except UnicodeDecodeError as reason:
            dataset.close()
            raise error(*not_utf8(label)) from reason
        except BaseException:  # an interrupt, too, must not leave the file open
            dataset.close()
            raise

    def require_crs(self) -> None:
        """Raise an error unless the file has a coordinate reference system."""
        if self.grid.crs is None:
            raise self._error(
                f"{self.label} has no coordinate reference system",
                "assign one, e.g. gdal_edit.py -a_srs EPSG:32616 file.tif",
            )

    @property
    def has_overviews(self) -> bool:
        """Whether the file has overviews."""
        return bool(self._dataset.overviews(self._band))

    @property
    def tags(self) -> dict[str, str]:
        """The file's metadata items, of GDAL's default domain."""
        return dict(self._dataset.tags())

    @property
    def block_rows(self) -> int:
        """Rows of the file's tiles or strips."""
        return int(self._dataset.block_shapes[self._band - 1][0])

    def read(self, window: Window) -> tuple[npt.NDArray[Any], Bool]:
        """Numbers of a window inside the file, in its own type, and their validity; both (h, w).

        Raises
        ------
        Das2fMapError
            The file is damaged.
        """
        return self._fetched(window, (window.height, window.width), Resampling.nearest)

    def read_reduced(
        self, height: int, width: int, method: Resampling = Resampling.nearest
    ) -> tuple[npt.NDArray[Any], Bool]:
        """As :meth:`read`, of the whole file in fewer pixels."""
        return self._fetched(self.grid.window, (height, width), method)

    def _fetched(
        self, window: Window, shape: tuple[int, int], method: Resampling
    ) -> tuple[npt.NDArray[Any], Bool]:
        where, ds = window.to_rasterio(), self._dataset
        try:
            values = ds.read(self._band, window=where, out_shape=shape, resampling=method)
            valid = np.ones(values.shape, dtype=np.bool_)
            if self._has_mask:
                valid &= ds.read_masks(self._band, window=where, out_shape=shape) != 0
            for alpha in self._alpha:
                valid &= ds.read(alpha, window=where, out_shape=shape) != 0
        except RasterioError as reason:
            raise self._error(
                f"{self.label} cannot be read: {reason.__cause__ or reason}",
                "the file seems to be damaged or cut short",
            ) from reason
        # Where a file has a mask of its own, GDAL ignores the nodata value.
        if self._nodata is not None and not np.isnan(self._nodata):
            with np.errstate(over="ignore"):
                known = self.dtype.type(self._nodata) if self.dtype.kind == "f" else self._nodata
            valid &= values != known
        if self.dtype.kind == "f":
            valid &= np.isfinite(values)
        return values, valid

    def codes(self, window: Window) -> tuple[npt.NDArray[np.int64], Bool]:
        """As :meth:`read`, with numbers as int64, 0 where they are not valid.

        Raises
        ------
        Das2fMapError
            The file is damaged, or holds fractions or numbers beyond 2⁵³.
        """
        return self.as_codes(*self.read(window))

    def as_codes(self, values: npt.NDArray[Any], valid: Bool) -> tuple[npt.NDArray[np.int64], Bool]:
        """Values of :meth:`read` as class numbers, int64, 0 where they are not valid."""
        if self.dtype.kind == "f":
            size = np.abs(values, where=valid, out=np.zeros(values.shape, values.dtype)).astype(np.float64)
            extreme = (size >= _EXTREME[0]) & (size <= _EXTREME[1]) | (size >= _EXTREME[2])
            if extreme.any():
                self._tell_once(
                    logging.WARNING,
                    f"pixels of {float(values[extreme][0]):g} count as nodata, though it does not declare it",
                )
                valid = valid & ~extreme
        known = np.where(valid, values, 0)
        if self.dtype.kind == "f":
            if (np.abs(known) > 2.0**53).any():
                worst = known.ravel()[np.abs(known).argmax()]
                raise self._error(
                    f"{self.label} holds {worst:g}, which is no class number",
                    "if it means nodata: gdal_edit.py -a_nodata VALUE file.tif",
                )
            fractions = known[known != np.round(known)]
            if fractions.size:
                raise self._error(
                    f"{self.label} holds fractions, such as {fractions[0]:g}, and class numbers are whole",
                    "give class numbers, not probabilities or other measurements",
                )
            if valid.any():
                self._tell_once(logging.INFO, f"its numbers are {self.dtype}, and taken as class numbers")
        return known.astype(np.int64), valid

    def _tell_once(self, level: int, text: str) -> None:
        """Log a sentence on the file; another one of the same level is left out."""
        if level not in self._told:
            self._told.add(level)
            log.log(level, "%s: %s", self.label, text)

    def distinct(self, most: int) -> dict[int, int]:
        """All numbers that are valid in the whole file, and the pixels that have each.

        Raises
        ------
        Das2fMapError
            There are more than ``most``.
        """
        found: Counter[int] = Counter()
        for window in blocks_of(self.grid.window, _BLOCK):
            codes, valid = self.codes(window)
            values, counts = np.unique(codes[valid], return_counts=True)
            found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            self.refuse_image(len(found), most)
        return found

    def refuse_image(self, distinct: int, most: int) -> None:
        """Raise an error if there are more than ``most`` distinct numbers."""
        if distinct > most:
            raise self._error(
                f"{self.label} has more than {most} different values",
                "it should hold class numbers; is it an image?",
            )

    def zero_is_a_class(self) -> bool:
        """Whether a valid pixel of value 0 has a class.

        It has one if the file names it, or declares where it has no data by something else. Otherwise 0 is
        taken for nodata, as in most rasters of classes.
        """
        if self.names.legend is not None:
            return False
        name = self.names.names.get(0, "")
        if name.strip():
            return "".join(ch for ch in name.casefold() if ch.isalnum()) not in NO_CLASS_NAMES
        return self.declares and self._nodata != 0

    @cached_property
    def names(self) -> ClassNames:
        """Names and colours of its values."""
        found = names_of(self._dataset, self._band, self.label, self._error, self._column)
        for value in [v for v in {*found.names, *found.colours} if v == self._nodata]:
            found.names.pop(value, None)
            found.colours.pop(value, None)
        return found

    def tell_zero(self, values: Collection[int]) -> None:
        """Log if 0 is among the values that have a class, and the file does not name it."""
        if 0 in values and 0 not in self.names.names:
            log.info("%s: 0 is a class, since the file declares its nodata by something else", self.label)

    def tell_lost_zero(self, pixels: int) -> None:
        """Log the pixels of 0 that have no class though the file does not declare 0 as nodata."""
        if pixels and 0 not in self.names.names:
            log.info(
                "%s: %s pixels of 0 have no class; if 0 is one, declare another nodata value, e.g. "
                "gdal_edit.py -a_nodata 255 file.tif",
                self.label,
                f"{pixels:,}",
            )

    def tell_names(self) -> None:
        """Log where the class names are from, or that there are none."""
        if self.names.origin:
            log.info("%s: class names are from %s", self.label, self.names.origin)
        elif self.names.unclear:
            log.warning("%s: class names of its table are left out: %s", self.label, self.names.unclear)
        elif self._column is not None:
            raise self._error(
                f"{self.label} has no attribute table; it has no field {self._column!r}",
                "--class-field is for vector files and attribute tables: leave it out",
            )

    @property
    def legend(self) -> Legend | None:
        """The classes 1 to 255 that the file names or colours; ``None`` if it says nothing of them."""
        return self.names.legend or legend_from(self.names.names, self.names.colours)

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    def __enter__(self) -> ClassFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_legend(path: str | Path) -> Legend | None:
    """The legend of a class raster, as far as the file tells; ``None`` if it says nothing of its classes.

    Colours and names that are missing there are filled in with fitting ones.

    Raises
    ------
    InputError
        The file cannot be read as a raster of classes.
    """
    with ClassFile.open(path, "map") as file:
        return file.legend


def read_unsure(path: str | Path) -> int | None:
    """The value of rejected pixels in a class raster; ``None`` if it has no class for them.

    A map of this package says so. In another one, or where the tags are lost, it is the class named
    ``unsure``.

    Raises
    ------
    InputError
        The file cannot be read as a raster of classes.
    """
    with ClassFile.open(path, "map") as file:
        return file.names.unsure
