"""A class map that is open for an assessment: class ids and rejected pixels, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from das2f_map.errors import InputError
from das2f_map.labels.class_values import is_null
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, UNSURE_NAME, Legend
from das2f_map.products.class_file import ClassFile
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool, UInt8


@dataclass(frozen=True, eq=False)
class OpenMap:
    """A class raster that is open for reading.

    Attributes
    ----------
    file:
        The open file.
    legend:
        Its classes, without the one of rejected pixels.
    codes:
        Class id of each value in the file that has a class.
    unsure:
        Value of rejected pixels; ``None`` for none.
    unsure_id:
        Class id that they have as a stratum of a sample; ``None`` for none.
    """

    file: ClassFile
    legend: Legend
    codes: dict[int, int]
    unsure: int | None
    unsure_id: int | None = None

    @property
    def grid(self) -> Grid:
        """Its geometry."""
        return self.file.grid

    def read(self, window: Window) -> tuple[UInt8, Bool]:
        """Class ids (h, w) of a window, 0 where the map has none; and where it rejects, bool (h, w).

        Raises :class:`InputError` if the file is damaged.
        """
        values, valid = self.file.codes(window)
        codes = np.array(sorted(self.codes), np.int64)
        ids = np.array([self.codes[c] for c in codes.tolist()], np.uint8)
        place = np.minimum(np.searchsorted(codes, values), codes.size - 1)
        found = np.where(valid & (codes[place] == values), ids[place], np.uint8(NODATA_CLASS))
        rejected = np.zeros(found.shape, bool) if self.unsure is None else valid & (values == self.unsure)
        return found, rejected

    def strata(self, window: Window) -> UInt8:
        """Class ids (h, w) of a window, 0 where the map has no data; rejected pixels have an id of their own.

        Raises :class:`InputError` if the file is damaged.
        """
        found, rejected = self.read(window)
        if self.unsure_id is not None:
            found[rejected] = self.unsure_id
        return found

    def stratum_name(self, class_id: int) -> str:
        """Name of a class of :meth:`strata`."""
        return UNSURE_NAME if class_id == self.unsure_id else self.legend[class_id].name


@contextmanager
def open_map(path: str | Path, legend: Legend | None = None) -> Iterator[OpenMap]:
    """A class raster, open within the context.

    Parameters
    ----------
    legend:
        Names of its values; by default those in the file.

    Raises :class:`InputError` if the file is missing, holds fractions, or has no CRS.
    """
    with ClassFile.open(path, "map") as file:
        file.require_crs()
        unsure = file.names.unsure
        file.tell_names()
        if legend is None:
            legend, codes = _classes_of(file)
        else:
            codes = {i: i for i in legend.ids}
        unsure_id = codes.get(unsure, unsure) if unsure is not None else None
        if unsure in codes and len(legend) > 1:
            legend = legend.without(codes.pop(unsure))
        yield OpenMap(file, legend, codes, unsure, unsure_id)


def _classes_of(file: ClassFile) -> tuple[Legend, dict[int, int]]:
    """The classes that a map names or has pixels of, and the id of each value.

    Raises :class:`InputError` if it has none, or more than a map can have.
    """
    own = file.names.legend
    if own is not None:
        return own, {i: i for i in own.ids}
    no_class = {code for code in file.names.names if is_null(code)} | (
        set() if file.zero_is_a_class() else {NODATA_CLASS}
    )
    pixels = file.distinct(MOST_CLASSES + 8)
    present = {code for code in pixels if not is_null(code)} - no_class
    if not present:
        raise InputError(f"map {file.path} has no pixel with a class")
    file.refuse_image(len(present), MOST_CLASSES)
    named = {*file.names.names} - no_class
    # A class without any pixel of the map may be in the reference.
    file.tell_zero(present)
    if not file.zero_is_a_class():
        file.tell_lost_zero(pixels.get(NODATA_CLASS, 0))
    values = present | named if len(present | named) <= MOST_CLASSES else present
    return Legend.of_codes(values, file.names.names)
