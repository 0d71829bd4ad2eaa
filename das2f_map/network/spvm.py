"""SPVM: the space-preserving visual mamba block of one modality."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.network.config import NetworkConfig
from das2f_map.network.mixer import Mlp, ScanParameters, SpacePreservingConv, scan_tokens


class SpvmMixer(nn.Module):
    """Tokens ``(B, P, P, width)`` → ``(B, P, P, width)``."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.gate = nn.Linear(width, width, bias=False)
        self.space = SpacePreservingConv(width)
        self.scan = ScanParameters(config)
        self.out_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        z = F.silu(self.gate(tokens))
        x = self.space(tokens)
        sequence = x.flatten(1, 2)  # (B, L, D)
        y = scan_tokens(sequence, self.scan(sequence), x.shape[1]).view_as(x)
        out: Tensor = self.out_proj(self.out_norm(y) * z)
        return out


class Spvm(nn.Module):
    """``r = T + mixer(LN(T))``, ``out = r + MLP(LN(r))``; both norms are the same instance."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.mixer = SpvmMixer(config)
        self.mlp = Mlp(config.width, config.width * config.mlp_ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, P, P, width)`` → the same shape."""
        residual: Tensor = tokens + self.mixer(self.norm(tokens))
        out: Tensor = residual + self.mlp(self.norm(residual))
        return out
