"""Statistics of bands, and how a network's inputs are normalised with them.

Model cards hold them, so nothing is imported here that opens rasters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # the list of models does without numpy, which takes 0.1 s
    from das2f_map.scene.block import SceneBlock
    from das2f_map.types import Float32

CONSTANT: Final = 1e-6
"""Ratio of standard deviation to mean up to which a band is constant."""

TINY: Final = 1e-30
"""Least mean that this ratio is taken of."""


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
        """Standard deviation of the values. 0 if they are all the same: ``std`` is then 1, to divide by."""
        # A constant band's percentiles lie within ten (true) standard deviations of the mean (Chebyshev).
        reach = 10 * CONSTANT * max(abs(self.mean), TINY)
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

    def apply(self, block: SceneBlock, *, reuse: bool = False) -> tuple[Float32, Float32]:
        """A block and its halo, normalised; invalid pixels become 0, the band's mean.

        Parameters
        ----------
        block:
            A block as read, in the units of the statistics.
        reuse:
            Put the results into the block's own arrays, which saves their memory; the block is then spent.

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
        ms = _normalised(block.ms, self.ms_bands, reuse)
        return ms, _normalised(block.pan, [self.pan_band], reuse)


def _normalised(values: Float32, bands: Sequence[BandStatistics], reuse: bool) -> Float32:
    import numpy as np

    from das2f_map.scene.compiled_pixels import normalise

    values = np.ascontiguousarray(values)
    out = values if reuse and values.flags.writeable else np.empty(values.shape, dtype=np.float32)
    for source, target, band in zip(values, out, bands, strict=True):
        normalise(source, band.mean, band.std, target)
    return out
