"""Two maps on one reference: the difference of their accuracies.

Both maps are right or wrong on the same pixels, so that the difference is known far better than from two
separate intervals.

Sources: McNemar, Q. (1947), "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12, 153–157. Foody, G. M. (2004), "Thematic map comparison", Photogrammetric
Engineering & Remote Sensing 70, 627–633.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from das2f_map.assess.bootstrap import SpatialBlocks, resampled_difference
from das2f_map.assess.estimates import CONFIDENCE, Estimate
from das2f_map.assess.intervals import Ratios, stratified_difference
from das2f_map.assess.quantiles import t_quantile
from das2f_map.assess.sampled_units import StratifiedUnits, Units
from das2f_map.types import Bool

_EXACT = 25
"""Pixels on which the maps differ, below which the exact test is used."""


@dataclass(frozen=True)
class MapDifference:
    """How much more accurate a map is than another one.

    Attributes
    ----------
    other:
        The other map.
    difference:
        Overall accuracy of the map minus that of the other, with its interval.
    first_only, second_only:
        Reference pixels on which only the map, or only the other map, is right.
    both, neither:
        Reference pixels on which both maps, or none, are right.
    p_value:
        Of McNemar's test, two-sided: the chance of so uneven a split of the pixels on which the maps differ,
        if they were equally accurate and the pixels were a simple random sample.
    neighbours:
        Whether many of the pixels are neighbours, so that the test is too sure of itself.
    """

    other: str
    difference: Estimate
    first_only: int
    second_only: int
    both: int
    neither: int
    p_value: float
    neighbours: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "other_map": self.other,
            "difference_of_overall_accuracy": self.difference.to_dict(),
            "only_this_map_right": self.first_only,
            "only_other_map_right": self.second_only,
            "both_right": self.both,
            "both_wrong": self.neither,
            "mcnemar_p_value": self.p_value,
        }

    def sentences(self) -> tuple[str, ...]:
        """The result in words."""
        d = self.difference
        if d.value is None:
            return (f"No pixel of the reference compares the map with {self.other}",)
        ends = (
            "" if d.lower is None else f" (95 % interval {100 * d.lower:+.1f} to {100 * (d.upper or 0):+.1f})"
        )
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return (
            f"Against {self.other}: overall accuracy {100 * d.value:+.1f} points{ends}; only this map is "
            f"right on {self.first_only:,} reference pixels, only the other on {self.second_only:,}; "
            f"McNemar's test {p}"
            + (", as if neighbouring pixels were independent" if self.neighbours else ""),
        )


def of_sample(other: str, first: Bool, second: Bool, answered: Bool, units: Units) -> MapDifference:
    """The difference, estimated from a probability sample, on the ground where both maps give a class.

    Parameters
    ----------
    first, second:
        bool (n,): units on which the map, or the other map, is right.
    answered:
        bool (n,): units to which both give a class.
    units:
        Their place in the design.
    """
    first, second = first & answered, second & answered
    better, worse = first & ~second, second & ~first
    sign = better.astype(np.float64) - worse
    ground = float(units.weights @ answered)
    if not ground > 0:
        return MapDifference(other, Estimate(), 0, 0, 0, 0, 1.0)
    value = float(units.weights @ sign / ground)
    error = math.sqrt(float(units.variance(((sign - value * answered) / ground)[:, None])[0]))
    if isinstance(units, StratifiedUnits):
        pair = Ratios(better[:, None].astype(float), worse[:, None].astype(float), np.ones(1))
        ends = stratified_difference(units, pair, CONFIDENCE)
        low, high = (float(end[0]) * units.total / ground for end in ends)
    else:
        half = t_quantile((1 + CONFIDENCE) / 2, units.degrees) * error
        # Clusters without any difference between the maps leave the doubt of as many independent units.
        half = half or 3.0 / units.count
        low, high = value - half, value + half
    difference = Estimate(value, error, max(-1.0, low), min(1.0, high))
    b, c, both = (int(which.sum()) for which in (better, worse, first & second))
    return MapDifference(other, difference, b, c, both, int(answered.sum()) - b - c - both, mcnemar(b, c))


def of_blocks(other: str, blocks: SpatialBlocks | None, counts: Any) -> MapDifference:
    """The difference on a reference that is no probability sample, from a bootstrap of blocks of the map.

    Parameters
    ----------
    blocks:
        Pixels by blocks: in place of a map's class, whether the map is right (0 or 1); in place of the
        reference's, whether the other map is. ``None`` where there are too few blocks for an interval.
    counts:
        int64 (2, 2): the same over all blocks.
    """
    total = int(counts.sum())
    if not total:
        return MapDifference(other, Estimate(), 0, 0, 0, 0, 1.0)
    value = float(counts[1, 0] - counts[0, 1]) / total
    difference = Estimate(value)
    if blocks is not None:
        error, low, high = resampled_difference(blocks, CONFIDENCE)
        if low < high:
            difference = Estimate(value, error, low, high)
    b, c = int(counts[1, 0]), int(counts[0, 1])
    both, neither = int(counts[1, 1]), int(counts[0, 0])
    return MapDifference(other, difference, b, c, both, neither, mcnemar(b, c), neighbours=True)


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided p value of McNemar's test: exact below 25 differences, else χ² with correction."""
    b, c = first_only, second_only
    n = b + c
    if n == 0:
        return 1.0
    if n < _EXACT:
        tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / float(2**n)
        return min(1.0, 2 * tail)
    square = max(0, abs(b - c) - 1) ** 2 / n
    return math.erfc(math.sqrt(square / 2))
