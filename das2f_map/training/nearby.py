"""Distances between labelled pixels, tile by tile, so that memory does not grow with the scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from das2f_map.labels.labelled_pixels import by_block
from das2f_map.types import Bool, Float64, Int32, Int64


def near(
    rows: Int64,
    cols: Int64,
    other_rows: Int64,
    other_cols: Int64,
    distance: int,
) -> Bool:
    """Which of the first pixels have one of the others closer than ``distance`` (Chebyshev), bool (n,)."""
    reach = distance - 1
    result = np.zeros(rows.size, bool)
    for tile in _tiles(rows, cols, other_rows, other_cols, reach):
        r, c = rows[tile.members], cols[tile.members]
        result[tile.members] = tile.any_in(r - reach, r + reach, c - reach, c + reach)
    return result


def nearest_overlap(
    rows: NDArray[Any], cols: NDArray[Any], other_rows: NDArray[Any], other_cols: NDArray[Any], side: int
) -> Float64:
    """Share of the square of ``side`` pixels around each pixel that the nearest other pixel's covers.

    The nearest other pixel is that of the least Chebyshev distance d, to whole pixels; its square covers at
    least ``(1 - d / side)²`` of the area. Float64 ``(n,)``, 0 where no square overlaps.
    """
    overlap = np.zeros(rows.size)
    arrays = [a.astype(np.int64) for a in (rows, cols, other_rows, other_cols)]
    open_still = np.arange(rows.size)
    # From near to far: a pixel is done at the first distance that has another pixel.
    for distance in range(side):
        if not open_still.size:
            break
        found = near(arrays[0][open_still], arrays[1][open_still], arrays[2], arrays[3], distance + 1)
        overlap[open_still[found]] = (1.0 - distance / side) ** 2
        open_still = open_still[~found]
    return overlap


@dataclass(frozen=True)
class _Tile:
    """Some of the first pixels, and a summed-area table of the other pixels around them."""

    members: Int64
    top: int
    left: int
    area: Int32

    def any_in(self, r0: Int64, r1: Int64, c0: Int64, c1: Int64) -> Bool:
        """Whether boxes hold one of the other pixels; both ends are included, a box may be empty."""
        filled = (r1 >= r0) & (c1 >= c0)
        a, b = np.where(filled, r0 - self.top, 0), np.where(filled, r1 + 1 - self.top, 0)
        c, d = np.where(filled, c0 - self.left, 0), np.where(filled, c1 + 1 - self.left, 0)
        t = self.area
        return np.asarray(t[b, d] - t[a, d] - t[b, c] + t[a, c] > 0)


def _tiles(
    rows: Int64,
    cols: Int64,
    other_rows: Int64,
    other_cols: Int64,
    reach: int,
) -> Iterator[_Tile]:
    """Tiles with a margin of ``reach``: memory grows with the tile, not with the scene."""
    tile = 512
    side = tile + 2 * reach
    by_row = np.argsort(other_rows, kind="stable")
    sorted_rows = other_rows[by_row]
    for tile_row, tile_col, members in by_block(rows, cols, tile):
        top, left = tile_row * tile - reach, tile_col * tile - reach
        first, last = np.searchsorted(sorted_rows, (top, top + side))
        band = by_row[first:last]
        band = band[(other_cols[band] >= left) & (other_cols[band] < left + side)]
        area = np.zeros((side + 1, side + 1), np.int32)
        np.add.at(area, (other_rows[band] - top + 1, other_cols[band] - left + 1), 1)
        yield _Tile(members, top, left, area.cumsum(0).cumsum(1))
