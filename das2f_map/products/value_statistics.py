"""Minimum, maximum, mean and standard deviation of a raster that is written block by block."""

from __future__ import annotations

import math

from das2f_map.scene.compiled_pixels import sum_parts
from das2f_map.types import Bool, Float32

_UNIT = 1 << 24
"""Values are counted in parts of this size: whole numbers add up alike in any order of blocks."""
_SHIFT = 16
"""Squares lose this many bits, so that a sum of them stays below 2⁶³."""


class BandStatistics:
    """Statistics of one band of values from 0 to 1. They do not depend on how the raster is cut into blocks.

    Mean and deviation are exact to about 1e-7.
    """

    def __init__(self) -> None:
        self.pixels = self.valid = 0
        self._low, self._high = math.inf, -math.inf
        self._sum = self._squares = 0

    def add(self, values: Float32, valid: Bool) -> None:
        """Count a block: float32 (h, w), and where it is valid; NaN is not."""
        self.pixels += values.size
        found = sum_parts(values, valid, _UNIT, _SHIFT)
        self.valid += found.known
        self._low, self._high = min(self._low, found.low), max(self._high, found.high)
        self._sum += found.sum
        self._squares += found.squares

    def items(self) -> dict[str, str]:
        """GDAL's metadata items of the band; empty without a valid pixel."""
        if not self.valid:
            return {}
        mean = self._sum / self.valid / _UNIT
        square = self._squares / self.valid * 2.0**_SHIFT / _UNIT**2
        values = {
            "MINIMUM": self._low,
            "MAXIMUM": self._high,
            "MEAN": mean,
            "STDDEV": math.sqrt(max(0.0, square - mean * mean)),
            "VALID_PERCENT": 100.0 * self.valid / self.pixels,
        }
        return {f"STATISTICS_{name}": f"{value:.14g}" for name, value in values.items()}
