"""Look a file up at the pixels of a coarse grid: which pixels lie in it, and where in its reduced image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from das2f_map.scene.antimeridian import Lookup, lookups
from das2f_map.scene.common_grid.relation import map_between
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool, Int64


@dataclass(frozen=True)
class ReducedWindow:
    """The window of a file that a coarse grid needs, and the size to read it at.

    Attributes
    ----------
    window:
        Window of the file.
    height, width:
        Size of the reduced image, pixels: at most twice that of the coarse grid along either side.
    inside:
        bool (h, w) of the coarse grid: the pixel's centre lies in the file.
    at_row, at_col:
        int64 (n,), for each pixel that is inside: its row and column in the reduced image.
    """

    window: Window
    height: int
    width: int
    inside: Bool
    at_row: Int64
    at_col: Int64


def reduced_windows(file: Grid, coarse: Grid) -> tuple[ReducedWindow, ...]:
    """The windows of a file that hold the centres of a coarse grid's pixels; none if no centre lies in it.

    There is more than one if the coarse grid crosses the seam of a file that goes around the world.
    """
    row, col = map_between(coarse, file).centres(coarse.window)
    return tuple(_reduced(found, coarse) for found in lookups(file, row, col))


def _reduced(found: Lookup, coarse: Grid) -> ReducedWindow:
    window = found.window
    height, width = min(window.height, 2 * coarse.height), min(window.width, 2 * coarse.width)
    at_row = (found.row * (height / window.height)).astype(np.int64).clip(0, height - 1)
    at_col = (found.col * (width / window.width)).astype(np.int64).clip(0, width - 1)
    return ReducedWindow(window, height, width, found.inside, at_row, at_col)
