"""The figures of a map against a reference: as values, JSON, tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from das2f_map.assess.bootstrap import BootstrapFigures
from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.assess.estimates import AreaEstimates
from das2f_map.assess.html_tables import html_page, html_table
from das2f_map.assess.map_difference import MapDifference


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
