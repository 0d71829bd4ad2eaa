"""The first stage over whole blocks on CUDA, in Triton kernels.

Same interface as :class:`.compiled.CompiledFirstStage`. The maps come from :class:`.FirstStage` in float32.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from das2f_map.engines.memory import free, out_of_memory
from das2f_map.engines.shared_scan.first_stage import FirstStage
from das2f_map.engines.shared_scan.maps import BlockRuns, MixerMaps, TokenMap
from das2f_map.engines.shared_scan.runs import Indices
from das2f_map.engines.shared_scan.triton_calls import (
    HIDDEN_STEP,
    FusionWeights,
    TailWeights,
    kernel_decay,
    scan_branch,
    stepped,
)
from das2f_map.network import NetworkConfig
from das2f_map.network.selective_scan import triton_scan

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_CLASSES = 64
_LEAST_BLOCK, _LARGEST_BLOCK = 16, 128
_FREE_SHARE = 0.7
# Fewer patches at a time save little beside what a block takes.
_LEAST_PATCHES = 32


def unavailable(config: NetworkConfig, device: torch.device, precision: str = "fp32") -> str:
    """Why the kernels cannot run a network there; empty if they can."""
    if reason := triton_scan.missing():
        return reason
    if device.type != "cuda":
        return "" if triton_scan.interpreted() else "they run on CUDA devices only"
    sizes = (config.patch_size, config.width, config.state_size)
    if sizes != (16, 64, 24) or config.mlp_ratio * config.width % HIDDEN_STEP:
        return "they are made for the published sizes (patch 16, width 64, 24 states)"
    if config.classes > _MOST_CLASSES:
        return f"they take at most {_MOST_CLASSES} classes"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 0):
        return (
            f"{torch.cuda.get_device_name(device)} is too old for them (compute capability {major}.{minor})"
        )
    return ""


def block_size(config: NetworkConfig, device: torch.device, precision: str) -> int:
    """MS pixels a side of the blocks whose tensors fit into a device's free memory."""
    free = torch.cuda.mem_get_info(device)[0]
    # What torch holds without using it is free as well.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    scanned = 4 * 4 * config.tokens * config.width * DTYPES[precision].itemsize
    # Maps in float32: 25 classes of MS tokens, 9 of PAN's, for two branches each, more where a block is
    # small; and as much again for what stands beside them while they are made and scanned.
    features = config.width + 4 * (config.width + 2 * config.state_size)
    maps = 2 * 2 * (25 + 9) * features * 4 * 2
    side = int((_FREE_SHARE * free / (scanned + maps)) ** 0.5)
    return max(_LEAST_BLOCK, min(_LARGEST_BLOCK, side // 16 * 16))


class ScannedBlock(NamedTuple):
    """What the tails need of a block."""

    y: list[Tensor]  # by scan_branch, a branch each
    scan: list[Tensor]  # maps that x comes from
    gate: list[Tensor]
    tokens: list[Tensor]  # of MS and PAN, in the wanted order of channels
    token_runs: list[BlockRuns]
    scan_runs: list[BlockRuns]


class TritonFirstStage:
    """The kernels with a network's weights.

    Parameters
    ----------
    first:
        The network's first stage, float32, on the device; makes the maps.
    precision:
        Of the products; scanned tokens and specifics are kept in it too.
    patches:
        Patches whose tails are computed together. Halved, for good and down to 32, when memory runs out.
    """

    def __init__(self, first: FirstStage, precision: str, patches: int = 1024) -> None:
        network, self._dtype = first.network, DTYPES[precision]
        self.patches = patches
        self.whole = network.config.stages == 1
        self._parameters_of = first.parameters_of
        device = first.decays[0].device
        width = network.config.width
        # A one-stage network's branches emit sub-tokens: the four of a token one after the other.
        channels = torch.arange(width, device=device)
        self._order = channels.view(-1, 4).t().flatten() if self.whole else channels
        self._decays = [kernel_decay(decay) for decay in first.decays]
        self._tails = [
            TailWeights(tail, skip, self._order, self._dtype)
            for tail, skip in zip(first.tails, first.skips, strict=True)
        ]
        self._fusion = FusionWeights(network, self._order) if self.whole else None

    def scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> ScannedBlock:
        """Scan every patch of a block. The maps are used up: dt gets its softplus in its place."""
        with torch.cuda.device_of(maps[0].scan):  # type: ignore[no-untyped-call]  # torch has no types there
            return self._scan(tokens, maps)

    def _scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> ScannedBlock:
        states, width = self._decays[0].shape[1:]
        scan = [stepped(m.scan, width, states) for m in maps]
        y = []
        for i, j in enumerate(self._parameters_of):
            y.append(scan_branch(scan[i], maps[i].runs, scan[j], maps[j].runs, self._decays[i], self._dtype))
        return ScannedBlock(
            y,
            scan,
            [m.gate.contiguous() for m in maps],
            [t.tokens[..., self._order].contiguous() for t in tokens],
            [t.runs for t in tokens],
            [m.runs for m in maps],
        )

    def finish(self, scanned: ScannedBlock, rows: Indices, cols: Indices) -> Tensor:
        """Logits ``(n, C)`` of a one-stage network, else the first stage's tokens ``(n, 4, P, P, D)``.

        ``rows``, ``cols``: the wanted outputs of the block, (n,) each.
        """
        parts: list[Tensor] = []
        done = 0
        device = scanned.y[0].device
        # All at once: every copy to the card waits for what it has been given to do.
        patches = torch.from_numpy(np.stack([rows, cols])).to(device, torch.int32)
        with torch.cuda.device_of(scanned.y[0]):  # type: ignore[no-untyped-call]  # torch has no types there
            while done < len(rows):
                some = patches[:, done : done + self.patches]
                result = self._some_that_fit(scanned, some)
                if result is None:
                    self.patches = some.shape[1] // 2
                    free(device)
                    log.warning("out of memory: going on with %d patches at a time", self.patches)
                    continue
                parts.append(result)
                done += len(result)
        return torch.cat(parts)

    def _some_that_fit(self, scanned: ScannedBlock, patches: Tensor) -> Tensor | None:
        """As :meth:`_finish`, or ``None`` if memory is too small and fewer patches might do."""
        try:
            return self._finish(scanned, patches)
        except Exception as error:  # PyTorch and the libraries below it have several kinds for it
            if patches.shape[1] < 2 * _LEAST_PATCHES or not out_of_memory(error):
                raise
            return None

    def _finish(self, scanned: ScannedBlock, patches: Tensor) -> Tensor:
        # Common parts stay float32: of the small difference to them, their rounding would be a large part.
        specific = self._dtype if self.whole else torch.float32

        def branch(i: int, minus: Tensor | None = None) -> Tensor:
            return self._tails[i](
                scanned.y[i],
                patches,
                scanned.scan[i],
                scanned.scan_runs[i],
                scanned.gate[i],
                scanned.tokens[i % 2],
                scanned.token_runs[i % 2],
                minus,
                torch.float32 if minus is None else specific,
            )

        ms_common, pan_common = branch(2), branch(3)
        ms, pan = branch(0, ms_common), branch(1, pan_common)
        if self._fusion is not None:
            return self._fusion(ms, pan, ms_common, pan_common)
        p = scanned.scan_runs[0].rows.patch
        stage = torch.stack([ms, pan, ms_common, pan_common], dim=1)
        return stage.view(patches.shape[1], 4, p, p, -1)
