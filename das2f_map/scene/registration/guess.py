"""A first guess of a shift, however large, in whole MS pixels: phase correlation of PAN and the MS bands.

For each MS band, the phases of its cross spectrum with PAN's footprint averages (Kuglin and Hines, 1975) are
summed over a few large windows and transformed back. The results are squared, since a band may show the
negative of PAN, and added up over the bands. The peak of the sum is the guess.
Phase correlation may fail. So it gives only one of two guesses; the other is no shift at all.
"""

from __future__ import annotations

import itertools

import numpy as np

from das2f_map.scene.registration.images import MatchImages
from das2f_map.scene.spread import spread_blocks
from das2f_map.types import Complex128, Float64

_SIZE = 128
_WINDOWS = 9
_MIN_VALID_SHARE = 0.6


def phase_correlation_peak(images: MatchImages, *, seed: int) -> tuple[float, float] | None:
    """Rows and columns of the guess in whole MS pixels, each at most a third of a window.

    ``None`` if the scene is too small or too little of it is valid.
    """
    size = min(_SIZE, images.overlap.height, images.overlap.width)
    if size < 12:
        return None
    taper = np.outer(np.hanning(size), np.hanning(size))
    spectra = np.zeros((images.ms.band_count, size, size), dtype=np.complex128)
    seen = 0
    places = spread_blocks(images.overlap, size, strata=_WINDOWS, seed=seed)
    for place in itertools.islice(places, 4 * _WINDOWS):
        if (place.height, place.width) != (size, size):
            continue
        window = images.window(place)
        pan = window.pan_at(0.0, 0.0)
        if min(np.isfinite(pan).mean(), window.valid.mean()) >= _MIN_VALID_SHARE:
            spectra += _cross_phases(pan, window.ms, taper)
            seen += 1
        if seen == _WINDOWS:
            break
    if not seen:
        return None
    surface = (np.fft.ifft2(spectra).real ** 2).sum(axis=0)
    away = np.abs(np.fft.fftfreq(size) * size)
    surface[(away[:, None] > size / 3) | (away[None, :] > size / 3)] = 0.0
    row, col = np.unravel_index(int(surface.argmax()), surface.shape)
    return float((row + size // 2) % size - size // 2), float((col + size // 2) % size - size // 2)


def _cross_phases(pan: Float64, bands: Float64, taper: Float64) -> Complex128:
    spectrum = np.fft.fft2(_tapered(pan, taper))
    cross = np.stack([spectrum * np.conj(np.fft.fft2(_tapered(b, taper))) for b in bands])
    power = np.abs(cross)
    strongest = float(power.max())
    if not strongest > 0:
        return np.zeros_like(cross)
    return np.asarray(cross / np.maximum(power, 1e-12 * strongest))


def _tapered(image: Float64, taper: Float64) -> Float64:
    """An image less its mean, faded out towards the border; invalid pixels get the mean, so become 0."""
    if not np.isfinite(image).any():
        return np.zeros_like(taper)
    return np.nan_to_num(image - np.nanmean(image), nan=0.0) * taper
