"""Probabilities averaged over near pixels that PAN shows alike: a joint bilateral filter.

A neighbour counts by its distance and by how far its PAN brightness is from the pixel's: across an edge that
PAN shows it counts little. All weights of a pixel add up to 1, so its probabilities still do.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.types import Bool, Float32

PAN_SPREAD: Final = 0.5
"""Difference of PAN, in standard deviations of the normalisation, at which a weight is down to 0.6."""


def guide_of(pan: Float32) -> Float32:
    """Mean PAN of each MS pixel: float32 (4 h, 4 w) → (h, w)."""
    total = np.zeros((pan.shape[0] // PAN_PER_MS, pan.shape[1] // PAN_PER_MS), np.float32)
    # One after the other, so that a pixel's sum is the same in any block.
    for row in range(PAN_PER_MS):
        for col in range(PAN_PER_MS):
            total += pan[row::PAN_PER_MS, col::PAN_PER_MS]
    total /= np.float32(PAN_PER_MS**2)
    return total


def spread(wanted: Bool, radius: int) -> Bool:
    """Pixels within ``radius`` rows and columns of a wanted one: bool (h, w) → (h + 2 r, w + 2 r)."""
    around = np.pad(wanted, radius)
    for axis in (0, 1):
        near = np.pad(around, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(near, 2 * radius + 1, axis=axis)
        around = np.asarray(windows.any(axis=-1))
    return around


def smoothed(probabilities: Float32, guide: Float32, radius: int) -> Float32:
    """Probabilities averaged over the pixels within ``radius`` rows and columns.

    A pixel's result depends on these pixels alone, to the last bit.

    Parameters
    ----------
    probabilities:
        float32 (classes, h, w), NaN where there are none; such pixels have no weight and stay NaN.
    guide:
        float32 (h, w), PAN in standard deviations.
    radius:
        Pixels, from 1 on. The weight of a pixel at this distance is down to 0.14.
    """
    known = np.isfinite(probabilities[0])
    values = np.where(known, probabilities, np.float32(0))
    height, width = guide.shape
    total, weights = np.zeros_like(values), np.zeros_like(guide)
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            here = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
            there = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
            near = -2.0 * (down * down + right * right) / radius**2
            apart = (guide[there] - guide[here]) / np.float32(PAN_SPREAD)
            weight = np.exp(np.float32(near) - apart * apart / np.float32(2)) * known[there]
            weights[here] += weight
            total[(slice(None), *here)] += weight * values[(slice(None), *there)]
    with np.errstate(invalid="ignore", divide="ignore"):
        total /= weights
    return np.where(known, total, np.float32("nan"))


def entropy_of(probabilities: Float32) -> Float32:
    """Shannon entropy of probabilities (classes, n) over that of equal ones: float32 (n,), 0..1."""
    parts = probabilities * np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    nats = -parts.sum(axis=0)
    return np.asarray(np.clip(nats / np.log(max(2, len(probabilities))), 0.0, 1.0), np.float32)
