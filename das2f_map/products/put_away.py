"""Lists of numbers that are put away until they are needed, in a file once they are many.

A list may refer to lists that were put away before it. So a list that grows at both ends, or is joined with
another one, is never read until it is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from das2f_map.outputs.work_files import waiting_values
from das2f_map.types import Int64

NOWHERE: Final = -1
"""Stands for the place of no list."""

LEAST: Final = -2
"""Numbers from this one on may be in lists; smaller ones refer to lists."""


def references(places: Int64) -> Int64:
    """Numbers that stand for the lists at some places."""
    return LEAST - 1 - places


class PutAway:
    """Keeps lists of int64. Close it after use.

    Parameters
    ----------
    work:
        Folder for the file; by default the system's folder of temporary files.
    """

    def __init__(self, work: Path | None = None) -> None:
        self._file = waiting_values(work)
        self._end = 0

    def put(self, values: Int64, lengths: Int64) -> Int64:
        """Put lists away that follow on one another in ``values``; returns the place of each.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        # Each list comes after its length.
        places = np.cumsum(lengths) - lengths + np.arange(len(lengths))
        out = np.insert(values, places - np.arange(len(lengths)), lengths)
        self._file.seek(8 * self._end)
        self._file.write(out.data)
        places += self._end
        self._end += len(out)
        return places

    def whole(self, values: Int64) -> Int64:
        """A list with the lists that it refers to in their places, and those that they refer to."""
        parts: list[Int64] = []
        # Without recursion: references may nest once for each strip of a map.
        waiting: list[Int64 | int] = [values]
        while waiting:
            item = waiting.pop()
            found = self._at(item) if isinstance(item, int) else item
            start = 0
            following: list[Int64 | int] = []
            for k in np.flatnonzero(found < LEAST).tolist():
                following += [found[start:k], LEAST - 1 - int(found[k])]
                start = k + 1
            if following:
                waiting.append(found[start:])
                waiting.extend(reversed(following))
            else:
                parts.append(found)
        return np.concatenate(parts)

    def close(self) -> None:
        """Drop all lists."""
        self._file.close()

    def _at(self, place: int) -> Int64:
        self._file.seek(8 * place)
        length = int(np.frombuffer(self._file.read(8), np.int64)[0])
        return np.frombuffer(self._file.read(8 * length), np.int64)
