"""Merging small regions of a class map into their neighbours, strip by strip.

A *region* is a set of pixels of one class that are connected through their edges; nodata is in none.

Rule
----
Work goes in rounds. A round gives each region below the threshold the class of its largest neighbour that
reaches the threshold. Of equally large ones it takes the neighbour that it meets first: row by row from the
top, pixel by pixel from the left, the upper edge of a pixel before its left edge. All regions of a round
change at once, and only sizes from before the round count. A region among small ones waits until one of them
has become part of a large one. Rounds go on until none changes anything, so a region stays small only where
no chain of regions leads from it to a large one. This is GDAL's sieve filter, run until nothing changes.

Algorithm
---------
A round goes through the strips of the map three times, from the top:

1. Find the regions. The parts of a strip's regions are joined through the strips above; each such *group*
   knows its pixels so far, and the group of the next strip that it is a part of.
2. Find the best neighbour of each group, and hand it on to that group.
3. Give the pixels their new classes.

After the first and the second pass, a sweep from the bottom hands the result of each whole region back to
its groups. The map and the tables of the groups lie in files; a strip and its tables are in memory.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from das2f_map.legend import NODATA_CLASS
from das2f_map.outputs.write_errors import writing
from das2f_map.products.areas import PixelAreas
from das2f_map.products.runs import Runs, joined
from das2f_map.products.strips import STRIP_PIXELS
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Int32, Int64, UInt8

log = logging.getLogger(__name__)

_NONE: Final = -1


def pixels_of_area(area_m2: float | None, grid: Grid) -> int:
    """The smallest pixel count that reaches an area, at the grid's mean pixel area; 0 for no area."""
    if not area_m2:
        return 0
    # The small term takes up rounding of the quotient.
    return math.ceil(area_m2 / PixelAreas(grid).mean() - 1e-9)


class Sieve:
    """A class map without regions below a size. Use it as a context manager.

    :meth:`add` takes the map, :meth:`merge` merges, :meth:`read` gives the map back.

    Parameters
    ----------
    work:
        Folder for the work files, which go away with the ``with`` block.
    destination:
        The file that errors name.
    grid:
        The map's.
    pixels:
        Regions of fewer pixels are merged.
    strip_rows:
        Rows in memory at once; the result does not depend on it.

    Raises
    ------
    OutputError
        The work files do not fit on the disk, here or in any of the methods.
    """

    def __init__(
        self, work: Path, destination: Path, grid: Grid, pixels: int, *, strip_rows: int | None = None
    ) -> None:
        self._destination, self._width, self._pixels = destination, grid.width, pixels
        rows = strip_rows or max(1, STRIP_PIXELS // grid.width)
        self._strips = [
            Window(row, 0, min(rows, grid.height - row), grid.width) for row in range(0, grid.height, rows)
        ]
        with writing(destination):
            self._map: IO[bytes] = (work / "sieve-map.raw").open("w+b")
            self._tables = _Tables(work)

    def __enter__(self) -> Sieve:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()
        Path(self._map.name).unlink(missing_ok=True)
        self._tables.discard()

    def add(self, classes: UInt8) -> None:
        """Take the next rows of the map, from the top: uint8 (rows, width), 0 is nodata."""
        with writing(self._destination):
            self._map.write(np.ascontiguousarray(classes).tobytes())

    def merge(self, progress: Progress = silent) -> int:
        """Merge all small regions; returns the number of pixels with another class than before."""
        changed = 0
        with progress("Merging small regions", None) as advance, writing(self._destination):
            while True:
                self._find_regions()
                if not self._choose_classes():
                    break
                # No pixel is counted twice: it has become part of a large region, which stays.
                changed += self._change()
                advance(1)
        log.info("Small regions are merged: %s pixels have the class of a neighbour now", f"{changed:,}")
        return changed

    def read(self, window: Window) -> UInt8:
        """Some whole rows of the map as it is: uint8 (rows, width)."""
        with writing(self._destination):
            self._map.seek(window.row * self._width)
            values = self._map.read(window.height * self._width)
        return np.frombuffer(values, np.uint8).reshape(window.height, self._width)

    def _find_regions(self) -> None:
        """Number the groups of each strip, and sum up the pixels of each region."""
        tables = self._tables
        tables.clear()
        above = _Above(
            np.zeros(self._width, np.uint8), np.zeros(self._width, np.int32), np.zeros(0, np.int64)
        )
        for window in self._strips:
            classes = self.read(window)
            runs = Runs(classes)
            part_of_run, parts = joined(len(runs), *runs.links())
            group_of_part, groups, parents = above.joined_with(
                classes[0], part_of_run[runs.of_pixels[0]], parts
            )
            group_of_run = group_of_part[part_of_run]
            counted = np.where(runs.classes == NODATA_CLASS, 0, runs.lengths)
            size = np.bincount(group_of_run, counted, groups).astype(np.int64)
            goes_on = parents != _NONE
            np.add.at(size, parents[goes_on], above.size[goes_on])
            if window.row:
                tables.parent.append(parents)
            tables.group.append(group_of_run)
            tables.size.append(size)
            above = _Above(classes[-1], group_of_run[runs.of_pixels[-1]], size)
        tables.parent.append(np.full(len(above.size), _NONE, np.int32))
        tables.hand_back(tables.size)

    def _choose_classes(self) -> bool:
        """Choose the new class of each small region; returns whether there is any."""
        tables = self._tables
        above: _Groups | None = None
        found = False

        def done(groups: _Groups) -> bool:
            chosen = groups.best()[2]
            tables.chosen.append(chosen)
            return bool(chosen.any())

        for k, window in enumerate(self._strips):
            runs = Runs(self.read(window))
            here = _Groups(runs, tables.group.read(k), tables.size.read(k), self._pixels)
            first = window.row * self._width
            here.meet_inside(first)
            if above is not None:
                above.meet_below(here, first)
                found |= done(above)
                here.take_over(above, tables.parent.read(k - 1))
            above = here
        if above is not None:
            found |= done(above)
        tables.hand_back(tables.chosen)
        return found

    def _change(self) -> int:
        """Give all pixels their new classes; returns the number of those that change."""
        changed = 0
        for k, window in enumerate(self._strips):
            chosen = self._tables.chosen.read(k)
            if not chosen.any():
                continue
            runs = Runs(self.read(window))
            target = chosen[self._tables.group.read(k)]
            changes = target != NODATA_CLASS
            changed += int(runs.lengths[changes].sum())
            self._map.seek(window.row * self._width)
            self._map.write(np.repeat(np.where(changes, target, runs.classes), runs.lengths).tobytes())
        return changed


@dataclass(frozen=True, eq=False)
class _Above:
    """The strip above: classes (w,) and groups (w,) of its last row, and the size (groups,) of its groups."""

    classes: UInt8
    groups: Int32
    size: Int64

    def joined_with(self, classes: UInt8, part: Int32, parts: int) -> tuple[Int32, int, Int32]:
        """Groups of the next strip.

        Parameters
        ----------
        classes, part:
            (w,), of the next strip's first row; a part is a set of pixels that are connected in the strip.
        parts:
            Their number in the strip.

        Returns
        -------
        int32 (parts,), the group of each part; the number of groups; and int32 (groups above,), the new group
        that each of those above is a part of, or -1.
        """
        same = (self.classes == classes) & (classes != NODATA_CLASS)
        ending, place = np.unique(self.groups, return_inverse=True)
        sets, _ = joined(parts + len(ending), part[same], parts + place[same])
        # Parts come first, so the sets that have one are numbered first.
        groups = int(sets[:parts].max()) + 1
        parents = np.full(len(self.size), _NONE, np.int32)
        if len(parents):
            reached = sets[parts:]
            parents[ending] = np.where(reached < groups, reached, _NONE)
        return sets[:parts], groups, parents


class _Groups:
    """The groups of a strip, and the neighbours that the small ones among them may go to.

    Parameters
    ----------
    runs:
        Of the strip.
    group_of_run:
        int32 (runs,).
    size:
        int64 (groups,): pixels of the whole region; 0 for nodata.
    pixels:
        Regions of fewer pixels are small.
    """

    def __init__(self, runs: Runs, group_of_run: Int32, size: Int64, pixels: int) -> None:
        self._runs, self._group_of_run, self.size = runs, group_of_run, size
        self.is_large = size >= pixels
        self.is_small = (size > 0) & ~self.is_large
        self.classes = np.zeros(len(size), np.uint8)
        self.classes[group_of_run] = runs.classes
        self._offers = [_Offers.none()]
        self._best: tuple[Int64, Int64, UInt8] | None = None

    def meet_inside(self, first: int) -> None:
        """Compare neighbours in the strip, the first pixel of which has this position in the map."""
        if not self.is_small.any():
            return
        for upper, edges in ((1, self._runs.upper_edges()), (0, self._runs.left_edges())):
            a, b = self._group_of_run[edges[0]], self._group_of_run[edges[1]]
            met = 2 * (first + edges[2]) + 1 - upper
            self._meet(a, self, b, met)
            self._meet(b, self, a, met)

    def meet_below(self, below: _Groups, first: int) -> None:
        """Compare with the groups of the next strip, whose first pixel has this position in the map."""
        a = self._group_of_run[self._runs.of_pixels[-1]]
        b = below._group_of_run[below._runs.of_pixels[0]]
        met = 2 * (first + np.arange(len(a)))
        self._meet(a, below, b, met)
        below._meet(b, self, a, met)

    def _meet(self, mine: Int32, others: _Groups, theirs: Int32, met: Int64) -> None:
        use = self.is_small[mine] & others.is_large[theirs]
        if use.any():
            theirs = theirs[use]
            self._offers.append(_Offers(mine[use], others.size[theirs], met[use], others.classes[theirs]))

    def take_over(self, above: _Groups, parents: Int32) -> None:
        """Take the best neighbours of the groups above that are parts of those here."""
        size, met, classes = above.best()
        use = (classes != NODATA_CLASS) & (parents != _NONE)
        self._offers.append(_Offers(parents[use], size[use], met[use], classes[use]))

    def best(self) -> tuple[Int64, Int64, UInt8]:
        """Size (groups,), place and class of the neighbour that each small group goes to; 0 for none.

        No neighbour is compared afterwards.
        """
        if self._best is None:
            offers, count = _Offers.all_of(self._offers), len(self.size)
            self._offers = []
            size, met = np.zeros(count, np.int64), np.zeros(count, np.int64)
            classes = np.zeros(count, np.uint8)
            order = np.lexsort((offers.met, -offers.size, offers.group))
            groups = offers.group[order]
            leads = np.append(True, groups[1:] != groups[:-1])[: len(groups)]
            first = order[leads]
            group = offers.group[first]
            size[group], met[group] = offers.size[first], offers.met[first]
            classes[group] = offers.classes[first]
            self._best = size, met, classes
        return self._best


@dataclass(frozen=True, eq=False)
class _Offers:
    """Neighbours that groups may go to: their sizes and classes, and where they are met first."""

    group: Int32
    size: Int64
    met: Int64
    classes: UInt8

    @classmethod
    def none(cls) -> _Offers:
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))

    @classmethod
    def all_of(cls, parts: list[_Offers]) -> _Offers:
        return cls(
            np.concatenate([p.group for p in parts]),
            np.concatenate([p.size for p in parts]),
            np.concatenate([p.met for p in parts]),
            np.concatenate([p.classes for p in parts]),
        )


class _Tables:
    """Tables of the groups of each strip, in files.

    Attributes
    ----------
    group:
        int32 (runs,): the group of each run.
    parent:
        int32 (groups,): group of the next strip that a group is a part of, -1 for none.
    size:
        int64 (groups,): pixels, 0 for nodata.
    chosen:
        uint8 (groups,): new class, 0 where it stays.
    """

    def __init__(self, work: Path) -> None:
        self.group = _Table(work / "sieve-group.raw", np.int32)
        self.parent = _Table(work / "sieve-parent.raw", np.int32)
        self.size = _Table(work / "sieve-size.raw", np.int64)
        self.chosen = _Table(work / "sieve-chosen.raw", np.uint8)

    def _all(self) -> tuple[_Table, ...]:
        return self.group, self.parent, self.size, self.chosen

    def clear(self) -> None:
        """Drop the contents."""
        for table in self._all():
            table.clear()

    def discard(self) -> None:
        """Remove the files."""
        for table in self._all():
            table.discard()

    def hand_back(self, table: _Table) -> None:
        """Give each group the value of the group that it is a part of, from the last strip to the first."""
        below = table.read(len(table) - 1)
        for k in range(len(table) - 2, -1, -1):
            values, parents = table.read(k), self.parent.read(k)
            goes_on = parents != _NONE
            values[goes_on] = below[parents[goes_on]]
            table.replace(k, values)
            below = values


class _Table:
    """An array for each strip, in a file."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._file: IO[bytes] = path.open("w+b")
        self._stops = [0]
        """Place in the file, in values, where the array of each strip ends."""

    def __len__(self) -> int:
        return len(self._stops) - 1

    def append(self, values: npt.NDArray[Any]) -> None:
        self._stops.append(self._stops[-1] + len(values))
        self.replace(len(self) - 1, values)

    def replace(self, k: int, values: npt.NDArray[Any]) -> None:
        self._file.seek(self._stops[k] * self._dtype.itemsize)
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def read(self, k: int) -> npt.NDArray[Any]:
        self._file.seek(self._stops[k] * self._dtype.itemsize)
        length = self._stops[k + 1] - self._stops[k]
        return np.frombuffer(bytearray(self._file.read(length * self._dtype.itemsize)), self._dtype)

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._stops = [0]

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
