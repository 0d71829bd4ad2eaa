"""Regions made of rings of vertices, in an order that does not depend on how they were found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine

from das2f_map.types import Float64, Int64, UInt8

ROW_SHIFT = 32
"""A vertex is one int64: row << 32 | column << 1 | whether its region meets itself there diagonally."""

LEFT_OUT = -1
"""Stands for a vertex that no outline keeps."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Complete regions, ordered by lowest row, then by topmost leftmost vertex.

    Attributes
    ----------
    class_ids:
        uint8 (regions,).
    sums:
        float64 (regions, values): pixel count first, then one for each value array pushed.
    rows, cols:
        int64 (vertices,): pixel corners, each ring from its topmost leftmost vertex, clockwise for
        outlines and counterclockwise for holes as seen in the image; the first is not repeated.
    ring_starts:
        int64 (rings + 1,), into the vertices.
    region_starts:
        int64 (regions + 1,), into the rings; the first ring of a region is its outline.
    """

    class_ids: UInt8
    sums: Float64
    rows: Int64
    cols: Int64
    ring_starts: Int64
    region_starts: Int64

    def __len__(self) -> int:
        return len(self.class_ids)

    def areas(self) -> Float64:
        """Area inside each outline without the holes, in pixels: float64 (regions,)."""
        if len(self) == 0:
            return np.zeros(0)
        following = np.arange(1, len(self.rows) + 1)
        following[self.ring_starts[1:] - 1] = self.ring_starts[:-1]
        # Holes go the other way round and count less than nothing.
        of_rings = np.add.reduceat(_twice_areas(self.rows, self.cols, following), self.ring_starts[:-1])
        return np.asarray(np.add.reduceat(of_rings, self.region_starts[:-1]) / 2)


def to_polygons(regions: Regions, transform: Affine) -> npt.NDArray[np.object_]:
    """Regions as shapely polygons in map coordinates, outlines counterclockwise there."""
    starts = regions.ring_starts
    lengths = np.diff(starts)
    # Close each ring: one more vertex, the first again.
    closed = np.arange(int(lengths.sum()) + len(lengths))
    new_starts = starts + np.arange(len(starts))
    ring = np.repeat(np.arange(len(lengths)), lengths + 1)
    offset = closed - new_starts[ring]
    if transform.determinant < 0:
        # Clockwise in the image is clockwise on a map with north up; outlines go the other way round.
        offset = lengths[ring] - offset
    take = starts[ring] + offset % lengths[ring]
    rows, cols = regions.rows[take], regions.cols[take]
    t = transform
    # The same corner gives bit by bit the same coordinates in every polygon.
    xy = np.stack([t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f], axis=1)
    polygons: npt.NDArray[np.object_] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, xy, (new_starts, regions.region_starts)
    )
    return polygons


def arrange(vertices: Int64, lengths: Int64, regions: Int64, class_ids: UInt8, sums: Float64) -> Regions:
    """Regions made of rings, which are split where they touch themselves; strips do not change the order.

    Parameters
    ----------
    vertices:
        int64 (vertices,), see :data:`ROW_SHIFT`, ring after ring; :data:`LEFT_OUT` is dropped.
    lengths, regions:
        int64 (rings,): vertices of each ring; its region, as an index into ``class_ids`` and ``sums``.
    class_ids, sums:
        As in :class:`Regions`.
    """
    shown = vertices != LEFT_OUT
    if not shown.all():
        ring = np.repeat(np.arange(len(lengths)), lengths)
        vertices, lengths = vertices[shown], np.bincount(ring[shown], minlength=len(lengths))
    vertices, lengths, regions = _split(vertices, lengths, regions)
    vertices &= ~np.int64(1)
    starts = np.cumsum(lengths) - lengths
    if len(lengths) == 0:
        none = np.zeros(0, dtype=np.int64)
        zero = np.zeros(1, dtype=np.int64)
        return Regions(class_ids, sums, none, none, zero, zero)
    ring = np.repeat(np.arange(len(lengths)), lengths)
    smallest = np.minimum.reduceat(vertices, starts)
    at = np.flatnonzero(vertices == smallest[ring])  # once in each ring, as rings no longer touch themselves
    turned = starts[ring] + (np.arange(len(vertices)) - starts[ring] + (at - starts)[ring]) % lengths[ring]
    vertices = vertices[turned]
    rows, cols = vertices >> ROW_SHIFT, (vertices & (2**ROW_SHIFT - 1)) >> 1
    following = np.arange(1, len(vertices) + 1)
    following[starts + lengths - 1] = starts
    outline = np.add.reduceat(_twice_areas(rows, cols, following), starts) > 0
    lowest = np.maximum.reduceat(rows, starts)
    # Simplified outlines may share their first vertex; they leave it in different directions.
    second = vertices[following[starts]]
    region_key = np.zeros((3, len(class_ids)), dtype=np.int64)
    region_key[:, regions[outline]] = second[outline], smallest[outline], lowest[outline]
    order = np.lexsort((smallest, ~outline, *region_key[:, regions]))
    region_order = regions[order][outline[order]]
    take = ranges(starts[order], lengths[order])
    ring_starts = np.concatenate([[0], np.cumsum(lengths[order])])
    region_starts = np.append(np.flatnonzero(outline[order]), len(order))
    return Regions(
        class_ids[region_order], sums[region_order], rows[take], cols[take], ring_starts, region_starts
    )


def _twice_areas(rows: Int64, cols: Int64, following: Int64) -> Int64:
    """Signed parts of each vertex of twice the area of its ring; positive in sum for outlines."""
    return np.asarray((cols + cols[following]) * (rows[following] - rows))


def _split(vertices: Int64, lengths: Int64, regions: Int64) -> tuple[Int64, Int64, Int64]:
    """Cut rings that visit a vertex twice into rings that touch there."""
    ring = np.repeat(np.arange(len(lengths)), lengths)
    diagonal = np.flatnonzero(vertices & 1)
    order = np.lexsort((vertices[diagonal], ring[diagonal]))
    sorted_at = diagonal[order]
    a, b = sorted_at[:-1], sorted_at[1:]
    twice = (vertices[a] == vertices[b]) & (ring[a] == ring[b])
    if not twice.any():
        return vertices, lengths, regions
    a, b = a[twice], b[twice]
    starts = np.cumsum(lengths) - lengths
    following = np.arange(1, len(vertices) + 1)
    following[starts + lengths - 1] = starts
    # Exchanging the vertices after the two visits cuts the ring in two.
    following[a], following[b] = following[b], following[a]
    touching = np.zeros(len(lengths), dtype=bool)
    touching[ring[a]] = True
    mine = np.flatnonzero(touching[ring])
    onward = dict(zip(mine.tolist(), following[mine].tolist(), strict=True))
    walked: list[int] = []
    new_lengths: list[int] = []
    new_regions: list[int] = []
    region_of = regions[ring[mine]].tolist()
    for start, region in zip(mine.tolist(), region_of, strict=True):
        if start not in onward:
            continue
        length, i = 0, start
        while i in onward:
            walked.append(i)
            length += 1
            i = onward.pop(i)
        new_lengths.append(length)
        new_regions.append(region)
    keep = ~touching
    return (
        np.concatenate([vertices[keep[ring]], vertices[walked]]),
        np.concatenate([lengths[keep], new_lengths]),
        np.concatenate([regions[keep], new_regions]),
    )


def ranges(starts: Int64, lengths: Int64) -> Int64:
    """``start, start + 1, … start + length - 1`` for each, one after the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(int(lengths.sum()))
