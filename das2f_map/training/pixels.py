"""The labelled pixels of all scenes of a training, with the patches around them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from das2f_map.errors import LabelError
from das2f_map.labels.labelled_pixels import LabelTable
from das2f_map.legend import MOST_CLASSES, Legend, LegendClass
from das2f_map.training.dataset import PatchReader
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.types import Int64


@dataclass(frozen=True, eq=False)
class TrainingPixels(ScenePixels):
    """Labelled pixels of one or more scenes, scene after scene.

    Attributes
    ----------
    legend:
        The classes of all scenes.
    positions:
        int64 ``(n,)``: class, as a position in the legend.
    """

    legend: Legend
    positions: Int64

    @classmethod
    def of(cls, readers: Sequence[PatchReader], tables: Sequence[LabelTable]) -> TrainingPixels:
        """The labels of some scenes, whose classes are matched by name."""
        legend = merged_legend([t.legend for t in tables])
        place = {name: k for k, name in enumerate(legend.names)}
        of_class = [
            np.array([place[name] for name in t.legend.names], np.int64)[t.legend.positions(t.classes)]
            for t in tables
        ]
        return cls(
            tuple(readers),
            np.repeat(np.arange(len(tables)), [len(t) for t in tables]),
            np.concatenate([t.rows for t in tables]),
            np.concatenate([t.cols for t in tables]),
            legend,
            np.concatenate(of_class),
        )

    def select(self, keep: Int64) -> TrainingPixels:
        """The pixels at some positions."""
        return replace(
            self,
            scene=self.scene[keep],
            rows=self.rows[keep],
            cols=self.cols[keep],
            positions=self.positions[keep],
        )

    def without(self, names: Collection[str]) -> TrainingPixels:
        """The pixels of the other classes, which alone stay in the legend."""
        legend = Legend(classes=tuple(c for c in self.legend.each() if c.name not in names))
        new = np.full(len(self.legend), -1, np.int64)
        new[self.legend.positions(legend.ids)] = np.arange(len(legend))
        kept = self.select(np.flatnonzero(new[self.positions] >= 0))
        return replace(kept, legend=legend, positions=new[kept.positions])

    def counts(self) -> dict[str, int]:
        """Pixels of each class by name."""
        found = np.bincount(self.positions, minlength=len(self.legend))
        return dict(zip(self.legend.names, found.tolist(), strict=True))


def merged_legend(legends: Sequence[Legend]) -> Legend:
    """The classes of some legends by name; ids and colours are those of the first legend that has the class.

    An id that is taken already gives way to the smallest free one.

    Raises
    ------
    LabelError
        There are more classes than ids.
    """
    names = {c.name for legend in legends for c in legend.each()}
    if len(names) > MOST_CLASSES:
        raise LabelError(
            f"the scenes' labels have {len(names)} classes in all, a map holds {MOST_CLASSES}",
            "merge classes, or leave some out with --skip-class",
        )
    classes: dict[str, LegendClass] = {}
    for legend in legends:
        for c in legend.each():
            if c.name in classes:
                continue
            taken = {found.id for found in classes.values()}
            wanted = (c.id, *range(1, MOST_CLASSES + 1))
            classes[c.name] = c.model_copy(update={"id": next(i for i in wanted if i not in taken)})
    return Legend(classes=tuple(sorted(classes.values(), key=lambda c: c.id)))
