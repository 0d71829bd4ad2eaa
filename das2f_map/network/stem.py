"""Stem: a patch of pixels becomes a grid of tokens, one per MS pixel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.network.config import NetworkConfig

PIXELS_PER_TOKEN = 4
"""Fine (PAN-scale) pixels along one side of a token."""


class PatchEmbedding(nn.Module):
    """Non-overlapping 4x4 convolution and LayerNorm: fine pixels to tokens, channels last.

    ``(B, C, 4P, 4P)`` → ``(B, P, P, width)``.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, PIXELS_PER_TOKEN, stride=PIXELS_PER_TOKEN)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.conv(image).permute(0, 2, 3, 1))
        return tokens


class MsStem(nn.Module):
    """MS patch ``(B, bands, P, P)`` → tokens ``(B, P, P, width)``.

    The patch is first enlarged four times by bilinear interpolation between pixel centres,
    clamped at the patch border.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config.ms_bands, config.width)

    def forward(self, ms: Tensor) -> Tensor:
        fine = F.interpolate(ms, scale_factor=PIXELS_PER_TOKEN, mode="bilinear", align_corners=False)
        tokens: Tensor = self.embedding(fine)
        return tokens


class PanStem(nn.Module):
    """PAN patch ``(B, 1, 4P, 4P)`` → tokens ``(B, P, P, width)``."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.expand = nn.Conv2d(1, config.pan_channels, 1)
        self.embedding = PatchEmbedding(config.pan_channels, config.width)

    def forward(self, pan: Tensor) -> Tensor:
        tokens: Tensor = self.embedding(self.expand(pan))
        return tokens
