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


def test_counts_of_values(pixels: ModuleType) -> None:
    ids = np.random.default_rng(2).integers(0, 256, (61, 83)).astype(np.uint8)
    assert pixels.count_values(ids).tolist() == [int((ids == i).sum()) for i in range(256)]
    assert pixels.count_values(ids[:, ::2]).sum() == ids[:, ::2].size
    assert pixels.count_values(ids[:0]).tolist() == [0] * 256


def test_sums_in_whole_parts(pixels: ModuleType) -> None:
    rng = np.random.default_rng(3)
    values = rng.random((301, 211)).astype(np.float32)
    values[0, :3] = 0.0, 1.0, np.nan
    wanted = rng.random(values.shape) < 0.7
    wanted[0, :3] = True
    known = [float(v) for v in values[wanted] if not np.isnan(v)]
    parts = [int(v * (1 << 24)) for v in known]
    found = pixels.sum_parts(values, wanted, 1 << 24, 16)
    assert (found.known, found.low, found.high) == (len(known), 0.0, 1.0)
    assert (found.sum, found.squares) == (sum(parts), sum(p * p >> 16 for p in parts))
    none = pixels.sum_parts(values, np.zeros_like(wanted), 1 << 24, 16)
    assert (none.known, none.low, none.high, none.sum) == (0, np.inf, -np.inf, 0)


def test_lists_and_rings_are_followed(pixels: ModuleType) -> None:
    #          0   1  2  3   4  5  6  7
    onward = [3, 5, 7, -1, 4, 1, 0, 2]
    order, starts, lists = pixels.followed(np.array(onward))
    # 6 → 0 → 3 ends; 1 and 5, 2 and 7, and 4 alone are rings.
    assert order.tolist() == [6, 0, 3, 1, 5, 2, 7, 4]
    assert (starts.tolist(), lists) == ([0, 3, 5, 7], 1)
    order, starts, lists = pixels.followed(np.zeros(0, np.int64))
    assert (len(order), len(starts), lists) == (0, 0, 0)


def test_a_value_becomes_nan(pixels: ModuleType) -> None:
    values = np.random.default_rng(4).integers(0, 5, (37, 41)).astype(np.float32)
    expected = np.where(values == 3, np.nan, values)
    pixels.blank(values, 3.0)
    np.testing.assert_array_equal(values, expected)


def test_integral_image(pixels: ModuleType) -> None:
    values = np.random.default_rng(5).uniform(0, 900, (23, 31))
    expected = np.zeros((24, 32))
    for i in range(23):
        row = 0.0
        for j in range(31):
            row += values[i, j]
            expected[i + 1, j + 1] = expected[i, j + 1] + row
    assert pixels.integral(values).tobytes() == expected.tobytes()
    constant = pixels.integral(np.broadcast_to(2.0, (5, 4)))
    assert constant[-1, -1] == 40.0
