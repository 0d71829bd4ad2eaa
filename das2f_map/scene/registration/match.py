"""The shift of one window: where PAN's footprint averages fit a linear combination of the MS bands best.

The measure is R², the part of PAN's variance that the bands explain with free weights and a constant. It
needs no model of the spectral response. It is also symmetric: MS pixels, which average over their footprint,
are compared with PAN averages over the same footprint, aliasing included. So neither a blur nor the coarse
sampling of MS draws the peak aside. A lattice of trial shifts gives the peak to a quarter of an MS pixel.
Gauss-Newton steps refine it, and each step fits the weights of the bands anew.

Clouds, waves and vehicles seem to lie elsewhere than the ground: a sensor records band after band, from
different angles and at different times. So over them the bands are shifted *against one another*; over the
ground they are not. Each band is therefore also matched alone. A window whose bands disagree much is not
used; in other windows, the disagreement of the bands is added to the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from das2f_map.scene.registration.images import MatchWindow
from das2f_map.types import Float64

Fault = Literal["nodata", "no texture", "no match", "bands apart"]

REACH = 6
"""Quarters of an MS pixel searched to either side of the first guess."""

MIN_VALID_SHARE = 0.6
"""Part of a window's MS pixels that must be valid."""

MIN_COVERED_SHARE = 0.4
"""Part of a window's pixels that must be valid in both images at every shift that is tried."""

MIN_FIT = 0.3
"""R² under which a window counts as not matched."""

MAX_SIGMA = 0.08
"""Standard error of a window's shift, MS pixels, above which the window has too little texture."""

MAX_BANDS_APART = 0.2
"""Largest disagreement between the shifts of the bands of one window, MS pixels."""

_STEP = 0.125
"""MS pixels to either side of a shift; central differences over them give PAN's slope by the shift."""

_RANK = 1e-6
"""Smallest singular value of the bands, over the largest, that counts."""


@dataclass(frozen=True)
class Match:
    """The shift of one window.

    Attributes
    ----------
    rows, cols:
        MS pixels; see :mod:`das2f_map.scene.common_grid.shift` for the sign.
    covariance:
        float64 (2, 2) of (rows, cols), MS pixels². It takes the errors of neighbouring pixels as independent,
        and adds half of ``bands_apart`` as a standard error of either axis.
    fit:
        R² at this shift.
    bands_apart:
        Largest distance between the shifts of any two bands that fit well alone, MS pixels. The shift of
        all bands together counts as one of them.
    """

    rows: float
    cols: float
    covariance: Float64
    fit: float
    bands_apart: float


def fit_surface(window: MatchWindow, rows: float, cols: float) -> tuple[Float64, int]:
    """R² at trial shifts around (rows, cols), MS pixels, in steps of a quarter of an MS pixel.

    Returns
    -------
    tuple of float64 (2 × REACH + 1, 2 × REACH + 1) and int
        R², and the number of pixels that are valid at every trial shift; both zero if these are too few.
    """
    n = 2 * REACH + 1
    if int(window.valid.sum()) < _needed(window):  # found without a look at PAN
        return np.zeros((n, n)), 0
    pan, _ = window.pan_around(rows, cols, REACH)
    usable = window.valid & np.isfinite(pan).all(axis=(0, 1))
    count = int(usable.sum())
    if count < _needed(window):
        return np.zeros((n, n)), 0
    basis = _basis(window.ms[:, usable])
    y = pan[:, :, usable].reshape(n * n, count)
    y = y - y.mean(axis=1, keepdims=True)
    total = np.maximum((y * y).sum(axis=1), 1e-30)
    explained = ((y @ basis) ** 2).sum(axis=1)
    return np.where(total > 1e-12 * count, explained / total, 0.0).reshape(n, n), count


def fit_at(window: MatchWindow, rows: float, cols: float) -> tuple[float, float, int]:
    """How well the MS bands explain PAN at a shift in MS pixels.

    Returns
    -------
    tuple of float, float and int
        PAN's residual sum of squares, its total sum of squares about the mean, and the number of valid
        pixels; all zero if these are too few.
    """
    pan = window.pan_at(rows, cols)
    usable = window.valid & np.isfinite(pan)
    if usable.sum() < _needed(window):
        return 0.0, 0.0, 0
    y = pan[usable] - pan[usable].mean()
    total = float(y @ y)
    return max(0.0, total - float(((y @ _basis(window.ms[:, usable])) ** 2).sum())), total, int(usable.sum())


def match_window(window: MatchWindow, rows: float, cols: float, surface: Float64) -> Match | Fault:
    """The shift of a window, or the reason why it has none.

    Parameters
    ----------
    rows, cols:
        First guess, MS pixels.
    surface:
        R² around the first guess, from :func:`fit_surface`.
    """
    if window.valid.mean() < MIN_VALID_SHARE:
        return "nodata"
    if not surface.any():
        return "nodata" if not np.isfinite(window.pan_at(rows, cols)).any() else "no texture"
    r, c = np.unravel_index(int(surface.argmax()), surface.shape)
    if not (0 < r < surface.shape[0] - 1 and 0 < c < surface.shape[1] - 1):
        return "no match"
    guess = np.array([rows + (r - REACH) / 4, cols + (c - REACH) / 4])
    found = guess.copy()
    for turn in range(12):
        step = _Step(window, found)
        if not step.usable:
            return "nodata" if step.count < _needed(window) else "no texture"
        if turn == 0 and step.bands_apart() > 2 * MAX_BANDS_APART:
            return "bands apart"
        move = np.clip(step.newton(), -0.25, 0.25)
        found = found + move
        if np.abs(found - guess).max() > 1.0:
            return "no match"
        if np.abs(move).max() < 2e-4:
            break
    if step.fit < MIN_FIT:
        return "no match"
    own, apart = step.covariance(), step.bands_apart()
    if np.linalg.eigvalsh(own)[-1] > MAX_SIGMA**2:
        return "no texture"
    if apart > MAX_BANDS_APART:
        return "bands apart"
    return Match(float(found[0]), float(found[1]), own + np.eye(2) * (apart / 2) ** 2, step.fit, apart)


class _Step:
    """One Gauss-Newton step at a shift, from PAN, its slopes, and the residuals of both after the bands."""

    def __init__(self, window: MatchWindow, at: Float64) -> None:
        pan = window.pan_at(*at)
        slopes = [
            (window.pan_at(*(at + e)) - window.pan_at(*(at - e))) / (2 * _STEP)
            for e in (np.array([_STEP, 0.0]), np.array([0.0, _STEP]))
        ]
        usable = window.valid & np.isfinite(pan) & np.isfinite(slopes[0]) & np.isfinite(slopes[1])
        self.count = int(usable.sum())
        self.usable = self.count >= _needed(window)
        if not self.usable:
            return
        self._y = pan[usable] - pan[usable].mean()
        slope = np.stack([s[usable] for s in slopes], axis=1)
        self._slope = slope - slope.mean(axis=0)
        bands = window.ms[:, usable]
        self._bands = bands - bands.mean(axis=1, keepdims=True)
        basis = _basis(bands)
        self._parameters = basis.shape[1] + 3
        self._left, self._slope_left = _without(self._y, basis), _without(self._slope, basis)
        self._total = float(self._y @ self._y)
        self._rest = float(self._left @ self._left)
        self._normal = self._slope_left.T @ self._slope_left
        self.fit = 1.0 - self._rest / self._total if self._total > 0 else 0.0
        scale = float((self._slope**2).sum())
        self.usable = self._total > 0 and np.linalg.eigvalsh(self._normal)[0] > 1e-9 * scale > 0

    def newton(self) -> Float64:
        """Step towards the peak of R², MS pixels.

        The gradient's second term allows for PAN's own variance, which changes with the shift.
        """
        gradient = self._slope_left.T @ self._left - (self._rest / self._total) * (self._slope.T @ self._y)
        return np.asarray(-np.linalg.solve(self._normal, gradient))

    def covariance(self) -> Float64:
        return np.asarray(np.linalg.inv(self._normal) * self._rest / max(1, self.count - self._parameters))

    def bands_apart(self) -> float:
        """Largest distance between the steps of single bands and the step 0 of all together, MS pixels.

        Each band takes one linear step. Only bands count that alone explain half of PAN's variance.
        """
        steps: list[Float64] = [np.zeros(2)]
        for band in self._bands:
            power = float(band @ band)
            if power <= 0:
                continue
            unit = (band / np.sqrt(power))[:, None]
            left, slope = _without(self._y, unit), _without(self._slope, unit)
            if float(left @ left) > 0.5 * self._total:
                continue
            normal = slope.T @ slope
            steps.append(np.asarray(-np.linalg.solve(normal, slope.T @ left)))
        return max(float(np.hypot(*(a - b))) for a in steps for b in steps)


def _needed(window: MatchWindow) -> int:
    return max(60, round(MIN_COVERED_SHARE * window.window.height * window.window.width))


def _basis(bands: Float64) -> Float64:
    """Orthonormal columns that span the bands without their means, float64 (pixels, at most bands)."""
    centred = bands - bands.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=1))
    centred = centred[spread > 0] / spread[spread > 0, None]
    if not len(centred):
        return np.zeros((bands.shape[1], 0))
    u, s, _ = np.linalg.svd(centred.T, full_matrices=False)
    return np.asarray(u[:, s > _RANK * s[0]])


def _without(values: Float64, basis: Float64) -> Float64:
    """The part of each column that is orthogonal to a basis."""
    return np.asarray(values - basis @ (basis.T @ values))
