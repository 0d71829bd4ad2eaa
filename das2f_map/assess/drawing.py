"""Drawing pixels of a class map at random, in two passes over strips of it.

The first pass counts the pixels of every class in every strip. Then ranks are drawn: the 5th, the 812th…
pixel of a class in the order of rows and columns. The second pass reads only the strips that hold such a
pixel. So memory does not grow with the map, and the height of the strips does not change the sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyproj

from das2f_map.assess.open_map import OpenMap
from das2f_map.assess.sample_design import DrawnBlock
from das2f_map.errors import InputError
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS
from das2f_map.products.areas import PixelAreas
from das2f_map.products.strips import strip_rows
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float64, Int64

MOST_BLOCKS = 20_000_000
"""Blocks of a cluster design that are counted: 80 MB."""

_ROUNDS = 60
"""Times that points too near to others are drawn again."""

_BARREN_ROUNDS = 8
"""Rounds in a row without a new point after which no more are tried: each may read the whole map."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels of a map: rows, columns and class ids, int64 (n,)."""

    rows: Int64
    cols: Int64
    classes: Int64

    def taken(self, chosen: Int64) -> Pixels:
        """Some of the pixels, in the order given."""
        return Pixels(self.rows[chosen], self.cols[chosen], self.classes[chosen])

    @classmethod
    def joined(cls, parts: list[Pixels]) -> Pixels:
        """All pixels of several parts."""
        none = np.zeros(0, np.int64)
        return cls(
            np.concatenate([none, *(p.rows for p in parts)]),
            np.concatenate([none, *(p.cols for p in parts)]),
            np.concatenate([none, *(p.classes for p in parts)]),
        )


class CountedMap:
    """A map with the pixels of every class in each of its strips.

    Parameters
    ----------
    mapped:
        An open map. Its rejected pixels are a class of their own.
    rows:
        Height of a strip; by default about 1.5 million pixels.

    Raises
    ------
    InputError
        The map is damaged or has no pixel with a class.
    """

    def __init__(self, mapped: OpenMap, *, rows: int | None = None, progress: Progress = silent) -> None:
        self.map = mapped
        grid = mapped.grid
        height = rows or strip_rows(grid, mapped.file.block_rows)
        self.windows = [
            Window(row, 0, min(height, grid.height - row), grid.width)
            for row in range(0, grid.height, height)
        ]
        counts = np.zeros((len(self.windows), MOST_CLASSES + 1), np.int64)
        areas = np.zeros(MOST_CLASSES + 1)
        pixel_areas = PixelAreas(grid)
        least, most = np.inf, 0.0
        with progress("Counting", grid.height) as advance:
            for number, window in enumerate(self.windows):
                values = mapped.strata(window)
                flat = values.ravel()
                counts[number] = np.bincount(flat, minlength=MOST_CLASSES + 1)
                own = pixel_areas.of(window)
                areas += np.bincount(flat, own.ravel(), minlength=MOST_CLASSES + 1)
                least, most = min(least, float(own.min())), max(most, float(own.max()))
                advance(window.height)
        counts[:, NODATA_CLASS] = 0
        if not counts.any():
            raise InputError(f"map {mapped.file.path} has no pixel with a class")
        self._counts = counts
        self.pixels: Int64 = counts.sum(axis=0)
        """Pixels of each class, int64 (256,)."""
        self.areas_m2: Float64 = areas
        """Their ground area, float64 (256,); that of class 0 is of pixels without a class."""
        self.even = bool(most <= 1.01 * least)
        """Whether areas of pixels differ by at most 1 %."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Classes that occur."""
        return tuple(np.flatnonzero(self.pixels).tolist())

    @property
    def population(self) -> int:
        """Pixels with a class."""
        return int(self.pixels.sum())

    def at_ranks(self, ranks: Mapping[int, Int64], progress: Progress = silent) -> Pixels:
        """The pixels of some ranks (from 0) in each class, by class and rank."""
        starts = np.cumsum(self._counts, axis=0) - self._counts
        wanted = {i: np.sort(r) for i, r in ranks.items() if len(r)}
        parts: dict[int, list[Pixels]] = {i: [] for i in wanted}
        with progress("Drawing", len(self.windows)) as advance:
            for number, window in enumerate(self.windows):
                inside = {}
                for i, sought in wanted.items():
                    begin = starts[number, i]
                    low, high = np.searchsorted(sought, (begin, begin + self._counts[number, i]))
                    if high > low:
                        inside[i] = sought[low:high] - begin
                if inside:
                    flat = self.map.strata(window).ravel()
                    for i, local in inside.items():
                        places = np.flatnonzero(flat == i)[local]
                        rows, cols = np.divmod(places, window.width)
                        parts[i].append(Pixels(rows + window.row, cols, np.full(len(places), i)))
                advance(1)
        return Pixels.joined([p for i in sorted(parts) for p in parts[i]])

    def at_overall_ranks(self, ranks: Int64, progress: Progress = silent) -> Pixels:
        """The pixels of some ranks (from 0) among all pixels with a class, by rank."""
        counts = self._counts.sum(axis=1)
        starts = np.cumsum(counts) - counts
        sought = np.sort(ranks)
        parts = []
        with progress("Drawing", len(self.windows)) as advance:
            for number, window in enumerate(self.windows):
                low, high = np.searchsorted(sought, (starts[number], starts[number] + counts[number]))
                if high > low:
                    flat = self.map.strata(window).ravel()
                    places = np.flatnonzero(flat != NODATA_CLASS)[sought[low:high] - starts[number]]
                    rows, cols = np.divmod(places, window.width)
                    parts.append(Pixels(rows + window.row, cols, flat[places].astype(np.int64)))
                advance(1)
        return Pixels.joined(parts)

    def block_counts(self, size: int, progress: Progress = silent) -> Int64:
        """Pixels with a class in each block of ``size`` × ``size`` pixels, int64 (block rows, block columns).

        Raises :class:`InputError` if there are over :data:`MOST_BLOCKS`.
        """
        grid = self.map.grid
        down, across = -(-grid.height // size), -(-grid.width // size)
        if down * across > MOST_BLOCKS:
            raise InputError(
                f"blocks of {size} pixels make {down * across:,} blocks, too many to count",
                "give larger blocks with --block-size",
            )
        found = np.zeros((down, across), np.int64)
        edges = np.arange(0, grid.width, size)
        with progress("Counting blocks", len(self.windows)) as advance:
            for window in self.windows:
                valid = self.map.strata(window) != NODATA_CLASS
                sums = np.add.reduceat(valid, edges, axis=1, dtype=np.int64)
                np.add.at(found, (window.row + np.arange(window.height)) // size, sums)
                advance(1)
        return found


def ranks_without_repeat(random: np.random.Generator, population: int, number: int) -> Int64:
    """Different ranks below ``population``, in random order, each set with the same probability."""
    return np.asarray(random.choice(population, size=number, replace=False, shuffle=True), np.int64)


def stratified(
    counted: CountedMap, points: Mapping[int, int], seed: int, progress: Progress = silent
) -> Pixels:
    """Pixels drawn at random without replacement, so many of each class."""
    ranks = {
        i: ranks_without_repeat(_stream(seed, i), int(counted.pixels[i]), n) for i, n in points.items() if n
    }
    return counted.at_ranks(ranks, progress)


def simple(counted: CountedMap, points: int, seed: int, progress: Progress = silent) -> Pixels:
    """Pixels drawn at random without replacement from all that have a class."""
    number = min(points, counted.population)
    return counted.at_overall_ranks(
        ranks_without_repeat(_stream(seed, 0), counted.population, number), progress
    )


def apart(
    counted: CountedMap, points: Mapping[int, int], distance: float, seed: int, progress: Progress = silent
) -> Pixels:
    """Pixels drawn class by class, of which those nearer than ``distance`` metres to another are drawn anew.

    The key 0 in ``points`` draws from all classes.

    Raises
    ------
    InputError
        Not so many pixels at that distance were found.
    """
    near = Neighbours(counted.map.grid, distance)
    streams = {i: _stream(seed, i) for i in points}
    order = _stream(seed, 1000)
    seen: dict[int, set[int]] = {i: set() for i in points}
    kept: dict[int, list[Pixels]] = {i: [] for i in points}
    lacking = {i: n for i, n in points.items() if n}
    barren = 0
    for number in range(_ROUNDS):
        batches: list[tuple[int, Pixels]] = []
        for i, n in lacking.items():
            population = counted.population if i == 0 else int(counted.pixels[i])
            fresh = _unseen(streams[i], population, n if number == 0 else 2 * n, seen[i])
            found = (
                counted.at_overall_ranks(fresh, progress)
                if i == 0
                else counted.at_ranks({i: fresh}, progress)
            )
            batches += [(i, found.taken(np.array([k]))) for k in range(len(found.rows))]
        if not batches:
            break
        for k in order.permutation(len(batches)).tolist():
            i, pixel = batches[k]
            if sum(len(p.rows) for p in kept[i]) < points[i] and near.add(
                int(pixel.rows[0]), int(pixel.cols[0])
            ):
                kept[i].append(pixel)
        before = sum(lacking.values())
        lacking = {i: n - len(kept[i]) for i, n in points.items() if n > len(kept[i])}
        if not lacking:
            return Pixels.joined([p for i in sorted(kept) for p in kept[i]])
        barren = barren + 1 if sum(lacking.values()) == before else 0
        if barren == _BARREN_ROUNDS:
            break
    raise InputError(
        f"only {sum(map(len, kept.values())):,} of {sum(points.values()):,} points of map "
        f"{counted.map.file.path} were found {distance:g} m apart",
        "give a smaller --min-distance or fewer points",
    )


class Neighbours:
    """Points so far, and whether a further one is far enough from them.

    Distances are straight through the ellipsoid. Where the CRS has none, they are in its plane.
    """

    def __init__(self, grid: Grid, distance: float) -> None:
        self._grid, self._distance = grid, distance
        crs = pyproj.CRS.from_user_input(grid.crs.to_wkt())
        base = crs.geodetic_crs
        self._to_space = None
        if base is not None and crs.ellipsoid is not None and base.is_geographic:
            a, b = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre
            space = pyproj.CRS.from_dict({"proj": "geocent", "a": a, "b": b, "units": "m"})
            lonlat = pyproj.CRS.from_dict({"proj": "longlat", "a": a, "b": b})
            self._to_lonlat = pyproj.Transformer.from_crs(crs, base, always_xy=True)
            self._to_space = pyproj.Transformer.from_crs(lonlat, space, always_xy=True)
        self._cells: dict[tuple[int, ...], list[tuple[float, ...]]] = {}

    def add(self, row: int, col: int) -> bool:
        """Add the centre of a pixel, unless a point is nearer than the distance; whether it was added."""
        place = self._place(row, col)
        cell = tuple(math.floor(v / self._distance) for v in place)
        for step in np.ndindex(3, 3, 3):
            around = tuple(c + s - 1 for c, s in zip(cell, step, strict=True))
            if any(math.dist(place, other) < self._distance for other in self._cells.get(around, ())):
                return False
        self._cells.setdefault(cell, []).append(place)
        return True

    def _place(self, row: int, col: int) -> tuple[float, ...]:
        x, y = self._grid.pixel_to_map(row + 0.5, col + 0.5)
        if self._to_space is None:
            return x, y, 0.0
        lon, lat = self._to_lonlat.transform(x, y)
        if not math.isfinite(lon):
            return x, y, 0.0
        return tuple(map(float, self._to_space.transform(lon, lat, 0.0)))


@dataclass(frozen=True)
class ClusterRule:
    """Blocks of a cluster design: pixels on a side, points in each, and how blocks are drawn."""

    size: int
    per_block: int
    selection: str


@dataclass(frozen=True, eq=False)
class Clusters:
    """Blocks that were drawn, blocks in the population, and the pixels with the block of each, int64 (n,)."""

    drawn: tuple[DrawnBlock, ...]
    blocks: int
    pixels: Pixels
    block_of: Int64


def clustered(
    counted: CountedMap, points: int, rule: ClusterRule, seed: int, progress: Progress = silent
) -> Clusters:
    """Blocks drawn at random, then pixels at random in each.

    As many blocks are drawn as hold ``points``, rounded up. A block with fewer pixels than ``per_block``
    gives all it has.
    """
    counts = counted.block_counts(rule.size, progress)
    across = counts.shape[1]
    ids = np.flatnonzero(counts)
    pixels = counts.ravel()[ids]
    number = min(len(ids), -(-points // rule.per_block))
    random = _stream(seed, 0)
    if rule.selection == "equal":
        inclusion = np.full(len(ids), number / len(ids))
        chosen = np.sort(random.choice(len(ids), size=number, replace=False))
    else:
        inclusion = proportional_inclusion(pixels, number)
        chosen = systematic(random, inclusion)
    drawn, parts, block_of = [], [], []
    for k in chosen.tolist():
        block, total = int(ids[k]), int(pixels[k])
        found = _in_block(counted.map, block, across, rule, seed)
        parts.append(found)
        block_of += [block] * len(found.rows)
        drawn.append(
            DrawnBlock(
                id=block,
                row=block // across * rule.size,
                col=block % across * rule.size,
                pixels=total,
                sampled=len(found.rows),
                inclusion=float(inclusion[k]),
            )
        )
    return Clusters(tuple(drawn), len(ids), Pixels.joined(parts), np.array(block_of, np.int64))


def proportional_inclusion(sizes: Int64, number: int) -> Float64:
    """Probabilities in proportion to sizes, with the sum ``number``; those that would pass 1 are 1."""
    sure = np.zeros(len(sizes), bool)
    while True:
        left = number - int(sure.sum())
        rest = sizes[~sure].sum()
        found = np.where(sure, 1.0, left * sizes / max(rest, 1))
        beyond = (found >= 1) & ~sure
        if not beyond.any():
            return found
        sure |= beyond


def systematic(random: np.random.Generator, inclusion: Float64) -> Int64:
    """Positions drawn with exactly these probabilities (n,), which add up to a whole number; ascending.

    Systematic sampling in random order: every unit is as long as its probability, and the units that a
    comb of teeth 1 apart hits are drawn.
    """
    order = random.permutation(len(inclusion))
    ends = np.cumsum(inclusion[order])
    number = round(float(ends[-1]))
    ends[-1] = number
    hits = np.searchsorted(ends, random.random() + np.arange(number), side="right")
    return np.sort(order[hits])


def _in_block(mapped: OpenMap, block: int, across: int, rule: ClusterRule, seed: int) -> Pixels:
    """Pixels drawn at random in one block."""
    row, col = block // across * rule.size, block % across * rule.size
    window = Window(row, col, rule.size, rule.size).intersection(mapped.grid.window)
    flat = mapped.strata(window).ravel()
    valid = np.flatnonzero(flat != NODATA_CLASS)
    number = min(rule.per_block, len(valid))
    places = valid[ranks_without_repeat(_stream(seed, 2000 + block), len(valid), number)]
    rows, cols = np.divmod(places, window.width)
    return Pixels(rows + row, cols + col, flat[places].astype(np.int64))


def shuffled(seed: int, number: int) -> Int64:
    """A random order of so many points, which tells nothing of their strata."""
    return np.asarray(_stream(seed, 1001).permutation(number), np.int64)


def _stream(seed: int, part: int) -> np.random.Generator:
    """Random numbers of a part of a draw: a class, the order, a block. Parts do not change each other."""
    return np.random.default_rng((seed, part))


def _unseen(random: np.random.Generator, population: int, number: int, seen: set[int]) -> Int64:
    """Ranks that were not drawn before, which are noted in ``seen``; fewer where no more are left."""
    number = min(number, population - len(seen))
    fresh: list[int] = []
    if population <= 4 * (len(seen) + number):
        rest = np.setdiff1d(np.arange(population), np.fromiter(seen, np.int64, len(seen)))
        fresh = random.permutation(rest)[:number].tolist()
        seen.update(fresh)
    while len(fresh) < number:
        rank = int(random.integers(population))
        if rank not in seen:
            seen.add(rank)
            fresh.append(rank)
    return np.array(fresh, np.int64)
