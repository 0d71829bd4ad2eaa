"""The first stage over whole blocks on CUDA, in Triton kernels.

Same interface as :class:`.compiled.CompiledKernels`. The maps come from :class:`.FirstStage` in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from das2f_map.engines.memory import free, out_of_memory
from das2f_map.engines.shared_scan.first_stage import PARAMETERS_OF, FirstStage
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
# A block takes so much memory that still fewer patches would save little.
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
    """Side, in MS pixels, of the largest blocks whose tensors fit into a device's free memory."""
    available = torch.cuda.mem_get_info(device)[0]
    # Memory that torch has reserved but does not use is free as well.
    available += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    scanned = 4 * 4 * config.tokens * config.width * DTYPES[precision].itemsize
    # Maps in float32: 25 position classes of MS tokens and 9 of PAN tokens, for two branches each (more in a
    # small block). Twice, for the temporary tensors while the maps are made and scanned.
    features = config.width + 4 * (config.width + 2 * config.state_size)
    maps = 2 * 2 * (25 + 9) * features * 4 * 2
    side = int((_FREE_SHARE * available / (scanned + maps)) ** 0.5)
    return max(_LEAST_BLOCK, min(_LARGEST_BLOCK, side // 16 * 16))


class ScannedBlock(NamedTuple):
    """A scanned block: the inputs of the tails. Lists have one entry for each branch, unless said."""

    y: list[Tensor]  # from scan_branch
    scan: list[Tensor]  # the maps that hold x
    gate: list[Tensor]
    tokens: list[Tensor]  # of MS and PAN, channels in the order of the outputs
    token_runs: list[BlockRuns]
    scan_runs: list[BlockRuns]


class PatchBatches:
    """Patches that are computed together; fewer of them for good once memory has run out.

    Attributes
    ----------
    size:
        Patches at a time. Halved when memory runs out, but not below 32.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, compute: Callable[[Tensor], Tensor], patches: Tensor) -> Tensor:
        """The results of ``compute`` for all patches (2, n), joined along the first axis.

        Raises the error of ``compute`` where memory is too small for a batch that is not halved any more.
        """
        parts: list[Tensor] = []
        done = 0
        while done < patches.shape[1]:
            some = patches[:, done : done + self.size]
            result = self._try(compute, some)
            if result is None:
                # The except block is left: the error in it keeps the batch's tensors alive.
                self.size = some.shape[1] // 2
                free(patches.device)
                log.warning("out of memory: going on with %d patches at a time", self.size)
                continue
            parts.append(result)
            done += len(result)
        return torch.cat(parts)

    @staticmethod
    def _try(compute: Callable[[Tensor], Tensor], some: Tensor) -> Tensor | None:
        """The result for some patches, or ``None`` if memory ran out and fewer may fit."""
        try:
            return compute(some)
        except Exception as error:  # PyTorch and its libraries raise several kinds when memory runs out
            if some.shape[1] < 2 * _LEAST_PATCHES or not out_of_memory(error):
                raise
            return None


class TritonFirstStage:
    """The first stage of a network in Triton kernels.

    Parameters
    ----------
    first:
        The same in torch operations, float32, on the device; it makes the maps that the kernels read.
    precision:
        Type of the products, and of the scanned tokens and specific parts in memory.
    patches:
        Patches whose tails are computed together, see :class:`PatchBatches`.
    """

    def __init__(self, first: FirstStage, precision: str, patches: int = 1024) -> None:
        network, self._dtype = first.network, DTYPES[precision]
        self._batches = PatchBatches(patches)
        self.whole = network.config.stages == 1
        device = first.decays[0].device
        width = network.config.width
        # The branches of a one-stage network give sub-tokens: the four of a token one after the other.
        channels = torch.arange(width, device=device)
        self._order = channels.view(-1, 4).t().flatten() if self.whole else channels
        self._decays = [kernel_decay(decay) for decay in first.decays]
        self._tails = [
            TailWeights(tail, skip, self._order, self._dtype)
            for tail, skip in zip(first.tails, first.skips, strict=True)
        ]
        self._fusion = FusionWeights(network, self._order) if self.whole else None

    @property
    def patches(self) -> int:
        """Patches whose tails are computed together at present."""
        return self._batches.size

    def scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> ScannedBlock:
        """Scan every patch of a block. Overwrites the maps: dt becomes its softplus."""
        with torch.cuda.device_of(maps[0].scan):  # type: ignore[no-untyped-call]  # torch has no types there
            return self._scan(tokens, maps)

    def _scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> ScannedBlock:
        states, width = self._decays[0].shape[1:]
        scan = [stepped(m.scan, width, states) for m in maps]
        y = []
        for i, j in enumerate(PARAMETERS_OF):
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

        ``rows``, ``cols``: the wanted patches of the block, (n,) each.
        """
        device = scanned.y[0].device
        # One copy for all patches: each copy to the card waits until the card has done its work so far.
        patches = torch.from_numpy(np.stack([rows, cols])).to(device, torch.int32)
        with torch.cuda.device_of(scanned.y[0]):  # type: ignore[no-untyped-call]  # torch has no types there
            return self._batches.run(lambda some: self._finish(scanned, some), patches)

    def _finish(self, scanned: ScannedBlock, patches: Tensor) -> Tensor:
        # Common parts stay float32: rounding them would spoil the small differences to them, the specifics.
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
