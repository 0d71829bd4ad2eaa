"""Exact outlines of the 4-connected regions of a class raster, traced strip by strip.

The raster is pushed in strips of rows. Between strips only those outlines are kept that still run off the
lower edge. Their vertices wait in a file; an outline is in memory as a whole once it is complete.

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
from pathlib import Path

import numpy as np

from das2f_map.products.outlines import Chains, Corners, Strip
from das2f_map.products.put_away import PutAway
from das2f_map.products.regions import Regions
from das2f_map.types import Float64, UInt8


class RegionTracer:
    """Finds regions in a raster pushed strip by strip. Close it after use, unless :meth:`finish` was called.

    Parameters
    ----------
    width:
        Columns.
    values:
        How many value arrays come with every strip, to be summed over each region.
    work:
        Folder for the vertices of open outlines; by default the system's folder of temporary files.
    """

    def __init__(self, width: int, values: int = 0, *, work: Path | None = None) -> None:
        self._width = width
        self._values = values
        self._row = 0
        self._above: UInt8 = np.zeros(width + 2, dtype=np.uint8)
        self._open = Chains.none(1 + values)
        self._away = PutAway(work)

    def finish(self) -> Regions:
        """The regions that are still open after the last strip."""
        below = np.zeros((1, self._width), dtype=np.uint8)
        last = self.push(below, [np.zeros((1, self._width))] * self._values)
        self.close()
        return last

    def close(self) -> None:
        """Drop the outlines that are open."""
        self._away.close()

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
        strip = Strip(self._above, classes, values, self._row, self._open, corners, self._away)
        self._above = strip.padded[-1].copy()
        self._row += len(classes)
        self._open = strip.still_open()
        return strip.complete()
