"""How much better a random split of the labelled pixels would make a classifier look than held-out ground.

Neighbouring pixels are alike, and their patches overlap. A classifier that has learnt from a pixel's
neighbours knows its answer, so that a test on random pixels flatters it. The difference is measured on the
scenes at hand, with a classifier that learns in seconds: once on the held-out ground of the assessment, once
on as many pixels of the same pool that are drawn at random. It is a figure of that classifier, not of the
network.

Source of the comparison: Roberts, D. R., et al. (2017), "Cross-validation strategies for data with temporal,
spatial, hierarchical, or phylogenetic structure", Ecography 40, 913–929.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from das2f_map.errors import MissingDependencyError
from das2f_map.training.assessment import HeldOut, learnt
from das2f_map.training.baselines import ForestSettings, random_forest, stack_features, window_features
from das2f_map.training.batches import PlainBatches
from das2f_map.training.folds import LEAST_TO_LEARN
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Float32, Int64

MOST_LEARNT, MOST_TESTED = 2000, 1000
"""Pixels of a part that the stand-in learns from and is tested on; more are thinned at random."""

_TREES = 60


@dataclass(frozen=True)
class RandomSplit:
    """Accuracy of one classifier on held-out ground and on random pixels.

    Attributes
    ----------
    stand_in:
        The classifier in words.
    spatial, random:
        Overall accuracies, 0..1.
    pixels:
        Tested pixels of each.
    """

    stand_in: str
    spatial: float
    random: float
    pixels: int

    @property
    def optimism(self) -> float:
        """Random minus spatial."""
        return self.random - self.spatial

    def to_dict(self) -> dict[str, Any]:
        """For the model card."""
        return {
            "stand_in": self.stand_in,
            "overall_accuracy_on_held_out_ground": round(self.spatial, 4),
            "overall_accuracy_on_random_pixels": round(self.random, 4),
            "optimism": round(self.optimism, 4),
            "pixels": self.pixels,
        }


def compare_with_random_split(
    pixels: TrainingPixels, parts: Sequence[HeldOut], seed: int
) -> RandomSplit | None:
    """The optimism of a random split; ``None`` where no pixel is tested.

    The stand-in is a random forest on statistics around the pixel, or the nearest neighbour in them without
    scikit-learn.
    """
    rng = np.random.default_rng([seed, 9])
    stand_in = _forest_or_neighbour()
    right = np.zeros(2, np.int64)
    total = np.zeros(2, np.int64)
    for part in parts:
        train = _thinned(part.fold.train, MOST_LEARNT, rng)
        test = _thinned(part.fold.held[part.tests & learnt(pixels, part)], MOST_TESTED, rng)
        if not test.size or train.size < 2:
            continue
        pool = np.concatenate([train, test])
        features = stack_features(
            (pixels.patches(pool[batch.positions]) for batch in PlainBatches(pool.size, 256)), window_features
        )
        for k, order in enumerate((np.arange(pool.size), rng.permutation(pool.size))):
            found = _accuracy(
                stand_in, features[order], pixels.positions[pool[order]], train.size, len(pixels.legend), seed
            )
            right[k] += found[0]
            total[k] += found[1]
    if not total.all():
        return None
    spatial, random = (right / total).tolist()
    return RandomSplit(stand_in, spatial, random, int(total[0]))


def _accuracy(
    stand_in: str, features: Float32, positions: Int64, learnt_from: int, classes: int, seed: int
) -> tuple[int, int]:
    """Right and tested pixels, where the first ``learnt_from`` rows are learnt from and the others tested."""
    known, truth = positions[:learnt_from], positions[learnt_from:]
    mapped = (_by_forest if stand_in == FOREST else _by_neighbour)(
        features[:learnt_from], known, features[learnt_from:], classes, seed
    )
    can = (np.bincount(known, minlength=classes) >= LEAST_TO_LEARN)[truth]
    return int((mapped == truth)[can].sum()), int(can.sum())


FOREST, NEIGHBOUR = "random forest", "nearest neighbour"


def _forest_or_neighbour() -> str:
    try:
        random_forest(2, 0)
    except MissingDependencyError:
        return NEIGHBOUR
    return FOREST


def _by_forest(learn: Float32, known: Int64, test: Float32, classes: int, seed: int) -> Int64:
    forest = random_forest(classes, seed, ForestSettings(trees=_TREES))
    forest.fit(learn, known)
    return np.asarray(forest.probabilities(test).argmax(axis=1), np.int64)


def _by_neighbour(learn: Float32, known: Int64, test: Float32, classes: int, seed: int) -> Int64:
    del classes, seed
    spread = np.maximum(learn.std(axis=0), 1e-6)
    a, b = learn / spread, test / spread
    squared = (b**2).sum(1)[:, None] + (a**2).sum(1)[None] - 2 * b @ a.T
    return np.asarray(known[squared.argmin(axis=1)], np.int64)


def _thinned(at: Int64, most: int, rng: np.random.Generator) -> Int64:
    return at if at.size <= most else np.sort(rng.choice(at, most, replace=False))


def optimism_text(found: dict[str, Any]) -> str:
    """The comparison in a line, from a model card's ``random_split``."""
    return (
        f"Optimism of a random split: {100 * found['optimism']:+.1f} points (a quick {found['stand_in']}: "
        f"{100 * found['overall_accuracy_on_random_pixels']:.1f} % on random pixels, "
        f"{100 * found['overall_accuracy_on_held_out_ground']:.1f} % on held-out ground)"
    )
