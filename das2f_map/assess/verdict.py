"""A judgement of a model in one line, from its confusion matrix on held-out pixels.

The yardstick is a map that shows the commonest class everywhere. A model that does not beat it, or whose
agreement with the reference is hardly more than chance, makes maps that nobody should use. A random forest
that has learnt the same labels is a second yardstick: a model clearly behind it makes the worse map of two.
Where the forest may be ahead by chance, the sentence says so.

Source of the least kappa: Landis, J. R., Koch, G. G. (1977), "The measurement of observer agreement for
categorical data", Biometrics 33, 159–174, which calls agreement up to 0.2 slight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.bundle.card import NOT_ASSESSED, Verdict

MARGIN = 0.02
"""Least difference of overall accuracies, 0..1, that counts as better."""

ERRORS = 2.0
"""Standard errors by which a model must beat the commonest class, and a forest must beat the model.

The standard error takes pixels as independent. Neighbours are alike, so the true one is larger; the margin,
and kappa against the commonest class, guard against that.
"""

LEAST_KAPPA = 0.2


def judge(
    matrix: ConfusionMatrix,
    forest_accuracy: float | None = None,
    *,
    not_tested: Sequence[str] = (),
    doubts: Sequence[str] = (),
) -> Verdict:
    """Whether maps of a model are of use, and why.

    Parameters
    ----------
    matrix:
        Of the model on held-out pixels.
    forest_accuracy:
        Overall accuracy 0..1 of a random forest on the same pixels, ``None`` if there is none.
    not_tested:
        Classes without held-out pixels, which the sentence names.
    doubts:
        Clauses about the model's maps that end the sentence.

    Returns
    -------
    Not usable if the overall accuracy exceeds the share of the commonest reference class by less than
    :data:`MARGIN` or less than :data:`ERRORS` standard errors, if kappa is below :data:`LEAST_KAPPA`, or if
    the forest is ahead by more than :data:`MARGIN` and :data:`ERRORS` standard errors. Usable in all other
    cases. That includes held-out pixels that cannot tell, because there are none or all have one class; the
    text then starts with "not assessed". If significantly more than half of such pixels are mapped as other
    classes, the model is not usable.
    """
    accuracy = matrix.overall_accuracy
    if accuracy is None:
        return Verdict(usable=True, text=f"{NOT_ASSESSED}: no held-out pixels")
    common = _commonest(matrix)
    problem = _problem(accuracy, common, matrix, forest_accuracy)
    if problem is not None:
        text = f"do not use this map: {problem}"
    elif common.share < 1:
        text = _praise(accuracy, common, forest_accuracy)
    else:
        text = f'{NOT_ASSESSED}: all held-out pixels are "{common.name}"'
    text += "".join(f"; {clause}" for clause in (*_untested(not_tested), *doubts))
    return Verdict(
        usable=problem is None,
        text=text,
        overall_accuracy=accuracy,
        commonest_accuracy=common.share,
        forest_accuracy=forest_accuracy,
    )


@dataclass(frozen=True)
class _Commonest:
    """Name and share of the commonest reference class, and the standard error of a model's lead over it."""

    name: str
    share: float
    error: float


def _commonest(matrix: ConfusionMatrix) -> _Commonest:
    """Each pixel scores 1 if only the model has it right, -1 if only the commonest class is right, else 0.

    The lead is the mean score.
    """
    rows = matrix.counts.sum(axis=1)
    k = int(rows.argmax())
    total, both = matrix.total, int(matrix.counts[k, k])
    only_model, only_common = int(np.trace(matrix.counts)) - both, int(rows[k]) - both
    lead = (only_model - only_common) / total
    variance = (only_model + only_common) / total - lead**2
    return _Commonest(matrix.legend.names[k], int(rows[k]) / total, math.sqrt(max(0.0, variance) / total))


def _problem(
    accuracy: float, common: _Commonest, matrix: ConfusionMatrix, forest: float | None
) -> str | None:
    """Why a model's maps should not be used, ``None`` if they may be."""
    reached = "" if forest is None else f"; a random forest reaches {percent(forest)}"
    if common.share == 1:
        wrong = f'OA {percent(accuracy)} on held-out ground that is all "{common.name}"'
        chance = ERRORS * math.sqrt(0.25 / matrix.total)
        return f"{wrong}{reached}" if accuracy < 0.5 - chance else None
    if (found := _no_better(accuracy, common, matrix)) is not None:
        return f"{found}{reached}"
    if forest is None:
        return None
    chance = ERRORS * _error(accuracy, forest, matrix)
    if forest - accuracy > max(MARGIN + 1e-9, chance):
        return (
            f"a random forest does better ({percent(forest)}): OA {percent(accuracy)} on held-out ground, "
            f"{_lead(accuracy, common)}; train longer or with more labels"
        )
    return None


def _error(accuracy: float, other: float, matrix: ConfusionMatrix) -> float:
    """Standard error of the difference of two accuracies, as if of different pixels.

    On the same pixels it is smaller, which makes up for some of what neighbours make it larger.
    """
    return math.sqrt((accuracy * (1 - accuracy) + other * (1 - other)) / matrix.total)


def _no_better(accuracy: float, common: _Commonest, matrix: ConfusionMatrix) -> str | None:
    """Why a model is no better than always the commonest class, or chance; ``None`` if it is."""
    lead, kappa = accuracy - common.share, matrix.kappa
    than = f'than always "{common.name}" ({percent(common.share)})'
    # Shares such as 0.35 - 0.33 miss 0.02 by their last digit.
    if lead < MARGIN - 1e-9:
        how = "no" if lead <= 0 else "hardly"
        return f"OA {percent(accuracy)} on held-out ground is {how} better {than}"
    if lead < ERRORS * common.error:
        pixels = "pixel" if matrix.total == 1 else "pixels"
        return f"OA {percent(accuracy)} on {matrix.total:,} held-out {pixels} may be better {than} by chance"
    if kappa is not None and kappa < LEAST_KAPPA:
        return (
            f"OA {percent(accuracy)} on held-out ground is hardly more than chance (kappa {kappa:.2f}), "
            f"{_lead(accuracy, common)}"
        )
    return None


def _praise(accuracy: float, common: _Commonest, forest: float | None) -> str:
    """The sentence of a usable model."""
    lead = _lead(accuracy, common)
    text = f"OA {percent(accuracy)} on held-out ground"
    if forest is None:
        return f"{text}: {lead}"
    ahead = accuracy - forest
    if ahead < -MARGIN - 1e-9:
        advice = "train longer or with more labels"
        return f"a random forest may do better ({percent(forest)}): {text}, {lead}; {advice}"
    if abs(ahead) < 0.005:
        return f"{text}: {lead}, as good as a random forest"
    return f"{text}: {lead}, {_points(abs(ahead))} {'better' if ahead > 0 else 'worse'} than a random forest"


def _lead(accuracy: float, common: _Commonest) -> str:
    return f'{_points(accuracy - common.share)} better than always "{common.name}"'


def _untested(names: Sequence[str]) -> list[str]:
    return [f"not tested: {', '.join(names)}"] if names else []


def _points(difference: float) -> str:
    number = round(100 * difference)
    return f"{number} point{'' if number == 1 else 's'}"
