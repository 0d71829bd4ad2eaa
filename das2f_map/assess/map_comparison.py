"""How far a class map agrees with reference polygons, points or another class raster.

The reference is read on the map's own pixels, block by block, by the rules of
:mod:`das2f_map.labels.labelled_pixels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from das2f_map.assess.bootstrap import BlockCounts, SpatialBlocks
from das2f_map.assess.class_match import ClassMatch
from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.assess.evaluation import BlockIntervals, Evaluation
from das2f_map.assess.map_difference import of_blocks
from das2f_map.assess.open_map import OpenMap
from das2f_map.errors import LabelError
from das2f_map.labels.source import LabelSource
from das2f_map.legend import NODATA_CLASS
from das2f_map.progress import Progress
from das2f_map.scene.grid import Window, blocks_of
from das2f_map.types import Bool, UInt8

BLOCK = 1024


@dataclass(frozen=True, eq=False)
class OtherMap:
    """Another map that is open, and which of its classes is which of the reference."""

    path: str
    mapped: OpenMap
    match: ClassMatch

    def right(self, window: Window, reference: UInt8) -> tuple[Bool, Bool]:
        """Pixels of a window where it agrees with class ids of the reference, and where it has a class."""
        to_map = np.zeros(256, np.uint8)
        to_map[list(self.match.map_id)] = list(self.match.map_id.values())
        wanted, (found, _) = to_map[reference], self.mapped.read(window)
        answered = np.isin(found, self.mapped.legend.ids)
        return (wanted == found) & answered, answered


def compare(
    mapped: OpenMap,
    reference: LabelSource,
    match: ClassMatch,
    reference_path: str,
    progress: Progress,
    other: OtherMap | None = None,
) -> Evaluation:
    """Compare a map with reference labels, block by block.

    Rejected pixels are no wrong answers: they are counted apart.

    Parameters
    ----------
    reference:
        Opened on the map's grid.
    match:
        From :func:`das2f_map.assess.class_match.match_classes`.
    other:
        Another map on the same grid, to compare the accuracies.

    Raises
    ------
    LabelError
        No label falls on the map, or none of a class that the map has.
    """
    legend = mapped.legend
    to_map = np.zeros(256, np.uint8)
    to_map[list(match.map_id)] = list(match.map_id.values())
    matrix = ConfusionMatrix.empty(legend)
    seen = np.zeros(256, np.int64)
    unmapped = rejected = contested = zeros = 0
    places, pairs = BlockCounts(mapped.grid, len(legend)), BlockCounts(mapped.grid, 2)
    windows = list(reference.windows(blocks_of(mapped.grid.window, BLOCK)))
    with progress("Comparing", len(windows)) as advance:
        for window in windows:
            block = reference.read(window)
            contested += block.contested
            zeros += block.zeros
            if block.classes.any():
                found, unsure = mapped.read(window)
                seen += np.bincount(block.classes.ravel(), minlength=256)
                wanted = to_map[block.classes]
                matrix += ConfusionMatrix.from_arrays(wanted, found, legend)
                places.add(window, legend.positions(wanted), legend.positions(found))
                if other is not None:
                    right = (wanted == found) & (wanted != NODATA_CLASS)
                    theirs, there = other.right(window, block.classes)
                    compared = there & np.isin(found, legend.ids) & (block.classes != NODATA_CLASS)
                    pairs.add(window, np.where(compared, theirs, -1), np.where(compared, right, -1))
                missing = (wanted != NODATA_CLASS) & ~np.isin(found, legend.ids)
                rejected += int((missing & unsure).sum())
                unmapped += int((missing & ~unsure).sum())
            advance(1)
    present = {c.id: int(seen[c.id]) for c in reference.legend.each() if seen[c.id]}
    if not present:
        raise LabelError(
            f"No label of {reference_path} falls on a pixel of the map",
            "check that both show the same place and that the reference's CRS is right",
        )
    common = {match.map_id[i] for i in present if i in match.map_id}
    if matrix.total == 0 and unmapped == 0 and rejected == 0:
        raise LabelError(
            f"Where the map lies, reference {reference_path} has only classes that the map does not have",
            f"the map has {', '.join(legend.names)}",
        )
    return Evaluation(
        matrix=matrix,
        matched_by=match.by,
        only_in_map=tuple(c.name for c in legend.each() if c.id not in common),
        only_in_reference={reference.legend[i].name: n for i, n in present.items() if i not in match.map_id},
        unmapped=unmapped,
        rejected=rejected,
        contested=contested,
        zeros=zeros,
        intervals=_intervals(places.blocks()),
        difference=None if other is None else of_blocks(other.path, pairs.blocks(), pairs.total()),
    )


def _intervals(blocks: SpatialBlocks | None) -> BlockIntervals | None:
    return None if blocks is None else BlockIntervals(blocks.bootstrap(), len(blocks.cells), blocks.side)
