"""Confidences that match accuracies: temperature scaling, calibration error, reliability bins.

A network is calibrated if 80 % of the pixels that it gives a confidence of 80 % are right. Networks are often
too sure. Temperature scaling divides all logits by one number before the softmax. The class of no pixel
changes.

Sources: Guo, C., Pleiss, G., Sun, Y., Weinberger, K. Q. (2017), "On calibration of modern neural networks",
ICML (temperature scaling). Naeini, M. P., Cooper, G. F., Hauskrecht, M. (2015), "Obtaining well calibrated
probabilities using Bayesian binning", AAAI (expected calibration error).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from das2f_map.bundle.card import Calibration, ReliabilityBin
from das2f_map.types import Float64, Int64

TEMPERATURES = (0.25, 20.0)
"""Least and largest temperature. Where all pixels are right, ever lower ones would fit ever better."""

BINS = 15
"""Intervals of confidence, as in Guo et al. 2017."""

ENOUGH_GROUPS = 3
"""Groups of held-out pixels from which their cross-validation can refuse a temperature.

Of two, each would have the temperature of half the ground, which is far from that of all of it.
"""

_STEPS = 50
"""Halvings of the range of temperatures: beyond the precision of float64 sums."""


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> Float64:
    """Probabilities of logits ``(n, C)`` divided by the temperature, float64 ``(n, C)``."""
    scaled = _shifted(logits) / temperature
    powers: Float64 = np.exp(scaled)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def fit_temperature(logits: NDArray[Any], positions: NDArray[Any]) -> float:
    """The temperature of the least cross-entropy on held-out pixels, within :data:`TEMPERATURES`.

    Parameters
    ----------
    logits:
        Float ``(n, C)``. The pixels must not have been trained on.
    positions:
        Positions of the true classes in the legend, int ``(n,)``.

    Returns
    -------
    The lower limit where every pixel is right, and in other sets that a lower temperature still improves. The
    upper limit where the logits say less than chance. 1 where no temperature changes anything, because the
    logits of each pixel are equal. A few dozen pixels give a rough value.

    Raises
    ------
    ValueError
        There are no pixels, shapes do not fit, a logit is not finite or a position is not in the legend.
    """
    true = _checked(logits, positions)
    relative = _shifted(logits)
    own = relative[np.arange(true.size), true]
    if not relative.any():
        return 1.0

    def slope(temperature: float) -> float:
        """Derivative of the mean cross-entropy by 1 / temperature.

        The cross-entropy is convex in 1 / temperature, so the derivative changes its sign once at most.
        """
        return float(((softmax(relative, temperature) * relative).sum(axis=1) - own).mean())

    coldest, hottest = TEMPERATURES
    if slope(coldest) <= 0:
        return coldest
    if slope(hottest) >= 0:
        return hottest
    low, high = np.log(TEMPERATURES)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        # A positive slope by 1 / temperature: a higher temperature lowers the cross-entropy.
        low, high = (middle, high) if slope(float(np.exp(middle))) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def reliability_bins(
    probabilities: NDArray[Any], positions: NDArray[Any], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Mean confidence, accuracy and pixels of equal intervals of confidence; empty ones are left out.

    Parameters
    ----------
    probabilities:
        Float ``(n, C)``; the confidence of a pixel is its largest one, the first where several are largest.
    positions:
        Positions of the true classes, int ``(n,)``.
    bins:
        Number of intervals of 0..1. Each includes its upper limit.

    Raises
    ------
    ValueError
        As :func:`fit_temperature`, or a probability is outside 0..1.
    """
    true = _checked(probabilities, positions)
    values = np.asarray(probabilities, np.float64)
    # Sums of float32 are off by a little.
    if values.min() < 0 or values.max() > 1 + 1e-5:
        raise ValueError("probabilities must lie in 0..1")
    confidence = np.minimum(values.max(axis=1), 1.0)
    right = values.argmax(axis=1) == true
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    found = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            found.append(
                ReliabilityBin(
                    confidence=min(1.0, float(confidence[inside].mean())),
                    accuracy=float(right[inside].mean()),
                    pixels=int(inside.sum()),
                )
            )
    return tuple(found)


def expected_calibration_error(
    probabilities: NDArray[Any], positions: NDArray[Any], bins: int = BINS
) -> float:
    """Mean distance 0..1 between confidence and accuracy over the bins, weighted by their pixels.

    Parameters and errors are those of :func:`reliability_bins`.
    """
    return error_of(reliability_bins(probabilities, positions, bins))


def error_of(bins: tuple[ReliabilityBin, ...]) -> float:
    """The expected calibration error of some bins, 0..1; at least one bin is needed."""
    return sum(b.pixels * abs(b.confidence - b.accuracy) for b in bins) / sum(b.pixels for b in bins)


def calibrate(
    logits: NDArray[Any], positions: NDArray[Any], groups: NDArray[Any] | None = None
) -> Calibration:
    """The calibration of a network for its card, from logits of held-out pixels.

    The temperature is fitted on all pixels. The error after calibration is cross-validated: each group's
    probabilities have the temperature that fits the other groups. With a single group it is measured on the
    pixels of the fit, and a little too small.

    With :data:`ENOUGH_GROUPS` groups or more, a temperature that makes this error larger is not taken: it
    says more of the ground that it was fitted on than of the network. It is 1 then, and both errors are the
    same.

    Parameters
    ----------
    groups:
        Number of the ground that a pixel lies on, int ``(n,)``; ``None`` where there is one.

    The others, and errors, are those of :func:`fit_temperature`.
    """
    temperature = fit_temperature(logits, positions)
    before = reliability_bins(softmax(logits), positions)
    after = reliability_bins(_cross_validated(logits, positions, groups, temperature), positions)
    enough = groups is not None and np.unique(groups).size >= ENOUGH_GROUPS
    if enough and error_of(after) > error_of(before):
        temperature, after = 1.0, before
    return Calibration(
        temperature=temperature,
        pixels=len(logits),
        error_before=error_of(before),
        error_after=error_of(after),
        bins=after,
    )


def _cross_validated(
    logits: NDArray[Any], positions: NDArray[Any], groups: NDArray[Any] | None, temperature: float
) -> Float64:
    """Probabilities of each group at the temperature of the others, of a single group at the given one."""
    each = np.unique(groups) if groups is not None else np.zeros(1)
    if groups is None or each.size < 2:
        return softmax(logits, temperature)
    found = np.empty(np.shape(logits), np.float64)
    for group in each:
        mine = groups == group
        found[mine] = softmax(logits[mine], fit_temperature(logits[~mine], positions[~mine]))
    return found


def _shifted(logits: NDArray[Any]) -> Float64:
    """Logits in float64, lowered so that the largest of each pixel is 0; the softmax stays the same."""
    exact = np.asarray(logits, np.float64)
    shifted: Float64 = exact - exact.max(axis=1, keepdims=True)
    return shifted


def _checked(values: NDArray[Any], positions: NDArray[Any]) -> Int64:
    """The positions as int64, if they and the values ``(n, C)`` fit together."""
    shape = np.shape(values)
    if len(shape) != 2 or np.shape(positions) != shape[:1]:
        raise ValueError(f"values {shape} and positions {np.shape(positions)} do not fit together")
    if shape[0] == 0:
        raise ValueError("there are no pixels to calibrate on")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    true = np.asarray(positions).astype(np.int64)
    if true.min() < 0 or true.max() >= shape[1]:
        raise ValueError(f"positions must lie in 0..{shape[1] - 1}")
    return true
