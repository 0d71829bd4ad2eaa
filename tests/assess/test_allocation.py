"""Sizes and shares of samples against the literature's worked example and closed formulas."""

from __future__ import annotations

import numpy as np
import pytest

from das2f_map.assess.allocation import (
    Z95,
    AllocationRule,
    Strata,
    allocate,
    deviations,
    simple_size,
    size_by_formula,
    standard_error,
    stratified_size,
)
from das2f_map.errors import InputError

# Olofsson et al. 2014, section 5.1: deforestation, forest gain, stable forest, stable non-forest.
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
STRATA = Strata((1, 2, 3, 4), ("loss", "gain", "forest", "other"), PIXELS)
EXPECTED = {1: 0.7, 2: 0.6, 3: 0.9, 4: 0.95}


def test_worked_example_of_olofsson() -> None:
    deviation = deviations(STRATA, EXPECTED)
    assert size_by_formula(STRATA.weights, deviation, 0.01) == 641
    found = stratified_size(STRATA, 0.01 * Z95, AllocationRule("optimal", 1), deviation)
    assert found.points == 641
    assert "0.2531² / (0.01² + 0.0672 / 10,000,000) = 641 points" in found.steps[1]
    assert allocate(STRATA, 641, AllocationRule("proportional", 0)).tolist() == [13, 10, 205, 413]
    assert allocate(STRATA, 640, AllocationRule("equal", 0)).tolist() == [160] * 4


def test_size_reaches_the_precision_with_any_allocation_and_not_one_point_fewer_does() -> None:
    deviation = deviations(STRATA, EXPECTED)
    for rule in (
        AllocationRule("equal", 0),
        AllocationRule("proportional", 75),
        AllocationRule("optimal", 75),
    ):
        points = stratified_size(STRATA, 0.02, rule, deviation).points
        assert points >= 616
        errors = [
            standard_error(STRATA, allocate(STRATA, n, rule, deviation), deviation)
            for n in (points, points - 1)
        ]
        assert errors[0] <= 0.02 / Z95 * (1 + 1e-9) < errors[1]


def test_simple_size_is_cochrans() -> None:
    assert simple_size(0.5, 0.05, 10**9).points == 385
    small = simple_size(0.5, 0.05, 1000)
    assert small.points == 278
    assert "= 384.1; n₀ / (1 + n₀ / 1,000) = 278 points" in small.steps[1]


def test_optimal_allocation_has_the_least_variance() -> None:
    deviation = deviations(STRATA, EXPECTED)
    best = allocate(STRATA, 641, AllocationRule("optimal", 0), deviation)
    least = standard_error(STRATA, best, deviation)
    for up in range(4):
        for down in set(range(4)) - {up}:
            moved = best.copy()
            moved[up] += 10
            moved[down] = max(1, moved[down] - 10)
            assert standard_error(STRATA, moved, deviation) >= least - 1e-7
    named = allocate(STRATA, 641, AllocationRule("optimal", 0), deviations(STRATA, EXPECTED, ["loss"]))
    assert named[0] > best[0]


def test_minimum_and_small_strata() -> None:
    strata = Strata((1, 2, 3), ("a", "b", "c"), np.array([7, 1000, 9000]))
    assert allocate(strata, 100, AllocationRule("proportional", 20)).tolist() == [7, 20, 73]
    assert allocate(strata, 100, AllocationRule("equal", 0)).sum() == 100
    assert allocate(strata, 10**6, AllocationRule("equal", 0)).tolist() == [7, 1000, 9000]
    with pytest.raises(InputError, match="40 points do not suffice for 3 classes with at least 20 each"):
        allocate(strata, 40, AllocationRule("equal", 20))
    with pytest.raises(InputError, match="no class 'd'"):
        deviations(strata, {1: 0.9, 2: 0.9, 3: 0.9}, ["d"])


def test_sums_are_right_for_random_cases() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        count = int(random.integers(1, 9))
        pixels = random.integers(1, 10 ** random.integers(1, 6), count)
        strata = Strata(tuple(range(1, count + 1)), tuple(map(str, range(count))), pixels)
        deviation = random.random(count) * random.integers(0, 2, count)
        points = int(random.integers(count, 500))
        for kind in ("equal", "proportional", "optimal"):
            found = allocate(strata, points, AllocationRule(kind, 1), deviation)
            assert found.sum() == min(points, pixels.sum()), (kind, pixels, points)
            assert (found >= np.minimum(1, pixels)).all()
            assert (found <= pixels).all()
