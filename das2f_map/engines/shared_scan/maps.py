"""Maps that all patches of a block share before the scan: tokens, gates, scan inputs and scan parameters.

Every quantity is computed once for each token and position class (see :mod:`.runs`), with the network's
own operations. Linear operations with nothing between them are folded (in float64): the scan input's
convolution with its batch normalisation, the projection to the parameters with the step-size projection.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.engines.shared_scan.runs import AxisRuns, Indices
from das2f_map.engines.shared_scan.workspace import Workspace
from das2f_map.network.cmda import CmdaBranch
from das2f_map.network.mixer import ScanParameters, SpacePreservingConv
from das2f_map.network.scan_order import DIRECTIONS
from das2f_map.network.spvm import SpvmMixer
from das2f_map.network.stem import PIXELS_PER_TOKEN, MsStem, PanStem
from das2f_map.types import Bool

MS_EDGE, PAN_EDGE = 1, 0
"""Positions at each end of an axis whose stem tokens are classes of their own."""
_BIAS_COLUMNS = 4
"""Columns of ones that the bias is multiplied with. One is enough; four keep the rows aligned."""


class BlockRuns(NamedTuple):
    """Layout of one modality's maps along both axes."""

    rows: AxisRuns
    cols: AxisRuns

    @classmethod
    def of(cls, height: int, width: int, patch: int, edge: int) -> BlockRuns:
        """The layout for a block of ``height`` x ``width`` outputs."""
        return cls(AxisRuns(height, patch, edge), AxisRuns(width, patch, edge))

    @property
    def wider(self) -> BlockRuns:
        """The layout with one more class at each end, for values that depend on a 3x3 neighbourhood."""
        return BlockRuns(*(AxisRuns(a.outputs, a.patch, a.edge + 1) for a in self))


class TokenMap(NamedTuple):
    """Stem tokens of a block, ``(row entries, column entries, D)``, and their layout."""

    tokens: Tensor
    runs: BlockRuns


class MixerMaps(NamedTuple):
    """The maps of one mixer before its scan.

    ``gate`` has the layout of the tokens. ``scan`` has one class more at each end, which is the layout
    ``runs``: ``(row entries, column entries, D + 4 (D + 2 N))``, x, then for each direction dt before its
    softplus, B and C.
    """

    gate: Tensor
    scan: Tensor
    runs: BlockRuns


@dataclass(frozen=True)
class MixerWeights:
    """A mixer's weights, folded for the maps."""

    norm: nn.LayerNorm
    gate: Tensor  # (D, D)
    neighbours: Tensor  # (9 D, D): the depthwise convolution; each of 9 tokens adds a share to the middle one
    neighbours_bias: Tensor  # (D,)
    project: Tensor  # (D + 4 (D + 2 N), D + 4), the bias and zeros last

    @classmethod
    def of(cls, norm: nn.LayerNorm, mixer: SpvmMixer | CmdaBranch) -> MixerWeights:
        """Fold the weights of an SPVM mixer, or of a CMDA branch."""
        scan, depthwise = mixer.scan, mixer.space.depthwise
        assert depthwise.bias is not None
        like = mixer.gate.weight
        embed, embed_bias = folded_embedding(mixer.space)
        parts, biases = [embed], [embed_bias]
        for parameters, bias in zip(*folded_parameters(scan), strict=True):
            parts.append(parameters @ embed)
            biases.append(parameters @ embed_bias + bias)
        project = torch.cat([torch.cat(parts), torch.cat(biases)[:, None]], dim=1)
        return cls(
            norm,
            like,
            _by_neighbour(depthwise.weight[:, 0]),
            depthwise.bias.repeat_interleave(PIXELS_PER_TOKEN**2),
            F.pad(project, (0, _BIAS_COLUMNS - 1)).to(like),
        )


def folded_embedding(space: SpacePreservingConv) -> tuple[Tensor, Tensor]:
    """A mixer's 4x4 convolution with its batch normalisation, as one map of tokens.

    Returns its weights ``(D, D)`` and bias ``(D,)`` in float64. The pixels of a token come as (channel, row,
    column), which is the order of the token's channels.
    """
    bn, conv = space.norm, space.embed
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert conv.bias is not None
    scale = bn.weight.double() * (bn.running_var.double() + bn.eps).rsqrt()
    weight = conv.weight.double().flatten(1) * scale[:, None]
    return weight, (conv.bias.double() - bn.running_mean.double()) * scale + bn.bias.double()


def folded_parameters(scan: ScanParameters) -> tuple[Tensor, Tensor]:
    """The projections of a scan's input to its parameters, with the step sizes' two in one.

    Returns weights ``(4, D + 2 N, D)`` and bias ``(4, D + 2 N)`` in float64, for dt before its softplus, B
    and C.
    """
    weights, biases = [], []
    rank = scan.dt_rank
    for k in range(DIRECTIONS):
        rows = scan.x_proj[k].double()
        weights.append(torch.cat([scan.dt_proj[k].double() @ rows[:rank], rows[rank:]]))
        biases.append(torch.cat([scan.dt_bias[k].double(), rows.new_zeros(len(rows) - rank)]))
    return torch.stack(weights), torch.stack(biases)


def ms_tokens(stem: MsStem, ms: Tensor, runs: BlockRuns, workspace: Workspace) -> TokenMap:
    """Stem tokens of an MS block ``(bands, h + P - 1, w + P - 1)``, for every position class."""
    fine = _enlarged(_enlarged(ms, runs.rows, 1, workspace), runs.cols, 2, workspace)
    return TokenMap(stem.embedding(fine[None])[0], runs)


def pan_tokens(stem: PanStem, pan: Tensor, runs: BlockRuns) -> TokenMap:
    """Stem tokens of a PAN block ``(1, 4 (h + P - 1), 4 (w + P - 1))``; all are of one position class."""
    return TokenMap(stem(pan[None])[0], runs)


def mixer_maps(weights: MixerWeights, tokens: TokenMap, workspace: Workspace, name: str) -> MixerMaps:
    """The maps of one mixer, for every position class; ``workspace`` keeps the scan map under ``name``."""
    runs = tokens.runs.wider
    width = tokens.tokens.shape[-1]
    u = weights.norm(tokens.tokens).view(-1, width)
    gate = F.silu(F.linear(u, weights.gate)).view(tokens.tokens.shape)
    # First the share that each token adds to its neighbours and itself, then the sums. The last row is zero,
    # for neighbours outside the patch.
    parts = workspace.take("parts", (9 * len(u) + 1, width), u)
    parts[-1] = 0
    torch.mm(u, weights.neighbours.t(), out=parts[:-1].view(len(u), 9 * width))
    (sources,) = workspace.kept(
        ("neighbours", tokens.runs),
        lambda: (torch.from_numpy(_neighbours(tokens.runs, runs)).to(u.device, torch.int32),),
    )
    image = F.embedding_bag(sources, parts, mode="sum").add_(weights.neighbours_bias)
    # Columns of ones, so that the product adds the bias.
    pixels = workspace.take("pixels", (len(image), width + _BIAS_COLUMNS), u)
    torch.mul(image, torch.sigmoid(image), out=pixels[:, :width])
    pixels[:, width:] = 1
    scan = workspace.take(f"scan {name}", (len(image), len(weights.project)), u)
    torch.mm(pixels, weights.project.t(), out=scan)
    return MixerMaps(gate, scan.view(runs.rows.entries, runs.cols.entries, -1), runs)


def _by_neighbour(kernel: Tensor) -> Tensor:
    """A depthwise 3x3 convolution of pixels ``(channels, 3, 3)`` as linear maps between tokens.

    Returns ``(9 D, D)``: nine maps from a neighbour to the token in the middle; the neighbour above left is
    the first, the one below right the last.
    """
    s = PIXELS_PER_TOKEN
    channels = kernel.shape[0]
    out = kernel.new_zeros(3, 3, channels, s, s, channels, s, s)  # neighbour, output pixel, input pixel
    own = torch.arange(channels, device=kernel.device)
    for rows in itertools.product(range(3), range(s), range(s)):
        for cols in itertools.product(range(3), range(s), range(s)):
            # Where the input pixel lies in the kernel that is centred on the output pixel.
            a, b = (s * (n - 1) + i - o + 1 for n, o, i in (rows, cols))
            if 0 <= a < 3 and 0 <= b < 3:
                out[rows[0], cols[0], own, rows[1], cols[1], own, rows[2], cols[2]] = kernel[:, a, b]
    return out.reshape(9 * channels * s * s, channels * s * s)


def _neighbours(source: BlockRuns, target: BlockRuns) -> Indices:
    """Rows of ``parts`` that add up to each entry, int64 (entries, 9); the zero row for those outside."""
    nowhere = 9 * source.rows.entries * source.cols.entries

    def along(tokens: AxisRuns, runs: AxisRuns) -> tuple[Indices, Bool]:
        """Entries of the tokens before, at and after each entry, and if the patch has them; (3, entries)."""
        start, position = runs.representatives()
        near = position + np.array([-1, 0, 1])[:, None]
        inside = (near >= 0) & (near < runs.patch)
        return tokens.entry(start, near.clip(0, runs.patch - 1)), inside

    (row, row_inside), (col, col_inside) = along(source.rows, target.rows), along(source.cols, target.cols)
    # (row entries, column entries, row neighbour, column neighbour)
    token = row.T[:, None, :, None] * source.cols.entries + col.T[None, :, None, :]
    index = 9 * token + np.arange(9).reshape(3, 3)
    inside = row_inside.T[:, None, :, None] & col_inside.T[None, :, None, :]
    return np.ascontiguousarray(np.where(inside, index, nowhere).reshape(-1, 9))


def _enlarged(image: Tensor, runs: AxisRuns, dim: int, workspace: Workspace) -> Tensor:
    """Bilinear enlargement of one axis by four between pixel centres, clamped at the border of each patch."""

    def sources() -> tuple[Tensor, ...]:
        start, position = runs.representatives()
        here = start + position
        before = here - (position > 0)
        after = here + (position < runs.patch - 1)
        # Centres of the fine pixels lie at -3/8, -1/8, 1/8 and 3/8 of a pixel.
        others = np.stack([before, before, after, after], axis=1).ravel()
        shares = np.tile([3 / 8, 1 / 8, 1 / 8, 3 / 8], len(here))
        indices = (torch.from_numpy(i).to(image.device) for i in (others, here.repeat(PIXELS_PER_TOKEN)))
        return *indices, torch.from_numpy(shares).to(image)

    other, centre, share = workspace.kept(("enlarged", runs), sources)
    share = share.view([-1 if d == dim else 1 for d in range(image.dim())])
    return torch.lerp(image.index_select(dim, centre), image.index_select(dim, other), share)


def split_scan(
    scan: Tensor, width: int, states: int
) -> tuple[Tensor, Sequence[tuple[Tensor, Tensor, Tensor]]]:
    """Views of a scan map: x, and for each direction dt before its softplus, B and C."""
    x, *rest = torch.split(scan, [width] + DIRECTIONS * [width, states, states], dim=-1)
    return x, [(rest[3 * k], rest[3 * k + 1], rest[3 * k + 2]) for k in range(DIRECTIONS)]
