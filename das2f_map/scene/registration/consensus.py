"""What many windows say together: one shift that most agree on, and whether it changes over the scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from das2f_map.types import Bool, Float64

TOLERANCE = 0.5
"""PAN pixels from the common shift up to which a window agrees, beside twice its own standard error."""

_FLOOR = 0.15
"""PAN pixels; the spread that exact windows have in real scenes: relief, moving things, shadows."""

MIN_FIELD_WINDOWS = 8
"""Windows from which on it can be told whether the shift changes over the scene."""

_DRAWS = 400
_MIN_F = 6.0
_MIN_SIGMAS = 4.0
"""Standard errors by which places must differ; the two that differ most are looked at, out of many."""

_PARTS = 4
"""A side of the scene, each predicted from the others."""

_MAX_ERROR_SHARE = 0.5
"""Of the squared errors of one shift, what may be left of them if the shift changes over the scene."""


@dataclass(frozen=True)
class Consensus:
    """The shift most windows agree on, PAN pixels.

    Attributes
    ----------
    shift, sigma:
        float64 (2,): rows and columns, and their standard errors.
    agrees:
        bool (n,): which windows do.
    """

    shift: Float64
    sigma: Float64
    agrees: Bool


@dataclass(frozen=True)
class ShiftField:
    """A shift that is bilinear over the scene.

    Attributes
    ----------
    coefficients:
        float64 (4, 2): of 1, row, col, row × col (places from -1 to 1 over the scene), for rows and columns.
    range:
        Largest difference between two windows by the field, PAN pixels.
    sigma:
        Standard error of that difference, along either axis, PAN pixels.
    significant:
        The field explains the windows better than one shift, beyond chance.
    agreeing_share:
        Part of the windows that agree with it.
    """

    coefficients: Float64
    range: float
    sigma: float
    significant: bool
    agreeing_share: float

    def at(self, places: Float64) -> Float64:
        """Shifts, float64 (n, 2), at places (n, 2): rows and columns from -1 to 1 over the scene."""
        return np.asarray(_terms(places) @ self.coefficients)


def common_shift(shifts: Float64, covariances: Float64) -> Consensus:
    """The shift with the most weight of windows around it, refined as their weighted mean.

    Parameters
    ----------
    shifts:
        float64 (n, 2), PAN pixels, n at least 1.
    covariances:
        float64 (n, 2, 2).
    """
    weights = _weights(covariances)
    reach = _reach(covariances)
    apart = np.hypot(*(shifts[:, None, :] - shifts[None, :, :]).transpose(2, 0, 1))
    support = ((apart <= reach[None, :]) * weights[None, :]).sum(axis=1)
    shift = shifts[int(support.argmax())]
    for _ in range(20):
        agrees = np.hypot(*(shifts - shift).T) <= reach
        if not agrees.any():
            break
        mean = np.average(shifts[agrees], axis=0, weights=weights[agrees])
        if np.allclose(mean, shift, atol=1e-6):
            break
        shift = mean
    agrees = np.hypot(*(shifts - shift).T) <= reach
    return Consensus(shift, _standard_error(shifts, covariances, weights, shift, agrees), agrees)


def _standard_error(
    shifts: Float64, covariances: Float64, weights: Float64, shift: Float64, agrees: Bool
) -> Float64:
    n = int(agrees.sum())
    if n == 0:
        return np.full(2, np.inf)
    w = weights[agrees] / weights[agrees].sum()
    own = np.sqrt((w[:, None] ** 2 * covariances[agrees][:, [0, 1], [0, 1]]).sum(axis=0))
    if n == 1:
        # Nothing to compare with: what windows of real scenes scatter by has to do.
        return np.asarray(np.hypot(own, _FLOOR))
    scatter = np.sqrt((w[:, None] * (shifts[agrees] - shift) ** 2).sum(axis=0) / (n - 1))
    return np.asarray(np.maximum(own, scatter))


def shift_field(shifts: Float64, covariances: Float64, places: Float64, *, seed: int) -> ShiftField | None:
    """How the shift changes over the scene; ``None`` with too few windows to tell.

    A bilinear field, as different corners may differ in any way, from the draw of four windows
    that most others agree with (RANSAC), refined by least squares.

    Parameters
    ----------
    places:
        float64 (n, 2): rows and columns of the windows' centres, -1 to 1 over the scene.
    """
    n = len(shifts)
    if n < MIN_FIELD_WINDOWS:
        return None
    terms, weights, reach = _terms(places), _weights(covariances), _reach(covariances)
    rng = np.random.default_rng(seed)
    best, best_support = None, -1.0
    start = common_shift(shifts, covariances)
    for draw in range(_DRAWS + 1):
        if draw == 0:
            coefficients = np.zeros((4, 2))
            coefficients[0] = start.shift
        else:
            chosen = rng.choice(n, size=4, replace=False)
            if np.linalg.cond(terms[chosen]) > 50:
                continue
            coefficients = np.asarray(np.linalg.solve(terms[chosen], shifts[chosen]))
        near = np.hypot(*(shifts - terms @ coefficients).T) <= reach
        support = float(weights[near].sum())
        if support > best_support:
            best, best_support = near, support
    assert best is not None  # the first draw always counts
    near = best
    root = np.sqrt(weights)[:, None]
    for _ in range(20):
        if near.sum() < MIN_FIELD_WINDOWS or np.linalg.matrix_rank(terms[near], tol=1e-3) < 4:
            return None
        coefficients = np.linalg.lstsq((root * terms)[near], (root * shifts)[near], rcond=None)[0]
        again = np.hypot(*(shifts - terms @ coefficients).T) <= reach
        if (again == near).all():
            break
        near = again
    terms, shifts, root = terms[near], shifts[near], root[near]
    one = np.average(shifts, axis=0, weights=weights[near])
    left, left_by_one = (float(((root * (shifts - m)) ** 2).sum()) for m in (terms @ coefficients, one))
    freedom = 2 * len(shifts) - 8
    noise = max(left / freedom, 1e-12)
    f = (left_by_one - left) / 6 / noise
    # The windows that differ most by the field, and how well that difference is known.
    along = terms @ coefficients
    apart = np.hypot(*(along[:, None, :] - along[None, :, :]).transpose(2, 0, 1))
    a, b = np.unravel_index(int(apart.argmax()), apart.shape)
    step = terms[a] - terms[b]
    spread = np.linalg.inv((root * terms).T @ (root * terms))
    sigma = math.sqrt(noise * float(step @ spread @ step))
    beyond_chance = f > _MIN_F and apart[a, b] > _MIN_SIGMAS * sigma
    significant = bool(beyond_chance and _predicts(terms, shifts, root, places[near]))
    return ShiftField(coefficients, float(apart[a, b]), sigma, significant, float(near.mean()))


def _predicts(terms: Float64, shifts: Float64, root: Float64, places: Float64) -> bool:
    """Whether fields foretell windows in parts of the scene they were not fitted to better than one shift.

    Errors of neighbouring windows are alike (thin cloud, relief); a test that takes each by itself sees a
    trend in that.
    """
    parts = (np.floor((places + 1) / 2 * _PARTS).clip(0, _PARTS - 1) @ np.array([_PARTS, 1])).astype(int)
    by_field = by_one = 0.0
    for part in np.unique(parts):
        rest, here = parts != part, parts == part
        weighted = root[rest] * terms[rest]
        if rest.sum() < 4 or np.linalg.matrix_rank(weighted, tol=1e-3) < 4:
            return False
        field = np.linalg.lstsq(weighted, root[rest] * shifts[rest], rcond=None)[0]
        one = np.average(shifts[rest], axis=0, weights=root[rest, 0] ** 2)
        by_field += float(((root[here] * (shifts[here] - terms[here] @ field)) ** 2).sum())
        by_one += float(((root[here] * (shifts[here] - one)) ** 2).sum())
    return by_field < _MAX_ERROR_SHARE * by_one


def _weights(covariances: Float64) -> Float64:
    variance = np.trace(covariances, axis1=1, axis2=2) / 2
    return np.asarray(1.0 / (variance + _FLOOR**2))


def _reach(covariances: Float64) -> Float64:
    return np.asarray(np.sqrt(TOLERANCE**2 + 4 * np.linalg.eigvalsh(covariances)[:, -1]))


def _terms(places: Float64) -> Float64:
    row, col = places.T
    return np.stack([np.ones_like(row), row, col, row * col], axis=1)
