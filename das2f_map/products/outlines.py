"""The outlines of one strip of a class raster, linked with those that are open above it.

:mod:`das2f_map.products.tracing` has the algorithm and its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from das2f_map.products.put_away import LEAST, NOWHERE, PutAway, references
from das2f_map.products.regions import LEFT_OUT, ROW_SHIFT, Regions, arrange, ranges
from das2f_map.scene.compiled_pixels import followed, integral
from das2f_map.types import Bool, Float64, Int64, UInt8

_N, _E, _S, _W = 0, 1, 2, 3
_NONE = -1
_RING_ENDS: Final = LEAST
"""Comes after each ring of the holes that are put away; no vertex is the same number."""


@dataclass(frozen=True, eq=False)
class _Rings:
    """Vertices of several rings, one after the other, and for each ring its number of vertices."""

    vertices: Int64
    lengths: Int64


@dataclass(frozen=True, eq=False)
class Chains:
    """Pieces of outline that are open below, ``n`` of them.

    Attributes
    ----------
    head, tail:
        int64 (n,): columns in which they come up and go down.
    class_ids:
        uint8 (n,).
    sums:
        float64 (n, values): what they add to the sums of their regions.
    left_col, left:
        int64 (n,): column of the leftmost edge that goes down, and the chain that is met left of it.
    places:
        int64 (n,): where their vertices are put away.
    hole_sums:
        float64 (n, values): sums over the holes that they own, negative.
    holes:
        int64 (n,): where these holes are put away, or :data:`NOWHERE`.
    """

    head: Int64
    tail: Int64
    class_ids: UInt8
    sums: Float64
    left_col: Int64
    left: Int64
    places: Int64
    hole_sums: Float64
    holes: Int64

    @classmethod
    def none(cls, values: int) -> Chains:
        numbers, sums = np.zeros(0, np.int64), np.zeros((0, values))
        ids = np.zeros(0, np.uint8)
        return cls(numbers, numbers, ids, sums, numbers, numbers, numbers, sums, numbers)

    def __len__(self) -> int:
        return len(self.head)


@dataclass(frozen=True, eq=False)
class Corners:
    """Which corners of pixels become vertices of outlines.

    Attributes
    ----------
    kept:
        bool (rows, width + 1): whether an outline keeps a vertex at the corners on the pixels' upper edges.
    rows, columns:
        bool (rows,) and (width + 1,): lines of corners where an outline that crosses gets a vertex.
    """

    kept: Bool
    rows: Bool
    columns: Bool


class Strip:
    """The passes of one strip, linked with the chains that were open above it.

    Elements are numbered: passes first, in row-major order of their nodes, then the open chains.
    """

    def __init__(
        self,
        above: UInt8,
        classes: UInt8,
        values: Sequence[Float64],
        row: int,
        chains: Chains,
        corners: Corners | None,
        away: PutAway,
    ) -> None:
        self.n, self.width = classes.shape
        self.row, self.old, self.away = row, chains, away
        self.padded: UInt8 = np.zeros((self.n + 1, self.width + 2), dtype=np.uint8)
        self.padded[0] = above
        self.padded[1:, 1:-1] = classes
        self._find_nodes(corners)
        self._link()
        self._order()
        self._sum(values)
        self._attach()

    def _find_nodes(self, corners: Corners | None) -> None:
        p = self.padded
        nw, ne, sw, se = p[:-1, :-1], p[:-1, 1:], p[1:, :-1], p[1:, 1:]
        north, south, west, east = nw != ne, sw != se, nw != sw, ne != se
        self.vertical_edges = np.flatnonzero(south)
        nodes = (north | south) & (west | east)
        if corners is not None:
            nodes |= (north & south & corners.rows[:, np.newaxis]) | (west & east & corners.columns)
        self.line, self.col = np.nonzero(nodes)
        at = self.line, self.col
        self.arms: Bool = np.stack([north[at], east[at], south[at], west[at]], axis=1)
        right: UInt8 = np.stack([ne[at], se[at], sw[at], nw[at]], axis=1)
        """Class on the right when leaving along each arm: the pixel clockwise after it."""
        exists: Bool = np.logical_and(self.arms, right != 0)
        self.node, self.out = np.nonzero(exists)
        self.passes = len(self.node)
        self.class_id = right[exists]
        opposite = right[:, [2, 3, 0, 1]]
        diagonal = exists & np.all(self.arms, axis=1, keepdims=True) & (right == opposite)
        key = ((self.line + self.row) << ROW_SHIFT) + (self.col << 1)
        self.vertex = key[self.node] + diagonal[exists]
        if corners is not None:
            self.vertex[~corners.kept[at][self.node]] = LEFT_OUT
        # A pass came in by the next arm clockwise after the one it leaves by.
        turns = np.zeros(self.passes, dtype=np.int64)
        for step in (3, 2, 1):
            turns[self.arms[self.node, (self.out + step) % 4]] = step
        self.incoming = (self.out + turns) % 4
        self.pass_by_arm = np.full((len(self.line), 4), _NONE, dtype=np.int64)
        """Pass that comes in along an arm of a node."""
        self.pass_by_arm[self.node, self.incoming] = np.arange(self.passes)

    def _link(self) -> None:
        nodes = len(self.line)
        key = self.col * self.n + self.line
        self.by_column = np.argsort(key, kind="stable")
        self.column_keys = key[self.by_column]
        above = np.full(nodes, _NONE, dtype=np.int64)
        below = np.full(nodes, _NONE, dtype=np.int64)
        upper, lower = self.by_column[:-1], self.by_column[1:]
        same = self.col[upper] == self.col[lower]
        above[lower[same]], below[upper[same]] = upper[same], lower[same]
        top = np.full(self.width + 1, _NONE, dtype=np.int64)
        first = self.by_column[above[self.by_column] == _NONE]
        top[self.col[first]] = first

        heads, tails = self.old.head, self.old.tail
        self.chain_by_head = np.full(self.width + 1, _NONE, dtype=np.int64)
        self.chain_by_head[heads] = self.passes + np.arange(len(heads))

        target = np.empty(self.passes, dtype=np.int64)
        for arm, there in ((_N, above), (_E, None), (_S, below), (_W, None)):
            mine = self.out == arm
            if there is None:
                target[mine] = self.node[mine] + (1 if arm == _E else -1)
            else:
                target[mine] = there[self.node[mine]]
        onward = np.full(self.passes + len(self.old), _NONE, dtype=np.int64)
        inside = np.flatnonzero(target != _NONE)
        onward[inside] = self.pass_by_arm[target[inside], (self.out[inside] + 2) % 4]
        leaves_up = np.flatnonzero((target == _NONE) & (self.out == _N))
        onward[leaves_up] = self.chain_by_head[self.col[self.node[leaves_up]]]
        entered = top[tails] if len(tails) else tails
        met = np.flatnonzero(entered != _NONE)
        onward[self.passes + met] = self.pass_by_arm[entered[met], _N]
        self.onward = onward
        # Columns of the open ends, for the elements that have one.
        self.tail = np.concatenate([self.col[self.node], tails])
        self.head = np.concatenate([self.col[self.node], heads])

    def _order(self) -> None:
        """Put the elements of each ring and chain one after the other; open chains come first."""
        count = len(self.onward)
        self.order, self.starts, self.opened = followed(self.onward)
        self.lengths = np.diff(np.append(self.starts, count))
        self.chain = np.empty(count, dtype=np.int64)
        """Ring or chain of each element."""
        self.chain[self.order] = np.repeat(np.arange(len(self.starts)), self.lengths)

    def _sum(self, values: Sequence[Float64]) -> None:
        """Sums over the pixels inside each ring, negative for holes."""
        n, w, p = self.n, self.width, self.passes
        # A pass that comes in vertically ends a vertical edge; one that leaves vertically starts one.
        sign = (self.incoming % 2 == 0).astype(np.int64) - (self.out % 2 == 0).astype(np.int64)
        line, col = self.line[self.node], self.col[self.node]
        sums = np.zeros((p + len(self.old), 1 + len(values)))
        sums[:p, 0] = sign * line * col
        bottoms = [np.arange(w + 1) * float(n)]
        for k, value in enumerate(values, start=1):
            summed = integral(value)
            sums[:p, k] = sign * summed[line, col]
            bottoms.append(summed[-1].copy())
        sums[p:] = self.old.sums
        self.sums = _reduce(np.add, sums[self.order], self.starts)
        last = self.order[(self.starts + self.lengths - 1)[: self.opened]]
        first = self.order[self.starts[: self.opened]]
        self.open_tail, self.open_head = self.tail[last], self.head[first]
        for k, bottom in enumerate(bottoms):
            self.sums[: self.opened, k] += bottom[self.open_tail] - bottom[self.open_head]

    def _attach(self) -> None:
        """Find the ring or open chain that owns each hole."""
        p, count = self.passes, len(self.order)
        # Leftmost edge that goes down (its region is to its left), and the edge's place in the order.
        far = self.width + 1
        left_col = np.full(count, far, dtype=np.int64)
        goes_down = self.out == _S
        left_col[:p][goes_down] = self.col[self.node[goes_down]]
        left_col[p:] = self.old.left_col
        packed = left_col[self.order] * count + np.arange(count)
        best = _reduce(np.minimum, packed, self.starts)
        self.left_col = best // max(count, 1)
        element = self.order[best % max(count, 1)] if count else best
        chains = len(self.starts)
        reference = np.arange(chains)
        known = self.left_col < far
        from_old = known & (element >= p)
        reference[from_old] = self.chain[p + self.old.left[element[from_old] - p]]
        fresh = known & (element < p)
        reference[fresh] = self.chain[self._left_of(element[fresh])]
        self.is_hole = self.sums[:, 0] < 0
        self.is_hole[: self.opened] = False
        owner = np.where(self.is_hole, reference, np.arange(chains))
        while not np.array_equal(further := owner[owner], owner):
            owner = further
        self.owner = owner
        self.left = owner[reference]
        self.ring_class = np.empty(chains, dtype=np.uint8)
        classes = np.concatenate([self.class_id, self.old.class_ids])
        self.ring_class[:] = classes[self.order[self.starts]]
        self.has_old = np.zeros(chains, dtype=bool)
        self.has_old[self.chain[p:]] = True
        self.owner_of_old = self.owner[self.chain[p:]]
        self.vertices = np.concatenate([self.vertex, references(self.old.places)])
        """Of each element: a vertex, or the place where those of an old chain are put away."""

    def _left_of(self, element: Int64) -> Int64:
        """Element with the vertical edge that is met first when going left from a downward edge."""
        node = self.node[element]
        line, col = self.line[node], self.col[node]
        here = np.searchsorted(self.vertical_edges, line * (self.width + 1) + col)
        left_col = self.vertical_edges[here - 1] % (self.width + 1)
        at = np.searchsorted(self.column_keys, left_col * self.n + line, side="right") - 1
        upper = self.by_column[np.maximum(at, 0)]
        inside = (at >= 0) & (self.col[upper] == left_col)
        found: Int64 = np.where(inside, self.pass_by_arm[upper, _S], self.chain_by_head[left_col])
        return found

    # Results

    def still_open(self) -> Chains:
        """The chains that go on below, with the holes that they own."""
        n, old = self.opened, self.old
        # A chain that runs straight through stays where it is: referring to it in each strip would add up.
        first = self.order[self.starts[:n]]
        through = (self.lengths[:n] == 1) & (first >= self.passes)
        places = np.empty(n, dtype=np.int64)
        places[through] = old.places[first[through] - self.passes]
        lengths = self.lengths[:n][~through]
        elements = self.order[ranges(self.starts[:n][~through], lengths)]
        places[~through] = self.away.put(self.vertices[elements], lengths)
        rings = np.flatnonzero(self.is_hole & (self.owner < n))
        rings = rings[np.argsort(self.owner[rings], kind="stable")]
        hole_sums = np.zeros((n, self.sums.shape[1]))
        passed_on = np.flatnonzero(self.owner_of_old < n)
        np.add.at(hole_sums, self.owner_of_old[passed_on], old.hole_sums[passed_on])
        owners, starts = np.unique(self.owner[rings], return_index=True)
        hole_sums[owners] += _reduce(np.add, self.sums[rings], starts)
        return Chains(
            head=self.open_head,
            tail=self.open_tail,
            class_ids=self.ring_class[:n].copy(),
            sums=self.sums[:n].copy(),
            left_col=self.left_col[:n].copy(),
            left=self.left[:n].copy(),
            places=places,
            hole_sums=hole_sums,
            holes=self._put_holes(rings),
        )

    def _put_holes(self, rings: Int64) -> Int64:
        """Where the holes of each open chain are put away: those that it had, and closed rings.

        ``rings`` are in the order of their owners.
        """
        found = np.full(self.opened, NOWHERE, dtype=np.int64)
        had = np.flatnonzero((self.old.holes != NOWHERE) & (self.owner_of_old < self.opened))
        if not len(had) + len(rings):
            return found
        fresh_first = rings[np.argsort(self.has_old[rings], kind="stable")]
        closed = self._rings(fresh_first)
        owners = np.concatenate([self.owner_of_old[had], self.owner[fresh_first]])
        # A list for each: the reference to earlier holes, or a ring and its end.
        ends = np.cumsum(closed.lengths)
        values = np.concatenate(
            [references(self.old.holes[had]), np.insert(closed.vertices, ends, _RING_ENDS)]
        )
        lengths = np.concatenate([np.ones(len(had), dtype=np.int64), closed.lengths + 1])
        lists = np.bincount(owners, minlength=self.opened)
        alone = lists[owners[: len(had)]] == 1
        found[owners[: len(had)][alone]] = self.old.holes[had[alone]]
        starts = np.cumsum(lengths) - lengths
        order = np.argsort(owners, kind="stable")
        order = order[found[owners[order]] == NOWHERE]
        values = values[ranges(starts[order], lengths[order])]
        of_owner = np.bincount(owners[order], lengths[order], minlength=self.opened).astype(np.int64)
        some = np.flatnonzero(of_owner)
        found[some] = self.away.put(values, of_owner[some])
        return found

    def _rings(self, rings: Int64) -> _Rings:
        """Vertices of closed rings, those without old chains first."""
        fresh, mixed = rings[~self.has_old[rings]], rings[self.has_old[rings]]
        lengths = self.lengths[fresh]
        vertices = [self.vertices[self.order[ranges(self.starts[fresh], lengths)]]]
        for start, length in zip(self.starts[mixed].tolist(), self.lengths[mixed].tolist(), strict=True):
            vertices.append(self.away.whole(self.vertices[self.order[start : start + length]]))
        more = np.array([len(v) for v in vertices[1:]], dtype=np.int64)
        return _Rings(np.concatenate(vertices), np.concatenate([lengths, more]))

    def _holes_of_old(self, chain: int) -> _Rings:
        """The holes of an old chain."""
        found = self.away.whole(references(self.old.holes[chain : chain + 1]))
        ends = np.flatnonzero(found == _RING_ENDS)
        lengths = np.diff(ends, prepend=-1) - 1
        return _Rings(np.delete(found, ends), lengths)

    def complete(self) -> Regions:
        """The regions whose outline closed in this strip."""
        closed = np.arange(len(self.starts)) >= self.opened
        outlines = np.flatnonzero(closed & ~self.is_hole)
        region = np.full(len(self.starts), _NONE, dtype=np.int64)
        region[outlines] = np.arange(len(outlines))
        rings = np.flatnonzero(closed & (region[self.owner] != _NONE))
        rings = np.concatenate([rings[~self.has_old[rings]], rings[self.has_old[rings]]])
        ring_region = region[self.owner[rings]]
        sums = np.zeros((len(outlines), self.sums.shape[1]))
        np.add.at(sums, ring_region, self.sums[rings])
        found = self._rings(rings)
        vertices, lengths, regions = [found.vertices], [found.lengths], [ring_region]
        region_of_old = region[self.owner_of_old]
        ended = np.flatnonzero(region_of_old != _NONE)
        np.add.at(sums, region_of_old[ended], self.old.hole_sums[ended])
        for i in ended[self.old.holes[ended] != NOWHERE].tolist():
            holes = self._holes_of_old(i)
            vertices.append(holes.vertices)
            lengths.append(holes.lengths)
            regions.append(np.full(len(holes.lengths), region_of_old[i], dtype=np.int64))
        return arrange(
            np.concatenate(vertices),
            np.concatenate(lengths),
            np.concatenate(regions),
            self.ring_class[outlines],
            sums,
        )


def _reduce(ufunc: np.ufunc, values: npt.NDArray[Any], starts: Int64) -> npt.NDArray[Any]:
    """``ufunc.reduceat`` along the first axis, also of no values."""
    if len(starts) == 0:
        return values[:0]
    result: npt.NDArray[Any] = ufunc.reduceat(values, starts, axis=0)
    return result
