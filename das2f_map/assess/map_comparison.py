"""How far a class map agrees with reference polygons, points or another class raster.

The reference is read on the map's own pixels, block by block, by the rules of
:mod:`das2f_map.labels.labelled_pixels`. Classes are matched by their exact names. A name without a partner is
matched apart from case, blanks, hyphens and underscores, if only one name on each side comes into question.
Where one side has only numbers they are matched by number: the one in a name such as ``class 111``, or a
raster's value. The log says where classes are matched by anything but their exact names.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.errors import InputError, LabelError
from das2f_map.labels.class_values import is_null
from das2f_map.labels.source import LabelSource
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, Legend, LegendClass
from das2f_map.products.class_file import ClassFile
from das2f_map.progress import Progress
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.types import Bool, UInt8

log = logging.getLogger(__name__)

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
    zeros: int = 0
    """Pixels where the reference has a value such as 0 that is no class, and not declared as nodata."""

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
        if self.zeros:
            found.append(
                f"Left out, since the reference has 0 there, which counts as no class: {self.zeros:,} pixels"
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
            "zero_reference_pixels": self.zeros,
        }


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
    """

    file: ClassFile
    legend: Legend
    codes: dict[int, int]
    unsure: int | None

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


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a reference is which class of a map."""

    map_id: dict[int, int]
    """Reference id → map id, for the classes that both have."""
    by: str
    """``name`` or ``id``, see :attr:`Evaluation.matched_by`."""


def compare(
    mapped: OpenMap,
    reference: LabelSource,
    match: ClassMatch,
    reference_path: str,
    progress: Progress,
) -> Evaluation:
    """Compare a map with reference labels, block by block.

    Rejected pixels are no wrong answers: they are counted apart.

    Parameters
    ----------
    reference:
        Opened on the map's grid.
    match:
        From :func:`match_classes`.

    Raises
    ------
    LabelError
        No label falls on the map, or none of a class that the map has.
    """
    legend = mapped.legend
    to_map = np.zeros(256, np.uint8)
    to_map[list(match.map_id)] = list(match.map_id.values())
    matrix = ConfusionMatrix.empty(legend)
    seen = np.zeros(256, np.int64)
    unmapped = rejected = contested = zeros = 0
    windows = list(reference.windows(blocks_of(mapped.grid.window, BLOCK)))
    with progress("Comparing", len(windows)) as advance:
        for window in windows:
            block = reference.read(window)
            contested += block.contested
            zeros += block.zeros
            if block.classes.any():
                found, unsure = mapped.read(window)
                seen += np.bincount(block.classes.ravel(), minlength=256)
                wanted = to_map[block.classes]
                matrix += ConfusionMatrix.from_arrays(wanted, found, legend)
                missing = (wanted != NODATA_CLASS) & ~np.isin(found, legend.ids)
                rejected += int((missing & unsure).sum())
                unmapped += int((missing & ~unsure).sum())
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
        zeros=zeros,
    )


def match_classes(mapped: OpenMap, reference: LabelSource, reference_path: str) -> ClassMatch:
    """The classes that a map and a reference have in common; there may be none.

    An id that was only counted up for a file (class names of a vector file in alphabetical order, codes
    above 255) means nothing in another file and is never compared.

    Raises :class:`LabelError` if one side has names, and the other codes that are not the map's values.
    """
    ours, theirs = mapped.legend, reference.legend
    map_numbers, their_numbers = _numbers(ours), _numbers(theirs)
    if map_numbers is None and their_numbers is None:
        return ClassMatch(_by_name(ours, theirs), "name")
    guess = ""
    if map_numbers is None:
        # The reference's codes are taken for values of the map, if they can be: a map's own values are bytes.
        codes = {*their_numbers} if their_numbers else set()
        large = max(mapped.codes, default=0) > MOST_CLASSES
        may_be = reference.codes is not None and (large or max(codes, default=0) <= MOST_CLASSES)
        map_numbers = mapped.codes if may_be else None
        guess = (
            f"the reference has no class names; its numbers are taken for values of map {mapped.file.path}"
        )
    elif their_numbers is None:
        # A reference raster has values as well as names; they compare with the numbers in the map's names.
        their_numbers = reference.codes
        guess = (
            f"map {mapped.file.path} has no class names; its numbers are taken for values of the reference"
        )
    if map_numbers is None or their_numbers is None:
        raise LabelError(
            f"map {mapped.file.path} and reference {reference_path} cannot be compared: one has class names "
            "where the other has codes",
            f"the map has {', '.join(ours.names)}; the reference has {', '.join(theirs.names)}; "
            "give the reference a field with the map's names or values (--class-field)",
        )
    pairs = {n: (i, map_numbers[n]) for n, i in their_numbers.items() if n in map_numbers}
    if guess and pairs:
        listed = ", ".join(f"{n} is {ours[i].name}" for n, (_, i) in pairs.items() if i in ours.ids)
        log.warning("Classes are matched by number, since %s: %s", guess, listed)
    return ClassMatch(dict(pairs.values()), "id")


def _by_name(ours: Legend, theirs: Legend) -> dict[int, int]:
    """Id of a reference's class → id of the map's class, by their names."""
    ids = dict(zip(ours.names, ours.ids, strict=True))
    found = {c.id: ids[c.name] for c in theirs.each() if c.name in ids}
    taken = {*found.values()}
    near_ours, near_theirs = (_by_key(legend) for legend in (ours, theirs))
    for key, names in near_theirs.items():
        others = near_ours.get(key, [])
        if len(names) != 1 or len(others) != 1:
            if others and any(c.id not in found for c in names):
                log.warning(
                    "Not matched, since several names come into question: %s of the map, %s of the reference",
                    ", ".join(repr(c.name) for c in others),
                    ", ".join(repr(c.name) for c in names),
                )
            continue
        (one,), (other,) = names, others
        if one.id not in found and other.id not in taken:
            found[one.id] = other.id
            log.info("Class %r of the reference is taken for %r of the map", one.name, other.name)
    return found


def _by_key(legend: Legend) -> dict[str, list[LegendClass]]:
    """Classes by name apart from case, blanks, hyphens and underscores."""
    found: dict[str, list[LegendClass]] = {}
    for c in legend.each():
        plain = unicodedata.normalize("NFC", c.name).casefold()
        found.setdefault(re.sub(r"[\s_-]+", "", plain), []).append(c)
    return found


def _numbers(legend: Legend) -> dict[int, int] | None:
    """Number in the name → id, if all names are numbers, such as ``class 111``, and all differ."""
    found = [_NUMBERED.fullmatch(name) for name in legend.names]
    numbers = {int(m[1]): c.id for m, c in zip(found, legend.each(), strict=True) if m is not None}
    return numbers if len(numbers) == len(legend) else None


@contextmanager
def open_map(path: str | Path, legend: Legend | None = None) -> Iterator[OpenMap]:
    """A class raster, open within the context.

    Parameters
    ----------
    legend:
        Names of its values; by default those in the file.

    Raises :class:`InputError` if the file is missing, is no raster of whole numbers, or has no CRS.
    """
    with ClassFile.open(path, "map") as file:
        file.require_crs()
        if file.dtype.kind not in "iu":
            raise InputError(f"map {path} is of type {file.dtype}, not a raster of class numbers")
        unsure = file.names.unsure
        file.tell_names()
        if legend is None:
            legend, codes = _classes_of(file)
        else:
            codes = {i: i for i in legend.ids}
        if unsure in codes and len(legend) > 1:
            legend = legend.without(codes.pop(unsure))
        yield OpenMap(file, legend, codes, unsure)


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
    present = {code for code in file.distinct(MOST_CLASSES + 8) if not is_null(code)} - no_class
    if not present:
        raise InputError(f"map {file.path} has no pixel with a class")
    file.refuse_image(len(present), MOST_CLASSES)
    named = {*file.names.names} - no_class
    # A class without any pixel of the map may be in the reference.
    file.tell_zero(present)
    values = present | named if len(present | named) <= MOST_CLASSES else present
    return Legend.of_codes(values, file.names.names)
