"""How far a class map agrees with reference polygons, points or another class raster.

The reference is read on the map's own pixels, block by block, by the rules of
:mod:`das2f_map.labels.labelled_pixels`. Classes are matched by name; case, blanks and underscores do not
count.
Where one side has only numbers they are matched by number: the one in a name such as ``class 111``, or a
raster's value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.errors import InputError, LabelError
from das2f_map.labels.source import LabelSource
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.progress import Progress
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.paths import image_path, missing_local_file

BLOCK = 1024
_NUMBERED = re.compile(r"(?:class)?[ _]*([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Evaluation:
    """The result of a comparison; counts are map pixels."""

    matrix: ConfusionMatrix
    """Over the map's classes; a class that the reference lacks has an empty row."""
    matched_by: str
    """``name`` or ``id`` (the number in the name or in the file)."""
    only_in_map: tuple[str, ...]
    """Map classes the reference does not have; pixels mapped as them count as wrong."""
    only_in_reference: dict[str, int]
    """Reference classes the map does not have, with their pixels, which are not in the matrix."""
    unmapped: int
    """Reference pixels of common classes where the map has nodata; not in the matrix."""
    rejected: int
    """Reference pixels of common classes where the map is unsure; not in the matrix."""
    contested: int
    """Pixels the reference gives to several classes; not in the matrix."""

    @property
    def rejected_share(self) -> float | None:
        """Share of the reference pixels that the map is unsure of, 0..1; ``None`` without any pixel."""
        known = self.matrix.total + self.rejected
        return self.rejected / known if known else None

    def notices(self) -> tuple[str, ...]:
        """Notices for the reader of the figures, a sentence each."""
        found = []
        if self.only_in_reference:
            listed = ", ".join(f"{name} ({n:,} pixels)" for name, n in self.only_in_reference.items())
            found.append(f"Left out, since the map has no such class: {listed}")
        if self.only_in_map:
            listed = ", ".join(self.only_in_map)
            found.append(f"Not tested, since no reference pixel on the map has the class: {listed}")
        if self.unmapped:
            found.append(f"Left out, since the map has no data there: {self.unmapped:,} reference pixels")
        if self.rejected:
            found.append(
                f"Left out, since the map is unsure there: {self.rejected:,} reference pixels, "
                f"{percent(self.rejected_share)}; all figures are of the pixels that it answers"
            )
        if self.contested:
            found.append(
                f"Left out, since the reference gives them several classes: {self.contested:,} pixels"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the figures of :meth:`ConfusionMatrix.to_dict` and the pixels left out."""
        return {
            **self.matrix.to_dict(),
            "matched_by": self.matched_by,
            "only_in_map": list(self.only_in_map),
            "only_in_reference": self.only_in_reference,
            "reference_pixels_without_map": self.unmapped,
            "rejected_reference_pixels": self.rejected,
            "rejected_share": self.rejected_share,
            "contested_reference_pixels": self.contested,
        }


@dataclass(frozen=True)
class OpenMap:
    """A class raster that is open for reading, and its grid."""

    path: str
    dataset: Any
    grid: Grid

    def read(self, window: Window) -> NDArray[Any]:
        """Class numbers (h, w) of a window, 0 where the map has nodata.

        Raises :class:`InputError` if the file is damaged.
        """
        try:
            values: NDArray[Any] = self.dataset.read(1, window=window.to_rasterio())
        except RasterioIOError as error:
            raise InputError(
                f"map {self.path} cannot be read: {error.__cause__ or error}",
                "the file seems to be damaged or cut short",
            ) from error
        nodata = self.dataset.nodata
        return values if nodata is None else np.where(values == nodata, NODATA_CLASS, values)


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a reference is which class of a map."""

    map_id: dict[int, int]
    """Reference id → map id, for the classes that both have."""
    by: str
    """``name`` or ``id``, see :attr:`Evaluation.matched_by`."""


def compare(
    mapped: OpenMap,
    legend: Legend,
    reference: LabelSource,
    match: ClassMatch,
    reference_path: str,
    progress: Progress,
    unsure: int | None = None,
) -> Evaluation:
    """Compare a map with reference labels, block by block.

    Parameters
    ----------
    legend:
        Of the map, without its class of rejected pixels.
    reference:
        Opened on the map's grid.
    match:
        From :func:`match_classes`.
    unsure:
        Value of rejected pixels; ``None`` for none. They are no wrong answers: they are counted apart.

    Raises
    ------
    LabelError
        No label falls on the map, or none of a class that the map has.
    """
    to_map = np.zeros(256, np.uint8)
    to_map[list(match.map_id)] = list(match.map_id.values())
    matrix = ConfusionMatrix.empty(legend)
    seen = np.zeros(256, np.int64)
    unmapped = rejected = contested = 0
    windows = list(reference.windows(blocks_of(mapped.grid.window, BLOCK)))
    with progress("Comparing", len(windows)) as advance:
        for window in windows:
            block = reference.read(window)
            contested += block.contested
            if block.classes.any():
                found = mapped.read(window)
                seen += np.bincount(block.classes.ravel(), minlength=256)
                wanted = to_map[block.classes]
                matrix += ConfusionMatrix.from_arrays(wanted, found, legend)
                missing = found[(wanted != NODATA_CLASS) & ~np.isin(found, legend.ids)]
                unsure_here = 0 if unsure is None else int((missing == unsure).sum())
                rejected += unsure_here
                unmapped += missing.size - unsure_here
            advance(1)
    present = {c.id: int(seen[c.id]) for c in reference.legend.each() if seen[c.id]}
    if not present:
        raise LabelError(
            f"No label of {reference_path} falls on a pixel of the map",
            "check that both show the same place and that the reference's CRS is right",
        )
    common = {match.map_id[i] for i in present if i in match.map_id}
    if matrix.total == 0 and unmapped == 0 and rejected == 0:
        raise LabelError(
            f"Where the map lies, reference {reference_path} has only classes that the map does not have",
            f"the map has {', '.join(legend.names)}",
        )
    return Evaluation(
        matrix=matrix,
        matched_by=match.by,
        only_in_map=tuple(c.name for c in legend.each() if c.id not in common),
        only_in_reference={reference.legend[i].name: n for i, n in present.items() if i not in match.map_id},
        unmapped=unmapped,
        rejected=rejected,
        contested=contested,
    )


def match_classes(mapped: Legend, reference: LabelSource, map_path: str, reference_path: str) -> ClassMatch:
    """The classes that a map and a reference have in common; there may be none.

    An id that was only counted up for a file (class names of a vector file in alphabetical order, codes
    above 255) means nothing in another file and is never compared.

    Raises :class:`LabelError` if one side has names, and the other codes that are not the map's values.
    """
    theirs = reference.legend
    map_numbers, their_numbers = _numbers(mapped), _numbers(theirs)
    if map_numbers is None and their_numbers is None:
        ids = {_key(c.name): c.id for c in mapped.each()}
        return ClassMatch({c.id: ids[_key(c.name)] for c in theirs.each() if _key(c.name) in ids}, "name")
    if map_numbers is None:
        # The reference's codes are taken for values of the map, if they fit into a byte.
        map_numbers = {i: i for i in mapped.ids} if reference.ids_are_codes else None
    elif their_numbers is None:
        # A reference raster has values as well as names; they compare if the map's codes are its values.
        same = reference.ids_are_codes and all(number == i for number, i in map_numbers.items())
        their_numbers = {i: i for i in theirs.ids} if same else None
    if map_numbers is None or their_numbers is None:
        raise LabelError(
            f"map {map_path} and reference {reference_path} cannot be compared: one has class names "
            "where the other has codes",
            f"the map has {', '.join(mapped.names)}; the reference has {', '.join(theirs.names)}; "
            "give the reference a field with the map's names or values (--class-field)",
        )
    return ClassMatch({i: map_numbers[n] for n, i in their_numbers.items() if n in map_numbers}, "id")


def _numbers(legend: Legend) -> dict[int, int] | None:
    """Number in the name → id, if all names are numbers, such as ``class 111``, and all differ."""
    found = [_NUMBERED.fullmatch(name) for name in legend.names]
    numbers = {int(m[1]): c.id for m, c in zip(found, legend.each(), strict=True) if m is not None}
    return numbers if len(numbers) == len(legend) else None


def _key(name: str) -> str:
    return "".join(ch for ch in name.casefold() if ch.isalnum())


@contextmanager
def open_map(path: str | Path) -> Iterator[OpenMap]:
    """A class raster, open within the context.

    Raises :class:`InputError` if the file is missing, is no raster of whole numbers, or has no CRS.
    """
    try:
        dataset = rasterio.open(image_path(path))
    except RasterioIOError as error:
        what = "does not exist" if missing_local_file(path) else "is not a raster that GDAL can read"
        raise InputError(f"map {path} {what}") from error
    with dataset:
        if dataset.crs is None:
            raise InputError(
                f"map {path} has no coordinate reference system",
                "assign one, e.g. gdal_edit.py -a_srs EPSG:32616 map.tif",
            )
        if not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer):
            raise InputError(f"map {path} is of type {dataset.dtypes[0]}, not a raster of class numbers")
        yield OpenMap(str(path), dataset, Grid.from_rasterio(dataset))


def numbered_legend(mapped: OpenMap) -> Legend:
    """A legend of the values in a map without one: ``class 1`` and so on.

    Raises :class:`InputError` if there are none, or values outside 1 to 255.
    """
    found: set[int] = set()
    for window in blocks_of(mapped.grid.window, BLOCK):
        found.update(int(v) for v in np.unique(mapped.read(window)))
    values = sorted(found - {NODATA_CLASS})
    if not values:
        raise InputError(f"map {mapped.path} has no pixel with a class")
    if values[0] < 1 or values[-1] > 255:
        raise InputError(
            f"map {mapped.path} holds values {values[0]} to {values[-1]}, not class numbers 1 to 255"
        )
    return Legend.from_names([f"class {v}" for v in values], values)
