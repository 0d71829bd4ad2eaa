"""Share of each class in the scenes of a training, as the trained model maps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from das2f_map.network import Das2fNet
from das2f_map.training.batches import PlainBatches
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.types import Int64

SHARES_CLUSTER: Final = 2
"""Pixels a side of a sampled cluster: shares want more places than the statistics of a head."""


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
    sampled = ScenePixels.sampled(pixels.readers, seed, cluster=SHARES_CLUSTER)
    for batch in PlainBatches(len(sampled), 64):
        best = classes(*sampled.patches(batch.positions))
        counts += np.bincount(best, minlength=counts.size)
    total = int(counts.sum())
    if not total:
        return {}
    return {name: round(int(k) / total, 4) for name, k in zip(pixels.legend.names, counts, strict=True)}
