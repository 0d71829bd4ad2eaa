"""The classifier: two linear layers with no activation between them; at inference, one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class PooledClassifier(nn.Module):
    """Logits from means of the tokens in windows around the target: a linear map of few weights.

    A token's four sub-tokens keep their own values, so each window gives ``width`` features. They are
    standardised over the batch (batch normalisation without weights), then dropped at random while training,
    then mapped linearly. In evaluation they are standardised by running statistics of the training batches,
    by those of other pixels, or by both (:meth:`standardise_by`). At inference all three are one linear map
    of the flattened sub-tokens: :meth:`folded` is the published classifier with most of its weights equal.

    Parameters
    ----------
    config:
        Sizes of the network.
    target_index:
        Row and column of the classified MS pixel in a patch, from 0.
    windows:
        Sides of the windows in tokens, odd; 0 for the whole patch.
    dropout:
        Share of the features that is dropped in training.
    """

    def __init__(
        self,
        config: NetworkConfig,
        target_index: int,
        windows: tuple[int, ...] = (1, 3, 7, 0),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        means = torch.stack([_window_mean(config.patch_size, target_index, side) for side in windows])
        self.register_buffer("means", means, persistent=False)
        features = len(windows) * config.width
        self.windows = windows
        self.channels = config.fusion_channels
        # Trainings on few labels are short, so the running statistics have to follow soon.
        self.norm = nn.BatchNorm1d(features, affine=False, momentum=0.2)
        # Statistics of the training batches, while those of other pixels take their place.
        self.register_buffer("label_mean", torch.zeros(features))
        self.register_buffer("label_var", torch.ones(features))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(features, config.classes)

    means: Tensor
    """``(windows, L)``: weight of each token in each window's mean."""

    label_mean: Tensor
    label_var: Tensor
    """``(windows·width,)``: kept statistics of the training batches."""

    def _tokens(self, features: Tensor) -> Tensor:
        """Flattened sub-tokens ``(B, width·L)`` → tokens ``(B, P, P, width)``."""
        side = round(self.means.shape[1] ** 0.5)
        # A sub-token's place is (row, i, column, j), its channels come last.
        tokens = features.reshape(-1, side, 2, side, 2, self.channels).permute(0, 1, 3, 2, 4, 5)
        return tokens.reshape(len(features), side, side, 4 * self.channels)

    def pooled(self, features: Tensor) -> Tensor:
        """Flattened sub-tokens ``(B, width·L)`` → window means ``(B, windows·width)``."""
        tokens = self._tokens(features).flatten(1, 2)
        return torch.einsum("sl,blf->bsf", self.means.to(tokens.dtype), tokens).flatten(1)

    def pooled_at(self, features: Tensor, wanted: Tensor) -> Tensor:
        """Window means around other tokens than the target, ``(M, windows·width)``.

        ``wanted`` (bool ``(B, P, P)``) has M true values. Windows are cut off at the patch's edge.
        """
        tokens = self._tokens(features).permute(0, 3, 1, 2)
        found = []
        for side in self.windows:
            if side == 1:
                means = tokens
            elif side:
                means = F.avg_pool2d(tokens, side, 1, side // 2, count_include_pad=False)
            else:
                means = tokens.mean(dim=(2, 3), keepdim=True).expand_as(tokens)
            found.append(means.permute(0, 2, 3, 1)[wanted])
        return torch.cat(found, dim=1)

    def forward(self, features: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Logits of the target ``(B, C)``, or of the ``wanted`` tokens ``(M, C)``."""
        means = self.pooled(features) if wanted is None else self.pooled_at(features, wanted)
        logits: Tensor = self.out(self.dropout(self.norm(means)))
        return logits

    def standardise_by(self, means: Tensor, *, alone: bool) -> None:
        """In evaluation, standardise features by mean and variance of other ones, ``(n, windows·width)``.

        Logits are those by these statistics ``alone``, or their mean with those by the statistics of the
        training batches: with rates ``r = 1/√(σ² + ε)`` the mean of ``(x - μ₁)r₁`` and ``(x - μ₂)r₂`` is
        ``(x - μ)r`` with ``r = (r₁ + r₂)/2`` and ``μ = (μ₁r₁ + μ₂r₂)/(r₁ + r₂)``. The statistics of the
        training batches are kept for :meth:`standardise_by_labels`.
        """
        self.keep_label_statistics()
        mean, var = means.double().mean(dim=0), means.double().var(dim=0)
        if not alone:
            theirs, ours = (
                torch.rsqrt(self.label_var.double() + self.norm.eps),
                torch.rsqrt(var + self.norm.eps),
            )
            mean = (self.label_mean.double() * theirs + mean * ours) / (theirs + ours)
            var = (2 / (theirs + ours)) ** 2 - self.norm.eps
        own_mean, own_var = self._statistics
        own_mean.copy_(mean)
        own_var.copy_(var)

    def keep_label_statistics(self) -> None:
        """Keep the statistics of the training batches for :meth:`standardise_by_labels`."""
        mean, var = self._statistics
        self.label_mean.copy_(mean)
        self.label_var.copy_(var)

    def standardise_by_labels(self) -> None:
        """In evaluation, standardise features by the statistics that were kept."""
        mean, var = self._statistics
        mean.copy_(self.label_mean)
        var.copy_(self.label_var)

    @property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance that standardise in evaluation, the buffers themselves."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        return self.norm.running_mean, self.norm.running_var

    def folded(self) -> nn.Linear:
        """The map from flattened sub-tokens to logits in evaluation mode, as a single layer.

        Products are taken in float64, so that folding adds no rounding of its own.
        """
        norm, out = self.norm, self.out
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scaled = out.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        bias = out.bias.double() - scaled @ norm.running_mean.double()
        windows, tokens = self.means.shape
        side = round(tokens**0.5)
        by_token = torch.einsum(
            "csf,sl->clf", scaled.reshape(len(scaled), windows, 4 * self.channels), self.means.double()
        )
        spread = by_token.reshape(-1, side, side, 2, 2, self.channels).permute(0, 1, 3, 2, 4, 5).flatten(1)
        with torch.device(out.weight.device):
            layer = nn.Linear(spread.shape[1], out.out_features, dtype=out.weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(spread)
            layer.bias.copy_(bias)
        return layer


def _window_mean(size: int, target: int, side: int) -> Tensor:
    """Weights ``(size²,)`` in float64 of the mean over a window that is cut off at the patch's edge."""
    if side and side % 2 == 0:
        raise ValueError(f"a window around the target needs an odd side, not {side}")
    reach = side // 2 if side else size
    inside = torch.zeros(size, size, dtype=torch.float64)
    inside[max(0, target - reach) : target + reach + 1, max(0, target - reach) : target + reach + 1] = 1.0
    return (inside / inside.sum()).flatten()
