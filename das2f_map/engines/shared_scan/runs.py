"""Position classes: positions in a patch that give a token the same values before the scan.

Before the scan, a token's values depend on the token and on its distance from the border of the patch, not on
the patch. Along one axis each of the positions 0..e-1 and P-e..P-1 is a class of its own, and all positions
between are one class. ``e`` says how far the border reaches into the patch: 0 for a PAN token, 1 for an MS
token (its bilinear enlargement clamps at the border), and one more after the 3x3 convolution.

For T neighbouring outputs an axis is laid out as one *run* of tokens for each class. Everything after is a
look-up in a table:

    class 0: tokens 0..T-1 | … | the middle class: tokens e..T+P-2-e | … | the last class: P-1..T+P-2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from das2f_map.types import Int64

Indices = Int64


@dataclass(frozen=True)
class AxisRuns:
    """One axis of a block, laid out by position class.

    Attributes
    ----------
    outputs:
        T, neighbouring patches along the axis; the block has ``T + patch - 1`` tokens.
    patch:
        P, tokens of a patch along the axis.
    edge:
        e, positions at each end that are classes of their own.
    """

    outputs: int
    patch: int
    edge: int

    def __post_init__(self) -> None:
        if self.outputs < 1 or self.patch <= 2 * self.edge:
            raise ValueError(f"no middle class in {self}")

    @property
    def middle(self) -> int:
        """Tokens of the middle class."""
        return self.outputs + self.patch - 1 - 2 * self.edge

    @property
    def entries(self) -> int:
        """Length of all runs together, (2e + 1) T + P - 1 - 2e."""
        return 2 * self.edge * self.outputs + self.middle

    def entry(self, start: int | Indices, position: int | Indices) -> Indices:
        """Entry of the token at ``position`` of the patch that starts at ``start``."""
        start, position = np.broadcast_arrays(np.asarray(start), np.asarray(position))
        t, e, p = self.outputs, self.edge, self.patch
        first = position * t + start
        between = e * t + start + position - e
        last = e * t + self.middle + (position - (p - e)) * t + start
        return np.where(position < e, first, np.where(position >= p - e, last, between)).astype(np.int64)

    def table(self) -> Indices:
        """int64 (T, P): the entry of every position of every patch."""
        return self.entry(np.arange(self.outputs)[:, None], np.arange(self.patch)[None, :])

    def representatives(self) -> tuple[Indices, Indices]:
        """For every entry, the start of a patch that has it and its position there, int64 (entries,) each."""
        table = self.table().ravel()
        _, where = np.unique(table, return_index=True)
        return where // self.patch, where % self.patch
