"""The accuracy of a training on held-out ground, and the number of steps that this ground chooses.

Folds. Each fold's network is checked several times while it learns. The figures of a fold are taken at the
check that the *other* folds do best at, so that no held-out pixel has a say in its own figures. The final
model takes as many steps as all folds together do best at.

Hold-out. One part of the ground chooses the check, another part, which has no say in it, gives the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.legend import Legend
from das2f_map.training.folds import CHOICE_FOLD, LEAST_TO_LEARN, TEST_FOLD, Fold, Folds
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Bool, Float32, Float64, Int64

MOST_HELD_CPU, MOST_HELD_GPU, MOST_HELD_FAST = 600, 20_000, 300
"""Held-out pixels of a fold that are checked; more are thinned at random, as every check costs time."""

LEAST_KEPT = 5
"""Pixels of a class that thinning leaves: a rare class would else go untested."""

AtCheck = Callable[["HeldOut", int], Float32]
"""A part and a check, from 0 → logits float32 (held, C) that the figures are made of."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A training to assess, and the pixels that are held out of it.

    Attributes
    ----------
    name:
        For messages and files, as in ``fold-1``.
    fold:
        Pixels to learn from, and pixels to check, as positions in all pixels.
    tests, chooses:
        bool (held,): checked pixels that give figures, and those that choose the number of steps.
    """

    name: str
    fold: Fold
    tests: Bool
    chooses: Bool


def held_out(folds: Folds, method: str, *, most: int, seed: int) -> tuple[HeldOut, ...]:
    """The trainings that assess a model: one for each fold, or a single one for a hold-out.

    Parameters
    ----------
    method:
        ``folds`` or ``holdout``.
    most:
        Pixels that each of them checks at most.
    """
    rng = np.random.default_rng([seed, 5])
    if method == "holdout":
        # Half of the checked pixels choose, half give the figures.
        fold = _thinned(folds.pixels, folds.fold(TEST_FOLD, CHOICE_FOLD), 2 * most, rng)
        of_held = folds.of_pixel[fold.held]
        return (HeldOut("holdout", fold, of_held == TEST_FOLD, of_held == CHOICE_FOLD),)
    found = []
    for number, whole in enumerate(folds.each(), start=1):
        fold = _thinned(folds.pixels, whole, most, rng)
        everything = np.ones(fold.held.size, bool)
        found.append(HeldOut(f"fold-{number}", fold, everything, everything))
    return tuple(found)


def _thinned(pixels: TrainingPixels, fold: Fold, most: int, rng: np.random.Generator) -> Fold:
    """A fold with ``most`` held-out pixels drawn at random, and some more of rare classes."""
    if fold.held.size <= most:
        return fold
    drawn = rng.choice(fold.held, most, replace=False)
    rest = rng.permutation(np.setdiff1d(fold.held, drawn))
    kept = [drawn]
    for k in np.unique(pixels.positions[rest]):
        lacking = max(0, LEAST_KEPT - int((pixels.positions[drawn] == k).sum()))
        kept.append(rest[pixels.positions[rest] == k][:lacking])
    return Fold(fold.train, np.sort(np.concatenate(kept)))


@dataclass(frozen=True, eq=False)
class Assessment:
    """Figures on held-out ground.

    Attributes
    ----------
    matrix:
        Of all tested pixels, each mapped by a network that has not seen its ground.
    each:
        The matrix of every fold.
    positions, logits, groups:
        Of the pixels that the probabilities are calibrated on: class int64 (n,), logits float32 (n, C), and
        the number of the held-out ground, int64 (n,). They are the tested pixels, and with a hold-out also
        those that choose.
    chosen:
        Check, from 1, that each fold's figures are taken at.
    checks:
        Number of checks that the final model is trained for.
    curve:
        Quality at every check over all choosing pixels, 0..1.
    not_assessed:
        Classes without tested pixels.
    """

    matrix: ConfusionMatrix
    each: tuple[ConfusionMatrix, ...]
    positions: Int64
    logits: Float32
    groups: Int64
    chosen: tuple[int, ...]
    checks: int
    curve: tuple[float, ...]
    not_assessed: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """The spread over the folds and the choice of the steps, for the model card."""
        accuracies = [m.overall_accuracy for m in self.each if m.overall_accuracy is not None]
        return {
            "overall_accuracy_of_each": [round(a, 4) for a in accuracies],
            "spread": round(float(np.std(accuracies, ddof=1)), 4) if len(accuracies) > 1 else None,
            "mean_f1": self.matrix.mean_f1,
            "chosen_checks": list(self.chosen),
            "quality_by_check": [round(q, 4) for q in self.curve],
            "not_assessed": list(self.not_assessed),
        }


def assess(
    pixels: TrainingPixels,
    parts: Sequence[HeldOut],
    logits: Sequence[Float32],
    at_check: AtCheck | None = None,
) -> Assessment:
    """Figures of some trainings.

    Parameters
    ----------
    logits:
        Of the checked pixels of each training at every check, float32 (checks, held, C). They choose the
        check. Where no pixel chooses, the last one is taken.
    at_check:
        Gives the logits that the figures are made of, where they are others than those that choose.
    """
    can = [learnt(pixels, part) for part in parts]
    if len(parts) == 1 and (parts[0].tests & parts[0].chooses).any():
        # No tested pixel has a say in its own figures: they are taken at the last check.
        (only,) = parts
        parts = (replace(only, chooses=np.zeros(only.fold.held.size, bool)),)
    counts = [
        np.stack([_counts(pixels, part, at, part.chooses & ok) for at in found])
        for part, found, ok in zip(parts, logits, can, strict=True)
    ]
    together = np.sum(counts, axis=0)
    chosen = []
    for own in counts:
        others = together - own if len(parts) > 1 else own
        chosen.append(_choice(others))
    matrices, positions, kept, groups = [], [], [], []
    for number, (part, found, ok, check) in enumerate(zip(parts, logits, can, chosen, strict=True)):
        values = found[check] if at_check is None else at_check(part, check)
        counted = _counts(pixels, part, values, part.tests & ok)
        matrices.append(ConfusionMatrix(pixels.legend, counted))
        use = (part.tests | part.chooses) & ok
        positions.append(pixels.positions[part.fold.held[use]])
        kept.append(values[use])
        groups.append(2 * number + (part.tests[use] < part.chooses[use]))
    matrix = sum(matrices[1:], matrices[0])
    without = matrix.counts.sum(axis=1) == 0
    return Assessment(
        matrix,
        tuple(matrices),
        np.concatenate(positions),
        np.concatenate(kept),
        np.concatenate(groups),
        tuple(k + 1 for k in chosen),
        _choice(together) + 1,
        tuple(float(q) for q in _quality(together)),
        tuple(name for name, none in zip(pixels.legend.names, without, strict=True) if none),
    )


def can_assess(pixels: TrainingPixels, part: HeldOut) -> bool:
    """Whether a part's network can learn two classes, and some tested pixel has a class that it can learn.

    Labels in one or two places leave a fold without: nothing lies outside its ground, or one class alone.
    """
    seen = np.bincount(pixels.positions[part.fold.train], minlength=len(pixels.legend))
    return bool((seen >= LEAST_TO_LEARN).sum() >= 2 and (part.tests & learnt(pixels, part)).any())


def learnt(pixels: TrainingPixels, part: HeldOut) -> Bool:
    """Which checked pixels have a class that their network could learn, bool (held,)."""
    seen = np.bincount(pixels.positions[part.fold.train], minlength=len(pixels.legend))
    return np.asarray((seen >= LEAST_TO_LEARN)[pixels.positions[part.fold.held]])


def _counts(pixels: TrainingPixels, part: HeldOut, logits: Float32, use: Bool) -> Int64:
    """Confusion counts int64 (C, C) of some of a part's checked pixels."""
    n = len(pixels.legend)
    truth = pixels.positions[part.fold.held[use]]
    flat = np.bincount(truth * n + logits[use].argmax(axis=1), minlength=n * n)
    return flat.reshape(n, n).astype(np.int64)


def _quality(counts: Int64) -> Float64:
    """Mean of overall accuracy and mean F1 at every check, smoothed over checks, (checks,)."""
    total = counts.sum(axis=(1, 2))
    right = np.diagonal(counts, axis1=1, axis2=2)
    reference, mapped = counts.sum(axis=2), counts.sum(axis=1)
    f1 = 2 * right / np.maximum(1, reference + mapped)
    known = reference > 0
    mean_f1 = (f1 * known).sum(axis=1) / np.maximum(1, known.sum(axis=1))
    raw = (right.sum(axis=1) / np.maximum(1, total) + mean_f1) / 2
    padded = np.pad(raw, 1, mode="edge")
    return np.asarray((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)


def _choice(counts: Int64) -> int:
    """The check of the best quality, of nearly equal ones the first; the last where no pixel chooses."""
    if not counts.any():
        return len(counts) - 1
    quality = _quality(counts)
    return int(np.argmax(quality >= quality.max() - 1e-9))


def matrix_of(probabilities: Float64, positions: Int64, legend: Legend) -> ConfusionMatrix:
    """Confusion matrix of probabilities (n, C) of pixels with known classes (n,)."""
    n = len(legend)
    flat = np.bincount(positions * n + probabilities.argmax(axis=1), minlength=n * n)
    return ConfusionMatrix(legend, flat.reshape(n, n).astype(np.int64))
