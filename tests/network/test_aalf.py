from __future__ import annotations

import torch

from das2f_map.network import NetworkConfig
from das2f_map.network.aalf import Aalf, tokens_to_subtokens


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
