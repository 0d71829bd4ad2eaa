"""Minimum, maximum, mean and standard deviation of a raster that is written block by block."""

from __future__ import annotations

import math

import numpy as np

from das2f_map.types import Bool, Float32

_UNIT = 1 << 24
"""Values are counted in parts of this size: whole numbers add up alike in any order of blocks."""
_SHIFT = 16
"""Squares lose this many bits, so that a sum of them stays below 2⁶³."""
_PIECE = 1 << 15
"""Values that are counted at a time, few enough for the processor's cache."""


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
        rows = max(1, _PIECE // max(1, values.shape[1]))
        for start in range(0, len(values), rows):
            known, wanted = values[start : start + rows], valid[start : start + rows]
            known = known.ravel() if wanted.all() else known[wanted]
            if known.size and math.isnan(known.min()):
                known = known[~np.isnan(known)]
            if known.size:
                self._add(known)

    def _add(self, known: Float32) -> None:
        self.valid += known.size
        self._low, self._high = min(self._low, float(known.min())), max(self._high, float(known.max()))
        whole = (known * np.float32(_UNIT)).astype(np.int64)
        self._sum += int(whole.sum())
        whole *= whole
        whole >>= _SHIFT
        self._squares += int(whole.sum())

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
