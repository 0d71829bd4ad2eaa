"""Filling of invalid pixels against a plain loop over pixels; every block gives the same values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from naive_fill import filled
from synthetic import make_pair

from das2f_map.scene.fill import fill_invalid, invalid_shares
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import open_pair


@pytest.mark.parametrize("radius", [0, 1, 3, 8])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_rings(radius: int, share: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(100, 200, (3, 23, 31)).astype("f4")
    values[:, rng.random((23, 31)) < share] = np.nan
    values[1, 5:14, 8:30] = np.nan
    before = values.copy()
    out = fill_invalid(values, radius)
    np.testing.assert_allclose(out, filled(values, radius), rtol=1e-6)
    np.testing.assert_array_equal(values, before)
    assert np.nanmin(out) >= 100
    assert np.nanmax(out) <= 200


def test_nothing_valid_and_all_valid() -> None:
    nothing = np.full((1, 4, 5), np.nan, np.float32)
    assert np.isnan(fill_invalid(nothing, 3)).all()
    everything = np.ones((2, 4, 5), np.float32)
    np.testing.assert_array_equal(fill_invalid(everything, 3), everything)


def test_shares() -> None:
    rng = np.random.default_rng(0)
    invalid = rng.random((19, 24)) < 0.3
    shares = invalid_shares(invalid, 5)
    assert shares.shape == (15, 20)
    for r in range(15):
        for c in range(20):
            assert shares[r, c] == pytest.approx(invalid[r : r + 5, c : c + 5].mean())


@pytest.mark.parametrize("grid", [{}, {"offset": (0.4, -0.3)}, {"ratio": 2, "offset": (0.5, 0.5)}], ids=str)
def test_any_block_is_filled_the_same(tmp_path: Path, grid: dict[str, object]) -> None:
    """Filled values are equal to the last bit, also in the halo, which reflects the filled scene."""
    holes = [(slice(0, 9), slice(0, 50)), (slice(30, 44), slice(21, 33)), (slice(60, 64), slice(None))]
    pan_holes = [(slice(100, 140), slice(60, 61)), (slice(0, 30), slice(100, 300))]
    paths = make_pair(tmp_path, nodata=0, ms_invalid=holes, pan_invalid=pan_holes, **grid)
    rng = np.random.default_rng(1)
    with open_pair(*paths) as pair:
        window = pair.grids.ms.window
        plain = pair.read_block(window, 0, 0)
        whole = pair.read_block(window, 0, 0, fill=8)
        np.testing.assert_allclose(whole.ms, filled(plain.ms, 8), rtol=1e-5)
        np.testing.assert_allclose(whole.pan, filled(plain.pan, 32), rtol=1e-5)
        np.testing.assert_array_equal(whole.invalid, plain.invalid)
        np.testing.assert_array_equal(whole.valid, ~whole.invalid)
        ms = np.pad(whole.ms, ((0, 0), (7, 8), (7, 8)), mode="reflect")
        pan = np.pad(whole.pan, ((0, 0), (28, 32), (28, 32)), mode="reflect")
        invalid = np.pad(whole.invalid, (7, 8), mode="reflect")
        for _ in range(25):
            r, c = int(rng.integers(window.height)), int(rng.integers(window.width))
            h, w = int(rng.integers(1, window.height - r + 1)), int(rng.integers(1, window.width - c + 1))
            block = pair.read_block(Window(r, c, h, w), 7, 8, fill=8)
            np.testing.assert_array_equal(block.ms, ms[:, r : r + h + 15, c : c + w + 15])
            fine = (slice(4 * r, 4 * (r + h + 15)), slice(4 * c, 4 * (c + w + 15)))
            np.testing.assert_array_equal(block.pan, pan[:, fine[0], fine[1]])
            np.testing.assert_array_equal(block.invalid, invalid[r : r + h + 15, c : c + w + 15])


def test_patches_of_valid_targets_are_filled_wholly(tmp_path: Path) -> None:
    """In a hole of any size, all of a valid target's patch is filled: it lies within the target's radius."""
    lone = np.ones((40, 40), bool)
    lone[20, 20] = False
    rows, cols = np.nonzero(lone)
    holes = [(slice(r, r + 1), slice(c, c + 1)) for r, c in zip(rows, cols, strict=True)]
    with open_pair(*make_pair(tmp_path, ms_shape=(40, 40), nodata=0, ms_invalid=holes)) as pair:
        block = pair.read_block(Window(20, 20, 1, 1), 7, 8, fill=8)
    assert block.valid.all()
    assert (block.ms == block.ms[:, 7:8, 7:8]).all()
    assert block.invalid.mean() == pytest.approx(255 / 256)
