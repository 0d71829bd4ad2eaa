"""Simpler outlines: the vertices that the regions of a class map keep, block by block.

The map is cut into blocks that lie at fixed places of its grid. All regions of a block, nodata's too, are
simplified at once by GEOS, which leaves out vertices of edges that they share in all of them (after
Visvalingam and Whyatt), with the border of the block fixed. Where an outline crosses such a border it gets a
vertex that stays, so the blocks fit together. The result depends on the map alone, and a row of blocks is in
memory at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import shapely
from affine import Affine

from das2f_map.products.areas import PixelAreas
from das2f_map.products.outlines import Corners
from das2f_map.products.regions import to_polygons
from das2f_map.products.strips import Strip, rows_of
from das2f_map.products.tracing import RegionTracer
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Bool, Float32, Geometries, UInt8

_BLOCK: Final = 512
"""Pixels a side of a block; the rows of a wide map's blocks are fewer."""

_MOST_PIXELS: Final = 1 << 23
"""Pixels of a row of blocks, unless the map is so wide that its blocks would become flat."""

_LEAST_ROWS: Final = 32

_POLYGON_BYTES: Final = 400
"""Bytes for each pixel of a block while its polygons are simplified: an estimate for small fields."""


def memory_bytes(height: int, width: int) -> int:
    """Bytes that simplifying the polygons of a map takes, about."""
    rows = min(height, _rows_of_block(width))
    # Classes twice, confidence and corners of a row of blocks, and the polygons of one block.
    return 7 * rows * width + _POLYGON_BYTES * rows * min(width, _BLOCK)


def _rows_of_block(width: int) -> int:
    """Rows of the blocks of a map."""
    rows = _BLOCK
    while rows > _LEAST_ROWS and rows * width > _MOST_PIXELS:
        rows //= 2
    return rows


class Simplifier:
    """Chooses the vertices that outlines keep.

    Parameters
    ----------
    grid:
        The map's.
    metres:
        A vertex goes if the triangle with its neighbours has less than the square of this.
    """

    def __init__(self, grid: Grid, metres: float) -> None:
        self._grid, self._metres, self._areas = grid, metres, PixelAreas(grid)
        self.rows = _rows_of_block(grid.width)
        """Rows of a block."""
        self._held: list[tuple[Window, UInt8, Float32 | None]] = []
        self._row = 0

    def add(self, strip: Strip) -> Iterator[tuple[Strip, Corners]]:
        """Take the next strip; gives the strips whose corners are known now, cut at the blocks' borders."""
        done = 0
        while done < strip.window.height:
            stop = min(self._grid.height, (self._row // self.rows + 1) * self.rows)
            part = rows_of(strip, done, min(strip.window.height, done + stop - self._row))
            # Areas take more room than all else, and are soon computed again.
            self._held.append((part.window, part.classes, part.confidence))
            done += part.window.height
            self._row += part.window.height
            if self._row == stop:
                yield from self._complete()

    def _complete(self) -> Iterator[tuple[Strip, Corners]]:
        """The strips of a row of blocks, with their corners."""
        held, self._held = self._held, []
        classes = np.concatenate([part for _, part, _ in held])
        first = held[0][0].row
        kept = np.ones((len(classes), self._grid.width + 1), dtype=bool)
        for col in range(0, self._grid.width, _BLOCK):
            block = classes[:, col : col + _BLOCK]
            window = Window(first, col, *block.shape)
            # Its first row and columns are a border, where everything is kept.
            kept[1:, col + 1 : col + block.shape[1]] = self._kept(window, block)[1:-1, 1:-1]
        columns = np.arange(self._grid.width + 1) % _BLOCK == 0
        for window, part, confidence in held:
            at = window.row - first
            rows = np.arange(at, at + window.height) == 0
            strip = Strip(window, part, self._areas.of(window), confidence)
            yield strip, Corners(kept[at : at + window.height], rows, columns)

    def _kept(self, window: Window, classes: UInt8) -> Bool:
        """Which corners of a block's pixels outlines keep: bool (h + 1, w + 1)."""
        everything = np.ones((window.height + 1, window.width + 1), dtype=bool)
        ids, place = np.unique(classes, return_inverse=True)
        # Nodata gets outlines, too: its border is simplified as any other.
        if not 1 < len(ids) < 256:
            return everything
        tracer = RegionTracer(window.width)
        numbers = (place.reshape(classes.shape) + 1).astype(np.uint8)
        found = [
            to_polygons(regions, Affine.identity()) for regions in (tracer.push(numbers), tracer.finish())
        ]
        polygons = np.concatenate(found)
        centre = Window(window.row + window.height // 2, window.col + window.width // 2, 1, 1)
        area = float(self._areas.of(centre)[0, 0])
        if area <= 0:
            return everything
        # Triangles keep their share of a pixel's area under any transform of the grid.
        simple = shapely.coverage_simplify(polygons, self._metres / math.sqrt(area), simplify_boundary=False)
        if not _same_rings(polygons, simple):
            return everything
        corners = shapely.get_coordinates(simple).astype(np.int64)
        kept = np.zeros_like(everything)
        kept[corners[:, 1], corners[:, 0]] = True
        return kept


def _same_rings(exact: Geometries, simple: Geometries) -> bool:
    """Whether simplified polygons have all their rings, and still tile the ground."""
    rings = [shapely.get_num_interior_rings(polygons) for polygons in (exact, simple)]
    if shapely.is_empty(simple).any() or not np.array_equal(*rings):
        return False
    return bool(shapely.is_valid(simple).all() and shapely.coverage_is_valid(simple))
