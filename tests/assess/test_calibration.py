"""Temperatures that are known because the labels were drawn with them; calibration errors worked by hand."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from das2f_map.assess.calibration import (
    TEMPERATURES,
    calibrate,
    error_of,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
    softmax,
)
from das2f_map.assess.reliability_figure import draw_reliability

COLDEST, HOTTEST = TEMPERATURES


def drawn_with(temperature: float, n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of four classes, and labels drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=4, size=(n, 4)).astype(np.float32)
    # The largest of logits / T + Gumbel noise has the probabilities of the softmax at T.
    labels = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


def cross_entropy(logits: NDArray[np.float32], positions: NDArray[np.int64], temperature: float) -> float:
    """Pixel by pixel."""
    found = []
    for row, true in zip(logits.tolist(), positions.tolist(), strict=True):
        scaled = [value / temperature for value in row]
        top = max(scaled)
        found.append(top + math.log(sum(math.exp(v - top) for v in scaled)) - scaled[true])
    return math.fsum(found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.7, 8.0])
def test_temperature_of_the_labels_is_found(temperature: float) -> None:
    logits, labels = drawn_with(temperature, 40_000)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.04)
    # Adding a number to all logits of a pixel changes no softmax, and halving them halves the temperature.
    moved = logits.astype(np.float64) + np.random.default_rng(1).normal(scale=500, size=(40_000, 1))
    assert fit_temperature(moved, labels) == pytest.approx(found, rel=1e-9)
    assert fit_temperature(logits / 2, labels) == pytest.approx(max(COLDEST, found / 2), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_temperature_has_a_lower_cross_entropy(seed: int) -> None:
    logits, labels = drawn_with(3.0, 60, seed)
    found = fit_temperature(logits, labels)
    assert COLDEST < found < HOTTEST
    least = cross_entropy(logits, labels, found)
    for factor in (0.3, 0.9, 0.999, 1.001, 1.1, 3.0):
        assert cross_entropy(logits, labels, found * factor) > least


def test_degenerate_sets_end_at_the_limits() -> None:
    logits, _ = drawn_with(1.0, 30)
    assert fit_temperature(logits, logits.argmax(axis=1)) == COLDEST
    assert fit_temperature(logits, logits.argmin(axis=1)) == HOTTEST
    assert fit_temperature(logits[:1], logits[:1].argmax(axis=1)) == COLDEST
    assert fit_temperature(np.full((5, 3), 7.0), np.array([0, 1, 2, 0, 0])) == 1.0
    assert fit_temperature(np.zeros((5, 1)), np.zeros(5, int)) == 1.0
    # Two classes tie in every pixel and are right equally often: any low temperature leaves the tie.
    assert fit_temperature(np.array([[1, 1, -9], [1, 1, -9.0]]), np.array([0, 1])) == COLDEST
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        huge = np.array([[3e4, -3e4], [3e4, -3e4], [-3e4, 3e4]], np.float32)
        assert fit_temperature(huge, np.array([0, 1, 1])) == HOTTEST


def test_softmax_is_exact_for_large_logits() -> None:
    found = softmax(np.array([[1000.0, 1000.0 + math.log(3)]], np.float64), 1)
    np.testing.assert_allclose(found, [[0.25, 0.75]], rtol=1e-12)
    np.testing.assert_allclose(softmax(np.array([[0, 2 * math.log(3)]]), 2), [[0.25, 0.75]])


HAND = np.array([[0.95, 0.05], [0.9, 0.1], [0.35, 0.65], [0.4, 0.6], [0.5, 0.5]])
HAND_POSITIONS = np.array([0, 1, 1, 0, 0])
"""Confidences 0.95 right, 0.9 wrong, 0.65 right, 0.6 wrong, 0.5 right (a tie goes to the first class)."""


def test_calibration_error_worked_by_hand() -> None:
    """Five bins: (0.8, 1] has 0.95 and 0.9; (0.6, 0.8] has 0.65; (0.4, 0.6] has 0.6 and 0.5."""
    bins = reliability_bins(HAND, HAND_POSITIONS, bins=5)
    assert [b.pixels for b in bins] == [2, 1, 2]
    assert [b.confidence for b in bins] == pytest.approx([0.55, 0.65, 0.925])
    assert [b.accuracy for b in bins] == [0.5, 1.0, 0.5]
    expected = (2 * 0.05 + 1 * 0.35 + 2 * 0.425) / 5
    assert expected_calibration_error(HAND, HAND_POSITIONS, bins=5) == pytest.approx(expected)
    assert error_of(bins) == pytest.approx(expected)
    # A confidence of 0.5 belongs to the interval that ends there.
    assert [b.pixels for b in reliability_bins(HAND, HAND_POSITIONS, bins=4)] == [1, 2, 2]
    # One bin: mean confidence 0.72, accuracy 0.6.
    assert expected_calibration_error(HAND, HAND_POSITIONS, bins=1) == pytest.approx(0.12)


def test_sure_and_right_has_no_error_and_sure_and_wrong_has_the_largest() -> None:
    sure = np.eye(3)[[0, 1, 2]]
    assert expected_calibration_error(sure, np.array([0, 1, 2])) == 0
    assert expected_calibration_error(sure, np.array([1, 2, 0])) == 1
    # A float32 softmax may exceed 1 by its last digit.
    above = (sure * np.nextafter(np.float32(1), np.float32(2))).astype(np.float32)
    assert expected_calibration_error(above, np.array([0, 1, 2])) == 0


def test_calibrated_network_has_a_small_error() -> None:
    logits, labels = drawn_with(3.0, 20_000)
    found = calibrate(logits, labels)
    assert found.temperature == pytest.approx(3, rel=0.04)
    assert found.pixels == 20_000 == sum(b.pixels for b in found.bins)
    assert found.error_before > 0.1
    assert found.error_after < 0.02
    assert error_of(found.bins) == found.error_after
    chosen = softmax(logits, found.temperature).argmax(axis=1)
    np.testing.assert_array_equal(chosen, logits.argmax(axis=1))


@pytest.mark.parametrize(
    ("logits", "positions", "words"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "no pixels"),
        (np.zeros((2, 3)), np.array([0]), "do not fit"),
        (np.zeros(3), np.zeros(3, int), "do not fit"),
        (np.array([[0, np.nan]]), np.array([0]), "not finite"),
        (np.zeros((1, 3)), np.array([3]), r"0\.\.2"),
        (np.zeros((1, 3)), np.array([-1]), r"0\.\.2"),
    ],
)
def test_unusable_sets_are_refused(
    logits: NDArray[np.float64], positions: NDArray[np.int64], words: str
) -> None:
    for function in (fit_temperature, expected_calibration_error, calibrate):
        with pytest.raises(ValueError, match=words):
            function(logits, positions)


def test_logits_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        reliability_bins(np.array([[4.0, -2.0]]), np.array([0]))


@pytest.mark.slow
def test_picture_shows_both_curves(tmp_path: Path) -> None:
    logits, labels = drawn_with(3.0, 500)
    calibration = calibrate(logits, labels)
    before = reliability_bins(softmax(logits), labels)

    def colours(path: Path) -> set[tuple[int, ...]]:
        picture = (255 * matplotlib.image.imread(path)[..., :3]).round().astype(int)
        return {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0).tolist()}

    grey, blue = (0x9A, 0xA5, 0xB1), (0x2F, 0x6F, 0xC4)
    draw_reliability(tmp_path / "both", calibration.bins, before=before, title="gulf")
    assert {grey, blue} <= colours(tmp_path / "both")
    draw_reliability(tmp_path / "one", calibration.bins)
    found = colours(tmp_path / "one")
    assert blue in found
    assert grey not in found


def test_the_error_after_calibration_is_cross_validated() -> None:
    """Two grounds, on one of which the network is right and on the other too sure.

    Each gets the temperature of the other. So neither is well calibrated, whatever the common temperature
    makes of their mixture.
    """
    sure, sure_labels = drawn_with(1.0, 4000)
    unsure, unsure_labels = drawn_with(4.0, 4000)
    logits, labels = np.concatenate([sure, unsure]), np.concatenate([sure_labels, unsure_labels])
    groups = np.repeat([0, 1], 4000)
    found = calibrate(logits, labels, groups)
    assert found.temperature == pytest.approx(fit_temperature(logits, labels))
    crossed = np.concatenate(
        [
            softmax(sure, fit_temperature(unsure, unsure_labels)),
            softmax(unsure, fit_temperature(sure, sure_labels)),
        ]
    )
    assert found.error_after == pytest.approx(expected_calibration_error(crossed, labels))
    assert found.error_after > 2 * calibrate(logits, labels).error_after
    # A single ground has nothing to be crossed with.
    assert calibrate(logits, labels, np.zeros(8000)) == calibrate(logits, labels)


@pytest.mark.parametrize(("temperatures", "taken"), [((1.0, 1.0, 30.0), False), ((1.0, 4.0, 4.0), True)])
def test_a_temperature_that_harms_other_ground_is_not_taken(
    temperatures: tuple[float, ...], taken: bool
) -> None:
    """Two grounds need none, and on a third the network says nothing; then one of three needs none."""
    drawn = [drawn_with(t, 4000, seed) for seed, t in enumerate(temperatures)]
    logits, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    found = calibrate(logits, labels, np.repeat([0, 1, 2], 4000))
    raw = expected_calibration_error(softmax(logits), labels)
    assert found.error_before == pytest.approx(raw)
    assert error_of(found.bins) == found.error_after
    if taken:
        assert found.temperature == pytest.approx(fit_temperature(logits, labels))
        assert found.error_after < raw
    else:
        assert fit_temperature(logits, labels) > 1.5
        assert found.temperature == 1
        assert found.error_after == found.error_before
        # The others' temperatures, ground by ground, would be worse.
        crossed = [
            softmax(logits[mine], fit_temperature(logits[~mine], labels[~mine]))
            for mine in (np.repeat([0, 1, 2], 4000) == k for k in range(3))
        ]
        assert expected_calibration_error(np.concatenate(crossed), labels) > raw
