"""Labelled pixels with their values, and the ground that a training with them would hold out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from das2f_map.labels.features import LabelFeatures
from das2f_map.labels.labelled_pixels import LabelTable
from das2f_map.labels.likeness import Likeness
from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid
from das2f_map.training.assessment import MOST_HELD_CPU, can_assess, held_out, learnt
from das2f_map.training.dataset import PatchReader
from das2f_map.training.decided import decided
from das2f_map.training.folds import HOLDOUT_FOLDS, spatial_folds
from das2f_map.training.label_check import EXPECTED, SCENE_PARTS, CheckedClass, HoldOut
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.prepare import LEAST_PIXELS
from das2f_map.training.settings import TrainingSettings
from das2f_map.types import Bool, Int64


@dataclass(frozen=True, eq=False)
class PixelTable:
    """Labelled pixels with their values.

    Attributes
    ----------
    table:
        Position and class of each; those that two classes claim are left out.
    values:
        float32 (n, bands + 1): MS bands and the mean of PAN; NaN where not valid.
    valid:
        bool (n,): both images have data there, and no mask leaves it out.
    feature:
        int64 (n,): row of the feature that labels it; -1 for a label raster.
    """

    table: LabelTable
    values: npt.NDArray[np.float32]
    valid: Bool
    feature: Int64

    @property
    def positions(self) -> Int64:
        """Class of each as a position in the legend, int64 (n,)."""
        return self.table.legend.positions(self.table.classes)


def places_of(rows: npt.NDArray[np.integer], cols: npt.NDArray[np.integer], side: int) -> int:
    """Squares of ``side`` pixels that hold some of the pixels."""
    return int(np.unique(rows.astype(np.int64) // side * (1 << 32) + cols.astype(np.int64) // side).size)


def expected_hold_out(pixels: PixelTable, reader: PatchReader) -> tuple[HoldOut | None, dict[str, int]]:
    """The assessment that a training would make, and the tested pixels of each class by name."""
    usable = pixels.table.select(pixels.valid)
    counts = usable.counts()
    found = TrainingPixels.of([reader], [usable])
    found = found.without([name for name, n in counts.items() if n < LEAST_PIXELS])
    none = dict.fromkeys(counts, 0)
    if len(found.legend) < 2:
        return None, none
    settings = decided(TrainingSettings(), len(found), on_cpu=True)
    holdout = settings.assess == "holdout"
    count = HOLDOUT_FOLDS if holdout else settings.folds
    folds = spatial_folds(found, count, gap=reader.reach, seed=settings.seed, holdout=holdout)
    every = held_out(folds, settings.assess, most=MOST_HELD_CPU, seed=settings.seed)
    parts = [part for part in every if can_assess(found, part)]
    if not parts:
        return None, none
    tested = np.concatenate([part.fold.held[part.tests & learnt(found, part)] for part in parts])
    by_class = np.bincount(found.positions[tested], minlength=len(found.legend)).tolist()
    names = found.legend.names
    places = places_of(found.rows[tested], found.cols[tested], reader.reach)
    hold_out = HoldOut(
        method=settings.assess,
        folds=len(parts),
        gap=folds.gap,
        pixels=int(tested.size),
        places=places,
        margin=1.96 * math.sqrt(EXPECTED * (1 - EXPECTED) / max(1, places)),
        overlap=float(np.mean([folds.leak(part.fold).share for part in parts])),
        not_tested=tuple(name for name in counts if none[name] + _of(names, by_class).get(name, 0) == 0),
    )
    return hold_out, {**none, **_of(names, by_class)}


def _of(names: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    return dict(zip(names, counts, strict=True))


def checked_classes(
    pixels: PixelTable,
    like: Likeness,
    features: LabelFeatures | None,
    tested: dict[str, int],
    names: Legend,
    side: int,
) -> tuple[CheckedClass, ...]:
    """A row for each class that the file has.

    Parameters
    ----------
    names:
        All classes of the file, also those without a pixel.
    side:
        MS pixels a side of a place.
    """
    table = pixels.table
    grid_rows, grid_cols = table.rows, table.cols
    high, wide = int(grid_rows.max()) + 1, int(grid_cols.max()) + 1
    if features is not None:
        high, wide = features.grid.height, features.grid.width
    found = []
    for c in names.each():
        mine = table.classes == c.id
        good = mine & pixels.valid
        part = grid_rows[good] * SCENE_PARTS // high * SCENE_PARTS + grid_cols[good] * SCENE_PARTS // wide
        found.append(
            CheckedClass(
                name=c.name,
                color=c.color,
                features=None if features is None else int((features.frame["class"] == c.name).sum()),
                pixels=int(good.sum()),
                invalid=int((mine & ~pixels.valid).sum()),
                unlike=int((mine & like.unlike).sum()),
                places=places_of(grid_rows[good], grid_cols[good], side),
                parts=int(np.unique(part).size),
                tested=tested.get(c.name, 0),
            )
        )
    return tuple(found)


def squares(grid: Grid, rows: npt.NDArray[np.integer], cols: npt.NDArray[np.integer]) -> list[Any]:
    """Pixels as polygons in the grid's CRS."""
    boxes = shapely.box(cols, rows, cols + 1, rows + 1)
    t = grid.transform
    moved = shapely.transform(
        boxes,
        lambda p: np.column_stack([t.a * p[:, 0] + t.b * p[:, 1] + t.c, t.d * p[:, 0] + t.e * p[:, 1] + t.f]),
    )
    return list(moved)
