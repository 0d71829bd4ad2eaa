"""Whether an image has invalid values, told by its sum."""

from __future__ import annotations

import numpy as np

from das2f_map.types import Float32


def all_finite(values: Float32) -> bool:
    """Whether no value of an array is NaN or infinite.

    One such value makes the sum NaN or infinite, and a sum is several times quicker than a look at every
    value. Where finite values overflow the sum, every value is looked at.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    return bool(np.isfinite(total) or np.isfinite(values).all())
