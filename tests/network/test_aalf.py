from __future__ import annotations

import torch

from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.aalf import Aalf, tokens_to_subtokens


def turned_round(network: Das2fNet) -> float:
    """Share of the sub-tokens whose features point the other way after a small change of the images."""
    torch.manual_seed(3)
    ms, pan = torch.randn(4, 4, 16, 16), torch.randn(4, 1, 64, 64)
    with torch.inference_mode():
        before, after = (
            network.features(ms + change, pan).view(4, -1, network.config.fusion_channels)
            for change in (0.0, 0.05 * torch.randn_like(ms))
        )
    return float(((before * after).sum(-1) < 0).float().mean())


def test_a_training_starts_with_features_that_small_changes_do_not_turn_round() -> None:
    torch.manual_seed(1)
    network = Das2fNet(NetworkConfig(classes=3)).eval()
    assert turned_round(network) > 0.01
    network.start_positive()
    assert turned_round(network) < 1e-4


def test_the_start_of_a_training_changes_nothing_but_the_bias_of_the_norms() -> None:
    network = Das2fNet(NetworkConfig(classes=3, stages=2))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.start_positive()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fusions.0.norm.bias", "fusions.1.norm.bias"}


def test_fusion_is_the_averaged_outer_product() -> None:
    """Against the formula of the paper with the outer product formed, in float64."""
    torch.manual_seed(2)
    fusion = Aalf(NetworkConfig(classes=3)).double()
    a, b, common = (tokens_to_subtokens(torch.randn(2, 4, 4, 64, dtype=torch.float64)) for _ in range(3))

    def fuse(gated: torch.nn.Module, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(gated.gate(torch.cat([one, other], -1)))
        return ((one * gate)[..., :, None] * other[..., None, :]).mean(-2)

    specific = fuse(fusion.fuse_specific, fusion.norm(a), fusion.norm(b))
    expected = fuse(fusion.fuse_common, fusion.norm(specific), fusion.norm(common))
    torch.testing.assert_close(fusion(a, b, common), expected, rtol=1e-10, atol=1e-12)
