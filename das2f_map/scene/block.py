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
    read: Callable[[Window], Float32], grid: Grid, window: Window, fill: int
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
    whole = all_finite(values)
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
    return _taken(_taken(values, rows, axis=1), cols, axis=2), invalid


def _taken(values: Float32, places: Int64, axis: int) -> Float32:
    """``np.take`` of places most of which follow on each other, as in a window at the grid's border."""
    steps = np.diff(places) == 1
    if steps.all():
        return values[(slice(None),) * axis + (slice(int(places[0]), int(places[-1]) + 1),)]
    # The longest run of places is copied as a whole; taking them one by one is several times slower.
    breaks = np.concatenate([[0], np.flatnonzero(~steps) + 1, [len(places)]])
    longest = int(np.diff(breaks).argmax())
    first, last = int(breaks[longest]), int(breaks[longest + 1])
    shape = list(values.shape)
    shape[axis] = len(places)
    out = np.empty(shape, dtype=values.dtype)
    for start, stop in ((0, first), (last, len(places))):
        part = (slice(None),) * axis + (slice(start, stop),)
        out[part] = np.take(values, places[start:stop], axis=axis)
    begin = int(places[first])
    out[(slice(None),) * axis + (slice(first, last),)] = values[
        (slice(None),) * axis + (slice(begin, begin + last - first),)
    ]
    return out


def _reflected(start: int, stop: int, size: int) -> Int64:
    """Indices ``start..stop`` folded into ``0..size`` about the first and the last, neither repeated."""
    period = max(1, 2 * (size - 1))
    folded = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(folded, period - folded) if size > 1 else folded
