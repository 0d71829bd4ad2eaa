"""Estimated accuracies and areas as values, tables and JSON.

:mod:`das2f_map.assess.area_estimates` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from das2f_map.assess.confusion_matrix import percent
from das2f_map.assess.html_tables import html_page, html_table
from das2f_map.types import Float64, Int64

CONFIDENCE = 0.95
HECTARE = 10_000.0
"""Square metres."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and the ends of its interval; all ``None`` if it does not exist."""

    value: float | None = None
    standard_error: float | None = None
    lower: float | None = None
    upper: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """The estimate of the figure times a constant."""
        numbers = (self.value, self.standard_error, self.lower, self.upper)
        return Estimate(*(None if number is None else number * factor for number in numbers))

    def to_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {
            "estimate": self.value,
            "standard_error": self.standard_error,
            "lower": self.lower,
            "upper": self.upper,
        }

    @property
    def is_exact(self) -> bool:
        """Whether the interval has no width: all pixels that the figure is about are known."""
        return self.lower is not None and self.upper is not None and self.upper - self.lower < 1e-9

    def as_percent(self) -> str:
        """``93.1 % (90.2–95.2)``, ``93.1 % (exact)`` or a dash."""
        if self.value is None or self.lower is None or self.upper is None:
            return "–"
        if self.is_exact:
            return f"{percent(self.value)} (exact)"
        return f"{percent(self.value)} ({100 * self.lower:.1f}–{100 * self.upper:.1f})"


@dataclass(frozen=True)
class ClassEstimate:
    """Figures of one class.

    Attributes
    ----------
    mapped_pixels, mapped_area_m2:
        As counted in the map.
    share:
        Of the sampled area, 0..1.
    area_m2:
        Error-adjusted, that is from the reference classes of the sample.
    mapped_units, reference_units:
        Units of the sample that the map, or the reference, gives this class.
    """

    id: int | None
    name: str
    mapped_pixels: int
    mapped_area_m2: float
    share: Estimate
    area_m2: Estimate
    users_accuracy: Estimate
    producers_accuracy: Estimate
    f1: Estimate
    mapped_units: int
    reference_units: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "mapped_pixels": self.mapped_pixels,
            "mapped_area_m2": self.mapped_area_m2,
            "mapped_area_ha": self.mapped_area_m2 / HECTARE,
            "share": self.share.to_dict(),
            "area_m2": self.area_m2.to_dict(),
            "area_ha": self.area_m2.scaled(1 / HECTARE).to_dict(),
            "users_accuracy": self.users_accuracy.to_dict(),
            "producers_accuracy": self.producers_accuracy.to_dict(),
            "f1": self.f1.to_dict(),
            "mapped_units": self.mapped_units,
            "reference_units": self.reference_units,
        }


@dataclass(frozen=True, eq=False)
class AreaEstimates:
    """Accuracy and areas from a probability sample, each with standard error and interval.

    Attributes
    ----------
    design:
        The sampling design in words.
    units:
        Units with a reference class.
    area_m2:
        Ground that the estimates are about.
    cells:
        float64 (C, C): estimated share of that ground of every (mapped, reference) pair.
    counts:
        int64 (C, C): units of every pair.
    confidence:
        Level of the intervals, 0..1.
    notes:
        A sentence for each thing that the reader of the figures should know.
    """

    design: str
    units: int
    area_m2: float
    overall_accuracy: Estimate
    kappa: Estimate
    classes: tuple[ClassEstimate, ...]
    cells: Float64
    counts: Int64
    confidence: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON; those that do not exist are ``None``."""
        return {
            "design": self.design,
            "units": self.units,
            "area_m2": self.area_m2,
            "area_ha": self.area_m2 / HECTARE,
            "confidence": self.confidence,
            "overall_accuracy": self.overall_accuracy.to_dict(),
            "kappa": self.kappa.to_dict(),
            "classes": [c.to_dict() for c in self.classes],
            "error_matrix": {
                "rows": "map",
                "columns": "reference",
                "class_names": [c.name for c in self.classes],
                "shares_of_area": self.cells.tolist(),
                "units": self.counts.tolist(),
            },
            "notes": list(self.notes),
        }

    def area_table(self) -> list[list[str]]:
        """Header and rows as text: area of every class in the map and as estimated, in hectares."""
        level = f"{100 * self.confidence:g} % interval"
        header = ["class", "mapped pixels", "mapped ha", "area ha", "standard error", level, "share"]
        rows = []
        for c in self.classes:
            area = c.area_m2.scaled(1 / HECTARE)
            ends = "–" if area.lower is None else f"{_hectares(area.lower)} to {_hectares(area.upper)}"
            if c.share.is_exact:
                ends = "exact"
            rows.append(
                [
                    c.name,
                    f"{c.mapped_pixels:,}",
                    _hectares(c.mapped_area_m2 / HECTARE),
                    _hectares(area.value),
                    _hectares(area.standard_error),
                    ends,
                    percent(c.share.value),
                ]
            )
        return [header, *rows]

    def accuracy_table(self) -> list[list[str]]:
        """Header and rows as text: accuracies of every class with their intervals."""
        header = ["class", "user's", "producer's", "F1", "units mapped", "units in reference"]
        return [
            header,
            *(
                [
                    c.name,
                    c.users_accuracy.as_percent(),
                    c.producers_accuracy.as_percent(),
                    c.f1.as_percent(),
                    f"{c.mapped_units:,}",
                    f"{c.reference_units:,}",
                ]
                for c in self.classes
            ),
        ]

    def overall_table(self) -> list[list[str]]:
        """Header and one row as text: overall accuracy, kappa, number of units, area."""
        kappa = self.kappa
        text = "–" if kappa.value is None else f"{kappa.value:.3f}"
        if kappa.is_exact:
            text += " (exact)"
        elif kappa.lower is not None and kappa.upper is not None:
            text += f" ({kappa.lower:.3f}–{kappa.upper:.3f})"
        return [
            ["overall accuracy", "kappa", "units", "area ha"],
            [
                self.overall_accuracy.as_percent(),
                text,
                f"{self.units:,}",
                _hectares(self.area_m2 / HECTARE),
            ],
        ]

    def to_html(self) -> str:
        """The tables and the notes as HTML; a notebook shows it."""
        return html_page(
            f"Estimates from a probability sample ({self.design})",
            [
                html_table(self.overall_table()),
                html_table(self.area_table()),
                html_table(self.accuracy_table()),
            ],
            self.notes,
        )

    def _repr_html_(self) -> str:
        return self.to_html()


def _hectares(value: float | None) -> str:
    """``1,234`` or ``0.123``: at least three digits, or a dash."""
    if value is None:
        return "–"
    size = abs(value)
    # Rounding leaves 1e-14 where the error is 0.
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 or size < 5e-5 else 4
    return f"{value:,.{digits}f}"
