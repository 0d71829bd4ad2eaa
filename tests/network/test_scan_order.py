"""The orders in which tokens are scanned."""

from __future__ import annotations

import torch

from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.scan_order import scan_order


def test_orders_of_a_small_grid() -> None:
    assert scan_order(2).tolist() == [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]


def test_training_after_classifying_in_one_process() -> None:
    """The order that classifying leaves in the cache must serve training too."""
    # No other test uses this patch size, so the order is made in inference mode.
    sizes = {"patch_size": 11, "width": 16, "state_size": 4, "dt_rank": 4, "classifier_hidden": 8}
    network = Das2fNet(NetworkConfig(classes=2, **sizes))
    images = torch.randn(2, 4, 11, 11), torch.randn(2, 1, 44, 44)
    with torch.inference_mode():
        network.eval()(*images)
    network.train()(*images).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
