"""Passes over all pixels, compiled and in NumPy: both against plain references, to the last bit."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from types import ModuleType

import numpy as np
import pytest

from das2f_map.scene import compiled_pixels


def without_library(patch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is where no compiler was found."""
    assert compiled_pixels.__file__ is not None
    patch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [])
    spec = importlib.util.spec_from_file_location("plain_pixels", compiled_pixels.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_compiled()
    return module


@pytest.fixture(params=["as built", "without library"])
def pixels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return compiled_pixels if request.param == "as built" else without_library(monkeypatch)


def test_normalise(pixels: ModuleType) -> None:
    rng = np.random.default_rng(0)
    # More values than NumPy takes at once, and a mean far larger than the spread.
    values = (1e6 + rng.normal(0, 3, 70_001)).astype(np.float32)
    values[[0, 1, 2, 69_999]] = np.nan, np.inf, -np.inf, np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        expected = ((values.astype(np.float64) - 1e6) / 1e-3).astype(np.float32)
    expected[~np.isfinite(expected)] = 0
    given = values.copy()
    out = np.empty_like(values)
    pixels.normalise(values, 1e6, 1e-3, out)
    assert out.tobytes() == expected.tobytes()
    assert values.tobytes() == given.tobytes()
    pixels.normalise(values, 1e6, 1e-3, values)  # in place
    assert values.tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="contiguous"):
        pixels.normalise(values[::2], 0.0, 1.0, out[::2])


def test_sums_by_class_are_added_in_order(pixels: ModuleType) -> None:
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 4, (57, 83)).astype(np.uint8)
    ids[-1, -1] = 255
    areas = rng.uniform(899.0, 901.0, ids.shape)
    sure = rng.uniform(0.2, 1.0, ids.shape).astype(np.float32)
    sure[ids == 0] = np.nan
    sums, confidence, known = np.full(256, 0.1), np.zeros(256), np.zeros(256)
    expected, expected_sure, count = [0.1] * 256, [0.0] * 256, [0] * 256
    for i, area, value in zip(ids.ravel().tolist(), areas.ravel(), sure.ravel(), strict=True):
        expected[i] += float(area)
        if np.isfinite(value):
            expected_sure[i] += float(value)
            count[i] += 1
    pixels.add_by_class(ids, areas, sums)
    pixels.add_known_by_class(ids, sure, confidence, known)
    assert sums.tolist() == expected
    assert confidence.tolist() == expected_sure
    assert known.tolist() == count
    # Areas of a grid of meridians are a view that repeats a column.
    repeated, plain = np.zeros(256), np.zeros(256)
    pixels.add_by_class(ids, np.broadcast_to(areas[:, :1], ids.shape), repeated)
    pixels.add_by_class(ids, np.repeat(areas[:, :1], ids.shape[1], axis=1), plain)
    assert repeated.tolist() == plain.tolist()
