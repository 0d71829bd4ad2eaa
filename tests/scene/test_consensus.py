"""Tests whether a shift changes over the scene, on window shifts whose truth and errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from das2f_map.scene.registration.consensus import ShiftField, shift_field

VARIANCE = np.eye(2) * 0.05**2


def windows(side: int, rng: np.random.Generator) -> np.ndarray:
    """Places of ``side`` × ``side`` windows, float64 (n, 2), from -1 to 1: a slightly disturbed grid."""
    at = (np.arange(side) + 0.5) / side * 2 - 1
    places = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(places + rng.uniform(-0.05, 0.05, places.shape))


def field_of(shifts: np.ndarray, places: np.ndarray) -> ShiftField | None:
    return shift_field(shifts, np.broadcast_to(VARIANCE, (len(shifts), 2, 2)).copy(), places, seed=0)


def said_to_vary(found: ShiftField | None) -> bool:
    return found is not None and found.significant and found.range > 0.3


@pytest.mark.parametrize("side", [4, pytest.param(6, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("alike", [False, True], ids=["white", "patches"])
def test_errors_are_not_taken_for_a_change(side: int, alike: bool) -> None:
    """One shift for all windows, with errors of 0.2 PAN pixel: independent, or partly common to patches."""
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        places = windows(side, rng)
        errors = rng.normal(0, 0.2, places.shape)
        if alike:
            centres = rng.uniform(-1, 1, (5, 2))
            nearest = np.hypot(*(places[:, None] - centres).transpose(2, 0, 1)).argmin(axis=1)
            errors = 0.5 * errors + rng.normal(0, 0.15, (5, 2))[nearest]
        alarms += said_to_vary(field_of(np.array([0.4, -1.1]) + errors, places))
    assert alarms <= (1 if not alike else 6)


@pytest.mark.parametrize("side", [4, 6, 8])
def test_a_change_is_found(side: int) -> None:
    """Each corner has its own shift of up to 2 PAN pixels, with errors of 0.2."""
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        places = windows(side, rng)
        corners = rng.uniform(-2, 2, (2, 2, 2))
        r, c = ((places.T + 1) / 2)[:, :, None]
        shifts = (
            corners[0, 0] * (1 - r) * (1 - c)
            + corners[0, 1] * (1 - r) * c
            + corners[1, 0] * r * (1 - c)
            + corners[1, 1] * r * c
        )
        found = field_of(shifts + rng.normal(0, 0.2, shifts.shape), places)
        apart = shifts[:, None] - shifts[None]
        truth = np.hypot(*apart.transpose(2, 0, 1)).max()
        missed += truth > 1.5 and not said_to_vary(found)
        if found is not None and said_to_vary(found):
            assert found.range == pytest.approx(truth, abs=6 * found.sigma + 0.1)
    assert missed <= 1


def test_few_windows_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    places = windows(3, rng)[:7]
    assert field_of(3 * places, places) is None
