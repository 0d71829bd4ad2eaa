"""What settings become that are left open: assessment, steps, opinions of other classifiers."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from das2f_map.training.decided import decided
from das2f_map.training.settings import FOLDS_UP_TO, TAUGHT_UP_TO, TrainingSettings


@pytest.mark.parametrize(
    ("given", "labelled", "expected"),
    [
        ({}, FOLDS_UP_TO, "folds"),
        ({}, FOLDS_UP_TO + 1, "holdout"),
        ({"fast": True}, 100, "holdout"),
        ({"fast": True, "assess": "folds"}, 100, "folds"),
        ({"assess": "none"}, 100, "none"),
    ],
)
def test_how_a_training_is_assessed(given: dict[str, Any], labelled: int, expected: str) -> None:
    assert decided(TrainingSettings(**given), labelled, on_cpu=True).assess == expected


def test_steps_are_the_users_or_grow_with_the_labels() -> None:
    assert decided(TrainingSettings(steps=12), 100, on_cpu=True).steps == 12
    assert decided(TrainingSettings(steps=6, fast=True), 100, on_cpu=True).steps == 6
    # As many before every check.
    assert decided(TrainingSettings(steps=17), 100, on_cpu=True).steps == 12
    assert decided(TrainingSettings(steps=17, checks=1), 100, on_cpu=True).steps == 17
    assert decided(TrainingSettings(steps=5), 100, on_cpu=True).steps == 5
    for on_cpu in (True, False):
        steps = [decided(TrainingSettings(), n, on_cpu=on_cpu).steps or 0 for n in (1, 1500, 30_000, 10**7)]
        assert 0 not in steps
        assert steps == sorted(steps)
        assert steps[0] < steps[-1]
        fast = decided(TrainingSettings(fast=True), 30_000, on_cpu=on_cpu).steps
        assert fast is not None
        assert fast < steps[2]


def test_with_opinions_there_are_a_quarter_fewer_steps() -> None:
    pytest.importorskip("sklearn", reason="needs the extra train")
    for labelled in (3000, TAUGHT_UP_TO):
        taught, alone = (
            decided(TrainingSettings(distillation=weight), labelled, on_cpu=True).steps or 0
            for weight in (None, 0.0)
        )
        # Both are multiples of the checks.
        assert abs(taught - 0.75 * alone) <= 6


def test_there_are_no_more_checks_than_steps() -> None:
    assert decided(TrainingSettings(steps=4, checks=6), 100, on_cpu=True).checks == 4
    assert decided(TrainingSettings(steps=40, checks=6), 100, on_cpu=True).checks == 6
    assert decided(TrainingSettings(), 100, on_cpu=True).head == "pooled"


@pytest.mark.parametrize(
    ("given", "labelled", "expected"),
    [
        ({}, TAUGHT_UP_TO, 1),
        ({}, TAUGHT_UP_TO + 1, 0),
        ({"distillation": 0.0}, 100, 0),
        ({"distillation": 0.3}, TAUGHT_UP_TO + 1, 0.3),
        ({"fast": True}, 100, 0),
        # What does not go with opinions has none by default.
        ({"head": "published"}, 100, 0),
        ({"mixup": 0.2}, 100, 0),
        ({"neighbours": 0}, 100, 0),
        ({"devices": 2}, 100, 0),
    ],
)
def test_few_labels_bring_opinions(given: dict[str, Any], labelled: int, expected: float) -> None:
    pytest.importorskip("sklearn", reason="needs the extra train")
    assert decided(TrainingSettings(**given), labelled, on_cpu=True).distillation == expected


def test_without_scikit_learn_there_are_none_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert decided(TrainingSettings(), TAUGHT_UP_TO + 1, on_cpu=True).distillation == 0
    assert not caplog.messages
    assert decided(TrainingSettings(), TAUGHT_UP_TO, on_cpu=True).distillation == 0
    (said,) = caplog.messages
    assert said.startswith("scikit-learn is not installed")
    assert "[train]" in said
