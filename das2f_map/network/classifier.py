"""The classifier: two linear layers with no activation between them; at inference, one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from das2f_map.network.config import NetworkConfig


class Classifier(nn.Module):
    """Features ``(B, width·L)`` → logits ``(B, C)``, through ``hidden`` inner values."""

    def __init__(self, config: NetworkConfig, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.flat_features, hidden)
        self.out = nn.Linear(hidden, config.classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.out(self.hidden(features))
        return logits

    def folded(self) -> nn.Linear:
        """The same map as a single layer; 98 % of a one-stage network's parameters go away.

        The product is taken in float64, so that folding adds no rounding of its own.
        """
        first, second = self.hidden, self.out
        weight = second.weight.double() @ first.weight.double()
        bias = second.weight.double() @ first.bias.double() + second.bias.double()
        with torch.device(first.weight.device):
            layer = nn.Linear(first.in_features, second.out_features, dtype=first.weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        return layer


def make_classifier(config: NetworkConfig) -> nn.Module:
    """The classifier of a configuration: two layers as published, or one layer that gives the same."""
    if config.classifier_hidden is None:
        return nn.Linear(config.flat_features, config.classes)
    return Classifier(config, config.classifier_hidden)
