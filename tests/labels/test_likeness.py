"""Robust distances against the known distribution of made-up classes."""

from __future__ import annotations

import numpy as np
import pytest

from das2f_map.labels.likeness import ClassShape, chi2_quantile, likeness

RNG = np.random.default_rng(4)
MIXING = np.array([[3.0, 0, 0], [2.0, 1.0, 0], [-1.0, 0.5, 2.0]])


def cloud(n: int, centre: tuple[float, float, float], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)) @ MIXING.T + centre


@pytest.mark.parametrize(("p", "k", "value"), [(0.5, 5, 4.3515), (0.975, 3, 9.3484), (0.9999, 5, 25.745)])
def test_quantiles_of_a_table(p: float, k: int, value: float) -> None:
    assert chi2_quantile(p, k) == pytest.approx(value, rel=0.03)


def test_distances_are_those_of_the_true_covariance() -> None:
    x = cloud(20_000, (100, 50, 10), 1)
    shape = ClassShape.of(x)
    assert shape is not None
    np.testing.assert_allclose(shape.centre, (100, 50, 10), atol=0.2)
    true = np.einsum("ni,ij,nj->n", x - (100, 50, 10), np.linalg.inv(MIXING @ MIXING.T), x - (100, 50, 10))
    np.testing.assert_allclose(np.median(shape.distances(x) / true), 1, atol=0.05)


def test_a_fifth_of_wrong_labels_has_no_part_in_the_shape() -> None:
    x = np.concatenate([cloud(800, (0, 0, 0), 2), cloud(200, (60, 0, 40), 3)])
    groups = np.arange(1000) // 10
    found = likeness(x, np.zeros(1000, np.int64), groups, 1)
    assert found.unlike[800:].all()
    assert found.unlike[:800].mean() < 0.01
    assert (found.looks_like == -1).all()


def test_wrong_pixels_look_like_their_true_class() -> None:
    x = np.concatenate([cloud(500, (0, 0, 0), 5), cloud(500, (60, 0, 40), 6)])
    positions = np.repeat([0, 1], 500)
    positions[490:500] = 1
    found = likeness(x, positions, np.arange(1000), 2)
    assert found.unlike[490:500].all()
    assert (found.looks_like[490:500] == 0).all()


def test_one_large_group_does_not_decide_a_class() -> None:
    x = np.concatenate([cloud(20_000, (60, 0, 40), 7), cloud(3_000, (0, 0, 0), 8)])
    groups = np.concatenate([np.zeros(20_000, np.int64), 1 + np.arange(3_000) // 20])
    found = likeness(x, np.zeros(23_000, np.int64), groups, 1)
    assert found.unlike[:20_000].mean() > 0.99
    assert found.unlike[20_000:].mean() < 0.01


def test_nothing_is_said_of_few_pixels_and_constant_bands_are_no_obstacle() -> None:
    few = likeness(RNG.normal(size=(5, 3)), np.zeros(5, np.int64), np.arange(5), 1)
    assert np.isnan(few.distance).all()
    assert not few.unlike.any()
    x = np.concatenate([np.full((50, 3), 7.0), [[7.0, 7.0, 9.0]]])
    flat = likeness(x, np.zeros(51, np.int64), np.arange(51), 1)
    assert flat.unlike.tolist() == [False] * 50 + [True]
