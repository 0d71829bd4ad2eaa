"""The consensus of many windows: the shift that most agree on, and whether it changes over the scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from das2f_map.types import Bool, Float64

TOLERANCE = 0.5
"""PAN pixels from the common shift up to which an exact window agrees.

Twice the window's own standard error is added in quadrature.
"""

_FLOOR = 0.15
"""PAN pixels by which the shifts of exact windows scatter in real scenes, from relief, motion and shadows."""

MIN_FIELD_WINDOWS = 8
"""Fewest windows that can tell whether the shift changes over the scene."""

_DRAWS = 400
_MIN_F = 6.0
_MIN_SIGMAS = 4.0
"""Standard errors by which two places must differ; many, as the two that differ most are picked."""

_PARTS = 4
"""Parts along each side of the scene; each part is predicted from all others."""

_MAX_ERROR_SHARE = 0.5
"""Largest squared error of the field, as a part of one shift's, for the shift to count as changing."""


@dataclass(frozen=True)
class Consensus:
    """The shift that most windows agree on, PAN pixels.

    Attributes
    ----------
    shift, sigma:
        float64 (2,): rows and columns, and their standard errors.
    agrees:
        bool (n,): which windows agree.
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
        Largest difference that the field has between two windows, PAN pixels.
    sigma:
        Standard error of that difference, along either axis, PAN pixels.
    significant:
        The field explains the windows better than one shift does, by more than chance.
    agreeing_share:
        Part of the windows that agree with the field.
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
    """The shift that the windows of most weight lie near, refined as the weighted mean of these windows.

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
        # One window shows no scatter, so the usual one of real scenes is added.
        return np.asarray(np.hypot(own, _FLOOR))
    scatter = np.sqrt((w[:, None] * (shifts[agrees] - shift) ** 2).sum(axis=0) / (n - 1))
    return np.asarray(np.maximum(own, scatter))


def shift_field(shifts: Float64, covariances: Float64, places: Float64, *, seed: int) -> ShiftField | None:
    """The bilinear field of the shift over the scene; ``None`` with too few windows to tell.

    A bilinear field can take any shift in each corner. RANSAC finds it: of fields through four windows drawn
    at random, and of the common shift, it keeps the one that windows of most weight agree with. Least squares
    over these windows refine it.

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
    drawn = np.stack([rng.choice(n, size=4, replace=False) for _ in range(_DRAWS)])
    drawn = drawn[np.linalg.cond(terms[drawn]) <= 50]
    candidates = np.zeros((1 + len(drawn), 4, 2))  # the common shift first
    candidates[0, 0] = common_shift(shifts, covariances).shift
    candidates[1:] = np.linalg.solve(terms[drawn], shifts[drawn])
    agreeing = np.hypot(*np.moveaxis(shifts - terms @ candidates, -1, 0)) <= reach
    near = agreeing[int((agreeing @ weights).argmax())]
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
    # The two windows whose shifts in the field differ most, and the standard error of that difference.
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
    """Whether a field predicts left-out parts of the scene better than one shift does (cross-validation).

    Neighbouring windows have similar errors (thin cloud, relief). A test that takes errors as independent
    would see a trend in them, so whole parts are left out.
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
