"""Random radiometry of training patches: gain, offset, noise, haze and shade.

All changes are linear in the values, as those of atmosphere and light are. A gain turns about the dark value
that a band has without light from the ground (path radiance), here the band's 1st percentile. Haze mixes a
patch with the bright value of clouds, here the 99th percentile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from das2f_map.scene.radiometry import BandStatistics, Normalisation
from das2f_map.types import Float32

GAIN, BAND_GAIN, OFFSET, NOISE = 0.1, 0.03, 0.05, 0.05
"""Spreads at strength 1: of the logarithm of the gain, common to all bands and of each; of offsets and
noise, in standard deviations of a band."""

MOST_HAZE, LEAST_LIGHT = 0.4, 0.4
"""Largest share of haze; smallest share of the light that shade leaves."""


@dataclass(frozen=True)
class Jitter:
    """Changes the radiometry of normalised patches at random.

    Attributes
    ----------
    normalisation:
        Statistics that the patches were normalised with.
    strength:
        Factor of the spreads of gain, offset and noise; 0 for none.
    haze:
        Share of the patches that get haze, and share that get shade, 0..1.
    """

    normalisation: Normalisation
    strength: float
    haze: float

    def __call__(self, ms: Float32, pan: Float32, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """Changed copies of patches: float32 MS ``(n, bands, P, P)`` and PAN ``(n, 1, 4P, 4P)``.

        The 16 PAN pixels of an MS pixel change as it does: a patch has one gain, one haze, one shade.
        """
        n, bands = len(ms), len(self.normalisation.bands)
        dark, bright = _pivots(self.normalisation.bands)
        gain = np.exp(
            self.strength * (GAIN * rng.standard_normal((n, 1)) + BAND_GAIN * rng.standard_normal((n, bands)))
        )
        shaded = rng.random((n, 1)) < self.haze
        gain = gain * np.where(shaded, rng.uniform(LEAST_LIGHT, 1.0, (n, 1)), 1.0)
        offset = self.strength * OFFSET * rng.standard_normal((n, bands)) + dark * (1.0 - gain)
        hazy = np.where(rng.random((n, 1)) < self.haze, rng.uniform(0.0, MOST_HAZE, (n, 1)), 0.0)
        gain, offset = gain * (1.0 - hazy), offset * (1.0 - hazy) + bright * hazy
        noise = self.strength * NOISE * rng.random((n, 1))
        return (
            _changed(ms, gain[:, :-1], offset[:, :-1], noise, rng),
            _changed(pan, gain[:, -1:], offset[:, -1:], noise, rng),
        )


def _pivots(bands: tuple[BandStatistics, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dark and bright value of each band, normalised, float64 ``(bands,)`` each."""
    dark = np.array([(b.p01 - b.mean) / b.std for b in bands])
    bright = np.array([(b.p99 - b.mean) / b.std for b in bands])
    return dark, bright


def _changed(
    image: Float32,
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    noise: NDArray[np.float64],
    rng: np.random.Generator,
) -> Float32:
    f = np.float32
    out: Float32 = image * gain[:, :, None, None].astype(f) + offset[:, :, None, None].astype(f)
    if noise.any():
        out += noise[:, :, None, None].astype(f) * rng.standard_normal(image.shape, dtype=f)
    return out
