"""Share of each class in the scenes of a training, as the trained model maps them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from das2f_map.network import Das2fNet
from das2f_map.scene.spread import spread_blocks
from das2f_map.training.dataset import BLOCK, PatchReader
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Int32, Int64

SAMPLED = 800
"""Pixels of all scenes that are mapped, in 89 clusters.

A share has a standard error of one to five percentage points. Neighbours have the same class, so that more
clusters would make it smaller, and larger ones would not.
"""

_CLUSTER = 3
"""Pixels a side of a sampled cluster: fewer blocks are read than for single pixels."""


def sampled_pixels(reader: PatchReader, most: int, seed: int) -> tuple[Int32, Int32]:
    """Rows and columns of usable pixels in small clusters all over a scene, int32 ``(n,)`` each."""
    rng = np.random.default_rng([seed, 9])
    grid = reader.source.pair.grids.ms
    rows: list[Int32] = []
    cols: list[Int32] = []
    found = 0
    clusters = -(-most // _CLUSTER**2)
    # One cluster in each of many blocks; some lie on nodata, so more are tried than are needed. A small scene
    # has smaller blocks, so that it has enough of them.
    size = min(BLOCK, max(_CLUSTER, int((grid.height * grid.width / clusters) ** 0.5)))
    for number, block in enumerate(spread_blocks(grid.window, size, strata=clusters, seed=seed)):
        if found >= most or number >= 4 * clusters:
            break
        top = block.row + int(rng.integers(0, max(1, block.height - _CLUSTER + 1)))
        left = block.col + int(rng.integers(0, max(1, block.width - _CLUSTER + 1)))
        r, c = np.meshgrid(
            np.arange(top, min(top + _CLUSTER, block.row + block.height), dtype=np.int32),
            np.arange(left, min(left + _CLUSTER, block.col + block.width), dtype=np.int32),
            indexing="ij",
        )
        valid = reader.load(r.ravel(), c.ravel())
        rows.append(r.ravel()[valid])
        cols.append(c.ravel()[valid])
        found += int(valid.sum())
    if not rows:
        none = np.zeros(0, np.int32)
        return none, none
    return np.concatenate(rows)[:most], np.concatenate(cols)[:most]


def mapped_shares(
    network: Das2fNet, pixels: TrainingPixels, device: torch.device, seed: int
) -> dict[str, float]:
    """Share of each class by name among pixels drawn from all scenes; empty where none can be mapped."""
    network = network.to(device).eval()

    def classes(ms: Tensor, pan: Tensor) -> Int64:
        with torch.inference_mode():
            return np.asarray(network(ms.to(device), pan.to(device)).argmax(1).cpu().numpy(), np.int64)

    return shares_of(classes, pixels, seed)


def shares_of(
    classes: Callable[[Tensor, Tensor], Int64], pixels: TrainingPixels, seed: int
) -> dict[str, float]:
    """Share of each class by name among pixels drawn from all scenes; empty where none can be mapped.

    Parameters
    ----------
    classes:
        MS and PAN patches → positions of their classes in the legend, int64 ``(n,)``.
    seed:
        Decides which pixels are drawn.
    """
    counts: Int64 = np.zeros(len(pixels.legend), np.int64)
    for reader in pixels.readers:
        rows, cols = sampled_pixels(reader, SAMPLED // len(pixels.readers), seed)
        for first in range(0, rows.size, 64):
            best = classes(*reader.patches(rows[first : first + 64], cols[first : first + 64]))
            counts += np.bincount(best, minlength=counts.size)
    total = int(counts.sum())
    if not total:
        return {}
    return {name: round(int(k) / total, 4) for name, k in zip(pixels.legend.names, counts, strict=True)}
