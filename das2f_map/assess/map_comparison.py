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
from typing import Any, Protocol

import numpy as np

from das2f_map.assess.area_estimates import AreaEstimates
from das2f_map.assess.bootstrap import BlockCounts, BootstrapFigures, SpatialBlocks
from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.assess.html_tables import html_page, html_table
from das2f_map.assess.map_difference import MapDifference, of_blocks
from das2f_map.errors import InputError, LabelError
from das2f_map.labels.class_values import is_null
from das2f_map.labels.source import LabelSource
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, UNSURE_NAME, Legend, LegendClass
from das2f_map.products.class_file import ClassFile
from das2f_map.progress import Progress
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.types import Bool, UInt8

log = logging.getLogger(__name__)

BLOCK = 1024
_NUMBERED = re.compile(r"(?:class)?[ _]*([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class AreaUnit:
    """The unit of areas in a map's CRS: its name, and its size in m²."""

    name: str
    square_metres: float


@dataclass(frozen=True, eq=False)
class BlockIntervals:
    """Intervals from a bootstrap of square blocks of a map: replicates, number of blocks, side in pixels."""

    figures: BootstrapFigures
    blocks: int
    side: int


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
    estimates: AreaEstimates | None = None
    """Figures of the map, if the reference is a probability sample; ``matrix`` counts its points."""
    intervals: BlockIntervals | None = None
    """Of the figures of ``matrix``, if the reference is no probability sample and spread widely enough."""
    difference: MapDifference | None = None
    """Compared with another map."""
    unit: AreaUnit | None = None
    """Of areas in the map's CRS; ``None`` for degrees."""
    remarks: tuple[str, ...] = ()
    """Further sentences for the reader."""

    @property
    def rejected_share(self) -> float | None:
        """Share of the reference pixels that the map is unsure of, 0..1; ``None`` without any pixel."""
        known = self.matrix.total + self.rejected
        return self.rejected / known if known else None

    def notices(self) -> tuple[str, ...]:
        """Notices for the reader of the figures, a sentence each."""
        found = list(self.remarks)
        if self.difference is not None:
            found += self.difference.sentences()
        if self.estimates is not None:
            return (*found, *self._unit_in_words(), *self.estimates.notes)
        found.append(
            "Not a probability sample: the figures describe these reference pixels, not the whole map, and "
            "no areas follow from them; das2f-map sample draws such a sample"
        )
        if self.intervals is not None:
            found.append(
                f"95 % intervals are from a bootstrap of {self.intervals.blocks} blocks of "
                f"{self.intervals.side} × {self.intervals.side} map pixels that hold reference pixels"
            )
        elif self.matrix.total:
            found.append("No intervals: the reference lies in too few places of the map")
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
        """For JSON: the figures of :meth:`ConfusionMatrix.to_dict`, the pixels left out, the estimates.

        With a probability sample, accuracies and kappa are the estimates; the matrix counts points.
        """
        found = self.matrix.to_dict()
        if self.estimates is not None:
            found |= _estimated(found, self.estimates)
        names = self.matrix.legend.names
        return {
            **found,
            "probability_sample": self.estimates is not None,
            "design": None if self.estimates is None else self.estimates.design,
            "estimates": None if self.estimates is None else self._estimates_dict(self.estimates),
            "intervals": None
            if self.intervals is None
            else {
                "blocks": self.intervals.blocks,
                "block_side_pixels": self.intervals.side,
                "confidence": self.intervals.figures.confidence,
                **self.intervals.figures.to_dict(names),
            },
            "comparison": None if self.difference is None else self.difference.to_dict(),
            "notices": list(self.notices()),
            "matched_by": self.matched_by,
            "only_in_map": list(self.only_in_map),
            "only_in_reference": self.only_in_reference,
            "reference_pixels_without_map": self.unmapped,
            "rejected_reference_pixels": self.rejected,
            "rejected_share": self.rejected_share,
            "contested_reference_pixels": self.contested,
            "zero_reference_pixels": self.zeros,
        }

    def _estimates_dict(self, estimates: AreaEstimates) -> dict[str, Any]:
        """The estimates with areas in the map's unit, too."""
        found = estimates.to_dict()
        found["map_unit"] = None if self.unit is None else f"square {self.unit.name}"
        if self.unit is not None:
            for record, c in zip(found["classes"], estimates.classes, strict=True):
                record["area_map_unit"] = c.area_m2.scaled(1 / self.unit.square_metres).to_dict()
        return found

    def _unit_in_words(self) -> tuple[str, ...]:
        if self.unit is None or abs(self.unit.square_metres - 1) < 1e-9:
            return ()
        return (f"1 ha is {10_000 / self.unit.square_metres:,.1f} square {self.unit.name}s, the map's unit",)

    def interval_table(self) -> list[list[str]]:
        """Header and rows as text: 95 % intervals of the accuracies from the bootstrap; without it, none."""
        if self.intervals is None:
            return []
        figures = self.intervals.figures.to_dict(self.matrix.legend.names)
        rows = [["overall", "", "", _ends(figures["overall_accuracy"]), ""]]
        for c, ends in zip(self.matrix.per_class(), figures["classes"], strict=True):
            if c.reference_pixels or c.mapped_pixels:
                cells = (ends["producers_accuracy"], ends["users_accuracy"], ends["f1"])
                producers, users, f1 = map(_ends, cells)
                rows.append([c.name, producers, users, "", f1])
        return [["class", "producer's", "user's", "OA", "F1"], *rows]

    def to_html(self) -> str:
        """The tables and notices as HTML; a notebook shows it."""
        if self.estimates is not None:
            head = [self.estimates.overall_table(), self.estimates.area_table()]
            tables = [*head, self.estimates.accuracy_table(), self.matrix.matrix_table()]
            return html_page(
                f"Estimates from a probability sample ({self.estimates.design})",
                map(html_table, tables),
                self.notices(),
            )
        tables = [self.matrix.class_table(), self.interval_table(), self.matrix.matrix_table()]
        title = f"OA {percent(self.matrix.overall_accuracy)} of {self.matrix.total:,} reference pixels"
        return html_page(title, (html_table(t) for t in tables if t), self.notices())

    def _repr_html_(self) -> str:
        return self.to_html()


def _ends(spread: dict[str, float | None]) -> str:
    low, high = spread["lower"], spread["upper"]
    if low is None or high is None or not low < high:
        return "–"
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def _estimated(counted: dict[str, Any], estimates: AreaEstimates) -> dict[str, Any]:
    """Figures of a dictionary of counts, replaced by the estimates."""
    by_name = {c.name: c for c in estimates.classes}
    classes = []
    for record in counted["classes"]:
        c = by_name[record["name"]]
        accuracies = {
            "producers_accuracy": c.producers_accuracy.value,
            "users_accuracy": c.users_accuracy.value,
            "f1": c.f1.value,
        }
        classes.append(record | accuracies)
    there = [c for c in classes if c["reference_pixels"]]
    known = {key: [c[key] for c in there if c[key] is not None] for key in ("producers_accuracy", "f1")}
    return {
        "overall_accuracy": estimates.overall_accuracy.value,
        "kappa": estimates.kappa.value,
        "average_accuracy": float(np.mean(known["producers_accuracy"])) if there else None,
        "mean_f1": float(np.mean(known["f1"])) if there else None,
        "classes": classes,
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


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a reference is which class of a map."""

    map_id: dict[int, int]
    """Reference id → map id, for the classes that both have."""
    by: str
    """``name`` or ``id``, see :attr:`Evaluation.matched_by`."""


@dataclass(frozen=True, eq=False)
class OtherMap:
    """Another map that is open, and which of its classes is which of the reference."""

    path: str
    mapped: OpenMap
    match: ClassMatch

    def right(self, window: Window, reference: UInt8) -> tuple[Bool, Bool]:
        """Pixels of a window where it agrees with class ids of the reference, and where it has a class."""
        to_map = np.zeros(256, np.uint8)
        to_map[list(self.match.map_id)] = list(self.match.map_id.values())
        wanted, (found, _) = to_map[reference], self.mapped.read(window)
        answered = np.isin(found, self.mapped.legend.ids)
        return (wanted == found) & answered, answered


def compare(
    mapped: OpenMap,
    reference: LabelSource,
    match: ClassMatch,
    reference_path: str,
    progress: Progress,
    other: OtherMap | None = None,
) -> Evaluation:
    """Compare a map with reference labels, block by block.

    Rejected pixels are no wrong answers: they are counted apart.

    Parameters
    ----------
    reference:
        Opened on the map's grid.
    match:
        From :func:`match_classes`.
    other:
        Another map on the same grid, to compare the accuracies.

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
    places, pairs = BlockCounts(mapped.grid, len(legend)), BlockCounts(mapped.grid, 2)
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
                places.add(window, legend.positions(wanted), legend.positions(found))
                if other is not None:
                    right = (wanted == found) & (wanted != NODATA_CLASS)
                    theirs, there = other.right(window, block.classes)
                    compared = there & np.isin(found, legend.ids) & (block.classes != NODATA_CLASS)
                    pairs.add(window, np.where(compared, theirs, -1), np.where(compared, right, -1))
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
        intervals=_intervals(places.blocks()),
        difference=None if other is None else of_blocks(other.path, pairs.blocks(), pairs.total()),
    )


def _intervals(blocks: SpatialBlocks | None) -> BlockIntervals | None:
    return None if blocks is None else BlockIntervals(blocks.bootstrap(), len(blocks.cells), blocks.side)


class ReferenceClasses(Protocol):
    """The classes of a reference of any kind, as :class:`LabelSource` has them."""

    @property
    def legend(self) -> Legend:
        """Its classes."""

    @property
    def codes(self) -> dict[int, int] | None:
        """Its own numbers."""


def match_classes(mapped: OpenMap, reference: ReferenceClasses, reference_path: str) -> ClassMatch:
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
