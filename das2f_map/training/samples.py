"""The labelled pixels of a training, part by part."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np

from das2f_map.labels.labelled_pixels import LabelTable, limit_blocks, read_labels, require_trainable
from das2f_map.legend import Legend
from das2f_map.progress import Progress, silent
from das2f_map.training.dataset import BLOCK, PatchReader
from das2f_map.training.request import LabelRequest
from das2f_map.training.settings import LEAST_SAMPLES, MOST_SAMPLES_CPU, MOST_SAMPLES_GPU
from das2f_map.training.split import Split, split_labels

log = logging.getLogger(__name__)

MAX_BLOCKS: Final = 4000
"""Blocks of the scene to cut patches from, about half a megabyte each."""

MAX_VALIDATION_CPU, MAX_VALIDATION_GPU = 100, 500
"""Most validation pixels of a class that accuracy is measured on after every epoch."""

MAX_TEST_PER_CLASS: Final = 5000
"""Most test pixels of a class; more are thinned at random, as they cost time and hardly change figures."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled pixels of the three parts, validation and test thinned.

    Attributes
    ----------
    split:
        All labelled pixels, by part.
    validation, test:
        The pixels that accuracy is measured on.
    """

    split: Split
    validation: LabelTable
    test: LabelTable

    @property
    def train(self) -> LabelTable:
        """The pixels to learn from."""
        return self.split.train

    @property
    def legend(self) -> Legend:
        """The classes."""
        return self.split.train.legend

    def default_per_class(self, *, on_cpu: bool) -> int:
        """Default number of patches of each class in an epoch: the median class's pixels, within limits."""
        most = MOST_SAMPLES_CPU if on_cpu else MOST_SAMPLES_GPU
        return int(np.clip(np.median(list(self.train.counts().values())), LEAST_SAMPLES, most))


def find_samples(
    labels: LabelRequest, reader: PatchReader, *, seed: int, on_cpu: bool, progress: Progress = silent
) -> Samples:
    """Read the labels, drop pixels without valid data, and split the rest by blocks of the scene.

    Afterwards the reader has loaded the blocks around the labels.

    Raises
    ------
    LabelError
        The labels cannot be read, or are too few for all parts.
    """
    usable = _usable_labels(labels, reader, seed, progress)
    split = split_labels(usable, reader.source.pair.grids.ms, gap=reader.reach, seed=seed)
    for part, pixels in split.parts.items():
        log.info("%s: %s", part, ", ".join(f"{n} {k:,}" for n, k in pixels.counts().items()))
    unseen = [n for n, k in split.validation.counts().items() if not k]
    if unseen:
        log.warning("No validation pixels for %s: the choice of the epoch ignores it", ", ".join(unseen))
    most = MAX_VALIDATION_CPU if on_cpu else MAX_VALIDATION_GPU
    return Samples(
        split, _thinned(split.validation, most, seed), _thinned(split.test, MAX_TEST_PER_CLASS, seed)
    )


def _usable_labels(labels: LabelRequest, reader: PatchReader, seed: int, progress: Progress) -> LabelTable:
    """Labels on pixels that both sensors see."""
    table = read_labels(
        labels.path,
        reader.source.pair.grids.ms,
        class_field=labels.class_field,
        skip_classes=labels.skip_classes,
        progress=progress,
    )
    table = limit_blocks(table, BLOCK, MAX_BLOCKS, seed)
    valid = reader.load(table.rows, table.cols, progress)
    if not valid.all():
        log.warning("%d labelled pixels left out: no valid data there", int((~valid).sum()))
        table = table.select(valid)
    require_trainable(table, labels.path)
    return table


def _thinned(table: LabelTable, per_class: int, seed: int) -> LabelTable:
    rng = np.random.default_rng([seed, 1])
    keep = []
    for c in table.legend.each():
        members = np.flatnonzero(table.classes == c.id)
        keep.append(rng.permutation(members)[:per_class])
    return table.select(np.sort(np.concatenate(keep)))
