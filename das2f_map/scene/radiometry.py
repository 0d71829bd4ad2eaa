"""Samples of a scene's pixels, and the band statistics of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from das2f_map.scene.band_statistics import CONSTANT, TINY, BandStatistics, Normalisation
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.scene.spread import spread_blocks
from das2f_map.types import Float32

if TYPE_CHECKING:
    # The model card needs the statistics alone, without opening any raster.
    from das2f_map.scene.block import SceneBlock
    from das2f_map.scene.pair import ScenePair


__all__ = [
    "BandStatistics",
    "Normalisation",
    "SceneSample",
    "sample_scene",
    "sample_statistics",
    "valid_values",
]

_BLOCK = 128
"""MS pixels a side of a sampled block."""


@dataclass(frozen=True)
class SceneSample:
    """Values of valid pixels from all over a scene, see :func:`sample_scene`.

    Attributes
    ----------
    names:
        Names of the MS bands.
    ms:
        float32 (bands, n), in the files' units after scale and offset.
    pan:
        float32 (16 n,): the 16 PAN pixels of each MS pixel.
    """

    names: tuple[str, ...]
    ms: Float32
    pan: Float32

    def statistics(self) -> Normalisation:
        """Statistics of the sample. A constant band gets ``std`` 1, so that normalising makes it 0."""
        bands = tuple(_statistics(n, v) for n, v in zip(self.names, self.ms, strict=True))
        return Normalisation(bands, _statistics("pan", self.pan))

    def shares_outside(self, limits: Sequence[tuple[float, float]]) -> tuple[float, ...]:
        """Part of each MS band's values, and of PAN's, below or above its ``(low, high)``, 0..1."""
        return tuple(
            float(np.mean((v < low) | (v > high)))
            for v, (low, high) in zip((*self.ms, self.pan), limits, strict=True)
        )


def sample_scene(pair: ScenePair, *, max_pixels: int = 500_000, seed: int = 0) -> SceneSample:
    """Values of the valid pixels of a whole scene, or of a sample of them.

    Blocks spread over the scene are read until ``max_pixels`` valid MS pixels are found. That covers all of a
    small scene, and a sample of a large one. The same scene, ``max_pixels`` and seed give the same sample.
    Memory is bounded by ``max_pixels`` and a block: about 8 × (bands + 16) bytes a pixel.

    Parameters
    ----------
    pair:
        An open pair.
    max_pixels:
        Valid MS pixels to stop at; each brings its 16 PAN pixels.
    seed:
        Decides which blocks of a large scene are taken.

    Raises
    ------
    InputError
        The scene has no valid pixel.
    ValueError
        ``max_pixels`` is not positive.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
    window = pair.grids.ms.window
    strata = max(1, -(-max_pixels // _BLOCK**2))
    ms_parts: list[Float32] = []
    pan_parts: list[Float32] = []
    missing = max_pixels
    for part in spread_blocks(window, _BLOCK, strata=strata, seed=seed):
        block = pair.read_block(part, 0, 0)
        ms, pan = valid_values(block)
        if missing < ms.shape[1] and window.height * window.width > max_pixels:
            # The last block is thinned evenly, not cut off at some row.
            keep = np.linspace(0, ms.shape[1] - 1, missing).astype(np.int64)
            ms, pan = ms[:, keep], pan[keep]
        ms_parts.append(ms)
        pan_parts.append(pan.ravel())
        missing -= ms.shape[1]
        if missing <= 0:
            break
    sample = SceneSample(pair.ms_band_names, np.concatenate(ms_parts, axis=1), np.concatenate(pan_parts))
    if sample.pan.size == 0:
        raise pair.nothing_valid()
    return sample


def sample_statistics(pair: ScenePair, *, max_pixels: int = 500_000, seed: int = 0) -> Normalisation:
    """Statistics of each band over a sample; parameters and errors are as in :func:`sample_scene`."""
    return sample_scene(pair, max_pixels=max_pixels, seed=seed).statistics()


def valid_values(block: SceneBlock) -> tuple[Float32, Float32]:
    """Values at the valid targets of a block without halo: float32 MS (bands, n) and PAN (n, 16)."""
    h, w = block.valid.shape
    f = PAN_PER_MS
    pan = block.pan[0].reshape(h, f, w, f).transpose(0, 2, 1, 3).reshape(h, w, f * f)
    return block.ms[:, block.valid], pan[block.valid]


def _statistics(name: str, values: Float32) -> BandStatistics:
    mean = float(values.mean(dtype=np.float64))
    # About the mean and in float64: the one-pass formula in float32 loses a small spread on a large mean.
    std = float(np.sqrt(np.mean(np.square(values - mean, dtype=np.float64))))
    p01, p99 = (float(p) for p in np.percentile(values, (1.0, 99.0)))
    constant = not std > CONSTANT * max(abs(mean), TINY)
    # Divided by 1, a constant band becomes 0; divided by its tiny spread, it would become loud noise.
    return BandStatistics(name=name, mean=mean, std=1.0 if constant else std, p01=p01, p99=p99)
