"""A network's classes for the patches of a dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from das2f_map.training.dataset import PatchDataset, PlainBatches
from das2f_map.types import Int64


def predict(
    network: nn.Module,
    dataset: PatchDataset,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> Int64:
    """Position in the legend of the class with the largest logit, for every patch: int64 ``(n,)``."""
    network = network.to(device).eval()
    found = []
    with torch.inference_mode():
        for batch in PlainBatches(len(dataset), batch_size):
            ms, pan, _ = dataset[batch]
            found.append(network(ms.to(device), pan.to(device)).argmax(1).cpu().numpy())
            advance(batch.positions.size)
    return np.concatenate(found) if found else np.zeros(0, np.int64)
