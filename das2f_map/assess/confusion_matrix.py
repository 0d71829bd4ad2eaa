"""Confusion matrix and the accuracy figures of the field that follow from it.

Rows are the reference, columns the map. Producer's accuracy of a class is the share of its reference pixels
that the map has right (recall). User's accuracy is the share of its map pixels that are right (precision).
Figures that do not exist, such as the producer's accuracy of a class without reference pixels, are ``None``,
never NaN.

Source: Congalton, R. G. (1991), "A review of assessing the accuracy of classifications of
remotely sensed data", Remote Sensing of Environment 37, 35–46.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from das2f_map.legend import Legend
from das2f_map.types import Int64


@dataclass(frozen=True)
class ClassAccuracy:
    """Figures of one class; accuracies are 0..1 or ``None`` where undefined."""

    id: int
    name: str
    reference_pixels: int
    mapped_pixels: int
    correct_pixels: int
    producers_accuracy: float | None
    users_accuracy: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Counts of (reference class, mapped class) pairs.

    Parameters
    ----------
    legend:
        Classes, in the order of the rows and columns.
    counts:
        int64 ``(classes, classes)``, reference down, map across.
    """

    legend: Legend
    counts: Int64

    def __post_init__(self) -> None:
        n = len(self.legend)
        if self.counts.shape != (n, n):
            raise ValueError(f"a matrix of {self.counts.shape} does not fit {n} classes")
        if (self.counts < 0).any():
            raise ValueError("counts must not be negative")

    @classmethod
    def empty(cls, legend: Legend) -> ConfusionMatrix:
        """Nothing counted yet; the start of a block-wise sum."""
        return cls(legend, np.zeros((len(legend), len(legend)), np.int64))

    @classmethod
    def from_arrays(
        cls, reference: ArrayLike, mapped: ArrayLike, legend: Legend, mask: ArrayLike | None = None
    ) -> ConfusionMatrix:
        """Count class *ids* of two arrays of the same shape.

        Pixels where ``mask`` is false, or where either array has an id that is not in the legend
        (0, nodata, among them), are not counted.
        """
        ref, got = np.asarray(reference), np.asarray(mapped)
        if ref.shape != got.shape:
            raise ValueError(f"reference {ref.shape} and map {got.shape} differ in shape")
        r, m = legend.positions(ref), legend.positions(got)
        counted = (r >= 0) & (m >= 0)
        if mask is not None:
            counted &= np.asarray(mask, bool)
        n = len(legend)
        flat = np.bincount(r[counted] * n + m[counted], minlength=n * n)
        return cls(legend, flat.reshape(n, n).astype(np.int64))

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Sum of two matrices of the same legend, for block-wise counting."""
        if other.legend != self.legend:
            raise ValueError("matrices of different legends cannot be added")
        return ConfusionMatrix(self.legend, self.counts + other.counts)

    @property
    def total(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum())

    @property
    def overall_accuracy(self) -> float | None:
        """OA: share of pixels that are right."""
        return _ratio(np.trace(self.counts), self.total)

    @property
    def average_accuracy(self) -> float | None:
        """AA: mean producer's accuracy over the classes the reference has."""
        known = [c.producers_accuracy for c in self.per_class() if c.producers_accuracy is not None]
        return float(np.mean(known)) if known else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: agreement beyond chance; ``None`` if chance alone agrees fully."""
        if self.total == 0:
            return None
        # Counts of a large map overflow int64 when multiplied.
        shares = self.counts / self.total
        chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
        observed = float(np.trace(shares))
        return (observed - chance) / (1.0 - chance) if chance < 1.0 else None

    @property
    def mean_f1(self) -> float | None:
        """Mean F1 over the classes the reference has."""
        known = [c.f1 for c in self.per_class() if c.f1 is not None]
        return float(np.mean(known)) if known else None

    def per_class(self) -> tuple[ClassAccuracy, ...]:
        """Figures of each class of the legend, in its order."""
        result = []
        for k, c in enumerate(self.legend.each()):
            right = int(self.counts[k, k])
            in_reference, in_map = int(self.counts[k].sum()), int(self.counts[:, k].sum())
            result.append(
                ClassAccuracy(
                    id=c.id,
                    name=c.name,
                    reference_pixels=in_reference,
                    mapped_pixels=in_map,
                    correct_pixels=right,
                    producers_accuracy=_ratio(right, in_reference),
                    users_accuracy=_ratio(right, in_map),
                    # A class that is not in the reference has no F1 that says anything.
                    f1=_ratio(2 * right, in_reference + in_map) if in_reference else None,
                )
            )
        return tuple(result)

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON and the model card; undefined ones are ``None``."""
        return {
            "overall_accuracy": self.overall_accuracy,
            "average_accuracy": self.average_accuracy,
            "kappa": self.kappa,
            "mean_f1": self.mean_f1,
            "pixels": self.total,
            "classes": [
                {
                    "id": c.id,
                    "name": c.name,
                    "producers_accuracy": c.producers_accuracy,
                    "users_accuracy": c.users_accuracy,
                    "f1": c.f1,
                    "reference_pixels": c.reference_pixels,
                    "mapped_pixels": c.mapped_pixels,
                    "correct_pixels": c.correct_pixels,
                }
                for c in self.per_class()
            ],
            "confusion_matrix": {
                "rows": "reference",
                "columns": "map",
                "class_ids": list(self.legend.ids),
                "class_names": list(self.legend.names),
                "counts": self.counts.tolist(),
            },
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConfusionMatrix:
        """The matrix that :meth:`to_dict` wrote; colours are chosen anew."""
        matrix = values["confusion_matrix"]
        legend = Legend.from_names(matrix["class_names"], matrix["class_ids"])
        return cls(legend, np.array(matrix["counts"], np.int64).reshape(len(legend), len(legend)))

    def matrix_table(self) -> list[list[str]]:
        """Header and rows of the matrix as text, reference down, map across."""
        header = ["reference \\ map", *self.legend.names, "total"]
        rows = [
            [name, *(f"{int(v):,}" for v in line), f"{int(line.sum()):,}"]
            for name, line in zip(self.legend.names, self.counts, strict=True)
        ]
        sums = self.counts.sum(axis=0)
        return [header, *rows, ["total", *(f"{int(v):,}" for v in sums), f"{self.total:,}"]]

    def class_table(self) -> list[list[str]]:
        """Header and one row for each class as text: producer's, user's, F1, reference pixels."""
        header = ["class", "producer's", "user's", "F1", "reference pixels"]
        return [
            header,
            *(
                [
                    c.name,
                    *map(percent, (c.producers_accuracy, c.users_accuracy, c.f1)),
                    f"{c.reference_pixels:,}",
                ]
                for c in self.per_class()
            ),
        ]


def percent(value: float | None) -> str:
    """``93.1 %``, or a dash for a figure that does not exist."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
