"""The shift between the contents of a pair: a value type, and its one sign convention.

With a positive shift, PAN's content lies further down (rows) and further right (columns) than the
georeferencing and MS's content say. So PAN is *read* that much further down and right, which moves its
content up and left, onto MS's. Rows and columns run along those of the MS image. The unit is the PAN pixel of
the file: along each axis, the MS pixel divided by that axis's ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PanShift:
    """Where PAN's content lies relative to MS's; see the module's note for sign and unit.

    Parameters
    ----------
    rows, cols:
        PAN pixels, positive down and to the right.
    """

    rows: float
    cols: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rows) and math.isfinite(self.cols)):
            raise ValueError(f"a shift must be finite, got {self.rows} and {self.cols}")

    @property
    def length(self) -> float:
        """Length of the shift, PAN pixels."""
        return math.hypot(self.rows, self.cols)
