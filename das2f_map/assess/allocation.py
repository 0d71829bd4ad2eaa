"""How many points a stratified sample needs, and how many go to each stratum.

Sources: Cochran, W. G. (1977), "Sampling Techniques", 3rd ed., Wiley, chapters 4 and 5. Olofsson, P., Foody,
G. M., Herold, M., Stehman, S. V., Woodcock, C. E., Wulder, M. A. (2014), "Good practices for estimating area
and assessing accuracy of land change", Remote Sensing of Environment 148, 42–57, eq. 13 (size of a sample).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from das2f_map.errors import InputError
from das2f_map.types import Float64, Int64

Z95 = 1.959963984540054
"""Half-width of a 95 % interval, in standard errors."""

USUAL_MINIMUM = 50
"""Points that a rare class should have, as far as the size of the sample allows."""

_UNSURE_DEVIATION = 0.5
"""Standard deviation of a stratum without a class: the largest that a share can have."""


@dataclass(frozen=True, eq=False)
class Strata:
    """The strata of a map: class ids and names, and pixels of each, int64 (H,)."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    pixels: Int64

    @property
    def weights(self) -> Float64:
        """Share of the map that each stratum has, (H,)."""
        return np.asarray(self.pixels / self.pixels.sum(), np.float64)


@dataclass(frozen=True)
class AllocationRule:
    """How points are shared out over the strata.

    Attributes
    ----------
    kind:
        ``equal``, ``proportional`` to the pixels, or ``optimal``: the least variance (Neyman).
    minimum:
        Points that each stratum gets at least, or all its pixels; ``None`` for as many as half of the sample
        allows, up to :data:`USUAL_MINIMUM`.
    """

    kind: str = "proportional"
    minimum: int | None = None


def deviations(strata: Strata, expected: Mapping[int, float], target: Sequence[str] = ()) -> Float64:
    """Expected standard deviation of the estimated quantity in each stratum, (H,).

    Parameters
    ----------
    expected:
        User's accuracy 0..1 that is expected, by class id; the class ``unsure`` may lack.
    target:
        Nothing for the overall accuracy: √(U(1 − U)). Names of classes for their areas: √Σ p(1 − p), with p
        the expected share of the class in the stratum. Errors are expected to be spread over the other
        classes in proportion to their pixels.

    Raises
    ------
    InputError
        A class of ``target`` is not in the map.
    """
    users = np.array([expected.get(i, np.nan) for i in strata.ids])
    if not target:
        found = np.sqrt(users * (1 - users))
        return np.where(np.isnan(users), _UNSURE_DEVIATION, found)
    if strangers := sorted({*target} - {*strata.names}):
        raise InputError(
            f"the map has no class {strangers[0]!r}", f"its classes are {', '.join(strata.names)}"
        )
    weights = strata.weights
    total = np.zeros(len(strata.ids))
    for name in target:
        k = strata.names.index(name)
        rest = np.maximum(1 - weights, 1e-12)
        share = np.where(np.arange(len(weights)) == k, users, (1 - users) * weights[k] / rest)
        share = np.where(np.isnan(share), 0.5, share)
        total += share * (1 - share)
    return np.asarray(np.sqrt(total), np.float64)


def allocate(strata: Strata, points: int, rule: AllocationRule, deviation: Float64 | None = None) -> Int64:
    """Points of each stratum, (H,), with the sum ``points``, or all pixels where there are fewer.

    Points that a small stratum cannot take go to the others.

    Parameters
    ----------
    deviation:
        From :func:`deviations`; needed for an optimal allocation.

    Raises
    ------
    InputError
        ``points`` does not suffice for the minimum.
    """
    pixels, count = strata.pixels, len(strata.ids)
    minimum = rule.minimum
    if minimum is None:
        minimum = min(USUAL_MINIMUM, max(1, points // (2 * count)))
    least = np.minimum(minimum, pixels)
    if points < least.sum():
        raise InputError(
            f"{points:,} points do not suffice for {count} classes with at least {minimum} each: "
            f"that takes {int(least.sum()):,}",
            "give more points (-n) or a lower --min-per-stratum",
        )
    if rule.kind == "equal":
        wanted = np.ones(count)
    elif rule.kind == "proportional":
        wanted = strata.weights
    else:
        assert deviation is not None
        wanted = strata.weights * deviation
        if not wanted.any():
            wanted = strata.weights
    return _shared_out(min(points, int(pixels.sum())), wanted, least, pixels)


def standard_error(strata: Strata, points: Int64, deviation: Float64) -> float:
    """Expected standard error of the overall accuracy, with the finite-population correction."""
    weights, taken = strata.weights, np.maximum(points, 1)
    finite = np.clip(1 - points / strata.pixels, 0, 1)
    return float(np.sqrt((weights**2 * deviation**2 / taken * finite).sum()))


@dataclass(frozen=True)
class SampleSize:
    """A size of a sample, and its computation as a sentence for the user."""

    points: int
    steps: tuple[str, ...]


def size_by_formula(weights: Float64, deviation: Float64, error: float, pixels: int | None = None) -> int:
    """Points for a standard error of the overall accuracy with the optimal allocation (Olofsson eq. 13).

    n = (Σ W·S)² / (E² + Σ W·S² / N); without the population's ``pixels`` the last term is left out.
    """
    finite = 0.0 if pixels is None else float((weights * deviation**2).sum()) / pixels
    return max(1, math.ceil(float((weights * deviation).sum()) ** 2 / (error**2 + finite) - 1e-9))


def stratified_size(
    strata: Strata, half_width: float, rule: AllocationRule, deviation: Float64
) -> SampleSize:
    """The size for a half-width of the 95 % interval of the overall accuracy, with this allocation.

    The formula's size suits the optimal allocation. It is raised until this allocation, with its minimum,
    reaches the half-width too.
    """
    error = half_width / Z95
    population = int(strata.pixels.sum())
    first = size_by_formula(strata.weights, deviation, error, population)
    summed, squares = (float((strata.weights * power).sum()) for power in (deviation, deviation**2))
    steps = [
        f"half-width {half_width:g} of a 95 % interval = standard error {error:.4g}",
        f"(Σ W·S)² / (SE² + Σ W·S² / N) = {summed:.4f}² / ({error:.4g}² + {squares:.4f} / {population:,})"
        f" = {first:,} points (Olofsson et al. 2014, eq. 13)",
    ]

    def reached(points: int) -> bool:
        least = np.minimum(rule.minimum or 0, strata.pixels).sum()
        shared = allocate(strata, max(points, int(least)), rule, deviation)
        return standard_error(strata, shared, deviation) <= error * (1 + 1e-9)

    low, high = first - 1, first
    while not reached(high) and high < population:
        low, high = high, min(2 * high, population)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    if rule.minimum:
        high = max(high, int(np.minimum(rule.minimum, strata.pixels).sum()))
    if high > first:
        steps.append(f"{rule.kind} allocation reaches it with {high:,} points")
    return SampleSize(high, tuple(steps))


def simple_size(accuracy: float, half_width: float, pixels: int) -> SampleSize:
    """The size for a half-width of the 95 % interval of the overall accuracy, by simple random sampling.

    n₀ = p(1 − p) / E², and n = n₀ / (1 + n₀ / N) (Cochran).
    """
    error = half_width / Z95
    infinite = accuracy * (1 - accuracy) / error**2
    points = min(pixels, max(1, math.ceil(infinite / (1 + infinite / pixels) - 1e-9)))
    return SampleSize(
        points,
        (
            f"half-width {half_width:g} of a 95 % interval = standard error {error:.4g}",
            f"n₀ = p(1 − p) / SE² = {accuracy:.3f} · {1 - accuracy:.3f} / {error:.4g}² = {infinite:,.1f}; "
            f"n₀ / (1 + n₀ / {pixels:,}) = {points:,} points (Cochran)",
        ),
    )


def _shared_out(points: int, wanted: Float64, least: Int64, most: Int64) -> Int64:
    """Whole numbers between ``least`` and ``most`` in proportion to ``wanted``, with the sum ``points``."""
    share = least.astype(np.float64)
    open_ = np.ones(len(wanted), bool)
    # A stratum whose share is beyond a limit is fixed there, and the others share what is left.
    while open_.any():
        left = points - share[~open_].sum()
        scale = wanted[open_].sum()
        target = left * wanted[open_] / scale if scale > 0 else np.full(int(open_.sum()), left / open_.sum())
        low, high = least[open_].astype(float), most[open_].astype(float)
        too_low, too_high = target < low, target > high
        lacking, beyond = (low - target)[too_low].sum(), (target - high)[too_high].sum()
        fixed = np.zeros(len(target), bool)
        fixed |= too_low if lacking >= beyond and too_low.any() else too_high
        share[open_] = np.clip(target, low, high)
        if not fixed.any():
            break
        open_[np.flatnonzero(open_)[fixed]] = False
    whole = np.clip(np.floor(share + 1e-9).astype(np.int64), least, most)
    # Largest remainders get the points that rounding left; the order of the strata decides between equals.
    for k in np.argsort(-(share - whole), kind="stable").tolist() * 2:
        if whole.sum() >= points:
            break
        if whole[k] < most[k]:
            whole[k] += 1
    return whole
