"""Band statistics and the normalisation that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.scene.spread import spread_blocks
from das2f_map.types import Float32

if TYPE_CHECKING:
    # The model card needs the statistics alone, without opening any raster.
    from das2f_map.scene.block import SceneBlock
    from das2f_map.scene.pair import ScenePair


_CONSTANT, _TINY = 1e-6, 1e-30
"""Standard deviation over the mean up to which a band is constant; the least mean to hold it against."""

_BLOCK = 128
"""MS pixels a side of a sampled block."""


class BandStatistics(BaseModel):
    """Values of one band over valid pixels, in the file's units after scale and offset."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    mean: float = Field(description="subtracted before the network")
    std: float = Field(gt=0, description="divided by before the network")
    p01: float = Field(description="1st percentile")
    p99: float = Field(description="99th percentile")

    @property
    def spread(self) -> float:
        """Standard deviation of the values: 0 where all are the same, as there ``std`` is 1 to divide by."""
        # Of values that do not vary, no percentile is further from the mean than ten standard deviations.
        reach = 10 * _CONSTANT * max(abs(self.mean), _TINY)
        same = self.std == 1.0 and max(abs(self.p01 - self.mean), abs(self.p99 - self.mean)) <= reach
        return 0.0 if same else self.std


@dataclass(frozen=True)
class Normalisation:
    """``(value - mean) / std`` for each band.

    Attributes
    ----------
    ms_bands:
        Statistics of the MS bands, in the order in which they are read.
    pan_band:
        Statistics of PAN.
    """

    ms_bands: tuple[BandStatistics, ...]
    pan_band: BandStatistics

    @property
    def bands(self) -> tuple[BandStatistics, ...]:
        """The MS bands, then PAN."""
        return (*self.ms_bands, self.pan_band)

    def apply(self, block: SceneBlock) -> tuple[Float32, Float32]:
        """A block and its halo, normalised; invalid pixels become 0, the band's mean.

        Parameters
        ----------
        block:
            As read, in the units of the statistics.

        Returns
        -------
        tuple of float32 arrays
            MS (bands, h + before + after, w + before + after) and PAN (1, 4 × …, 4 × …), finite.

        Raises
        ------
        ValueError
            The number of statistics is not the number of bands.
        """
        if len(self.ms_bands) != block.ms.shape[0]:
            raise ValueError(
                f"{len(self.ms_bands)} band statistics for a block of {block.ms.shape[0]} MS bands"
            )
        return _normalised(block.ms, self.ms_bands), _normalised(block.pan, [self.pan_band])


def _normalised(values: Float32, bands: Sequence[BandStatistics]) -> Float32:
    out = np.empty(values.shape, dtype=np.float32)
    for source, target, band in zip(values, out, bands, strict=True):
        # The difference in float64: in float32 it would lose digits where the mean is far over the spread.
        target[:] = (source.astype(np.float64) - band.mean) / band.std
    return np.nan_to_num(out, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class SceneSample:
    """Values of valid pixels from all over a scene, see :func:`sample_scene`.

    Attributes
    ----------
    names:
        Of the MS bands.
    ms:
        float32 (bands, n), in the files' units after scale and offset.
    pan:
        float32 (16 n,), of the PAN pixels in them.
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

    Blocks spread over the scene are read until ``max_pixels`` valid MS pixels are together: all of
    a small scene, a sample of a large one, which is the same for the same scene, number and seed.
    Memory is bounded by ``max_pixels`` and a block: about 8 × (bands + 16) bytes a pixel.

    Parameters
    ----------
    pair:
        An open pair.
    max_pixels:
        Valid MS pixels that are enough; each brings its 16 PAN pixels.
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
    """Statistics of each band over a :func:`sample_scene`; its parameters and errors."""
    return sample_scene(pair, max_pixels=max_pixels, seed=seed).statistics()


def valid_values(block: SceneBlock) -> tuple[Float32, Float32]:
    """Values at valid targets of a block without halo: MS (bands, n) and PAN (n, 16)."""
    h, w = block.valid.shape
    f = PAN_PER_MS
    pan = block.pan[0].reshape(h, f, w, f).transpose(0, 2, 1, 3).reshape(h, w, f * f)
    return block.ms[:, block.valid], pan[block.valid]


def _statistics(name: str, values: Float32) -> BandStatistics:
    mean = float(values.mean(dtype=np.float64))
    # About the mean in float64: the one-pass formula in float32 loses a small spread on a large mean.
    std = float(np.sqrt(np.mean(np.square(values - mean, dtype=np.float64))))
    p01, p99 = (float(p) for p in np.percentile(values, (1.0, 99.0)))
    constant = not std > _CONSTANT * max(abs(mean), _TINY)
    # A constant band has nothing to divide by; 1 makes it 0 everywhere instead of noise blown up.
    return BandStatistics(name=name, mean=mean, std=1.0 if constant else std, p01=p01, p99=p99)
