"""Where a map is right and wrong: reference pixels counted in squares of the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from das2f_map.assess.class_match import ClassMatch
from das2f_map.assess.map_comparison import BLOCK
from das2f_map.assess.open_map import OpenMap
from das2f_map.labels.source import LabelSource
from das2f_map.legend import NODATA_CLASS
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import blocks_of

SQUARES = 48
"""Squares along the longer side of a map; a square has one pixel at least."""


@dataclass(frozen=True)
class Place:
    """The reference pixels of one square of a map.

    Attributes
    ----------
    row, col:
        Their mean position, in map pixels; a pixel's centre is at + 0.5.
    right, wrong:
        Pixels that the map has right and wrong.
    """

    row: float
    col: float
    right: int
    wrong: int


@dataclass(frozen=True)
class ErrorPlaces:
    """The squares of a map that have reference pixels, row by row.

    Attributes
    ----------
    places:
        Each square with its counts.
    side:
        Map pixels a side of a square.
    """

    places: tuple[Place, ...]
    side: int

    @property
    def right(self) -> int:
        """Reference pixels that the map has right."""
        return sum(p.right for p in self.places)

    @property
    def wrong(self) -> int:
        """Reference pixels that the map has wrong."""
        return sum(p.wrong for p in self.places)


def find_errors(
    mapped: OpenMap,
    reference: LabelSource,
    match: ClassMatch,
    progress: Progress = silent,
) -> ErrorPlaces:
    """Right and wrong pixels in squares of a map, read block by block.

    Parameters
    ----------
    reference:
        Opened on the map's grid.
    match:
        From :func:`das2f_map.assess.class_match.match_classes`. Pixels of other reference classes, and
        those where the map has none of its classes, do not count.
    """
    grid = mapped.grid
    side = max(1, -(-max(grid.height, grid.width) // SQUARES))
    rows, cols = -(-grid.height // side), -(-grid.width // side)
    right, wrong = np.zeros(rows * cols, np.int64), np.zeros(rows * cols, np.int64)
    down, across = np.zeros(rows * cols), np.zeros(rows * cols)
    to_map = np.zeros(256, np.uint8)
    to_map[list(match.map_id)] = list(match.map_id.values())
    windows = list(reference.windows(blocks_of(grid.window, BLOCK)))
    with progress("Looking for errors", len(windows)) as advance:
        for window in windows:
            wanted = to_map[reference.read(window).classes]
            advance(1)
            if not wanted.any():
                continue
            found, _ = mapped.read(window)
            r, c = np.nonzero((wanted != NODATA_CLASS) & np.isin(found, mapped.legend.ids))
            agree = wanted[r, c] == found[r, c]
            r, c = r + window.row, c + window.col
            square = r // side * cols + c // side
            right += np.bincount(square[agree], minlength=right.size)
            wrong += np.bincount(square[~agree], minlength=wrong.size)
            down += np.bincount(square, r + 0.5, minlength=down.size)
            across += np.bincount(square, c + 0.5, minlength=across.size)
    total = right + wrong
    return ErrorPlaces(
        tuple(
            Place(float(down[k] / total[k]), float(across[k] / total[k]), int(right[k]), int(wrong[k]))
            for k in np.flatnonzero(total)
        ),
        side,
    )
