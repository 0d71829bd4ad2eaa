"""Which labelled pixels look like their class, by robust distances in the bands.

Each class gets a centre and a covariance that its odd pixels have no part in: the mean and the covariance of
the three quarters of its pixels that lie nearest, found by repetition (concentration steps). A pixel far from
its own class, measured by them, is either labelled wrongly or of a kind that the class hardly has.

Source of the concentration steps: Rousseeuw, P. J., Van Driessen, K. (1999), "A fast algorithm for the
minimum covariance determinant estimator", Technometrics 41, 212–223.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from das2f_map.types import Bool, Float64, Int64

KEPT = 0.75
"""Share of a class's pixels that its centre and covariance are of."""

_STEPS = 12
_LEAST_A_BAND = 5
"""Pixels for each band without which a class gets no covariance, only a spread in each band."""

LEAST_PIXELS = 12
"""Pixels without which nothing is said of a class."""

UNLIKE = 0.9999
"""Share of normally distributed pixels that lie nearer to their class than an unlike one."""

LIKE = 0.975
"""The same of a pixel that looks like another class."""


def chi2_quantile(probability: float, degrees: int) -> float:
    """The value below which the chi-squared distribution lies with a probability, to about 3 %.

    By the approximation of Wilson, E. B., Hilferty, M. M. (1931), "The distribution of chi-square",
    Proceedings of the National Academy of Sciences 17, 684–688.
    """
    a = 2 / (9 * degrees)
    return float(degrees * (1 - a + NormalDist().inv_cdf(probability) * a**0.5) ** 3)


@dataclass(frozen=True, eq=False)
class ClassShape:
    """Centre (bands,) and inverse covariance (bands, bands) of a class in the bands."""

    centre: Float64
    inverse: Float64

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> ClassShape | None:
        """The shape of some pixels (n, bands); ``None`` for too few."""
        x = np.asarray(values, np.float64)
        n, bands = x.shape
        if n < LEAST_PIXELS:
            return None
        centre = np.median(x, axis=0)
        spread = 1.4826 * np.median(np.abs(x - centre), axis=0)
        # A band that is constant in most pixels still has to tell the others apart.
        spread = np.where(spread > 0, spread, np.maximum(x.std(axis=0), 1e-6 * (1 + np.abs(centre))))
        found = cls(np.asarray(centre, np.float64), np.asarray(np.diag(1 / spread**2), np.float64))
        if n >= _LEAST_A_BAND * bands:
            kept = int(np.ceil(KEPT * n))
            floor = np.diag((0.02 * spread) ** 2)
            for _ in range(_STEPS):
                near = np.argpartition(found.distances(x), kept - 1)[:kept]
                covariance = np.cov(x[near], rowvar=False).reshape(bands, bands) + floor
                found = cls(
                    np.asarray(x[near].mean(axis=0), np.float64),
                    np.asarray(np.linalg.inv(covariance), np.float64),
                )
        # The nearest pixels spread less than all; half of all should lie within the median distance.
        scale = float(np.median(found.distances(x))) / chi2_quantile(0.5, bands)
        return cls(found.centre, found.inverse / max(scale, 1e-12))

    def distances(self, values: npt.NDArray[np.floating]) -> Float64:
        """Squared distances (n,) of pixels (n, bands)."""
        away = np.asarray(values, np.float64) - self.centre
        return np.asarray(np.einsum("ni,ij,nj->n", away, self.inverse, away))


@dataclass(frozen=True, eq=False)
class Likeness:
    """How far labelled pixels look like their class.

    Attributes
    ----------
    distance:
        float64 (n,): distance from the own class in standard deviations; NaN where nothing can be said.
    unlike:
        bool (n,): farther from its class than :data:`UNLIKE` of normally distributed pixels.
    looks_like:
        int64 (n,): position of the class that an unlike pixel looks like; -1 for none.
    """

    distance: Float64
    unlike: Bool
    looks_like: Int64


def likeness(values: npt.NDArray[np.floating], positions: Int64, groups: Int64, classes: int) -> Likeness:
    """Compare labelled pixels with their classes.

    Parameters
    ----------
    values:
        (n, bands).
    positions:
        int64 (n,): class of each, from 0 to ``classes - 1``.
    groups:
        int64 (n,): pixels of one group were labelled together. A class's shape takes at most
        :data:`MOST_A_GROUP` pixels of each, so that one large polygon does not decide it.
    """
    shapes = [_shape(values, np.flatnonzero(positions == k), groups) for k in range(classes)]
    bands = values.shape[1]
    squared = np.full((classes, positions.size), np.inf)
    for k, shape in enumerate(shapes):
        if shape is not None:
            squared[k] = shape.distances(values)
    own = squared[positions, np.arange(positions.size)]
    known = np.isfinite(own)
    unlike = known & (own > chi2_quantile(UNLIKE, bands))
    squared[positions, np.arange(positions.size)] = np.inf
    nearest = squared.argmin(axis=0)
    like = unlike & (squared.min(axis=0, initial=np.inf) < chi2_quantile(LIKE, bands))
    return Likeness(
        np.where(known, np.sqrt(np.where(known, own, 0.0)), np.nan),
        unlike,
        np.where(like, nearest, -1).astype(np.int64),
    )


MOST_A_GROUP = 200


def _shape(values: npt.NDArray[np.floating], mine: Int64, groups: Int64) -> ClassShape | None:
    if not mine.size:
        return None
    chosen: Sequence[Int64] = [
        part if part.size <= MOST_A_GROUP else part[np.linspace(0, part.size - 1, MOST_A_GROUP).astype(int)]
        for part in _parts(mine, groups)
    ]
    return ClassShape.of(values[np.concatenate(chosen)])


def _parts(mine: Int64, groups: Int64) -> list[Int64]:
    """The pixels of each group."""
    order = mine[np.argsort(groups[mine], kind="stable")]
    _, starts = np.unique(groups[order], return_index=True)
    return list(np.split(order, starts[1:]))
