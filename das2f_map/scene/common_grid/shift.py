"""The shift between the contents of a pair: a value type, and its one sign convention.

A positive shift means that what PAN shows lies further down (rows) and to the right (columns) than the
MS image's georeferencing says. So PAN is *read* that much further down and right, which moves its
content up and left, onto that of MS. Rows and columns are those of the MS image, and the unit is
PAN pixels of the file: the MS pixel over the ratio, for either axis by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PanShift:
    """Where PAN's content lies against that of MS; see the module's note for sign and unit.

    Parameters
    ----------
    rows, cols:
        PAN pixels, down and to the right.
    """

    rows: float
    cols: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rows) and math.isfinite(self.cols)):
            raise ValueError(f"a shift must be finite, got {self.rows} and {self.cols}")

    @property
    def length(self) -> float:
        """PAN pixels."""
        return math.hypot(self.rows, self.cols)
