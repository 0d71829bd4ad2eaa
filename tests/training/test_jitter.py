"""Random radiometry: changes worked out by hand, and solved back from changed patches."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from das2f_map.scene.radiometry import BandStatistics, Normalisation
from das2f_map.training.jitter import Jitter
from das2f_map.types import Float32

BANDS = (
    BandStatistics(name="blue", mean=1000.0, std=200.0, p01=800.0, p99=2000.0),
    BandStatistics(name="nir", mean=3000.0, std=500.0, p01=500.0, p99=4500.0),
)
PAN = BandStatistics(name="pan", mean=1500.0, std=100.0, p01=1300.0, p99=1800.0)
STATISTICS = Normalisation(BANDS, PAN)
DARK = np.array([-1.0, -5.0, -2.0])
"""(p01 - mean) / std of blue, NIR and PAN."""
BRIGHT = np.array([5.0, 3.0, 3.0])


class Always:
    """Random numbers that are always the same: 1 where they are normal, a share of the range elsewhere."""

    def __init__(self, share: float) -> None:
        self.share = share

    def standard_normal(self, shape: Any, dtype: Any = np.float64) -> Any:
        return np.ones(shape, dtype)

    def random(self, shape: Any) -> Any:
        return np.full(shape, self.share)

    def uniform(self, low: float, high: float, shape: Any) -> Any:
        return np.full(shape, low + self.share * (high - low))


def level(n: int, values: np.ndarray, size: int = 4) -> tuple[Float32, Float32]:
    """``n`` patches of a constant value in each band; the last value is PAN's."""
    ms = np.tile(values[:-1].astype(np.float32)[None, :, None, None], (n, 1, size, size))
    return ms, np.full((n, 1, 4 * size, 4 * size), values[-1], np.float32)


def of_bands(ms: Float32, pan: Float32) -> np.ndarray:
    """Mean of each band of each patch, ``(n, bands + 1)``."""
    return np.concatenate([ms.mean((2, 3)), pan.mean((2, 3))], axis=1)


def test_gain_turns_about_the_dark_value() -> None:
    """At strength 2, with all normal numbers 1: gain e^(2·0.13), offset 2·0.05, noise 2·0.05·0.5."""
    value = np.array([0.5, -1.0, 2.0])
    changed = of_bands(*Jitter(STATISTICS, 2.0, 0.0)(*level(3, value), cast(Any, Always(0.5))))
    gain = np.exp(0.26)
    expected = DARK + gain * (value - DARK) + 0.1 + 0.05
    np.testing.assert_allclose(changed, np.tile(expected, (3, 1)), rtol=1e-6)


def test_haze_and_shade_of_known_size() -> None:
    """A quarter along the ranges: 0.55 of the light is left, and 0.1 of haze lies over it."""
    value = np.array([0.5, -1.0, 2.0])
    changed = of_bands(*Jitter(STATISTICS, 0.0, 0.3)(*level(2, value), cast(Any, Always(0.25))))
    shaded = DARK + 0.55 * (value - DARK)
    expected = 0.9 * shaded + 0.1 * BRIGHT
    np.testing.assert_allclose(changed, np.tile(expected, (2, 1)), rtol=1e-6)


def test_a_patch_has_one_haze_and_one_shade_for_all_bands_and_pan() -> None:
    """Both are solved back from the dark and the bright value, which only haze moves and light scales."""
    jitter, n = Jitter(STATISTICS, 0.0, 1.0), 400
    dark, bright = (of_bands(*jitter(*level(n, value), np.random.default_rng(7))) for value in (DARK, BRIGHT))
    haze = (dark - DARK) / (BRIGHT - DARK)
    light = (bright - dark) / (BRIGHT - DARK) / (1 - haze)
    for found, low, high in ((haze, 0.0, 0.4), (light, 0.4, 1.0)):
        np.testing.assert_allclose(found, np.tile(found[:, :1], (1, 3)), atol=1e-5)
        assert low - 1e-5 <= found.min() < low + 0.05, "evenly over the whole range"
        assert high - 0.05 < found.max() <= high + 1e-5
        assert found[:, 0].mean() == pytest.approx((low + high) / 2, abs=0.03)


def test_the_share_of_the_patches_gets_haze_and_as_many_get_shade() -> None:
    jitter, n = Jitter(STATISTICS, 0.0, 0.25), 2000
    dark, bright = (
        of_bands(*jitter(*level(n, value), np.random.default_rng(7)))[:, 0] for value in (DARK, BRIGHT)
    )
    hazy = dark > DARK[0] + 1e-6
    shaded = bright < BRIGHT[0] - 1e-6
    assert hazy.mean() == pytest.approx(0.25, abs=0.03)
    assert shaded.mean() == pytest.approx(0.25, abs=0.03)
    assert (hazy & shaded).mean() == pytest.approx(0.0625, abs=0.02), "one does not depend on the other"


def test_spread_of_gain_and_offset() -> None:
    """A dark pixel feels the offset alone; a bright one feels the gain too, common and of its band."""
    jitter, n = Jitter(STATISTICS, 1.0, 0.0), 4000
    dark, bright = (
        of_bands(*jitter(*level(n, value), np.random.default_rng(k)))
        for k, value in enumerate((DARK, BRIGHT))
    )
    np.testing.assert_allclose((dark - DARK).std(0), 0.05, rtol=0.1)
    log_gain = np.hypot(0.1, 0.03)
    np.testing.assert_allclose((bright - BRIGHT).std(0), np.hypot(0.05, log_gain * (BRIGHT - DARK)), rtol=0.1)
    # The gain of the bands has a common part: 0.1² of 0.1² + 0.03².
    correlation = np.corrcoef((bright - BRIGHT).T)
    assert correlation[0, 1] == pytest.approx(0.1**2 / log_gain**2, abs=0.05)


def test_noise_is_of_single_pixels() -> None:
    ms, pan = Jitter(STATISTICS, 1.0, 0.0)(*level(300, DARK, size=16), np.random.default_rng(0))
    for image in (ms, pan):
        spread = (image - image.mean((2, 3), keepdims=True)).std((2, 3))
        assert spread.max() < 0.06
        assert spread.mean() == pytest.approx(0.025, abs=0.004)  # evenly from 0 to 0.05
        steps = np.diff(image, axis=3).std(3).mean()
        assert steps == pytest.approx(np.sqrt(2) * spread.mean(), rel=0.05), "neighbours are independent"


def test_without_strength_and_haze_patches_stay_as_they_are() -> None:
    rng = np.random.default_rng(1)
    ms = rng.standard_normal((5, 2, 4, 4)).astype(np.float32)
    pan = rng.standard_normal((5, 1, 16, 16)).astype(np.float32)
    found = Jitter(STATISTICS, 0.0, 0.0)(ms, pan, np.random.default_rng(0))
    assert np.array_equal(found[0], ms)
    assert np.array_equal(found[1], pan)


def test_copies_are_changed_and_the_patches_are_kept() -> None:
    ms, pan = level(5, np.array([0.5, -1.0, 2.0]))
    before = ms.copy(), pan.copy()
    found = Jitter(STATISTICS, 1.0, 0.5)(ms, pan, np.random.default_rng(0))
    for changed, given, kept in zip(found, (ms, pan), before, strict=True):
        assert np.array_equal(given, kept)
        assert changed.dtype == np.float32
        assert changed.shape == given.shape
        assert not np.isclose(changed, given).all()
