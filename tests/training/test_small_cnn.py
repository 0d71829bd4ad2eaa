"""The small CNN takes the network's inputs, is small, and learns from both images."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.training.small_cnn import SmallCnn


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def test_logits_as_those_of_the_network() -> None:
    ms, pan = torch.randn(3, 5, 16, 16), torch.randn(3, 1, 64, 64)
    network = Das2fNet(NetworkConfig(classes=6, ms_bands=5)).eval()
    cnn = SmallCnn(6, ms_bands=5).eval()
    with torch.inference_mode():
        expected, found = network(ms, pan), cnn(ms, pan)
    assert found.shape == expected.shape == (3, 6)
    assert found.dtype == expected.dtype


def test_parameters_are_few() -> None:
    """Counted by hand: weights of the convolutions, two numbers a normalised channel, classifier."""
    ms = 9 * (4 * 32 + 2 * 32 * 32) + 2 * 3 * 32
    pan = 16 * (16 + 16 * 32) + 9 * 32 * 32 + 2 * (16 + 32 + 32)
    fusion = 9 * 64 * 48 + 2 * 48
    expected = ms + pan + fusion + 96 * 20 + 20
    assert sum(p.numel() for p in SmallCnn(20).parameters()) == expected < 100_000


def test_pan_is_centred_on_the_ms_pixel() -> None:
    """The PAN pixels that the target's features depend on, before the last convolution: 3 around its 4."""
    halving = SmallCnn(2).pan_branch[:2].eval()
    for layer in halving.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    pan = torch.ones(1, 1, 64, 64, requires_grad=True)
    halving(pan)[0, :, 7, 7].sum().backward()
    assert pan.grad is not None
    touched = pan.grad[0, 0].nonzero()
    assert touched.min(0).values.tolist() == [28 - 3, 28 - 3]
    assert touched.max(0).values.tolist() == [31 + 3, 31 + 3]


@pytest.mark.slow
def test_it_learns_a_class_that_needs_both_images() -> None:
    """The class is whether MS and PAN have the same sign at the target; neither alone tells."""
    generator = torch.Generator().manual_seed(1)
    ms = torch.randn(256, 4, 16, 16, generator=generator)
    pan = torch.randn(256, 1, 64, 64, generator=generator)
    signs = torch.randint(0, 2, (256, 2), generator=generator) * 2.0 - 1
    ms[:, :, 6:9, 6:9] += 2 * signs[:, 0, None, None, None]
    pan[:, :, 24:36, 24:36] += 2 * signs[:, 1, None, None, None]
    positions = (signs[:, 0] == signs[:, 1]).long()
    cnn = SmallCnn(2)
    optimiser = torch.optim.AdamW(cnn.parameters(), lr=3e-3)
    for step in range(60):
        batch = torch.arange(32) + 32 * (step % 6)
        optimiser.zero_grad()
        F.cross_entropy(cnn(ms[batch], pan[batch]), positions[batch]).backward()
        optimiser.step()
    with torch.inference_mode():
        right = cnn.eval()(ms[192:], pan[192:]).argmax(1) == positions[192:]
    assert right.float().mean() > 0.9, "64 patches that it did not learn from"
