"""A block of a scene with its halo, and how what lies beyond the scene's border is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from das2f_map.scene.fill import fill_invalid
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool, Float32, Int64


@dataclass(frozen=True)
class SceneBlock:
    """A block of a scene with its halo.

    Attributes
    ----------
    window:
        Target pixels, MS pixels of the common grid.
    before, after:
        Halo above and left of the window, below and right of it; MS pixels.
    ms:
        float32 (bands, h + before + after, w + before + after), file units, NaN where invalid.
    pan:
        float32 (1, 4 × (h + before + after), 4 × (w + before + after)), the same.
    valid:
        bool (h, w): the target is valid in every MS band and in all of its 16 PAN pixels, and not excluded
        by a mask.
    invalid:
        bool (h + before + after, w + before + after): MS pixels without measurements in some MS band or in
        some of their PAN pixels, filled or not.
    """

    window: Window
    before: int
    after: int
    ms: Float32
    pan: Float32
    valid: Bool
    invalid: Bool


def read_reflected(
    read: Callable[[Window], Float32], grid: Grid, window: Window, fill: int
) -> tuple[Float32, Bool]:
    """A window of a grid that may reach beyond it, where it is the grid's reflection.

    Parameters
    ----------
    read:
        Gives a window inside the grid, float32 (bands, h, w), NaN where invalid.
    grid, window:
        The grid and what is wanted of it, in its pixels.
    fill:
        Pixels from valid ones up to which invalid ones are filled.

    Returns
    -------
    tuple
        Values, float32 (bands, h, w), and where some band is invalid, bool (h, w), filled or not.
    """
    rows = _reflected(window.row, window.row_stop, grid.height)
    cols = _reflected(window.col, window.col_stop, grid.width)
    row, col = int(rows.min()), int(cols.min())
    inside = Window(row, col, int(rows.max()) + 1 - row, int(cols.max()) + 1 - col)
    values = read(inside)
    invalid = np.asarray(~np.isfinite(values).all(axis=0))
    if fill and invalid.any():
        # What a pixel is filled with depends on the pixels so far around it.
        wide = inside.padded(fill, fill).intersection(grid.window)
        top, left = row - wide.row, col - wide.col
        values = fill_invalid(read(wide), fill)[:, top : top + inside.height, left : left + inside.width]
    if window.intersection(grid.window) == window:
        return values, invalid
    rows, cols = rows - row, cols - col
    return np.take(np.take(values, rows, axis=1), cols, axis=2), invalid[np.ix_(rows, cols)]


def _reflected(start: int, stop: int, size: int) -> Int64:
    """Indices ``start..stop`` folded into ``0..size`` about the first and the last, neither repeated."""
    period = max(1, 2 * (size - 1))
    folded = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(folded, period - folded) if size > 1 else folded
