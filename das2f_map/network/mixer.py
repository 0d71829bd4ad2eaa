"""Parts of the state-space token mixer that SPVM and CMDA share.

The mixer of a modality is: a gate from the tokens; a space-preserving convolution that gives the
scan's input ``x``; scan parameters ``dt, B, C`` projected from ``x``; the selective scan in four
directions; normalisation, gating, projection. CMDA swaps the scan parameters between modalities,
so the steps are separate modules here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.network.config import NetworkConfig
from das2f_map.network.scan_order import DIRECTIONS, scan_order
from das2f_map.network.selective_scan import selective_scan
from das2f_map.network.stem import PIXELS_PER_TOKEN


def tokens_to_pixels(tokens: Tensor) -> Tensor:
    """Lay every token's channels out as 4x4 pixels.

    ``(B, P, P, c·16)`` → ``(B, c, 4P, 4P)``; channel index ``c*16 + i*4 + j`` is channel ``c``,
    row ``i``, column ``j`` of the token's pixel block.
    """
    batch, rows, cols, width = tokens.shape
    s = PIXELS_PER_TOKEN
    blocks = tokens.reshape(batch, rows, cols, width // (s * s), s, s)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, width // (s * s), rows * s, cols * s)


class SpacePreservingConv(nn.Module):
    """Tokens ``(B, P, P, width)`` → scan input ``x`` ``(B, P, P, width)``.

    The tokens are laid out as an image (:func:`tokens_to_pixels`), then pass: depthwise 3x3 convolution (zero
    padding at the patch border), SiLU, 4x4 stride-4 convolution, BatchNorm.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = width // PIXELS_PER_TOKEN**2
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.embed = nn.Conv2d(channels, width, PIXELS_PER_TOKEN, stride=PIXELS_PER_TOKEN)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, tokens: Tensor) -> Tensor:
        image = F.silu(self.depthwise(tokens_to_pixels(tokens)))
        x: Tensor = self.norm(self.embed(image))
        return x.permute(0, 2, 3, 1)


class DynamicParameters(NamedTuple):
    """Scan parameters of a token sequence, K = 4 directions, L tokens in row-major order."""

    dt: Tensor  # (B, K, L, D) step sizes, after softplus
    B: Tensor  # (B, K, L, N)
    C: Tensor  # (B, K, L, N)
    A: Tensor  # (K, D, N), negative
    D: Tensor  # (K, D)


class ScanParameters(nn.Module):
    """Projects ``x`` to the selective scan's parameters, with own weights for each direction.

    Source: Gu & Dao, "Mamba", section 3.2, here with rank-``dt_rank`` step sizes.
    Initialised as Mamba does: ``A_n = -n`` (S4D-real), step sizes log-uniform in [0.001, 0.1], D = 1.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        k, d, n, r = DIRECTIONS, config.width, config.state_size, config.dt_rank
        self.dt_rank, self.state_size = r, n
        self.x_proj = nn.Parameter(torch.empty(k, r + 2 * n, d))
        self.dt_proj = nn.Parameter(torch.empty(k, d, r))
        self.dt_bias = nn.Parameter(torch.empty(k, d))
        self.A_log = nn.Parameter(torch.empty(k, d, n))
        self.D = nn.Parameter(torch.ones(k, d))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.A_log.is_meta:
            return  # it has no values, and arithmetic on it imports torch's compiler, which takes two seconds
        for direction in self.x_proj:
            nn.init.kaiming_uniform_(direction, a=math.sqrt(5))
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj, -bound, bound)
        with torch.no_grad():
            low, high = math.log(1e-3), math.log(1e-1)
            dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(low, high)).clamp(min=1e-4)
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
            self.A_log.copy_(torch.arange(1, self.state_size + 1).to(self.A_log).log().expand_as(self.A_log))
            self.D.fill_(1.0)

    def forward(self, x: Tensor) -> DynamicParameters:
        """The scan parameters of ``x`` ``(B, L, D)``."""
        batch, tokens, width = x.shape
        k, r, n = DIRECTIONS, self.dt_rank, self.state_size
        projected = F.linear(x, self.x_proj.reshape(-1, width))  # (B, L, K·(r + 2N))
        projected = projected.view(batch, tokens, k, r + 2 * n).transpose(1, 2)  # (B, K, L, r + 2N)
        dt_raw, b, c = torch.split(projected, [r, n, n], dim=-1)
        dt = torch.matmul(dt_raw, self.dt_proj.transpose(1, 2)) + self.dt_bias[:, None]  # (B, K, L, D)
        return DynamicParameters(F.softplus(dt), b, c, -torch.exp(self.A_log), self.D)


def scan_tokens(x: Tensor, parameters: DynamicParameters, size: int) -> Tensor:
    """Scan ``x`` ``(B, L, D)`` in the four directions and sum: ``(B, L, D)``, row-major tokens."""
    p = parameters
    order = scan_order(size, x.device)
    if not torch.is_autocast_enabled(x.device.type):
        return selective_scan(x, p.dt, p.A, p.B, p.C, p.D, order).sum(dim=1)
    # A state carries its rounding errors through all later steps, so the scan runs in float32.
    x, dt, a, b, c, d = (t.float() for t in (x, p.dt, p.A, p.B, p.C, p.D))
    with torch.autocast(x.device.type, enabled=False):
        return selective_scan(x, dt, a, b, c, d, order).sum(dim=1)


class Mlp(nn.Sequential):
    """Linear, GELU (exact erf), Linear on the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
