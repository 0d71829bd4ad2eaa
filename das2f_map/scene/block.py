"""A block of a scene with its halo, which beyond the scene's border is a reflection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from das2f_map.scene.fill import fill_invalid
from das2f_map.scene.finite import all_finite
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
        Halo above and left of the window, and below and right of it; MS pixels.
    ms:
        float32 (bands, h + before + after, w + before + after), file units, NaN where invalid.
    pan:
        float32 (1, 4 × (h + before + after), 4 × (w + before + after)), file units, NaN where invalid.
    valid:
        bool (h, w): the target is valid in every MS band and in all of its 16 PAN pixels, and not excluded
        by a mask.
    invalid:
        bool (h + before + after, w + before + after): MS pixels without a measurement in some MS band or in
        some of their PAN pixels, whether they are filled or not.
    """

    window: Window
    before: int
    after: int
    ms: Float32
    pan: Float32
    valid: Bool
    invalid: Bool


def read_reflected(
    read: Callable[[Window], Float32], grid: Grid, window: Window, fill: int, *, always_valid: bool = False
) -> tuple[Float32, Bool]:
    """Values of a window, reflected where it reaches beyond the grid.

    Parameters
    ----------
    read:
        Gives a window inside the grid, float32 (bands, h, w), NaN where invalid.
    grid, window:
        The grid and the window, in pixels of the grid.
    fill:
        Pixels from valid ones up to which invalid ones are filled.
    always_valid:
        Whether no pixel can be invalid, so that none is looked at.

    Returns
    -------
    tuple
        Values, float32 (bands, h, w), and bool (h, w): some band is invalid, whether it is filled or not.
    """
    rows = _reflected(window.row, window.row_stop, grid.height)
    cols = _reflected(window.col, window.col_stop, grid.width)
    row, col = int(rows.min()), int(cols.min())
    inside = Window(row, col, int(rows.max()) + 1 - row, int(cols.max()) + 1 - col)
    values = read(inside)
    whole = always_valid or all_finite(values)
    invalid = (
        np.zeros(values.shape[1:], dtype=np.bool_) if whole else np.asarray(~np.isfinite(values).all(axis=0))
    )
    if fill and invalid.any():
        # The value that fills a pixel depends on pixels up to this distance around it.
        wide = inside.padded(fill, fill).intersection(grid.window)
        top, left = row - wide.row, col - wide.col
        values = fill_invalid(read(wide), fill)[:, top : top + inside.height, left : left + inside.width]
    if window.intersection(grid.window) == window:
        return values, invalid
    rows, cols = rows - row, cols - col
    if whole:
        invalid = np.zeros((window.height, window.width), dtype=np.bool_)
    else:
        invalid = invalid[np.ix_(rows, cols)]
    return _taken(values, rows, cols), invalid


def _taken(values: Float32, rows: Int64, cols: Int64) -> Float32:
    """``values[:, rows][:, :, cols]``; most places follow on each other, as at a grid's border."""
    out = np.empty((values.shape[0], len(rows), len(cols)), dtype=values.dtype)
    first, last = _longest_run(rows)
    _take_cols(values[:, rows[first] : rows[first] + last - first], cols, out[:, first:last])
    for part in (slice(0, first), slice(last, len(rows))):
        _take_cols(values[:, rows[part]], cols, out[:, part])
    return out


def _take_cols(values: Float32, cols: Int64, out: Float32) -> None:
    """``out[:] = values[:, :, cols]``; the longest run is copied as a whole, several times faster."""
    first, last = _longest_run(cols)
    out[:, :, first:last] = values[:, :, cols[first] : cols[first] + last - first]
    for part in (slice(0, first), slice(last, len(cols))):
        out[:, :, part] = values[:, :, cols[part]]


def _longest_run(places: Int64) -> tuple[int, int]:
    """First and last (excluded) position of the longest run of places that follow on each other."""
    breaks = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1, [len(places)]])
    longest = int(np.diff(breaks).argmax())
    return int(breaks[longest]), int(breaks[longest + 1])


def _reflected(start: int, stop: int, size: int) -> Int64:
    """Indices ``start..stop`` folded into ``0..size`` about the first and the last, neither repeated."""
    period = max(1, 2 * (size - 1))
    folded = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(folded, period - folded) if size > 1 else folded
