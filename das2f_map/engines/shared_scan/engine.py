"""The shared-scan engine: every pixel of a block without computing every patch."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from das2f_map.engines.shared_scan import torch_path
from das2f_map.engines.shared_scan.maps import (
    MS_EDGE,
    PAN_EDGE,
    BlockRuns,
    MixerMaps,
    MixerWeights,
    TokenMap,
    mixer_maps,
    ms_tokens,
    pan_tokens,
)
from das2f_map.engines.shared_scan.runs import Indices
from das2f_map.network import Das2fNet
from das2f_map.network.das2f import Stage, StageOutput
from das2f_map.scene.grid import PAN_PER_MS


class Tail(nn.Module):
    """What follows the scan of one branch: norm, gate, projection, residual, norm, MLP, residual."""

    def __init__(self, norm: nn.LayerNorm, out_norm: nn.LayerNorm, out_proj: nn.Linear, mlp: nn.Module) -> None:
        super().__init__()
        self.norm, self.out_norm, self.out_proj, self.mlp = norm, out_norm, out_proj, mlp

    def forward(self, y: Tensor, gate: Tensor, tokens: Tensor) -> Tensor:
        """All ``(…, D)``."""
        residual: Tensor = tokens + self.out_proj(self.out_norm(y) * gate)
        out: Tensor = residual + self.mlp(self.norm(residual))
        return out


class FirstStage:
    """The first stage of a network over blocks, in torch operations.

    Branches in the order SPVM of MS, SPVM of PAN, CMDA of MS, CMDA of PAN.
    """

    def __init__(self, network: Das2fNet) -> None:
        self.network = network
        stage = network.stages[0]
        assert isinstance(stage, Stage)
        ms, pan, cross = stage.spvm_ms, stage.spvm_pan, stage.cmda
        self.mixers = (
            MixerWeights.of(ms.norm, ms.mixer),
            MixerWeights.of(pan.norm, pan.mixer),
            MixerWeights.of(cross.norm, cross.ms),
            MixerWeights.of(cross.norm, cross.pan),
        )
        self.tails = (
            Tail(ms.norm, ms.mixer.out_norm, ms.mixer.out_proj, ms.mlp),
            Tail(pan.norm, pan.mixer.out_norm, pan.mixer.out_proj, pan.mlp),
            Tail(cross.norm, cross.out_norm, cross.ms.out_proj, cross.ms.mlp),
            Tail(cross.norm, cross.out_norm, cross.pan.out_proj, cross.pan.mlp),
        )
        # CMDA scans each modality with the other one's parameters.
        self.parameters_of = (0, 1, 3, 2)
        scans = (ms.mixer.scan, pan.mixer.scan, cross.ms.scan, cross.pan.scan)
        self.decays = tuple(-torch.exp(scans[i].A_log) for i in self.parameters_of)
        self.skips = tuple(scans[i].D for i in self.parameters_of)

    def maps(self, ms: Tensor, pan: Tensor) -> tuple[tuple[TokenMap, ...], tuple[MixerMaps, ...]]:
        """Tokens (MS, PAN) and the four branches' maps of a block with its halo."""
        p = self.network.config.patch_size
        height, width = ms.shape[1] - p + 1, ms.shape[2] - p + 1
        runs = [BlockRuns.of(height, width, p, edge) for edge in (MS_EDGE, PAN_EDGE)]
        tokens = (
            ms_tokens(self.network.ms_stem, ms, runs[0]),
            pan_tokens(self.network.pan_stem, pan, runs[1]),
        )
        return tokens, tuple(mixer_maps(w, tokens[i % 2]) for i, w in enumerate(self.mixers))

    def scans(self, maps: tuple[MixerMaps, ...]) -> list[Tensor]:
        """Scanned tokens of every patch, ``(h, w, P, P, D)`` a branch."""
        return [
            torch_path.scan_block(maps[i], maps[self.parameters_of[i]], self.decays[i], self.skips[i])
            for i in range(4)
        ]

    def output(
        self,
        scanned: list[Tensor],
        tokens: tuple[TokenMap, ...],
        maps: tuple[MixerMaps, ...],
        rows: Indices,
        cols: Indices,
    ) -> StageOutput:
        """The stage's output for the patches that start at ``rows``, ``cols`` (n,): ``(n, P, P, D)`` each."""
        at = tuple(torch.from_numpy(i).to(scanned[0].device) for i in (rows, cols))
        out = []
        for i, tail in enumerate(self.tails):
            source = tokens[i % 2]
            gate, own = (
                torch_path.gather_tokens(v, source.runs, rows, cols) for v in (maps[i].gate, source.tokens)
            )
            out.append(tail(scanned[i][at], gate, own))
        return StageOutput(out[0] - out[2], out[1] - out[3], out[2], out[3])


class SharedScanEngine:
    """Classifies blocks with everything shared that neighbouring patches have in common.

    Exact: the same logits as the per-patch engine's but for rounding.

    Parameters
    ----------
    network:
        Used through a copy; its classifier is folded.
    device:
        Where to compute.
    precision:
        ``fp32``, ``bf16`` or ``fp16``; a float64 network computes in float64 with ``fp32``.
    batch_size:
        Patches whose tail is computed together.
    block_size:
        MS pixels a side of what is computed at once.
    """

    name = "shared"

    def __init__(
        self,
        network: Das2fNet,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        batch_size: int | None = None,
        block_size: int | None = None,
    ) -> None:
        self._device = torch.device(device)
        self.precision = precision
        network = copy.deepcopy(network).eval()
        network.fold_classifier()
        network = network.to(self._device).requires_grad_(False)
        self._network = network
        self._dtype = next(network.parameters()).dtype
        self._patch = network.config.patch_size
        self._first = FirstStage(network)
        self.batch_size = batch_size or 16
        self.block_size = block_size or 32

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def scan(self) -> str:
        """How the scan is computed."""
        return "torch"

    @torch.inference_mode()
    def logits(
        self,
        ms: npt.NDArray[np.float32],
        pan: npt.NDArray[np.float32],
        targets: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.float32]:
        """See :class:`das2f_map.engines.Engine`."""
        halo, f = self._patch - 1, PAN_PER_MS
        h, w = targets.shape
        if ms.shape[1:] != (h + halo, w + halo) or pan.shape[1:] != (f * (h + halo), f * (w + halo)):
            raise ValueError(f"block of {ms.shape} and {pan.shape} does not fit targets {targets.shape}")
        out = np.empty((h, w, self._network.config.classes), dtype=np.float32)
        ms_all, pan_all = (torch.from_numpy(v).to(self._device, self._dtype) for v in (ms, pan))
        for row in range(0, h, self.block_size):
            for col in range(0, w, self.block_size):
                part = targets[row : row + self.block_size, col : col + self.block_size]
                rows, cols = np.nonzero(part)
                if not len(rows):
                    continue
                # Only the rectangle that holds what is wanted.
                r, c = rows.min() + row, cols.min() + col
                height, width = int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1
                result = self._block(
                    ms_all[:, r : r + height + halo, c : c + width + halo],
                    pan_all[:, f * r : f * (r + height + halo), f * c : f * (c + width + halo)],
                    rows - rows.min(),
                    cols - cols.min(),
                )
                out[rows + row, cols + col] = result.float().cpu().numpy()
        return out[targets]

    def _block(self, ms: Tensor, pan: Tensor, rows: Indices, cols: Indices) -> Tensor:
        tokens, maps = self._first.maps(ms, pan)
        scanned = self._first.scans(maps)
        parts = []
        for start in range(0, len(rows), self.batch_size):
            some = slice(start, start + self.batch_size)
            output = self._first.output(scanned, tokens, maps, rows[some], cols[some])
            parts.append(self._network.classifier(self._network.features_after(output)))
        return torch.cat(parts)
