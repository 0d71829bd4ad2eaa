"""Values of a block from given logits, against known answers."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from das2f_map.legend import Legend
from das2f_map.running.blocks import BlockClassifier, ClassifiedBlock
from das2f_map.running.certainty import Certainty
from das2f_map.scene.grid import Window
from das2f_map.scene.model_input import InputBlock

ALL = {"probabilities": True, "entropy": True}


def block_of(logits: list[list[float]], **certainty: Any) -> ClassifiedBlock:
    """A row of pixels with these logits, and one unusable pixel after them."""
    values = np.array(logits, np.float32)

    class Engine:
        def logits(self, *_: object) -> object:
            return values

    window = Window(0, 0, 1, len(values) + 1)
    none = np.zeros((1, 1, 1), np.float32)
    usable = np.ones((1, len(values) + 1), bool)
    usable[0, -1] = False
    legend = Legend.from_names([f"class {i}" for i in range(values.shape[1])])
    unused: Any = None
    classifier = BlockClassifier(unused, cast(Any, Engine()), legend, None, Certainty(**certainty))
    return classifier.compute(window, InputBlock(window, none, none, usable))


@pytest.mark.parametrize("temperature", [0.01, 1.0, 40.0])
def test_extremes(temperature: float) -> None:
    """Nothing overflows; one class with everything is 0, equal classes are 1."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        block = block_of([[1e5, -1e5, 0], [3, 3, 3], [-2e5, -1e5, -1e5]], temperature=temperature, **ALL)
    np.testing.assert_allclose(block.entropy, [[0, 1, np.log(2) / np.log(3), np.nan]], atol=1e-6)
    np.testing.assert_allclose(block.confidence, [[1, 1 / 3, 1 / 2, np.nan]], rtol=1e-6)
    assert block.probabilities is not None
    assert block.probabilities.shape == (3, 1, 4)
    np.testing.assert_allclose(block.probabilities[:, 0, 0], [1, 0, 0])
    np.testing.assert_allclose(block.probabilities[:, 0, 2], [0, 1 / 2, 1 / 2])
    assert np.isnan(block.probabilities[:, 0, 3]).all()


def test_random_logits_against_float64() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (500, 7)).astype(np.float32)
    block = block_of(logits.tolist(), temperature=1.7, **ALL)
    odds = np.exp(logits.astype(float) / 1.7)
    p = odds / odds.sum(axis=1, keepdims=True)
    assert block.probabilities is not None
    assert block.entropy is not None
    assert (block.probabilities.dtype, block.entropy.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(block.probabilities[:, 0, :-1].T, p, rtol=2e-5)
    expected = -(p * np.log(p)).sum(axis=1) / np.log(7)
    np.testing.assert_allclose(block.entropy[0, :-1], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(block.classes[0, :-1], 1 + p.argmax(axis=1))


def test_a_probability_at_the_limit_is_kept() -> None:
    block = block_of([[0, 0], [0, 1], [2, 0]], reject=0.5)
    assert block.classes.tolist() == [[1, 2, 1, 0]]
    block = block_of([[0, 0], [0, 1], [2, 0]], reject=0.75)  # 1 / (1 + exp(-1)) is 0.73
    assert block.classes.tolist() == [[255, 255, 1, 0]]


def test_a_single_class_is_certain() -> None:
    block = block_of([[3.0], [-1.0]], **ALL)
    assert block.entropy is not None
    assert block.entropy[0, :2].tolist() == [0, 0]
    assert block.confidence[0, :2].tolist() == [1, 1]
