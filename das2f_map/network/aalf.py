"""AALF: attention-aware linear fusion of each modality's specific part with the common part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from das2f_map.network.config import NetworkConfig


def tokens_to_subtokens(tokens: Tensor) -> Tensor:
    """Spread every token over 2x2 sub-tokens.

    ``(B, P, P, c·4)`` → ``(B, (2P)², c)``; channel index ``c*4 + i*2 + j`` is channel ``c`` of the
    sub-token in row ``i``, column ``j``.
    """
    batch, rows, cols, width = tokens.shape
    blocks = tokens.reshape(batch, rows, cols, width // 4, 2, 2)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(batch, rows * cols * 4, width // 4)


class GatedFusion(nn.Module):
    """``mean_c(A_c G_c) · B`` with ``G = sigmoid(W [A; B] + b)``, per sub-token.

    This is the outer product ``(A ⊙ G) Bᵀ``, averaged over its first axis; the product is never formed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * channels, channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([a, b], dim=-1)))
        return (a * gate).mean(dim=-1, keepdim=True) * b


class Aalf(nn.Module):
    """``fuse2(LN(fuse1(LN(ms_specific), LN(pan_specific))), LN(common))``, one LayerNorm for all.

    All inputs are sub-tokens ``(B, 4L, width/4)``; so is the result.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.fusion_channels
        self.norm = nn.LayerNorm(channels)
        self.fuse_specific = GatedFusion(channels)
        self.fuse_common = GatedFusion(channels)

    def forward(self, ms_specific: Tensor, pan_specific: Tensor, common: Tensor) -> Tensor:
        specific = self.fuse_specific(self.norm(ms_specific), self.norm(pan_specific))
        fused: Tensor = self.fuse_common(self.norm(specific), self.norm(common))
        return fused
