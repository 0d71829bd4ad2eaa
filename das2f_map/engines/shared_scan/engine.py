"""The shared-scan engine: every pixel of a block without computing every patch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from das2f_map.engines.shared_scan import compiled
from das2f_map.engines.shared_scan.compiled import CompiledFirstStage
from das2f_map.engines.shared_scan.first_stage import FirstStage
from das2f_map.engines.shared_scan.maps import MS_EDGE
from das2f_map.engines.shared_scan.runs import Indices
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.das2f import StageOutput
from das2f_map.scene.grid import PAN_PER_MS


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
        self._kernels: CompiledFirstStage | None = None
        if self._device.type == "cpu" and not compiled.unavailable(network.config, self._dtype, precision):
            self._kernels = CompiledFirstStage(self._first, precision)
        elif precision != "fp32":
            raise ValueError(f"precision {precision} needs the compiled kernels")

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def scan(self) -> str:
        """How the scan is computed: the kernels' instruction set, or torch."""
        return "torch" if self._kernels is None else f"compiled, {compiled.instruction_set()}"

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
        """Logits ``(n, C)`` of the outputs at ``rows``, ``cols`` (n,) of a block with its halo."""
        tokens, maps = self._first.maps(ms, pan)
        output: Callable[[Indices, Indices], StageOutput]
        if self._kernels is not None:
            scanned = self._kernels.scan(tokens, maps)
            if self._kernels.whole:
                return self._kernels.finish(scanned, rows, cols)
            kernels = self._kernels

            def output(r: Indices, c: Indices) -> StageOutput:
                return StageOutput(*kernels.finish(scanned, r, c).unbind(dim=1))
        else:
            y = self._first.scans(maps)

            def output(r: Indices, c: Indices) -> StageOutput:
                return self._first.output(y, tokens, maps, r, c)

        parts = []
        for start in range(0, len(rows), self.batch_size):
            some = slice(start, start + self.batch_size)
            features = self._network.features_after(output(rows[some], cols[some]))
            parts.append(self._network.classifier(features))
        return torch.cat(parts)


def unavailable(config: NetworkConfig, device: torch.device, precision: str) -> str:
    """Why the engine cannot run such a network there with that precision; empty if it can."""
    if config.patch_size <= 2 * (MS_EDGE + 1):
        return f"patches of {config.patch_size} pixels have no middle to share"
    if precision == "fp32":
        return ""
    if device.type != "cpu":
        return f"{precision} is not available on {device.type}"
    return compiled.unavailable(config, torch.float32, precision)
