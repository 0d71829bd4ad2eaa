"""A network's logits for the patches of a dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from das2f_map.training.batches import PatchDataset, PlainBatches
from das2f_map.types import Float32


def predict(
    network: nn.Module,
    dataset: PatchDataset,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
    *,
    turn: int = 0,
) -> Float32:
    """Logits of every patch, turned by one of the eight turns: float32 ``(n, C)``, in the legend's order."""
    network = network.to(device).eval()
    found = []
    with torch.inference_mode():
        for batch in PlainBatches(len(dataset), batch_size, turn):
            ms, pan, _ = dataset[batch]
            found.append(network(ms.to(device), pan.to(device)).float().cpu().numpy())
            advance(batch.positions.size)
    classes = len(dataset.pixels.legend)
    return np.concatenate(found) if found else np.zeros((0, classes), np.float32)
