"""Runs of equal pixels in the rows of a class raster, and which of them are connected."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from das2f_map.types import Bool, Int32, Int64, UInt8


class Runs:
    """The rows of a class raster, cut where the class changes and at the ends of rows.

    Runs are numbered row by row from the top, in a row from the left. A position is the number of a pixel in
    the same order.

    Parameters
    ----------
    classes:
        uint8 (h, w).

    Attributes
    ----------
    starts, lengths:
        int64 (runs,): position of the first pixel, and the number of pixels.
    classes:
        uint8 (runs,).
    """

    def __init__(self, classes: UInt8) -> None:
        self._height, self._width = classes.shape
        self._begins: Bool = np.ones(classes.shape, dtype=bool)
        np.not_equal(classes[:, 1:], classes[:, :-1], out=self._begins[:, 1:])
        self.starts: Int64 = np.flatnonzero(self._begins)
        self.lengths: Int64 = np.diff(self.starts, append=classes.size)
        self.classes: UInt8 = classes.ravel()[self.starts]
        self._pixels = classes

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def of_pixels(self) -> Int32:
        """The run of each pixel: int32 (h, w)."""
        numbers = np.arange(len(self), dtype=np.int32)
        return np.repeat(numbers, self.lengths).reshape(self._height, self._width)

    def links(self) -> tuple[Int32, Int32]:
        """Pairs of runs of one class, one below the other."""
        upper, lower, _ = self._vertical(self._pixels[1:] == self._pixels[:-1])
        return upper, lower

    def left_edges(self) -> tuple[Int64, Int64, Int64]:
        """Pairs of runs side by side, left and right, and the position where the right one begins."""
        right = np.flatnonzero(self.starts % self._width)
        return right - 1, right, self.starts[right]

    def upper_edges(self) -> tuple[Int32, Int32, Int64]:
        """Pairs of runs of different classes, upper and lower, and the lower pixel's position where they meet
        first."""
        return self._vertical(self._pixels[1:] != self._pixels[:-1])

    def _vertical(self, wanted: Bool) -> tuple[Int32, Int32, Int64]:
        """Pairs of runs where a pixel (h - 1, w) and the one below are wanted; each pair once."""
        at = np.flatnonzero(wanted & (self._begins[1:] | self._begins[:-1]))
        runs = self.of_pixels.ravel()
        return runs[at], runs[at + self._width], at + self._width


def joined(count: int, a: Int32 | Int64, b: Int32 | Int64) -> tuple[Int32, int]:
    """The sets that pairs connect things to.

    Parameters
    ----------
    count:
        Number of things.
    a, b:
        (pairs,): the things of each pair.

    Returns
    -------
    int32 (count,), the set of each thing, numbered by their first things; and the number of sets.
    """
    first = np.arange(count, dtype=np.int32)
    while len(a):
        a, b = first[a], first[b]
        apart = a != b
        a, b = a[apart], b[apart]
        # Each first thing is hung on a smaller one, so that no circle arises.
        first[np.maximum(a, b)] = np.minimum(a, b)
        while True:
            further = first[first]
            if np.array_equal(further, first):
                break
            first = further
    is_first = first == np.arange(count)
    number = np.cumsum(is_first, dtype=np.int32) - 1
    return number[first].astype(np.int32), int(is_first.sum())
