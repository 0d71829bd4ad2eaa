"""Blocks of a scene in an order that covers it evenly from the first few on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from das2f_map.scene.grid import Window


def spread_blocks(window: Window, size: int, *, strata: int, seed: int) -> Iterator[Window]:
    """All blocks of a window, taken by turns from about ``strata`` equal parts of it.

    Parameters
    ----------
    window:
        The window to cut into blocks.
    size:
        Rows and columns of a block; the last ones may be smaller.
    strata:
        About how many parts the window has. A run of as many blocks has about one from each part.
    seed:
        Decides the order of the blocks within each part.

    Yields
    ------
    Window
        Every block once; the same order for the same arguments.
    """
    rows, cols = -(-window.height // size), -(-window.width // size)
    side_rows = min(rows, max(1, round((strata * rows / cols) ** 0.5)))
    side_cols = min(cols, max(1, -(-strata // side_rows)))
    number = np.arange(rows * cols)
    stratum = (number // cols * side_rows // rows) * side_cols + number % cols * side_cols // cols
    key = np.random.default_rng(seed).permutation(rows * cols)
    # Rank of each block within its part; then part by part, first ranks first.
    order = np.lexsort((key, stratum))
    first = np.searchsorted(stratum[order], stratum[order], side="left")
    rank = np.arange(rows * cols) - first
    for n in order[np.lexsort((key[order], rank))]:
        row, col = int(n) // cols * size, int(n) % cols * size
        height, width = min(size, window.height - row), min(size, window.width - col)
        yield Window(window.row + row, window.col + col, height, width)
