"""The orders in which tokens are scanned."""

from __future__ import annotations

import torch

from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.scan_order import _cpu_scan_order, scan_order


def test_orders_of_a_small_grid() -> None:
    assert scan_order(2).tolist() == [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]


def test_training_after_classifying_in_one_process() -> None:
    network = Das2fNet(NetworkConfig(classes=2, width=16, state_size=4, dt_rank=4, classifier_hidden=8))
    images = torch.randn(2, 4, 16, 16), torch.randn(2, 1, 64, 64)
    _cpu_scan_order.cache_clear()
    with torch.inference_mode():
        network.eval()(*images)
    network.train()(*images).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
