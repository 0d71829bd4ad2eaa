"""A random forest on the same held-out ground as the network: the figure that a network has to beat."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.errors import MissingDependencyError
from das2f_map.training.assessment import HeldOut, learnt, matrix_of
from das2f_map.training.baselines import pixel_features, random_forest, stack_features, window_features
from das2f_map.training.batches import PlainBatches
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Float32, Int64

log = logging.getLogger(__name__)

MOST_LEARNT = 5000
"""Training pixels of a forest; more are thinned at random: they cost time and change its figures little."""


def forest_matrix(pixels: TrainingPixels, parts: Sequence[HeldOut], seed: int) -> ConfusionMatrix | None:
    """The better of two forests, one with the target's values alone and one with statistics around it.

    ``None`` without scikit-learn, or where no pixel is tested.
    """
    try:
        found = [_matrix(pixels, parts, seed, windows=windows) for windows in (False, True)]
    except MissingDependencyError:
        log.warning("No comparison with a random forest: scikit-learn is not installed")
        return None
    return max(found, key=lambda m: m.overall_accuracy or 0.0) if found[0].total else None


def _matrix(pixels: TrainingPixels, parts: Sequence[HeldOut], seed: int, *, windows: bool) -> ConfusionMatrix:
    features = window_features if windows else pixel_features
    total = ConfusionMatrix.empty(pixels.legend)
    rng = np.random.default_rng([seed, 6])
    for part in parts:
        train, test = part.fold.train, part.fold.held[part.tests & learnt(pixels, part)]
        if train.size > MOST_LEARNT:
            train = np.sort(rng.choice(train, MOST_LEARNT, replace=False))
        if not test.size:
            continue
        forest = random_forest(len(pixels.legend), seed)
        forest.fit(stack_features(_patches(pixels, train), features), pixels.positions[train])
        rows: Float32 = stack_features(_patches(pixels, test), features)
        total += matrix_of(forest.probabilities(rows), pixels.positions[test], pixels.legend)
    return total


def _patches(pixels: TrainingPixels, at: Int64) -> Iterator[tuple[Tensor, Tensor]]:
    return (pixels.patches(at[batch.positions]) for batch in PlainBatches(at.size, 256))
