"""A file at the pixels of a coarse grid: which of them lie in it, and where in a reduced image of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from das2f_map.scene.antimeridian import Lookup, lookups
from das2f_map.scene.common_grid.relation import map_between
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool, Int64


@dataclass(frozen=True)
class ReducedWindow:
    """The part of a file that a coarse grid needs, and in how many pixels.

    Attributes
    ----------
    window:
        Of the file.
    height, width:
        Pixels to read it in: at most twice as many a side as the coarse grid has.
    inside:
        bool (h, w) of the coarse grid: its centre lies in the file.
    at_row, at_col:
        int64 (n,) for those: its pixel in what is read.
    """

    window: Window
    height: int
    width: int
    inside: Bool
    at_row: Int64
    at_col: Int64


def reduced_windows(file: Grid, coarse: Grid) -> tuple[ReducedWindow, ...]:
    """Where the centres of a coarse grid's pixels lie in a file; none if they do not.

    More than one if the coarse grid leads over the seam of a file around the world.
    """
    row, col = map_between(coarse, file).centres(coarse.window)
    return tuple(_reduced(found, coarse) for found in lookups(file, row, col))


def _reduced(found: Lookup, coarse: Grid) -> ReducedWindow:
    window = found.window
    height, width = min(window.height, 2 * coarse.height), min(window.width, 2 * coarse.width)
    at_row = (found.row * (height / window.height)).astype(np.int64).clip(0, height - 1)
    at_col = (found.col * (width / window.width)).astype(np.int64).clip(0, width - 1)
    return ReducedWindow(window, height, width, found.inside, at_row, at_col)
