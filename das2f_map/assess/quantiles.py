"""Quantiles of the normal and of Student's t distribution, and p-values, without SciPy.

SciPy is no dependency of this package. The incomplete beta function is the continued fraction of Abramowitz,
M., Stegun, I. A. (1964), "Handbook of Mathematical Functions", 26.5.8, evaluated by Lentz's method.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_TINY = 1e-300
_LARGE = 1e6
"""Degrees of freedom from which t is the normal distribution to six digits."""


def normal_quantile(probability: float) -> float:
    """The value below which a standard normal variable lies with this probability, 0..1 without its ends."""
    return NormalDist().inv_cdf(probability)


@lru_cache(maxsize=256)
def t_quantile(probability: float, degrees: float) -> float:
    """The value below which Student's t lies with this probability.

    Parameters
    ----------
    probability:
        Between 0.5 and 1.
    degrees:
        Degrees of freedom, above 0; may be a fraction.
    """
    if degrees > _LARGE:
        return normal_quantile(probability)
    low, high = 0.0, 1.0
    while t_tail(high, degrees) > 1 - probability:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        if t_tail(middle, degrees) > 1 - probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_tail(value: float, degrees: float) -> float:
    """Probability that Student's t exceeds a value of at least 0."""
    if degrees > _LARGE:
        return math.erfc(value / math.sqrt(2)) / 2
    return beta_share(degrees / (degrees + value * value), degrees / 2, 0.5) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b): the share of a beta distribution below ``x``."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_share(1.0 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = c = 1.0
    d = 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _nonzero(1.0 + term * d)
            c = _nonzero(1.0 + term / c)
            step = c * d
            fraction *= step
        if abs(step - 1.0) < 1e-15:
            break
    return math.exp(scale) * fraction / a


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
