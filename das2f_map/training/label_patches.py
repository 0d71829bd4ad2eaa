"""Classes of the labelled pixels around a target, in the shape of its patch."""

from __future__ import annotations

import numpy as np

from das2f_map.scene.turns import turned
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Int64

UNLABELLED = -1


class LabelPatches:
    """Looks up the classes of labelled pixels near targets.

    Parameters
    ----------
    pixels:
        The pixels whose classes count; no others are looked up, so that held-out ground stays unseen.
    reach:
        Chebyshev distance from the target in MS pixels up to which pixels count.
    """

    def __init__(self, pixels: TrainingPixels, reach: int) -> None:
        source = pixels.readers[0].source
        self._pixels, self._reach = pixels, reach
        self._radius, self._patch = source.radius, source.patch
        # Keys number the pixels of all scenes one after the other. A margin on every side keeps positions
        # outside a scene apart from the next row and the next scene.
        self._margin = self._radius + 1
        self._height = int(pixels.rows.max(initial=0)) + 1 + 2 * self._margin
        self._width = int(pixels.cols.max(initial=0)) + 1 + 2 * self._margin
        keys = self._keys(pixels.scene, pixels.rows.astype(np.int64), pixels.cols.astype(np.int64))
        order = np.argsort(keys, kind="stable")
        self._sorted, self._classes = keys[order], pixels.positions[order]

    def _keys(self, scene: Int64, rows: Int64, cols: Int64) -> Int64:
        row = scene.astype(np.int64) * self._height + rows + self._margin
        return row * self._width + cols + self._margin

    def patches(self, at: Int64, turns: Int64) -> Int64:
        """Classes int64 ``(n, P, P)`` around the pixels at ``at``, turned as their patches are."""
        pixels, size = self._pixels, self._patch.size
        span = np.arange(-self._radius, self._radius + 1)
        rows = pixels.rows[at].astype(np.int64)[:, None, None] + span[:, None]
        cols = pixels.cols[at].astype(np.int64)[:, None, None] + span
        keys = self._keys(pixels.scene[at][:, None, None], rows, cols)
        place = np.minimum(np.searchsorted(self._sorted, keys), self._sorted.size - 1)
        square = np.where(self._sorted[place] == keys, self._classes[place], UNLABELLED)
        near = np.abs(span) <= self._reach
        square[:, ~(near[:, None] & near)] = UNLABELLED
        first = self._radius - self._patch.before
        cut = slice(first, first + size)
        turned_back = [turned(s[None], int(t))[0, cut, cut] for s, t in zip(square, turns, strict=True)]
        return np.stack(turned_back) if turned_back else np.zeros((0, size, size), np.int64)
