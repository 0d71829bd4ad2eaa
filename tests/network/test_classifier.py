"""The pooled classifier against plain loops over windows, and its single-layer form against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.classifier import PooledClassifier

REAL = NetworkConfig(classes=11)
TINY = NetworkConfig(classes=3, width=16, patch_size=8, state_size=4, dt_rank=4)


def target(config: NetworkConfig) -> int:
    return config.patch_size // 2 - 1


def made(config: NetworkConfig, seed: int = 0, **options: Any) -> PooledClassifier:
    torch.manual_seed(seed)
    return PooledClassifier(config, target(config), **options).double().eval()


def features(config: NetworkConfig, n: int = 5, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(n, config.flat_features, generator=generator, dtype=torch.float64)


def window_means(
    flat: NDArray[np.float64], config: NetworkConfig, sides: tuple[int, ...]
) -> NDArray[np.float64]:
    """Means over tokens of each window, by loops: ``(B, sides, 2, 2, channels)``."""
    p, t = config.patch_size, target(config)
    ground = flat.reshape(len(flat), 2 * p, 2 * p, config.width // 4)
    found = np.zeros((len(flat), len(sides), 2, 2, config.width // 4))
    for k, side in enumerate(sides):
        tokens = [
            (r, c)
            for r in range(p)
            for c in range(p)
            if side == 0 or max(abs(r - t), abs(c - t)) <= side // 2
        ]
        for i in (0, 1):
            for j in (0, 1):
                found[:, k, i, j] = sum(ground[:, 2 * r + i, 2 * c + j] for r, c in tokens) / len(tokens)
    return found


@pytest.mark.parametrize("config", [REAL, TINY], ids=["real", "tiny"])
def test_windows_are_means_around_the_target(config: NetworkConfig) -> None:
    flat, sides = features(config), (1, 3, 7, 0)
    with torch.no_grad():
        found = made(config).pooled(flat).numpy()
    expected = window_means(flat.numpy(), config, sides)
    np.testing.assert_allclose(found, expected.reshape(len(flat), -1), rtol=0, atol=1e-12)


def test_windows_are_cut_off_at_the_edge_of_the_patch() -> None:
    """15 tokens around token 3 of 8 would reach beyond both edges: the window is the whole patch."""
    head = made(TINY, windows=(15, 0))
    assert torch.equal(head.means[0], head.means[1])
    assert head.means.sum(1).tolist() == pytest.approx([1, 1])


def test_even_windows_have_no_centre() -> None:
    with pytest.raises(ValueError, match="odd side, not 4"):
        PooledClassifier(TINY, 3, windows=(4,))


def trained(head: PooledClassifier, config: NetworkConfig) -> PooledClassifier:
    """The head after some steps in training mode, which move the running statistics and the weights."""
    head.train()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for step in range(4):
        loss = nn.functional.cross_entropy(
            head(features(config, 8, 10 + step)), torch.arange(8) % config.classes
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types there
        optimizer.step()
    return head.eval()


@pytest.mark.parametrize("config", [REAL, TINY], ids=["real", "tiny"])
@pytest.mark.parametrize("after_training", [False, True], ids=["fresh", "trained"])
def test_folded_classifier_gives_the_same_logits(config: NetworkConfig, after_training: bool) -> None:
    head, flat = made(config, dropout=0.3), features(config)
    before = head.norm.running_mean.clone()
    if after_training:
        trained(head, config)
        assert not torch.allclose(head.norm.running_mean, before)
    with torch.no_grad():
        folded = head.folded()
        expected, found = head(flat), folded(flat)
    assert folded.weight.shape == (config.classes, config.flat_features)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_logits_by_hand() -> None:
    """Window means, standardised by the running statistics, times the weights: all in numpy."""
    head, flat = trained(made(TINY, dropout=0.3), TINY), features(TINY)
    means = window_means(flat.numpy(), TINY, (1, 3, 7, 0)).reshape(len(flat), -1)
    mean, var = head.norm.running_mean.numpy(), head.norm.running_var.numpy()
    weight, bias = (p.detach().numpy() for p in (head.out.weight, head.out.bias))
    expected = (means - mean) / np.sqrt(var + 1e-5) @ weight.T + bias
    with torch.no_grad():
        np.testing.assert_allclose(head(flat), expected, rtol=0, atol=1e-10)


def test_training_mode_standardises_and_drops() -> None:
    head, flat = made(TINY, dropout=0.5).train(), features(TINY, 64)
    torch.manual_seed(0)
    with torch.no_grad():
        one, other = head(flat), head(flat)
    assert not torch.allclose(one, other), "other features are dropped each time"
    head.dropout.p = 0.0
    means = window_means(flat.numpy(), TINY, (1, 3, 7, 0)).reshape(64, -1)
    weight, bias = (p.detach().numpy() for p in (head.out.weight, head.out.bias))
    expected = (means - means.mean(0)) / np.sqrt(means.var(0) + 1e-5) @ weight.T + bias
    with torch.no_grad():
        np.testing.assert_allclose(head(flat), expected, rtol=0, atol=1e-10)


def test_network_with_a_folded_head_is_one_of_the_published_form() -> None:
    """Its weights fit a fresh network of the folded configuration, which gives the same logits."""
    torch.manual_seed(0)
    network = Das2fNet(TINY).double()
    network.classifier = PooledClassifier(TINY, target(TINY)).double()
    network.eval()
    generator = torch.Generator().manual_seed(0)
    ms = torch.randn(4, 4, 8, 8, generator=generator, dtype=torch.float64)
    pan = torch.randn(4, 1, 32, 32, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = network(ms, pan)
        network.fold_classifier()
        assert network.config.classifier_hidden is None
        published = Das2fNet(network.config).double().eval()
        published.load_state_dict(network.state_dict())
        np.testing.assert_allclose(published(ms, pan), expected, rtol=0, atol=1e-12)


def test_statistics_of_other_features_standardise() -> None:
    """Features whose statistics a head takes come out with mean 0 and variance 1 in front of its weights."""
    head, others = trained(made(TINY), TINY), 7 - 3 * features(TINY, 40, seed=5)
    with torch.no_grad():
        head.standardise_by(head.pooled(others), alone=True)
        logits, folded = head(others), head.folded()(others)
        weight, bias = head.out.weight, head.out.bias
    means = window_means(others.numpy(), TINY, (1, 3, 7, 0)).reshape(40, -1)
    plain = (means - means.mean(axis=0)) / np.sqrt(means.var(axis=0, ddof=1) + 1e-5)
    np.testing.assert_allclose(logits, plain @ weight.detach().numpy().T + bias.detach().numpy(), atol=1e-9)
    np.testing.assert_allclose(folded, logits, rtol=0, atol=1e-9)


def test_two_statistics_give_the_mean_of_their_logits() -> None:
    """By those of the training and of other features, and as one linear map."""
    head, others = trained(made(TINY), TINY), 7 - 3 * features(TINY, 40, seed=5)
    shown = features(TINY, 9, seed=6)
    with torch.no_grad():
        by_labels = head(shown)
        head.standardise_by(head.pooled(others), alone=True)
        by_others = head(shown)
        head.standardise_by_labels()
        np.testing.assert_allclose(head(shown), by_labels, rtol=0, atol=0)
        head.standardise_by(head.pooled(others), alone=False)
        assert abs(by_others - by_labels).max() > 0.1
        np.testing.assert_allclose(head(shown), (by_labels + by_others) / 2, rtol=0, atol=1e-10)
        np.testing.assert_allclose(head.folded()(shown), head(shown), rtol=0, atol=1e-10)
