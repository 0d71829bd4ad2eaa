"""What invalid pixels are filled with, pixel by pixel as the documentation says it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def filled(values: npt.NDArray[np.floating], radius: int) -> npt.NDArray[np.float64]:
    """(bands, h, w), NaN where invalid: ring after ring, the mean of the neighbours that have a value."""
    out = values.astype(np.float64)
    for plane in out:
        h, w = plane.shape
        for _ in range(radius):
            before = plane.copy()
            for r, c in zip(*np.nonzero(np.isnan(before)), strict=True):
                around = [
                    before[i, k]
                    for i in range(max(0, r - 1), min(h, r + 2))
                    for k in range(max(0, c - 1), min(w, c + 2))
                    if not math.isnan(before[i, k])
                ]
                if around:
                    plane[r, c] = sum(around) / len(around)
    return out
