"""Intervals of shares and ratios that hold near 0 and 1 as well: they never have width 0 unless all is known.

An estimate ± 1.96 standard errors has width 0 where a sample has no error, and covers too seldom where errors
are few. Instead each stratum's share gets Wilson's interval. The method of variance recovery joins the
intervals of the strata to the interval of a sum, and Fieller's argument gives the interval of a ratio. In
large samples the result is the estimate ± 1.96 standard errors.

Sources: Wilson, E. B. (1927), "Probable inference, the law of succession, and statistical inference", Journal
of the American Statistical Association 22, 209–212. Zou, G. Y., Donner, A. (2008), "Construction of
confidence limits about effect measures: a general approach", Statistics in Medicine 27, 1693–1702. Brown, L.
D., Cai, T. T., DasGupta, A. (2001), "Interval estimation for a binomial proportion", Statistical Science 16,
101–133, for intervals of few units. Korn, E.
L., Graubard, B. I. (1998), "Confidence intervals for proportions with small expected number of positive
counts estimated from survey data", Survey Methodology 24, 193–201, for the effective size of cluster samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from das2f_map.assess.quantiles import normal_quantile, t_quantile
from das2f_map.assess.sampled_units import ClusteredUnits, StratifiedUnits
from das2f_map.types import Bool, Float64


@dataclass(frozen=True, eq=False)
class Ratios:
    """Figures of the form  cA / (cA + B),  A and B being the ground of good and of bad units.

    Overall accuracy, user's and producer's accuracy and the share of a class have c = 1; F1 has c = 2.

    Attributes
    ----------
    good, bad:
        float64 (n, F) of 0 and 1: units that count for and against a figure. None does both.
    factor:
        float64 (F,): c.
    """

    good: Float64
    bad: Float64
    factor: Float64

    def values(self, weights: Float64) -> Float64:
        """The figures of weighted units: float64 (F,), nan where no unit counts."""
        good, bad = self.factor * (weights @ self.good), weights @ self.bad
        whole = good + bad
        result: Float64 = np.divide(good, whole, out=np.full(whole.size, np.nan), where=whole > 0)
        return result

    def linearised(self, weights: Float64) -> Float64:
        """Influence of every unit on every figure: float64 (n, F), 0 where the figure does not exist."""
        values = np.nan_to_num(self.values(weights))
        whole = self.factor * (weights @ self.good) + weights @ self.bad
        top = self.factor * (1 - values) * self.good - values * self.bad
        result: Float64 = top / np.where(whole > 0, whole, np.inf)
        return result


@dataclass(frozen=True, eq=False)
class Possible:
    """Which strata can have good and bad units of a figure at all: bool (H, F) each.

    A stratum of pixels mapped as water has no unit that counts for the user's accuracy of soil, so that its
    empty cell adds no doubt.
    """

    good: Bool
    bad: Bool


def wilson(share: Float64, size: Float64, quantile: float | Float64) -> tuple[Float64, Float64]:
    """Ends of Wilson's interval of shares 0..1 from samples of a size, which may be infinite."""
    square = quantile * quantile / size
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(np.maximum(0.0, square * share * (1 - share) + square * square / 4)) / (1 + square)
    low = np.where(share <= 0, 0.0, middle - half)
    high = np.where(share >= 1, 1.0, middle + half)
    return np.maximum(0.0, low), np.minimum(1.0, high)


def modified_wilson(share: Float64, size: Float64, quantile: float) -> tuple[Float64, Float64]:
    """Ends of Wilson's interval, farther out where up to three units of a sample are good, or bad.

    There Wilson's own end holds the truth too seldom. A bound for the mean of so small a Poisson count takes
    its place (Brown, Cai and DasGupta).
    """
    low, high = wilson(share, size, quantile)
    counts, bounds = _poisson_bounds(math.erf(quantile / math.sqrt(2)))
    with np.errstate(invalid="ignore"):
        good, bad = (np.nan_to_num(size * part, nan=np.inf) for part in (share, 1 - share))
    for few, is_good in ((good, True), (bad, False)):
        chosen = (few > 0) & (few < counts[-1] + 1e-6)
        bound = np.interp(np.where(chosen, few, 0.0), counts, bounds) / np.where(chosen, size, 1.0)
        if is_good:
            low = np.where(chosen, np.minimum(low, bound), low)
        else:
            high = np.where(chosen, np.maximum(high, 1 - bound), high)
    return low, high


@lru_cache
def _poisson_bounds(confidence: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Counts 0 to 3, and for each the mean at which fewer come with a probability of ``confidence``."""
    bounds = [0.0]
    for count in (1, 2, 3):
        low, high = 0.0, 20.0
        for _ in range(60):
            middle = (low + high) / 2
            fewer = math.exp(-middle) * sum(middle**k / math.factorial(k) for k in range(count))
            low, high = (middle, high) if fewer > confidence else (low, middle)
        bounds.append(low)
    return (0.0, 1.0, 2.0, 3.0), tuple(bounds)


def stratified_interval(
    units: StratifiedUnits, ratios: Ratios, possible: Possible, confidence: float
) -> tuple[Float64, Float64]:
    """Ends of the intervals of some ratios, float64 (F,) each; nan where a figure does not exist."""
    spread = _Spread.of(units, ratios, possible, confidence)
    weights = units.areas / units.total
    good, bad = weights @ spread.a, weights @ spread.b
    known = good + bad > 0
    ends = []
    # An end is a quotient x of good to bad at which  A − x B  just differs from 0 by its own interval:
    # (A − x B)² = P + x² Q + 2 x S, which has one root below and one above A / B.
    for upper in (False, True):
        p, q, s = spread.squares(weights, upper=upper)
        middle = good * bad + s
        root = np.sqrt(np.maximum(0.0, middle**2 - (bad**2 - q) * (good**2 - p)))
        top, bottom = (middle + root, bad**2 - q) if upper else (good**2 - p, middle + root)
        # A quotient may be infinite; its share is finite.
        top, bottom = np.maximum(0.0, top) * ratios.factor, np.maximum(0.0, bottom)
        whole = top + bottom
        share = np.divide(top, whole, out=np.full(whole.size, float(upper)), where=whole > 0)
        ends.append(np.where(known, share, np.nan))
    return ends[0], ends[1]


def stratified_difference(units: StratifiedUnits, pair: Ratios, confidence: float) -> tuple[Float64, Float64]:
    """Ends of the intervals of the differences of the shares of good and of bad units, float64 (F,) each."""
    everywhere = np.ones((units.pixels.size, pair.good.shape[1]), bool)
    spread = _Spread.of(units, pair, Possible(everywhere, everywhere), confidence)
    weights = units.areas / units.total
    value = weights @ (spread.a - spread.b)
    below, above = (
        np.sqrt(p + q + 2 * s) for p, q, s in (spread.squares(weights, upper=end) for end in (False, True))
    )
    return value - below, value + above


@dataclass(frozen=True, eq=False)
class _Spread:
    """Shares of good and bad units in every stratum, their intervals and their correlation, (H, F) each."""

    a: Float64
    b: Float64
    below_a: Float64
    above_a: Float64
    below_b: Float64
    above_b: Float64
    correlation: Float64

    @classmethod
    def of(cls, units: StratifiedUnits, ratios: Ratios, possible: Possible, confidence: float) -> _Spread:
        quantile = normal_quantile((1 + confidence) / 2)
        # Units of different areas carry the information of fewer units of one area.
        squares = units.sums(units.unit_areas[:, None] ** 2)[:, 0]
        size = units.sums(units.unit_areas[:, None])[:, 0] ** 2 / squares
        with np.errstate(divide="ignore"):
            size = (size / (1 - units.fractions))[:, None]
        a, b = units.means(ratios.good), units.means(ratios.bad)
        (low_a, high_a), (low_b, high_b) = (modified_wilson(share, size, quantile) for share in (a, b))
        odds = a * b / np.maximum(1e-300, (1 - a) * (1 - b))
        return cls(
            a,
            b,
            np.where(possible.good, a - low_a, 0.0),
            np.where(possible.good, high_a - a, 0.0),
            np.where(possible.bad, b - low_b, 0.0),
            np.where(possible.bad, high_b - b, 0.0),
            -np.sqrt(np.minimum(1.0, odds)),
        )

    def squares(self, weights: Float64, *, upper: bool) -> tuple[Float64, Float64, Float64]:
        """P, Q and S, float64 (F,) each.

        P x² + Q y² + 2 S x y is the square of the half-width, to one side, of the interval of  x A − y B.
        """
        first, second = (self.above_a, self.below_b) if upper else (self.below_a, self.above_b)
        square = weights**2
        return square @ first**2, square @ second**2, square @ (-self.correlation * first * second)


def clustered_interval(
    units: ClusteredUnits, ratios: Ratios, errors: Float64, confidence: float
) -> tuple[Float64, Float64]:
    """Ends of the intervals of some ratios from their standard errors, float64 (F,) each.

    Wilson's interval of as many independent units as would give the standard error, with Student's t. Without
    any spread the clusters count as the units. Where only a few clusters have good units, or bad ones, these
    alone tell of the spread: the degrees of freedom are at most twice their number, by which such intervals
    hold the truth often enough in simulations.
    """
    values = ratios.values(units.weights)
    counted = (ratios.good + ratios.bad) > 0
    clusters = (units.sums(counted.astype(float)) > 0).sum(axis=0)
    spread = values * (1 - values)
    known = (errors > 0) & (spread > 0)
    size = np.where(known, spread / np.where(known, errors, 1.0) ** 2, np.maximum(1, clusters))
    size = np.minimum(size, np.maximum(1, counted.sum(axis=0)))
    both = [(units.sums(side) > 0).sum(axis=0) for side in (ratios.good, ratios.bad)]
    telling = np.minimum(*both)
    degrees = np.where(telling > 0, np.minimum(2.0 * telling, units.degrees), units.degrees)
    each = np.array([t_quantile((1 + confidence) / 2, float(d)) for d in degrees])
    return wilson(values, size, each)
