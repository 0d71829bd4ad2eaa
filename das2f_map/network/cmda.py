"""CMDA: cross-modal diff-attention, which gives the common parts of MS and PAN.

Each modality is scanned with the scan parameters of the other.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.network.config import NetworkConfig
from das2f_map.network.mixer import Mlp, ScanParameters, SpacePreservingConv, scan_tokens


class CmdaBranch(nn.Module):
    """One modality's own modules: gate, convolution, scan parameters, projection, MLP."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.gate = nn.Linear(width, width, bias=False)
        self.space = SpacePreservingConv(width)
        self.scan = ScanParameters(config)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.mlp = Mlp(width, width * config.mlp_ratio)


class Cmda(nn.Module):
    """Tokens of both modalities ``(B, P, P, width)`` → their common parts, same shapes.

    Both modalities share one LayerNorm, before the mixer and before the MLP, and one ``out_norm`` after the
    scan.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.out_norm = nn.LayerNorm(config.width)
        self.ms = CmdaBranch(config)
        self.pan = CmdaBranch(config)

    def forward(self, ms: Tensor, pan: Tensor) -> tuple[Tensor, Tensor]:
        size = ms.shape[1]
        ms_in, pan_in = self.norm(ms), self.norm(pan)
        x_ms = self.ms.space(ms_in).flatten(1, 2)  # (B, L, D)
        x_pan = self.pan.space(pan_in).flatten(1, 2)
        # The swap: MS is scanned with PAN's parameters and the other way round.
        y_ms = scan_tokens(x_ms, self.pan.scan(x_pan), size)
        y_pan = scan_tokens(x_pan, self.ms.scan(x_ms), size)
        return self._finish(self.ms, ms, ms_in, y_ms), self._finish(self.pan, pan, pan_in, y_pan)

    def _finish(self, branch: CmdaBranch, tokens: Tensor, normed: Tensor, y: Tensor) -> Tensor:
        z = F.silu(branch.gate(normed))
        residual: Tensor = tokens + branch.out_proj(self.out_norm(y.view_as(z)) * z)
        out: Tensor = residual + branch.mlp(self.norm(residual))
        return out
