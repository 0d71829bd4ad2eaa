"""What all patches of a block share before the scan: tokens, gates, scan inputs and scan parameters.

Every quantity is computed once for each token and position class (see :mod:`.runs`), with the network's
own operations. Linear maps without anything between are folded (in float64): the scan input's convolution
with its batch normalisation, the projection to the parameters with the step-size projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.engines.shared_scan.runs import AxisRuns, Indices
from das2f_map.network.cmda import CmdaBranch
from das2f_map.network.scan_order import DIRECTIONS
from das2f_map.network.spvm import SpvmMixer
from das2f_map.network.stem import PIXELS_PER_TOKEN, MsStem, PanStem

MS_EDGE, PAN_EDGE = 1, 0
"""Positions at each end of an axis whose stem token is a class of its own."""


class BlockRuns(NamedTuple):
    """Both axes of one modality's maps."""

    rows: AxisRuns
    cols: AxisRuns

    @classmethod
    def of(cls, height: int, width: int, patch: int, edge: int) -> BlockRuns:
        """For a block of ``height`` x ``width`` outputs."""
        return cls(AxisRuns(height, patch, edge), AxisRuns(width, patch, edge))

    @property
    def wider(self) -> BlockRuns:
        """The same outputs with one more class at each end: what a 3x3 neighbourhood sees."""
        return BlockRuns(*(AxisRuns(a.outputs, a.patch, a.edge + 1) for a in self))


class TokenMap(NamedTuple):
    """Stem tokens of a block, ``(row entries, column entries, D)``, and how they are laid out."""

    tokens: Tensor
    runs: BlockRuns


class MixerMaps(NamedTuple):
    """What a mixer has before its scan.

    ``gate`` is laid out as the tokens are; ``scan``, one class wider,
    ``(row entries, column entries, D + 4 (D + 2 N))``: x, then for each direction dt before its softplus,
    B and C.
    """

    gate: Tensor
    scan: Tensor
    runs: BlockRuns


@dataclass(frozen=True)
class MixerWeights:
    """A mixer's weights as the maps need them."""

    norm: nn.LayerNorm
    gate: Tensor  # (D, D)
    depthwise: Tensor  # (channels, 3, 3)
    depthwise_bias: Tensor  # (channels,)
    project: Tensor  # (D + 4 (D + 2 N), D)
    project_bias: Tensor

    @classmethod
    def of(cls, norm: nn.LayerNorm, mixer: SpvmMixer | CmdaBranch) -> MixerWeights:
        """Fold the weights of an SPVM mixer, or of a CMDA branch."""
        space, scan = mixer.space, mixer.scan
        like = mixer.gate.weight
        width = like.shape[0]
        bn = space.norm
        assert bn.running_mean is not None
        assert bn.running_var is not None
        assert space.embed.bias is not None
        assert space.depthwise.bias is not None
        scale = bn.weight.double() * (bn.running_var.double() + bn.eps).rsqrt()
        # embed's (channel, row, column) of a token's pixels is the order of its channels.
        embed = space.embed.weight.double().reshape(width, width) * scale[:, None]
        embed_bias = (space.embed.bias.double() - bn.running_mean.double()) * scale + bn.bias.double()
        parts, biases = [embed], [embed_bias]
        rank = scan.dt_rank
        for k in range(DIRECTIONS):
            rows = scan.x_proj[k].double()
            parameters = torch.cat([scan.dt_proj[k].double() @ rows[:rank], rows[rank:]])
            bias = torch.cat([scan.dt_bias[k].double(), rows.new_zeros(len(rows) - rank)])
            parts.append(parameters @ embed)
            biases.append(parameters @ embed_bias + bias)
        return cls(
            norm,
            like,
            space.depthwise.weight[:, 0],
            space.depthwise.bias,
            torch.cat(parts).to(like),
            torch.cat(biases).to(like),
        )


def ms_tokens(stem: MsStem, ms: Tensor, runs: BlockRuns) -> TokenMap:
    """Stem tokens of an MS block ``(bands, h + P - 1, w + P - 1)``, every class of them."""
    fine = _enlarged(_enlarged(ms, runs.rows, 1), runs.cols, 2)
    return TokenMap(stem.embedding(fine[None])[0], runs)


def pan_tokens(stem: PanStem, pan: Tensor, runs: BlockRuns) -> TokenMap:
    """Stem tokens of a PAN block ``(1, 4 (h + P - 1), 4 (w + P - 1))``; they have one class."""
    return TokenMap(stem(pan[None])[0], runs)


def mixer_maps(weights: MixerWeights, tokens: TokenMap) -> MixerMaps:
    """Gates, scan inputs and parameters of every token class."""
    u = weights.norm(tokens.tokens)
    gate = F.silu(F.linear(u, weights.gate))
    runs = tokens.runs.wider
    s = PIXELS_PER_TOKEN
    rows, cols, width = u.shape
    channels = width // (s * s)
    # (channel, row entry, row of the token, column entry, column of the token)
    image = u.view(rows, cols, channels, s, s).permute(2, 0, 3, 1, 4)
    around = _with_ring(_with_ring(image, tokens.runs.rows, runs.rows, 1), tokens.runs.cols, runs.cols, 3)
    bias = weights.depthwise_bias.view(-1, 1, 1, 1, 1)
    conv = bias
    for i in range(3):
        for j in range(3):
            kernel = weights.depthwise[:, i, j].view(-1, 1, 1, 1, 1)
            conv = torch.addcmul(conv, around[:, :, i : i + s, :, j : j + s], kernel)
    # Back to (row entry, column entry, channels of the token).
    pixels = F.silu(conv).permute(1, 3, 0, 2, 4).reshape(runs.rows.entries, runs.cols.entries, width)
    return MixerMaps(gate, F.linear(pixels, weights.project, weights.project_bias), runs)


def _enlarged(image: Tensor, runs: AxisRuns, dim: int) -> Tensor:
    """Bilinear enlargement of one axis by four between pixel centres, clamped at the border of each patch."""
    start, position = runs.representatives()
    here = start + position
    before = here - (position > 0)
    after = here + (position < runs.patch - 1)
    # Centres of the fine pixels lie at -3/8, -1/8, 1/8 and 3/8 of a pixel.
    sources = np.stack([before, before, after, after], axis=1)
    shares = [3 / 8, 1 / 8, 1 / 8, 3 / 8]
    share = image.new_tensor(shares * len(here)).view([-1 if d == dim else 1 for d in range(image.dim())])
    other = image.index_select(dim, _on(sources.ravel(), image))
    centre = image.index_select(dim, _on(np.repeat(here, PIXELS_PER_TOKEN), image))
    return torch.lerp(centre, other, share)


def _with_ring(image: Tensor, source: AxisRuns, target: AxisRuns, dim: int) -> Tensor:
    """Lay an axis of tokens (at ``dim``, their pixels at ``dim + 1``) out for neighbourhoods.

    Every entry gets the pixel before it and after it as its patch sees them: 4 pixels become 6; beyond the
    patch there is zero.
    """
    start, position = target.representatives()
    own = source.entry(start, position)
    last = target.patch - 1
    before = source.entry(start, np.maximum(position - 1, 0))
    after = source.entry(start, np.minimum(position + 1, last))
    end = image.shape[dim + 1] - 1
    parts: list[Tensor] = []
    for entries, pixel, inside in ((before, end, position > 0), (after, 0, position < last)):
        part = image.narrow(dim + 1, pixel, 1).index_select(dim, _on(entries, image))
        mask = torch.from_numpy(inside).to(image).view([-1 if d == dim else 1 for d in range(image.dim())])
        parts.append(part * mask)
    return torch.cat([parts[0], image.index_select(dim, _on(own, image)), parts[1]], dim=dim + 1)


def _on(indices: Indices, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(indices)).to(like.device)


def split_scan(
    scan: Tensor, width: int, states: int
) -> tuple[Tensor, Sequence[tuple[Tensor, Tensor, Tensor]]]:
    """Views of a scan map: x, and for each direction dt before its softplus, B and C."""
    x, *rest = torch.split(scan, [width] + DIRECTIONS * [width, states, states], dim=-1)
    return x, [(rest[3 * k], rest[3 * k + 1], rest[3 * k + 2]) for k in range(DIRECTIONS)]
