"""Exact outlines of the 4-connected regions of a class raster, traced strip by strip.

The raster is pushed in strips of rows. Between strips only those outlines are kept that still run off the
lower edge, so memory grows with the unfinished regions, not with the raster.

Algorithm
---------
*Nodes* are the pixel corners where a boundary turns or where more than two regions meet. Every region at a
node has it as a vertex, even on a straight edge. Neighbours thus share each edge vertex by vertex, and still
tile exactly after a rotation or a reprojection. Where a boundary runs straight between the same two regions
there is no vertex, so strip edges add none.

A *pass* is the way of one region through a node: it comes in along one arm and leaves along another, with
the region on its right. Passes linked from node to node form closed rings, or *chains* that are open at the
strip's lower edge. An open chain takes part in the next strip like a single pass. In each column at most one
vertical edge crosses from strip to strip, so the column tells which ends belong together.

Where a region meets itself diagonally at a node, the two passes stay separate, as 4-connection demands. A
ring that visits such a node twice is split there when it is complete. The region is connected elsewhere, so
the parts are its outline and holes that touch in one point, which is valid.

A hole belongs to the ring that is met first when going left from the hole's leftmost edge through the region.
That ring reaches further left, so repeating the step ends at the outline.

Sums over the pixels of a region come from the integral image ``I`` of its values: a ring's vertical
edge from node a to node b contributes ``I[b] - I[a]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from das2f_map.products.regions import LEFT_OUT, ROW_SHIFT, Regions, arrange, ranges
from das2f_map.types import Bool, Float64, Int64, UInt8

_N, _E, _S, _W = 0, 1, 2, 3
_NONE = -1


@dataclass(eq=False)
class _Rings:
    """Vertices of several rings, one after the other, and the number of vertices of each ring."""

    vertices: Int64
    lengths: Int64


@dataclass(eq=False)
class _Chain:
    """A piece of outline that is open below: it comes up in column ``head`` and goes down in ``tail``."""

    head: int
    tail: int
    class_id: int
    sums: Float64
    left_col: int
    left: int
    parts: list[Any]
    hole_sums: Float64
    holes: list[Any] = field(default_factory=list)


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


class RegionTracer:
    """Finds regions in a raster pushed strip by strip.

    Parameters
    ----------
    width:
        Columns.
    values:
        How many value arrays come with every strip, to be summed over each region.
    """

    def __init__(self, width: int, values: int = 0) -> None:
        self._width = width
        self._values = values
        self._row = 0
        self._above: UInt8 = np.zeros(width + 2, dtype=np.uint8)
        self._open: list[_Chain] = []

    def finish(self) -> Regions:
        """The regions that are still open after the last strip."""
        below = np.zeros((1, self._width), dtype=np.uint8)
        return self.push(below, [np.zeros((1, self._width))] * self._values)

    def push(self, classes: UInt8, values: Sequence[Float64] = (), corners: Corners | None = None) -> Regions:
        """Add rows and get the regions that are complete with them.

        Parameters
        ----------
        classes:
            uint8 (rows, width); 0 belongs to no region.
        values:
            As many float64 (rows, width) arrays as announced.
        corners:
            Vertices of outlines; ``None`` for those of exact outlines.
        """
        strip = _Strip(self._above, classes, values, self._row, self._open, corners)
        self._above = strip.padded[-1].copy()
        self._row += len(classes)
        self._open = strip.still_open()
        return strip.complete()


class _Strip:
    """The passes of one strip, linked with the chains that were open above it.

    Elements are numbered: passes first, in row-major order of their nodes, then the open chains.
    """

    def __init__(
        self,
        above: UInt8,
        classes: UInt8,
        values: Sequence[Float64],
        row: int,
        chains: list[_Chain],
        corners: Corners | None,
    ) -> None:
        self.n, self.width = classes.shape
        self.row, self.old = row, chains
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

        heads = np.array([c.head for c in self.old], dtype=np.int64)
        tails = np.array([c.tail for c in self.old], dtype=np.int64)
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
        has_previous = np.zeros(count, dtype=bool)
        has_previous[self.onward[self.onward != _NONE]] = True
        heads = np.flatnonzero(~has_previous).tolist()
        onward = self.onward.tolist()
        seen = bytearray(count)
        order: list[int] = []
        starts: list[int] = []
        append = order.append
        for start in heads:
            starts.append(len(order))
            i = start
            while i != _NONE:
                seen[i] = 1
                append(i)
                i = onward[i]
        for start in range(count):
            if not seen[start]:
                starts.append(len(order))
                i = start
                while not seen[i]:
                    seen[i] = 1
                    append(i)
                    i = onward[i]
        self.opened = len(heads)
        self.order = np.array(order, dtype=np.int64)
        self.starts = np.array(starts, dtype=np.int64)
        self.lengths = np.diff(np.append(self.starts, count))
        self.chain = np.empty(count, dtype=np.int64)
        """Ring or chain of each element."""
        self.chain[self.order] = np.repeat(np.arange(len(starts)), self.lengths)

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
            integral = np.zeros((n + 1, w + 1))
            np.cumsum(np.cumsum(value, axis=1), axis=0, out=integral[1:, 1:])
            sums[:p, k] = sign * integral[line, col]
            bottoms.append(integral[-1])
        for i, chain in enumerate(self.old):
            sums[p + i] = chain.sums
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
        left_col[p:] = [c.left_col for c in self.old]
        packed = left_col[self.order] * count + np.arange(count)
        best = _reduce(np.minimum, packed, self.starts)
        self.left_col = best // max(count, 1)
        element = self.order[best % max(count, 1)] if count else best
        chains = len(self.starts)
        reference = np.arange(chains)
        known = self.left_col < far
        from_old = known & (element >= p)
        old_left = np.array([c.left for c in self.old], dtype=np.int64)
        reference[from_old] = self.chain[p + old_left[element[from_old] - p]]
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
        classes = np.concatenate([self.class_id, np.array([c.class_id for c in self.old], dtype=np.uint8)])
        self.ring_class[:] = classes[self.order[self.starts]]
        self.has_old = np.zeros(chains, dtype=bool)
        self.has_old[self.chain[p:]] = True

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

    def _parts(self, ring: int) -> list[Any]:
        """Vertices of a ring or chain in order: arrays, and the nested lists of older chains."""
        start = self.starts[ring]
        elements = self.order[start : start + self.lengths[ring]]
        olds = np.flatnonzero(elements >= self.passes)
        if len(elements) == 1 and len(olds) == 1:
            # A chain that runs straight through: nesting it once more in each strip would add up.
            alone: list[Any] = self.old[elements[0] - self.passes].parts
            return alone
        parts: list[Any] = []
        position = 0
        for at in olds.tolist():
            if at > position:
                parts.append(self.vertex[elements[position:at]])
            parts.append(self.old[elements[at] - self.passes].parts)
            position = at + 1
        if position < len(elements):
            parts.append(self.vertex[elements[position:]])
        return parts

    def still_open(self) -> list[_Chain]:
        """The chains that go on below, with the holes that they own."""
        chains = [
            _Chain(
                head=int(self.open_head[i]),
                tail=int(self.open_tail[i]),
                class_id=int(self.ring_class[i]),
                sums=self.sums[i].copy(),
                left_col=int(self.left_col[i]),
                left=int(self.left[i]),
                parts=self._parts(i),
                hole_sums=np.zeros(self.sums.shape[1]),
            )
            for i in range(self.opened)
        ]
        for old, ring in zip(self.old, self.chain[self.passes :].tolist(), strict=True):
            owner = int(self.owner[ring])
            if owner < self.opened:
                chains[owner].hole_sums += old.hole_sums
                if old.holes:
                    chains[owner].holes.append(old.holes)
        holes = np.flatnonzero(self.is_hole & (self.owner < self.opened))
        holes = holes[np.argsort(self.owner[holes], kind="stable")]
        owners, counts = np.unique(self.owner[holes], return_counts=True)
        stops = np.cumsum(counts)
        for owner, start, stop in zip(
            owners.tolist(), (stops - counts).tolist(), stops.tolist(), strict=True
        ):
            group = holes[start:stop]
            chains[owner].hole_sums += self.sums[group].sum(axis=0)
            chains[owner].holes.append(self._rings(group))
        return chains

    def _rings(self, rings: Int64) -> _Rings:
        """Vertices of closed rings."""
        fresh = rings[~self.has_old[rings]]
        lengths = self.lengths[fresh]
        vertices = [self.vertex[self.order[ranges(self.starts[fresh], lengths)]]]
        mixed = [np.concatenate(_flat(self._parts(r))) for r in rings[self.has_old[rings]].tolist()]
        return _Rings(
            np.concatenate(vertices + mixed),
            np.concatenate([lengths, np.array([len(m) for m in mixed], dtype=np.int64)]),
        )

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
        for old, ring in zip(self.old, self.chain[self.passes :].tolist(), strict=True):
            r = int(region[self.owner[ring]])
            if r == _NONE:
                continue
            sums[r] += old.hole_sums
            for holes in _flat(old.holes):
                vertices.append(holes.vertices)
                lengths.append(holes.lengths)
                regions.append(np.full(len(holes.lengths), r, dtype=np.int64))
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


def _flat(nested: list[Any]) -> list[Any]:
    """The items of nested lists, in order. Without recursion: the lists may nest once for each strip."""
    out: list[Any] = []
    stack = [iter(nested)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            out.append(item)
        else:
            stack.pop()
    return out
