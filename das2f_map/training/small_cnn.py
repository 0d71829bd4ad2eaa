"""A small two-branch CNN with the inputs and outputs of the DAS²F network: a teacher, and a baseline.

It is the plain answer to an MS + PAN patch: convolutions on each image until both have the MS grid, one
convolution on both, then the mean of the patch and the target pixel into a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TARGET = 7
"""Row and column of the target in an MS patch."""

WIDTH, FUSED = 32, 48
"""Channels of each branch and of the fused image."""


class SmallCnn(nn.Module):
    """MS and PAN patches to class logits with fewer than 100,000 parameters.

    Parameters
    ----------
    classes, ms_bands:
        Number of classes, and of MS bands.
    """

    def __init__(self, classes: int, ms_bands: int = 4) -> None:
        super().__init__()
        self.ms_branch = nn.Sequential(_conv(ms_bands, WIDTH), _conv(WIDTH, WIDTH), _conv(WIDTH, WIDTH))
        # Kernels of 4 with a stride of 2: the output for an MS pixel sees as much PAN on each side of it.
        self.pan_branch = nn.Sequential(_halve(1, WIDTH // 2), _halve(WIDTH // 2, WIDTH), _conv(WIDTH, WIDTH))
        self.fusion = _conv(2 * WIDTH, FUSED)
        self.classifier = nn.Linear(2 * FUSED, classes)

    def forward(self, ms: Tensor, pan: Tensor) -> Tensor:
        """Logits ``(B, C)`` of MS patches ``(B, bands, 16, 16)`` and PAN patches ``(B, 1, 64, 64)``."""
        fused = self.fusion(torch.cat([self.ms_branch(ms), self.pan_branch(pan)], dim=1))
        pooled = torch.cat([fused.mean((2, 3)), fused[:, :, TARGET, TARGET]], dim=1)
        logits: Tensor = self.classifier(pooled)
        return logits


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    """A 3 × 3 convolution that keeps the size."""
    return _block(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    """A 4 × 4 convolution that halves the size."""
    return _block(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False))


def _block(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())
