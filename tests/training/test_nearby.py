"""Distances between labelled pixels against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from labelled import chebyshev
from numpy.typing import NDArray

from das2f_map.training.nearby import near, nearest_overlap


def places() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Some pixels, and some others: around the corner of four tiles of 512 pixels, and far away."""
    rng = np.random.default_rng(0)
    some = np.concatenate([rng.integers(470, 560, (300, 2)), rng.integers(0, 2000, (200, 2))])
    others = np.concatenate([rng.integers(440, 590, (25, 2)), rng.integers(0, 2000, (30, 2))])
    return some, others


@pytest.mark.parametrize("origin", [(0, 0), (0, -700), (-520, 0), (-1500, -1500)])
@pytest.mark.parametrize("distance", [1, 2, 17, 40])
def test_near_agrees_with_all_pairs(distance: int, origin: tuple[int, int]) -> None:
    """Also where pixels lie north or west of the frame, as those of an overlapping scene may."""
    some, others = (at + np.array(origin) for at in places())
    expected = chebyshev(*some.T, *others.T) < distance
    assert near(*some.T, *others.T, distance).tolist() == expected.tolist()


def test_nothing_is_near_where_there_is_nothing() -> None:
    some, others = places()
    assert not near(*some.T, *others[:0].T, 17).any()
    assert near(*some[:0].T, *others.T, 17).size == 0


def test_overlap_is_counted_on_the_ground() -> None:
    """Squares are painted; the nearest other pixel is due east, so that it alone decides."""
    side = 7
    for distance in range(10):
        ground = np.zeros((2, 40, 40), bool)
        ground[0, 10 : 10 + side, 10 : 10 + side] = True
        # The other square is as far away in rows as in columns: the least overlap at this distance.
        ground[1, 10 + distance : 10 + distance + side, 10 + distance : 10 + distance + side] = True
        expected = (ground[0] & ground[1]).sum() / side**2
        at, other = np.array([13]), np.array([13 + distance])
        assert nearest_overlap(at, at, other, other, side) == pytest.approx([expected], abs=1e-12)


def test_overlap_agrees_with_all_pairs() -> None:
    some, others = places()
    distance = chebyshev(*some.T, *others.T)
    expected = np.where(distance < 17, (1 - distance / 17) ** 2, 0.0)
    assert 0 < (expected > 0).sum() < expected.size
    found = nearest_overlap(*some.astype(np.int32).T, *others.astype(np.int32).T, 17)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_no_pixels_overlap_nothing() -> None:
    some, others = places()
    assert not nearest_overlap(*some.T, *others[:0].T, 17).any()
    assert nearest_overlap(*some[:0].T, *others.T, 17).size == 0
