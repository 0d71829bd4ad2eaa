"""Verdicts of matrices worked by hand: each rule alone, its limit, and the sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.assess.verdict import judge
from das2f_map.legend import Legend

LEGEND = Legend.from_names(["Water", "Tree", "Soil"])


def matrix(*rows: list[int]) -> ConfusionMatrix:
    return ConfusionMatrix(LEGEND, np.array(rows))


GOOD = matrix([200, 40, 10], [108, 312, 80], [20, 170, 60])
"""1,000 pixels: 572 right, 500 of Tree."""


@pytest.mark.parametrize(
    ("forest", "text"),
    [
        (None, 'OA 57.2 % on held-out ground: 7 points better than always "Tree"'),
        (
            0.542,
            'OA 57.2 % on held-out ground: 7 points better than always "Tree", '
            "3 points better than a random forest",
        ),
        (
            0.576,
            'OA 57.2 % on held-out ground: 7 points better than always "Tree", as good as a random forest',
        ),
        (
            0.582,
            'OA 57.2 % on held-out ground: 7 points better than always "Tree", '
            "1 point worse than a random forest",
        ),
        (
            0.592,
            'OA 57.2 % on held-out ground: 7 points better than always "Tree", '
            "2 points worse than a random forest",
        ),
        (
            0.593,
            "a random forest may do better (59.3 %): OA 57.2 % on held-out ground, 7 points better than "
            'always "Tree"; train longer or with more labels',
        ),
    ],
)
def test_usable(forest: float | None, text: str) -> None:
    verdict = judge(GOOD, forest)
    assert verdict.usable
    assert verdict.text == text
    assert verdict.overall_accuracy == pytest.approx(0.572)
    assert verdict.commonest_accuracy == 0.5
    assert verdict.forest_accuracy == forest


def test_worse_than_the_commonest_class() -> None:
    poor = matrix([100, 100, 133], [110, 110, 110], [120, 117, 100])
    assert poor.total == 1000
    verdict = judge(poor)
    assert not verdict.usable
    assert verdict.text == (
        'do not use this map: OA 31.0 % on held-out ground is no better than always "Soil" (33.7 %)'
    )
    assert judge(poor, 0.32).text == verdict.text + "; a random forest reaches 32.0 %"
    assert judge(poor, 0.538).text == verdict.text + "; a random forest reaches 53.8 %"
    assert not judge(poor, 0.538).usable


def test_clearly_worse_than_a_forest() -> None:
    """572 of 1,000 right; with a forest at 61.5 % the standard error is sqrt((0.2448 + 0.2368) / 1000)."""
    assert judge(GOOD, 0.615).usable
    verdict = judge(GOOD, 0.617)
    assert not verdict.usable
    assert verdict.text == (
        "do not use this map: a random forest does better (61.7 %): OA 57.2 % on held-out ground, "
        '7 points better than always "Tree"; train longer or with more labels'
    )
    # A hundred times the pixels: 2 points are the limit.
    many = ConfusionMatrix(LEGEND, 100 * GOOD.counts)
    assert (judge(many, 0.592).usable, judge(many, 0.593).usable) == (True, False)


def test_two_points_are_the_least_lead() -> None:
    """A model that has all of the commonest class right, and some others: its lead has a small error."""
    almost = matrix([19, 2481, 0], [0, 5000, 0], [0, 2320, 180])
    verdict = judge(almost)
    assert not verdict.usable
    assert verdict.text == (
        'do not use this map: OA 52.0 % on held-out ground is hardly better than always "Tree" (50.0 %)'
    )
    # One pixel more.
    # Chance agrees on 0.25 · 0.002 + 0.5 · 0.98 + 0.25 · 0.018 = 0.495, kappa is 0.025 / 0.505.
    enough = judge(matrix([20, 2480, 0], [0, 5000, 0], [0, 2320, 180]))
    assert enough.text == (
        "do not use this map: OA 52.0 % on held-out ground is hardly more than chance (kappa 0.05), "
        '2 points better than always "Tree"'
    )


def test_few_pixels_prove_little() -> None:
    """Thirty pixels: only the model is right on 11, only the commonest class on 6.

    The lead is 5/30; its standard error is sqrt((17/30 - (5/30)²) / 30) = 0.134.
    """
    few = matrix([6, 2, 0], [3, 9, 3], [1, 1, 5])
    lead = 5 / 30
    assert lead < 2 * math.sqrt((17 / 30 - lead**2) / 30)
    verdict = judge(few)
    assert not verdict.usable
    assert verdict.text == (
        'do not use this map: OA 66.7 % on 30 held-out pixels may be better than always "Tree" (50.0 %) '
        "by chance"
    )
    # Ten times the pixels with the same shares are enough.
    assert judge(ConfusionMatrix(LEGEND, 10 * few.counts)).usable


def test_kappa_at_its_limit() -> None:
    """600 pixels of a class, all right, and 400 of another, of which a share x of 1,000 is right.

    Chance agrees on 0.6 - 0.2 x, so that kappa is 1.2 x / (0.4 + 0.2 x): 0.2 at x = 0.08 / 1.16 = 0.06897.
    """

    def of(right: int) -> ConfusionMatrix:
        return matrix([0, 0, 0], [0, 600, 0], [0, 400 - right, right])

    low, high = of(68), of(69)
    assert low.kappa is not None
    assert high.kappa is not None
    assert low.kappa < 0.2 <= high.kappa
    assert "kappa 0.20" in judge(low).text
    assert (judge(low).usable, judge(high).usable) == (False, True)


def test_not_assessed() -> None:
    none = judge(ConfusionMatrix.empty(LEGEND), 0.7)
    assert none.usable
    assert none.text == "not assessed: no held-out pixels"
    assert none.overall_accuracy is None
    one = judge(matrix([0, 0, 0], [2, 7, 1], [0, 0, 0]))
    assert one.usable
    assert one.text == 'not assessed: all held-out pixels are "Tree"'
    assert (one.overall_accuracy, one.commonest_accuracy) == (0.7, 1.0)
    # Half of 400 pixels has a standard error of 10.
    wrong = judge(matrix([0, 0, 0], [221, 179, 0], [0, 0, 0]))
    assert not wrong.usable
    assert wrong.text == 'do not use this map: OA 44.8 % on held-out ground that is all "Tree"'
    assert judge(matrix([0, 0, 0], [219, 181, 0], [0, 0, 0])).usable
    assert judge(matrix([0, 0, 0], [1, 0, 0], [0, 0, 0])).usable


@pytest.mark.parametrize("seed", range(3))
def test_a_model_of_chance_is_hardly_ever_usable_and_a_fair_one_nearly_always(seed: int) -> None:
    rng = np.random.default_rng(seed)
    usable = {"chance": 0, "fair": 0}
    for _ in range(100):
        reference = rng.choice(LEGEND.ids, 400, p=[0.2, 0.5, 0.3])
        guessed = rng.choice(LEGEND.ids, 400, p=[0.2, 0.5, 0.3])
        fair = np.where(rng.random(400) < 0.6, reference, guessed)
        for name, mapped in (("chance", guessed), ("fair", fair)):
            usable[name] += judge(ConfusionMatrix.from_arrays(reference, mapped, LEGEND)).usable
    assert usable["chance"] == 0
    assert usable["fair"] > 95


def test_clauses_about_classes_end_the_sentence() -> None:
    plain = judge(GOOD).text
    found = judge(GOOD, not_tested=["Soil", "Rock"], doubts=["look at water: 41 % of the scenes"])
    assert found.text == f"{plain}; not tested: Soil, Rock; look at water: 41 % of the scenes"
    assert found.usable
