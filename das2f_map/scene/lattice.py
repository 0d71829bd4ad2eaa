"""Every K-th pixel of a grid in both directions, one for each cell of K × K pixels: the pixels of a draft.

Cells begin at the grid's upper left corner. The pixel of a cell is its middle one. If K is even, four are as
near to the middle, and it is the upper left one of these: row and column (K - 1) // 2 of the cell, from 0.
A cell that reaches over the lower or right edge of the grid counts if its pixel lies inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool


@dataclass(frozen=True)
class Lattice:
    """Every ``step``-th pixel; with 1 all of them.

    Attributes
    ----------
    step:
        K, from 1 on.
    """

    step: int = 1

    @property
    def offset(self) -> int:
        """Row and column of the pixel in its cell."""
        return (self.step - 1) // 2

    def count(self, length: int) -> int:
        """Pixels along an axis of ``length`` pixels."""
        return max(0, -((self.offset - length) // self.step))

    def cells(self, grid: Grid) -> Grid:
        """The grid of the cells."""
        return Grid(
            self.count(grid.height),
            self.count(grid.width),
            grid.transform * Affine.scale(float(self.step)),
            grid.crs,
        )

    def centred(self, grid: Grid) -> Grid:
        """As :meth:`cells`, moved so that the centre of each cell is that of its pixel: by half a pixel of
        the grid if K is even, else by nothing."""
        moved = (self.offset + 0.5) / self.step - 0.5
        return self.cells(grid).moved(moved, moved)

    def reach(self, window: Window) -> Window:
        """The window of the grid from the first to the last pixel of a window of cells."""
        k = self.step
        return Window(
            window.row * k + self.offset,
            window.col * k + self.offset,
            (window.height - 1) * k + 1,
            (window.width - 1) * k + 1,
        )

    def taken(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values of the pixels: (…, h, w) of cells from those of their :meth:`reach`; a view."""
        return values[..., :: self.step, :: self.step]

    def spread(self, wanted: Bool) -> Bool:
        """bool of the :meth:`reach`: true at the pixels of the cells that are wanted, (h, w)."""
        if self.step == 1:
            return wanted
        h, w = wanted.shape
        out = np.zeros(((h - 1) * self.step + 1, (w - 1) * self.step + 1), np.bool_)
        out[:: self.step, :: self.step] = wanted
        return out
