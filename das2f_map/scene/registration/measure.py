"""Measure the shift between the contents of a pair."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from pyproj import Geod

from das2f_map.scene.common_grid.plan import pixel_size_m
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.registration.consensus import Consensus, ShiftField, common_shift, shift_field
from das2f_map.scene.registration.guess import phase_correlation_peak
from das2f_map.scene.registration.images import MatchImages, MatchWindow
from das2f_map.scene.registration.match import (
    MAX_BANDS_APART,
    REACH,
    Match,
    fit_at,
    fit_surface,
    match_window,
)
from das2f_map.scene.registration.report import (
    MAX_UNCERTAINTY,
    MIN_AGREEING_SHARE,
    MIN_WINDOWS,
    VARIATION_LIMIT,
    ShiftReport,
    ShiftVariation,
    Verdict,
    WindowShift,
)
from das2f_map.scene.spread import spread_blocks
from das2f_map.types import Float64

MAX_SIZE = 48
"""Side of a window in a large scene, MS pixels."""

MIN_SIZE = 10
"""Smallest side of a window, MS pixels; a scene too small for it is not measured."""

_CLEAR_BANDS_APART = MAX_BANDS_APART / 2
"""Largest disagreement of the bands, MS pixels, in windows that tell whether the shift changes."""

_WINDOWS = 64
_GUESS_WINDOWS = 16


def measure_shift(pair: ScenePair, *, seed: int = 0) -> ShiftReport:
    """The shift of PAN's content against MS's, relative to the georeferencing of the files.

    Windows spread over the scene are matched one by one, see :mod:`das2f_map.scene.registration.match`, until
    64 are matched or four times as many are tried. Memory does not grow with the scene: the windows take
    some 20 MB at ratio 4, and their PAN part grows with the square of the ratio.

    Parameters
    ----------
    pair:
        An open pair. The files are measured, whatever shift the pair corrects already.
    seed:
        Decides which windows of a large scene are taken. The same scene and seed give the same windows.

    Raises
    ------
    InputError
        A file is damaged.
    """
    with MatchImages(pair) as images:
        size = _window_size(images.overlap)
        if size < MIN_SIZE:
            return _unmeasured(pair, 0, Counter(), f"the scene has fewer than {MIN_SIZE} MS pixels a side")
        windows = _Windows(images, size, seed)
        start = _best_guess(images, windows, seed)
        matches, faults = _match_all(windows, start)
        if not matches:
            return _unmeasured(pair, sum(faults.values()), faults, _reason(faults))
        return _report(pair, images, matches, faults, seed)


class _Windows:
    """Windows in their order, each read once."""

    def __init__(self, images: MatchImages, size: int, seed: int) -> None:
        places = spread_blocks(images.overlap, size, strata=_WINDOWS, seed=seed)
        # Narrow windows at the border hold too little to match well.
        self._places = (p for p in places if min(p.height, p.width) >= 0.75 * size)
        self._images = images
        self._read: list[MatchWindow] = []

    def get(self, number: int) -> MatchWindow | None:
        while len(self._read) <= number:
            place = next(self._places, None)
            if place is None:
                return None
            self._read.append(self._images.window(place))
        return self._read[number]

    def drop(self, number: int) -> None:
        """Free the memory of a window that is no longer needed."""
        self._read[number] = self._images.window(Window(0, 0, 0, 0))


def _window_size(overlap: Window) -> int:
    """Side of a window, MS pixels: 20 to 48; less in a small scene, for nine windows or else for four."""
    shorter = min(overlap.height, overlap.width)
    parts = min(8, max(3 if shorter >= 30 else 2, shorter // 20))
    return min(MAX_SIZE, shorter // parts)


def _best_guess(images: MatchImages, windows: _Windows, seed: int) -> tuple[float, float]:
    """The shift from which the search in single windows starts, MS pixels, to a quarter."""
    guesses = [(0.0, 0.0)]
    peak = phase_correlation_peak(images, seed=seed)
    if peak is not None and max(map(abs, peak)) >= 1:
        guesses.append(peak)
    sums = [np.zeros((2 * REACH + 1, 2 * REACH + 1)) for _ in guesses]
    number = seen = 0
    while seen < _GUESS_WINDOWS and number < 4 * _GUESS_WINDOWS:
        window = windows.get(number)
        if window is None:
            break
        number += 1
        surfaces = [fit_surface(window, *guess) for guess in guesses]
        if all(count for _, count in surfaces):
            for total, (surface, count) in zip(sums, surfaces, strict=True):
                # Log-likelihoods, so that a window's contrast does not decide its weight.
                total -= count * np.log(np.maximum(1.0 - surface, 1e-6))
            seen += 1
    if not seen:  # no window is valid for both guesses, so none can be preferred
        return 0.0, 0.0
    best = max(range(len(guesses)), key=lambda i: float(sums[i].max()))
    row, col = np.unravel_index(int(sums[best].argmax()), sums[best].shape)
    return guesses[best][0] + (int(row) - REACH) / 4, guesses[best][1] + (int(col) - REACH) / 4


def _match_all(
    windows: _Windows, start: tuple[float, float]
) -> tuple[list[tuple[MatchWindow, Match]], Counter[str]]:
    matches: list[tuple[MatchWindow, Match]] = []
    faults: Counter[str] = Counter()
    for number in range(4 * _WINDOWS):
        window = windows.get(number)
        if window is None:
            break
        surface, _ = fit_surface(window, *start)
        found = match_window(window, *start, surface)
        if isinstance(found, Match):
            matches.append((window, found))
            if len(matches) == _WINDOWS:
                break
        else:
            faults[found] += 1
            windows.drop(number)
    return matches, faults


def _report(
    pair: ScenePair,
    images: MatchImages,
    matches: list[tuple[MatchWindow, Match]],
    faults: Counter[str],
    seed: int,
) -> ShiftReport:
    scale = np.array(pair.axis_ratios)
    shifts = np.array([[m.rows, m.cols] for _, m in matches]) * scale
    covariances = np.array([m.covariance for _, m in matches]) * np.outer(scale, scale)
    places = np.array([_place(w.window, images.overlap) for w, _ in matches])
    found = common_shift(shifts, covariances)
    # Thin cloud over a part of the scene feigns a trend more easily than a mean shift.
    clear = np.array([m.bands_apart <= _CLEAR_BANDS_APART for _, m in matches])
    field = shift_field(shifts[clear], covariances[clear], places[clear], seed=seed)
    before, after = _fits(
        [w for (w, _), a in zip(matches, found.agrees, strict=True) if a], found.shift / scale
    )
    varies = None if field is None else _varies(field)
    variation = _variation(field) if field is not None and varies else None
    verdict, reason = _judge(found, variation, faults)
    rows, cols = (float(v) for v in found.shift)
    east, north = _metres(images, rows / scale[0], cols / scale[1])
    sigma = found.sigma
    if before is not None and after is not None and not after > before:
        # The correction does not improve the fit, so thin cloud or haze in many windows may feign the shift.
        sigma = np.maximum(sigma, np.abs(found.shift) / 2)
    uncertainty = float(np.hypot(*sigma))
    pan_pixel = pixel_size_m(images.grid) / pair.ratio
    return ShiftReport(
        verdict=verdict,
        reason=reason,
        rows=rows,
        cols=cols,
        sigma_rows=float(sigma[0]),
        sigma_cols=float(sigma[1]),
        east_m=east,
        north_m=north,
        length=math.hypot(rows, cols),
        length_m=math.hypot(east, north),
        uncertainty=uncertainty,
        uncertainty_m=uncertainty * pan_pixel,
        pan_pixel_m=pan_pixel,
        windows_tried=len(matches) + sum(faults.values()),
        windows_matched=len(matches),
        windows_agreeing=int(found.agrees.sum()),
        agreeing_share=float(found.agrees.mean()),
        left_out=dict(sorted(faults.items())),
        fit_before=before,
        fit_after=after,
        varies=varies,
        variation=variation,
        windows=_window_shifts(matches, shifts, covariances, found),
    )


def _window_shifts(
    matches: list[tuple[MatchWindow, Match]], shifts: Float64, covariances: Float64, found: Consensus
) -> tuple[WindowShift, ...]:
    """The report of each matched window; ``shifts`` (n, 2) and ``covariances`` (n, 2, 2) in PAN pixels."""
    rows, cols = (float(v) for v in found.shift)
    return tuple(
        WindowShift(
            row=w.window.row,
            col=w.window.col,
            height=w.window.height,
            width=w.window.width,
            rows=float(s[0]),
            cols=float(s[1]),
            sigma_rows=math.sqrt(c[0, 0]),
            sigma_cols=math.sqrt(c[1, 1]),
            residual_rows=float(s[0]) - rows,
            residual_cols=float(s[1]) - cols,
            fit=m.fit,
            agrees=bool(a),
        )
        for (w, m), s, c, a in zip(matches, shifts, covariances, found.agrees, strict=True)
    )


def _judge(
    found: Consensus, variation: ShiftVariation | None, faults: Counter[str]
) -> tuple[Verdict, str | None]:
    agreeing, share = int(found.agrees.sum()), float(found.agrees.mean())
    if variation is not None and share < MIN_AGREEING_SHARE:
        return "disagree", f"it changes over the scene, by {variation.range:.1f} PAN pixels"
    if agreeing < MIN_WINDOWS:
        few = f"only {len(found.agrees)} window{'s' if len(found.agrees) > 1 else ''} could be matched"
        return "disagree", few if len(found.agrees) < MIN_WINDOWS else "the windows do not agree"
    if share < MIN_AGREEING_SHARE:
        return "disagree", "the windows do not agree"
    if float(np.hypot(*found.sigma)) > MAX_UNCERTAINTY:
        return "disagree", "it is too uncertain"
    return "agree", None


def _unmeasured(pair: ScenePair, tried: int, faults: Counter[str], reason: str) -> ShiftReport:
    return ShiftReport(
        verdict="unmeasured",
        reason=reason,
        rows=None,
        cols=None,
        sigma_rows=None,
        sigma_cols=None,
        east_m=None,
        north_m=None,
        length=None,
        length_m=None,
        uncertainty=None,
        uncertainty_m=None,
        pan_pixel_m=pair.ms_gsd_m / pair.ratio,
        windows_tried=tried,
        windows_matched=0,
        windows_agreeing=0,
        agreeing_share=0.0,
        left_out=dict(sorted(faults.items())),
        fit_before=None,
        fit_after=None,
        varies=None,
        variation=None,
        windows=(),
    )


_WHY = {
    "nodata": "too few valid pixels",
    "no texture": "too little texture",
    "no match": "MS and PAN look too different",
    "bands apart": "the MS bands lie apart from one another, as over clouds",
}


def _reason(faults: Counter[str]) -> str:
    if not faults:
        return "there is no window to look at"
    return "in the windows there is " + ", ".join(f"{_WHY[f]} ({n})" for f, n in faults.most_common())


def _fits(windows: list[MatchWindow], shift: Float64) -> tuple[float | None, float | None]:
    """R² over all windows, without and with the shift (MS pixels); each window has its own band weights."""
    rest, total = np.zeros(2), np.zeros(2)
    for window in windows:
        found = [fit_at(window, 0.0, 0.0), fit_at(window, float(shift[0]), float(shift[1]))]
        if all(count for _, _, count in found):
            rest += [f[0] for f in found]
            total += [f[1] for f in found]
    if not (total > 0).all():
        return None, None
    before, after = 1.0 - rest / total
    return float(before), float(after)


def _place(window: Window, overlap: Window) -> tuple[float, float]:
    """Centre of a window, -1 to 1 over the common area."""
    row = (window.row + window.height / 2 - overlap.row) / overlap.height
    col = (window.col + window.width / 2 - overlap.col) / overlap.width
    return 2 * row - 1, 2 * col - 1


def _varies(field: ShiftField) -> bool:
    return field.significant and field.range > VARIATION_LIMIT and field.agreeing_share >= MIN_AGREEING_SHARE


def _variation(field: ShiftField) -> ShiftVariation:
    corners = field.at(np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]]))
    upper_left, upper_right, lower_right, lower_left = ((float(r), float(c)) for r, c in corners)
    return ShiftVariation(
        range=field.range,
        sigma=field.sigma,
        agreeing_share=field.agreeing_share,
        upper_left=upper_left,
        upper_right=upper_right,
        lower_right=lower_right,
        lower_left=lower_left,
    )


def _metres(images: MatchImages, rows: float, cols: float) -> tuple[float, float]:
    """A shift in MS pixels as metres to the map's east and north, in the middle of the scene."""
    grid: Grid = images.grid
    row = images.overlap.row + images.overlap.height / 2
    col = images.overlap.col + images.overlap.width / 2
    x0, y0 = grid.pixel_to_map(row, col)
    x1, y1 = grid.pixel_to_map(row + rows, col + cols)
    if grid.crs.is_geographic:
        azimuth, _, distance = Geod(ellps="WGS84").inv(x0, y0, x1, y1)
        return distance * math.sin(math.radians(azimuth)), distance * math.cos(math.radians(azimuth))
    # Metres on the ground for a map unit, the same as in the ground sample distance.
    unit = pixel_size_m(grid) / math.sqrt(grid.pixel_size[0] * grid.pixel_size[1])
    return (x1 - x0) * unit, (y1 - y0) * unit
