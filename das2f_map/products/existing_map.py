"""A map that exists already, as new products are made from it: its classes block by block, and its legend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from das2f_map.errors import InputError
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, Legend
from das2f_map.products.class_file import ClassFile
from das2f_map.products.class_names import LEGEND_TAG, UNSURE_TAG
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.products.map_figure import classes_of
from das2f_map.products.work_raster import WorkRaster
from das2f_map.progress import Progress
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.types import UInt8

_BLOCK = 1024
_OF_GDAL = ("AREA_OR_POINT",)
"""Items that GDAL sets itself."""


@dataclass(frozen=True, eq=False)
class ExistingMap:
    """A class raster of this package or another one, open for reading. Made by :func:`open_existing`.

    Attributes
    ----------
    file:
        The raster.
    legend:
        Its classes, and those that only its pixels have.
    ids:
        Pixel value → id in the legend.
    """

    file: ClassFile
    legend: Legend
    ids: Mapping[int, int]

    @property
    def grid(self) -> Grid:
        """Its geometry."""
        return self.file.grid

    def blocks(self, progress: Progress, label: str) -> Iterator[tuple[Window, UInt8]]:
        """Windows and their classes, uint8 (h, w): ids of the legend, or 0.

        Raises
        ------
        InputError
            The file is damaged.
        """
        values = np.array([*self.ids], np.int64)
        order = np.argsort(values)
        values, ids = values[order], np.array([*self.ids.values()], np.uint8)[order]
        with progress(label, self.grid.height * self.grid.width) as advance:
            for window in blocks_of(self.grid.window, _BLOCK):
                codes, valid = self.file.codes(window)
                place = np.minimum(np.searchsorted(values, codes), len(values) - 1)
                known = valid & (values[place] == codes)
                yield window, np.where(known, ids[place], np.uint8(NODATA_CLASS))
                advance(window.height * window.width)

    def writer(self, path: Path, legend: Legend) -> ClassRasterWriter:
        """Writes a class raster on this grid, with the metadata of this one, and a legend of the same ids."""
        own = (LEGEND_TAG, UNSURE_TAG, *_OF_GDAL)
        tags = {k: v for k, v in self.file.tags.items() if k not in own}
        unsure = self.file.names.unsure
        return ClassRasterWriter(
            path, self.grid, legend, unsure=unsure if unsure in legend.ids else None, tags=tags
        )

    def copy_to(self, path: Path, final: Path, progress: Progress) -> None:
        """Write a plain copy, uint8 with 0 as nodata: a work file of the product at ``final``."""
        copy = WorkRaster(path, final, self.grid, "uint8", NODATA_CLASS)
        try:
            for window, classes in self.blocks(progress, "Reading"):
                copy.write(window, classes)
            copy.close()
        except BaseException:  # an interrupt too
            copy.discard()
            raise


@contextmanager
def open_existing(path: str | Path) -> Iterator[ExistingMap]:
    """Open a class raster and find its classes; reads it once.

    Raises
    ------
    InputError
        The file is no raster of classes, has no coordinate reference system, or no pixel with a class.
    """
    with ClassFile.open(path, "map") as file:
        file.require_crs()
        present = sorted(file.distinct(MOST_CLASSES + 1))
        legend, ids = classes_of(file, present)
        if legend is None or not ids:
            raise InputError(f"map {path} has no pixel with a class", "is it the right file?")
        yield ExistingMap(file, legend, ids)
