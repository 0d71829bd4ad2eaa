"""Quantiles against SciPy and against tables."""

from __future__ import annotations

import pytest

from das2f_map.assess.quantiles import beta_share, normal_quantile, t_quantile, t_tail

scipy_stats = pytest.importorskip("scipy.stats", reason="compares with SciPy")


@pytest.mark.parametrize("degrees", [1, 2, 2.5, 7, 29, 150, 4000, 3e7])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9995])
def test_student(probability: float, degrees: float) -> None:
    value = t_quantile(probability, degrees)
    assert value == pytest.approx(scipy_stats.t.ppf(probability, degrees), rel=1e-6)
    assert t_tail(value, degrees) == pytest.approx(1 - probability, rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1, 3), (30, 2.5), (400, 600)])
@pytest.mark.parametrize("x", [0.0, 1e-6, 0.2, 0.4, 0.9, 1.0])
def test_incomplete_beta(x: float, a: float, b: float) -> None:
    assert beta_share(x, a, b) == pytest.approx(scipy_stats.beta.cdf(x, a, b), rel=1e-9, abs=1e-300)


def test_normal_of_the_tables() -> None:
    assert normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert t_quantile(0.975, 9) == pytest.approx(2.262, abs=5e-4)
