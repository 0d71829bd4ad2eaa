"""A random forest on the same held-out ground as the network: the figure that a network has to beat."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.errors import MissingDependencyError
from das2f_map.training.assessment import HeldOut, learnt, matrix_of
from das2f_map.training.baselines import (
    Baseline,
    FeatureFunction,
    ForestSettings,
    pixel_features,
    random_forest,
    stack_features,
    window_features,
)
from das2f_map.training.batches import PlainBatches
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.scene_shares import shares_of
from das2f_map.types import Float32, Int64

log = logging.getLogger(__name__)

MOST_LEARNT = 5000
"""Training pixels of a forest; more are thinned at random: they cost time and change its figures little."""

TREES = 100
"""More trees cost seconds and change the overall accuracy by tenths of a point."""


@dataclass(frozen=True, eq=False)
class ForestFigures:
    """The better of two forests: one with the target's values alone, one with statistics around it too.

    Attributes
    ----------
    features:
        Of the better one.
    matrix:
        Of all tested pixels, each mapped by a forest that has not seen its ground.
    """

    features: FeatureFunction
    matrix: ConfusionMatrix


def forest_figures(pixels: TrainingPixels, parts: Sequence[HeldOut], seed: int) -> ForestFigures | None:
    """The forests' figures; ``None`` without scikit-learn, or where no pixel is tested."""
    try:
        found = [
            ForestFigures(features, _matrix(pixels, parts, seed, features))
            for features in (pixel_features, window_features)
        ]
    except MissingDependencyError:
        log.warning("No comparison with a random forest: scikit-learn is not installed")
        return None
    best = max(found, key=lambda each: each.matrix.overall_accuracy or 0.0)
    return best if best.matrix.total else None


def forest_shares(pixels: TrainingPixels, features: FeatureFunction, seed: int) -> dict[str, float]:
    """Share of each class by name in the scenes, as a forest of all labels maps them."""
    everything = np.arange(len(pixels))
    forest = _learnt(pixels, everything, features, seed, np.random.default_rng([seed, 13]))

    def classes(ms: Tensor, pan: Tensor) -> Int64:
        return np.asarray(forest.probabilities(features(ms, pan)).argmax(axis=1), np.int64)

    return shares_of(classes, pixels, seed)


def _matrix(
    pixels: TrainingPixels, parts: Sequence[HeldOut], seed: int, features: FeatureFunction
) -> ConfusionMatrix:
    total = ConfusionMatrix.empty(pixels.legend)
    rng = np.random.default_rng([seed, 6])
    for part in parts:
        test = part.fold.held[part.tests & learnt(pixels, part)]
        if not test.size:
            continue
        forest = _learnt(pixels, part.fold.train, features, seed, rng)
        rows: Float32 = stack_features(_patches(pixels, test), features)
        total += matrix_of(forest.probabilities(rows), pixels.positions[test], pixels.legend)
    return total


def _learnt(
    pixels: TrainingPixels,
    train: Int64,
    features: FeatureFunction,
    seed: int,
    rng: np.random.Generator,
) -> Baseline:
    """A forest of some labelled pixels, thinned if there are many."""
    if train.size > MOST_LEARNT:
        train = np.sort(rng.choice(train, MOST_LEARNT, replace=False))
    forest = random_forest(len(pixels.legend), seed, ForestSettings(trees=TREES))
    forest.fit(stack_features(_patches(pixels, train), features), pixels.positions[train])
    return forest


def _patches(pixels: TrainingPixels, at: Int64) -> Iterator[tuple[Tensor, Tensor]]:
    return (pixels.patches(at[batch.positions]) for batch in PlainBatches(at.size, 256))
