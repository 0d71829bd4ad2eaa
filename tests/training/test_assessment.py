"""Figures on held-out ground: who chooses the check, and whose pixels count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from labelled import pixels_at, pixels_of, squares

from das2f_map.training.assessment import (
    HeldOut,
    assess,
    can_assess,
    held_out,
    learnt,
    matrix_of,
)
from das2f_map.training.folds import (
    CHOICE_FOLD,
    HOLDOUT_FOLDS,
    LEAST_TO_LEARN,
    TEST_FOLD,
    Fold,
    Folds,
    spatial_folds,
)
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Float32


def apart(*sizes: int) -> tuple[TrainingPixels, tuple[HeldOut, ...]]:
    """Two classes in turn, and a fold for each size, far from the others."""
    n = sum(sizes)
    at = np.arange(n)
    of_pixel = np.repeat(np.arange(len(sizes)), sizes)
    pixels = pixels_at(at, 100 * of_pixel, at % 2)
    return pixels, held_out(Folds(pixels, of_pixel, len(sizes), 17, 17), "folds", most=10_000, seed=0)


def answers(pixels: TrainingPixels, part: HeldOut, right: Sequence[float]) -> Float32:
    """Logits of as many checks as there are numbers, each the share of every class that is right."""
    truth = pixels.positions[part.fold.held]
    n = len(pixels.legend)
    logits = np.zeros((len(right), truth.size, n), np.float32)
    for check, share in enumerate(right):
        mapped = truth.copy()
        for k in range(n):
            own = np.flatnonzero(truth == k)
            wrong = own[round(share * own.size) :]
            mapped[wrong] = (k + 1) % n
        logits[check, np.arange(truth.size), mapped] = 1.0
    return logits


def test_other_folds_choose_the_check_of_a_fold() -> None:
    """The small fold does well at the first check alone, the larger ones at the last checks alone."""
    pixels, parts = apart(20, 40, 80)
    rights = ([1, 0, 0, 0, 0], [0, 0, 0, 0.9, 0.9], [0, 0, 0, 0.7, 0.8])
    found = assess(pixels, parts, [answers(pixels, p, r) for p, r in zip(parts, rights, strict=True)])
    assert found.chosen == (5, 5, 5)
    assert found.checks == 5
    # By its own choice the small fold would have all right; by that of the others it has none.
    assert [m.overall_accuracy for m in found.each] == pytest.approx([0.0, 0.9, 0.8])
    assert found.matrix.overall_accuracy == pytest.approx((0 + 36 + 64) / 140)
    assert found.matrix.counts.tolist() == [[50, 20], [20, 50]]
    assert found.summary()["overall_accuracy_of_each"] == [0.0, 0.9, 0.8]
    assert found.summary()["spread"] == pytest.approx(np.std([0.0, 0.9, 0.8], ddof=1), abs=1e-4)
    assert found.summary()["chosen_checks"] == [5, 5, 5]


def test_folds_may_be_measured_at_different_checks() -> None:
    """Two folds: each one's best check is the other's."""
    pixels, parts = apart(40, 40)
    rights = ([1, 0, 0, 0, 0.5], [0, 0, 0, 0.5, 1])
    found = assess(pixels, parts, [answers(pixels, p, r) for p, r in zip(parts, rights, strict=True)])
    assert found.chosen == (5, 1)
    assert [m.overall_accuracy for m in found.each] == [0.5, 0.0]
    # Together they have three quarters right at the last check: the final model is trained for all five.
    assert found.checks == 5
    # Classes are alike, so mean F1 and overall accuracy are; neighbours count for half of a check's weight.
    raw = np.array([0.5, 0, 0, 0.25, 0.75])
    smooth = [
        (a + 2 * b + c) / 4 for a, b, c in zip(raw[[0, 0, 1, 2, 3]], raw, raw[[1, 2, 3, 4, 4]], strict=True)
    ]
    assert found.curve == pytest.approx(smooth)


def test_a_single_fold_has_no_say_in_its_own_figures() -> None:
    """All its pixels are tested, so none may choose: the last check counts, however bad it is."""
    pixels, parts = apart(40, 40)
    found = assess(pixels, parts[:1], [answers(pixels, parts[0], [0.3, 1, 1, 0.4])])
    assert found.chosen == (4,)
    assert found.checks == 4
    assert found.matrix.overall_accuracy == pytest.approx(0.4)


def test_a_lucky_check_does_not_beat_a_steady_time() -> None:
    pixels, parts = apart(80, 80)
    right = [0, 0.9, 0, 0.6, 0.6, 0.6]
    found = assess(pixels, parts, [answers(pixels, p, right) for p in parts])
    # Of the smoothed values 0.45, 0.6 at check 5 and 0.6 at check 6 the first best one counts.
    assert found.checks == 5


def test_logits_are_those_of_the_chosen_checks() -> None:
    pixels, parts = apart(40, 40)
    rights = ([1, 0, 0, 0, 0.5], [0, 0, 0, 0.5, 1])
    logits = [answers(pixels, p, r) for p, r in zip(parts, rights, strict=True)]
    found = assess(pixels, parts, logits)
    np.testing.assert_array_equal(found.logits, np.concatenate([logits[0][4], logits[1][0]]))
    np.testing.assert_array_equal(
        found.positions, pixels.positions[np.concatenate([p.fold.held for p in parts])]
    )


def rare(train: int) -> tuple[TrainingPixels, HeldOut]:
    """Some training pixels of class c2, and ten held-out pixels of each class."""
    positions = np.concatenate([np.repeat([0, 1, 2], [30, 30, train]), np.repeat([0, 1, 2], 10)])
    at = np.arange(positions.size)
    n = 60 + train
    everything = np.ones(30, bool)
    return pixels_at(at, at, positions), HeldOut("fold-1", Fold(at[:n], at[n:]), everything, everything)


@pytest.mark.parametrize(("train", "can"), [(LEAST_TO_LEARN, True), (LEAST_TO_LEARN - 1, False), (0, False)])
def test_a_class_that_cannot_be_learnt_is_not_assessed(train: int, can: bool) -> None:
    pixels, part = rare(train)
    assert learnt(pixels, part).tolist() == [True] * 20 + [can] * 10
    # All of c0 and c1 is right, and no pixel of c2.
    logits = answers(pixels, part, [1.0])
    logits[:, 20:] = [1.0, 0.0, 0.0]
    found = assess(pixels, [part], [logits])
    assert found.matrix.total == (30 if can else 20)
    assert found.not_assessed == (() if can else ("c2",))
    assert found.matrix.overall_accuracy == pytest.approx(2 / 3 if can else 1.0)
    assert found.positions.size == len(found.logits) == found.matrix.total
    assert found.summary()["spread"] is None, "one training has no spread"


def test_the_last_check_counts_where_no_pixel_chooses() -> None:
    """The choosing pixels have a class that could not be learnt."""
    pixels, part = rare(0)
    rare_ones = np.arange(30) >= 20
    single = HeldOut("holdout", part.fold, ~rare_ones, rare_ones)
    found = assess(pixels, [single], [answers(pixels, single, [0.5, 1.0, 0.7])])
    assert found.chosen == (3,)
    assert found.checks == 3
    assert found.matrix.overall_accuracy == pytest.approx(0.7)


def part_of(train: Sequence[int], held: Sequence[int]) -> tuple[TrainingPixels, HeldOut]:
    """Training and held-out pixels of classes c0, c1, …, as many as the numbers say."""
    positions = np.concatenate([np.repeat(np.arange(3), train), np.repeat(np.arange(3), held)])
    at, n = np.arange(positions.size), sum(train)
    everything = np.ones(sum(held), bool)
    fold = Fold(at[:n], at[n:])
    return pixels_at(at, at, positions, classes=3), HeldOut("fold-1", fold, everything, everything)


@pytest.mark.parametrize(
    ("train", "held", "can"),
    [
        ((8, 8, 0), (1, 0, 0), True),
        ((8, 7, 7), (5, 5, 5), False),  # one class alone to learn
        ((8, 8, 0), (0, 0, 9), False),  # nothing to test of the two
        ((0, 0, 0), (5, 5, 5), False),
        ((20, 20, 20), (0, 0, 0), False),
    ],
)
def test_parts_that_can_assess(train: Sequence[int], held: Sequence[int], can: bool) -> None:
    assert can_assess(*part_of(train, held)) is can


def test_a_part_needs_tested_pixels() -> None:
    pixels, part = part_of((8, 8, 8), (5, 5, 5))
    nothing = np.zeros(15, bool)
    assert not can_assess(pixels, HeldOut("holdout", part.fold, nothing, part.chooses))


def test_hold_out_chooses_and_tests_on_different_ground() -> None:
    pixels = pixels_of(squares(260, 60, 5, 3, 0))
    folds = spatial_folds(pixels, HOLDOUT_FOLDS, gap=17, seed=0, holdout=True)
    (part,) = held_out(folds, "holdout", most=10_000, seed=0)
    assert part.name == "holdout"
    assert not (part.tests & part.chooses).any()
    assert (part.tests | part.chooses).all()
    for flag, number in ((part.tests, TEST_FOLD), (part.chooses, CHOICE_FOLD)):
        assert part.fold.held[flag].tolist() == np.flatnonzero(folds.of_pixel == number).tolist()
    assert not set(part.fold.train) & set(part.fold.held)
    assert not np.isin(folds.of_pixel[part.fold.train], [TEST_FOLD, CHOICE_FOLD]).any()


def test_hold_out_is_measured_where_its_choice_falls() -> None:
    """Test pixels do best at the first check, choosing pixels at the last: the last one gives the figures."""
    at = np.arange(120)
    pixels = pixels_at(at, at, at % 2)
    tests = np.arange(40) < 20
    part = HeldOut("holdout", Fold(at[40:], at[:40]), tests, ~tests)
    logits = answers(pixels, part, [0, 0, 0])
    good = answers(pixels, part, [1, 1, 1])
    logits[0, tests] = good[0, tests]
    logits[2, ~tests] = good[2, ~tests]
    found = assess(pixels, [part], [logits])
    assert found.chosen == (3,)
    assert found.checks == 3
    assert found.matrix.total == 20
    assert found.matrix.overall_accuracy == 0.0


def test_many_held_out_pixels_are_thinned_at_random() -> None:
    pixels = pixels_of(squares(260, 60, 5, 3, 0))
    folds = spatial_folds(pixels, 3, gap=17, seed=0)
    whole = held_out(folds, "folds", most=10_000, seed=0)
    assert [p.name for p in whole] == ["fold-1", "fold-2", "fold-3"]
    thin, same, other = (held_out(folds, "folds", most=100, seed=s) for s in (0, 0, 1))
    for number, part in enumerate(thin):
        held = part.fold.held
        assert held.size == np.unique(held).size == part.tests.size == part.chooses.size == 100
        assert part.tests.all()
        assert part.chooses.all()
        assert set(folds.of_pixel[held]) == {number}
        assert np.array_equal(part.fold.train, whole[number].fold.train), "training keeps its pixels"
        assert np.array_equal(held, same[number].fold.held)
        assert not np.array_equal(held, other[number].fold.held)
        # At random, not the first ones of the scene.
        assert pixels.rows[held].max() > np.sort(pixels.rows[whole[number].fold.held])[-20]


def test_matrix_of_probabilities() -> None:
    pixels = pixels_at(np.arange(4), np.arange(4), np.array([0, 1, 2, 2]))
    probabilities = np.array([[0.6, 0.2, 0.2], [0.5, 0.3, 0.2], [0, 0, 1], [0.1, 0.8, 0.1]])
    matrix = matrix_of(probabilities, pixels.positions, pixels.legend)
    assert matrix.counts.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]


def test_figures_may_be_made_of_other_logits_than_the_choice() -> None:
    """The checks are chosen by upright patches; the figures are those of turned ones."""
    pixels, parts = apart(40, 40)
    upright = [answers(pixels, p, [0.2, 0.9, 0.5]) for p in parts]
    asked = []

    def at_check(part: HeldOut, check: int) -> Float32:
        asked.append((part.name, check))
        return answers(pixels, part, [0.75])[0]

    found = assess(pixels, parts, upright, at_check)
    assert asked == [("fold-1", 1), ("fold-2", 1)]
    assert found.checks == 2
    assert found.matrix.overall_accuracy == pytest.approx(0.75)
    assert (found.logits.argmax(axis=1) == found.positions).mean() == pytest.approx(0.75)
    assert found.groups.tolist() == [0] * 40 + [2] * 40


def test_thinning_leaves_some_pixels_of_a_rare_class() -> None:
    n = 3000
    positions = np.zeros(n, int)
    positions[[5, 900, 1700]] = 1
    positions[2000:2030] = 2
    folds = Folds(pixels_at(np.arange(n), np.zeros(n, int), positions), np.zeros(n, np.int64), 1, 17, 17)
    (part,) = held_out(folds, "folds", most=300, seed=0)
    kept = np.bincount(positions[part.fold.held])
    assert kept[1:].tolist() == [3, 5]
    assert 300 <= kept.sum() <= 308
    assert np.unique(part.fold.held).size == part.fold.held.size == part.tests.size
