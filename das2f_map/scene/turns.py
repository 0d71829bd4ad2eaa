"""Flips and quarter turns of square patches and of blocks."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TURNS: Final = 8
"""Flips and quarter turns of a square: turn ``t`` is ``t % 4`` quarter turns, then a flip if ``t >= 4``."""


def turned(image: NDArray[Any], turn: int) -> NDArray[Any]:
    """One of the eight flips and quarter turns of ``(bands, h, w)``, as a view."""
    result = np.rot90(image, turn % 4, axes=(1, 2))
    return result[:, :, ::-1] if turn >= 4 else result
