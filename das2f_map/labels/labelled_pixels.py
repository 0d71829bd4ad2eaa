"""Training and reference labels, from any vector file or label raster, on a scene's MS pixels.

One rule holds everywhere: a pixel gets the class of the polygon that contains its centre, of the point that
falls into it, or the class that a label raster shows on most of it. Where different classes claim the same
pixel it gets none, and the count of such pixels is reported.

:class:`LabelSource` reads one window at a time, so that neither training nor the evaluation of
a map holds a scene in memory; :func:`read_labels` gathers the labelled pixels into a sparse table.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from das2f_map.errors import LabelError
from das2f_map.labels.files import open_labels
from das2f_map.labels.source import LabelSource
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.types import Bool, Int32, Int64, UInt8

log = logging.getLogger(__name__)

BLOCK = 1024  # MS pixels a side read at once
_MAX_PIXELS_PER_CLASS = 4_000_000


@dataclass(frozen=True)
class LabelTable:
    """Labelled pixels of a scene, sparse, in row-major order.

    Parameters
    ----------
    rows, cols:
        MS pixel positions, int32 ``(n,)``.
    classes:
        Class ids of ``legend``, uint8 ``(n,)``.
    legend:
        Names and colours of the ids.
    contested:
        Pixels left out because different classes claim them.
    absent:
        Names of classes that were to be skipped and that the file does not have.
    """

    rows: Int32
    cols: Int32
    classes: UInt8
    legend: Legend
    contested: int = 0
    absent: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.rows.size)

    def counts(self) -> dict[str, int]:
        """Pixels of each class by name; 0 for classes of the legend without any."""
        found = np.bincount(self.classes, minlength=256)
        return {c.name: int(found[c.id]) for c in self.legend.each()}

    def select(self, keep: NDArray[Any]) -> LabelTable:
        """The pixels of a boolean mask or of positions in this table."""
        return replace(self, rows=self.rows[keep], cols=self.cols[keep], classes=self.classes[keep])


def read_labels(
    path: str | Path,
    grid: Grid,
    *,
    class_field: str | None = None,
    layer: str | None = None,
    skip_classes: Sequence[str] = (),
    progress: Progress = silent,
) -> LabelTable:
    """Labelled pixels of ``grid`` (the MS grid of a scene).

    A class with more than four million pixels is thinned evenly, so that a label raster of a
    whole satellite scene does not fill the memory.

    Parameters
    ----------
    class_field:
        Attribute with the class, integer or text; by default the only plausible one.
    layer:
        Layer of a vector file; by default the only one that fits.
    skip_classes:
        Names of classes to leave out; those that the file lacks are noted in the table.

    Raises
    ------
    LabelError
        The file is missing or unreadable, has no CRS, lies outside the scene, has no such field, or
        yields fewer than two classes.
    """
    with open_labels(path, grid, class_field=class_field, layer=layer) as source:
        return gather(source, grid, str(path), skip_classes=skip_classes, progress=progress)


def gather(
    source: LabelSource,
    grid: Grid,
    name: str,
    *,
    skip_classes: Sequence[str] = (),
    progress: Progress = silent,
) -> LabelTable:
    """All labelled pixels of an open source; see :func:`read_labels`."""
    thinning = Thinning()
    contested = zeros = 0
    windows = list(source.windows(blocks_of(grid.window, BLOCK)))
    with progress("Reading labels", len(windows)) as advance:
        for window in windows:
            block = source.read(window)
            contested += block.contested
            zeros += block.zeros
            thinning.add(window, block.classes)
            advance(1)
    rows, cols, classes = thinning.table()
    kept_ids = [c.id for c in source.legend.each() if c.name not in skip_classes and (classes == c.id).any()]
    if not kept_ids:
        raise _nothing_labelled(name, contested=contested, skipped=classes.size)
    # Ids stay as they are in the source, so that a label raster and the map made from it agree.
    legend = Legend(classes=tuple(source.legend[i] for i in kept_ids))
    keep = np.isin(classes, kept_ids)
    if contested:
        log.warning("%d pixels left out: %s gives them more than one class", contested, name)
    if zeros:
        values = ", ".join(map(str, source.unlabelled))
        log.warning(
            "%d pixels left out: %s gives them the value %s, which counts as unlabelled", zeros, name, values
        )
    absent = tuple(n for n in skip_classes if n not in source.legend.names)
    return LabelTable(rows[keep], cols[keep], classes[keep], legend, contested, absent)


def _nothing_labelled(name: str, *, contested: int, skipped: int) -> LabelError:
    """The error for labels that leave no pixel, of which some are contested or have skipped classes."""
    if skipped:
        return LabelError(f"{name} labels no pixel with a class that is not skipped", "skip fewer classes")
    if contested:
        return LabelError(
            f"{name} gives every pixel that it labels more than one class",
            "cut the polygons so that those of different classes do not overlap",
        )
    return LabelError(
        f"No label of {name} falls on a pixel of the scene",
        "check that labels and images show the same place and that the label file's CRS is right",
    )


def by_block(rows: NDArray[Any], cols: NDArray[Any], block: int) -> list[tuple[int, int, Int64]]:
    """Pixels by the ``block`` × ``block`` square they lie in: its row, its column, positions ``(members,)``.

    Blocks come in row-major order; empty blocks are left out. Positions may be negative, as those of other
    scenes in a scene's frame are.
    """
    keys = _block_keys(rows, cols, block)
    order = np.argsort(keys, kind="stable")
    distinct, starts = np.unique(keys[order], return_index=True)
    # Of no pixels np.split makes one empty part, which belongs to no block.
    parts = np.split(order, starts[1:]) if distinct.size else []
    return [
        (k >> 32, (k & 0xFFFFFFFF) - _FIRST_COLUMN, part)
        for k, part in zip(distinct.tolist(), parts, strict=True)
    ]


def blocks_of_labels(labels: LabelTable, block: int) -> int:
    """Number of squares of ``block`` × ``block`` MS pixels that hold labels."""
    return int(np.unique(_block_keys(labels.rows, labels.cols, block)).size)


_FIRST_COLUMN = 1 << 31
"""Added to the column of a block, so that the low half of its key is never negative."""


def _block_keys(rows: NDArray[Any], cols: NDArray[Any], block: int) -> Int64:
    """The block of each pixel as one number, int64 (n,), that sorts in row-major order."""
    return rows.astype(np.int64) // block * (1 << 32) + cols.astype(np.int64) // block + _FIRST_COLUMN


def limit_blocks(labels: LabelTable, block: int, limit: int, seed: int) -> LabelTable:
    """Keep the pixels of at most ``limit`` blocks of ``block`` × ``block`` MS pixels.

    Training reads every block that has labels; for a label raster of a whole satellite scene it would read
    the whole scene. Blocks are drawn at random, for rare classes first, so that every class keeps as many as
    possible.
    """
    blocks, of_pixel = np.unique(_block_keys(labels.rows, labels.cols, block), return_inverse=True)
    if blocks.size <= limit:
        return labels
    rng = np.random.default_rng([seed, 2])
    chosen = np.zeros(blocks.size, bool)
    by_rarity = sorted(labels.legend.ids, key=lambda i: int((labels.classes == i).sum()))
    for k, class_id in enumerate(by_rarity):
        mine = rng.permutation(np.unique(of_pixel[labels.classes == class_id]))
        quota = (limit - int(chosen.sum())) // (len(by_rarity) - k)
        fresh = mine[~chosen[mine]]
        chosen[fresh[:quota]] = True
    log.warning(
        "The labels spread over %d blocks of %d MS pixels; %d of them, drawn at random, are used",
        blocks.size,
        block,
        int(chosen.sum()),
    )
    return labels.select(chosen[of_pixel])


class Thinning:
    """Collects labelled pixels; halves a class at random positions each time it grows too large."""

    def __init__(self, limit: int = _MAX_PIXELS_PER_CLASS) -> None:
        self._limit = limit
        self._parts: dict[int, list[Int32]] = {}
        self._counts: dict[int, int] = {}
        self._halvings: dict[int, int] = {}

    def add(self, window: Window, classes: UInt8) -> None:
        for value in np.unique(classes):
            if value == NODATA_CLASS:
                continue
            k = int(value)
            at = np.argwhere(classes == value).astype(np.int32)
            at += np.array([window.row, window.col], np.int32)
            at = at[self._passes(at, self._halvings.get(k, 0))]
            self._parts.setdefault(k, []).append(at)
            self._counts[k] = self._counts.get(k, 0) + len(at)
            while self._counts[k] > self._limit:
                self._halvings[k] = self._halvings.get(k, 0) + 1
                kept = np.concatenate(self._parts[k])
                kept = kept[self._passes(kept, self._halvings[k])]
                self._parts[k], self._counts[k] = [kept], len(kept)

    @staticmethod
    def _passes(at: Int32, halvings: int) -> Bool:
        # A hash of the position (splitmix64's finaliser): each halving keeps a part of the last one's pixels,
        # and every run keeps the same.
        with np.errstate(over="ignore"):
            h = at[:, 0].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + at[:, 1].astype(np.uint64)
            h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            h ^= h >> np.uint64(31)
        return np.asarray((h & np.uint64((1 << halvings) - 1)) == 0)

    def table(self) -> tuple[Int32, Int32, UInt8]:
        if not self._parts:
            none = np.zeros(0, np.int32)
            return none, none, np.zeros(0, np.uint8)
        at = np.concatenate([p for parts in self._parts.values() for p in parts])
        classes = np.concatenate([np.full(self._counts[k], k, np.uint8) for k in self._parts])
        order = np.lexsort((at[:, 1], at[:, 0]))
        return at[order, 0], at[order, 1], classes[order]
