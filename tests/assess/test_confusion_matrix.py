"""Accuracy figures against scikit-learn and a published-style example worked by hand."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.legend import Legend

LEGEND = Legend.from_names(["water", "forest", "soil"], [2, 5, 200])


def test_hand_worked_example() -> None:
    # reference down, map across:   water forest soil
    matrix = ConfusionMatrix(LEGEND, np.array([[40, 5, 5], [0, 20, 10], [10, 0, 10]]))
    assert matrix.total == 100
    assert matrix.overall_accuracy == pytest.approx(0.70)
    assert matrix.average_accuracy == pytest.approx((40 / 50 + 20 / 30 + 10 / 20) / 3)
    # chance: (50·50 + 30·25 + 20·25) / 100² = 0.375
    assert matrix.kappa == pytest.approx((0.70 - 0.375) / (1 - 0.375))
    water, forest, soil = matrix.per_class()
    assert (water.producers_accuracy, water.users_accuracy) == (0.8, 0.8)
    assert forest.users_accuracy == 0.8
    assert soil.users_accuracy == 0.4
    assert soil.f1 == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert (soil.reference_pixels, soil.mapped_pixels, soil.correct_pixels) == (20, 25, 10)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.array(LEGEND.ids)
    reference = rng.choice(ids, (37, 53), p=[0.7, 0.25, 0.05])
    mapped = np.where(rng.random(reference.shape) < 0.6, reference, rng.choice(ids, reference.shape))
    mask = rng.random(reference.shape) < 0.8
    matrix = ConfusionMatrix.from_arrays(reference, mapped, LEGEND, mask)
    a, b = reference[mask], mapped[mask]
    assert matrix.counts.tolist() == metrics.confusion_matrix(a, b, labels=ids).tolist()
    assert matrix.overall_accuracy == pytest.approx(metrics.accuracy_score(a, b))
    assert matrix.average_accuracy == pytest.approx(metrics.balanced_accuracy_score(a, b))
    assert matrix.kappa == pytest.approx(metrics.cohen_kappa_score(a, b))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(a, b, labels=ids)
    for k, c in enumerate(matrix.per_class()):
        assert c.users_accuracy == pytest.approx(precision[k])
        assert c.producers_accuracy == pytest.approx(recall[k])
        assert c.f1 == pytest.approx(f1[k])
        assert c.reference_pixels == support[k]


def test_blocks_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    reference, mapped = rng.choice(LEGEND.ids, (2, 40, 30))
    whole = ConfusionMatrix.from_arrays(reference, mapped, LEGEND)
    total = ConfusionMatrix.empty(LEGEND)
    for rows in (slice(0, 7), slice(7, 33), slice(33, 40)):
        total += ConfusionMatrix.from_arrays(reference[rows], mapped[rows], LEGEND)
    assert total.counts.tolist() == whole.counts.tolist()
    assert total.total == 1200


def test_nodata_and_foreign_ids_are_not_counted() -> None:
    reference = np.array([0, 2, 2, 5, 200, -1, 70_000, 5])
    mapped = np.array([2, 0, 2, 5, 2, 2, 2, 99])
    matrix = ConfusionMatrix.from_arrays(reference, mapped, LEGEND)
    assert matrix.counts.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_undefined_figures_are_null_in_json_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Soil is neither in the reference nor mapped; forest is mapped only.
        matrix = ConfusionMatrix(LEGEND, np.array([[8, 2, 0], [0, 0, 0], [0, 0, 0]]))
        record = json.loads(json.dumps(matrix.to_dict(), allow_nan=False))
        _, forest, soil = record["classes"]
        assert record["average_accuracy"] == 0.8
        assert (forest["producers_accuracy"], forest["users_accuracy"]) == (None, 0.0)
        assert (soil["producers_accuracy"], soil["users_accuracy"], soil["f1"]) == (None, None, None)
        assert record["kappa"] == 0.0
        assert matrix.class_table()[2] == ["forest", "–", "0.0 %", "–", "0"]
        empty = ConfusionMatrix.empty(LEGEND)
        assert (empty.overall_accuracy, empty.average_accuracy, empty.kappa) == (None, None, None)
        # One class everywhere: chance alone agrees fully, kappa has no meaning.
        assert ConfusionMatrix(LEGEND, np.diag([9, 0, 0])).kappa is None
        assert empty.class_table()[1][1] == "–"


def test_kappa_of_a_map_of_a_thousand_million_pixels_does_not_overflow() -> None:
    small = np.array([[5, 1, 0], [1, 5, 0], [0, 2, 4]])
    large = ConfusionMatrix(LEGEND, small * 10**12)
    assert large.kappa == pytest.approx(ConfusionMatrix(LEGEND, small).kappa)


def test_dictionary_round_trip_and_tables() -> None:
    matrix = ConfusionMatrix(LEGEND, np.array([[4000, 5, 5], [0, 20, 10], [10, 0, 10]]))
    again = ConfusionMatrix.from_dict(json.loads(json.dumps(matrix.to_dict())))
    assert again.legend.names == LEGEND.names
    assert again.counts.tolist() == matrix.counts.tolist()
    assert matrix.matrix_table() == [
        ["reference \\ map", "water", "forest", "soil", "total"],
        ["water", "4,000", "5", "5", "4,010"],
        ["forest", "0", "20", "10", "30"],
        ["soil", "10", "0", "10", "20"],
        ["total", "4,010", "25", "25", "4,060"],
    ]
    assert matrix.class_table()[2] == ["forest", "66.7 %", "80.0 %", "72.7 %", "30"]


def test_matrices_of_different_legends_do_not_add() -> None:
    with pytest.raises(ValueError, match="different legends"):
        ConfusionMatrix.empty(LEGEND) + ConfusionMatrix.empty(Legend.from_names(["a", "b", "c"]))
