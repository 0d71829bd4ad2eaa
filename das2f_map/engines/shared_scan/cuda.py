"""A network over whole blocks on CUDA, in Triton kernels.

Same interface as :class:`.compiled.CompiledKernels`. The maps come from :class:`.FirstStage` in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from das2f_map.engines.memory import free, out_of_memory
from das2f_map.engines.shared_scan.first_stage import PARAMETERS_OF, Branch, FirstStage, Tail, scans
from das2f_map.engines.shared_scan.maps import MixerMaps, TokenMap
from das2f_map.engines.shared_scan.runs import Indices
from das2f_map.engines.shared_scan.tensor_bytes import triton_patch_bytes
from das2f_map.engines.shared_scan.triton_calls import (
    HIDDEN_STEP,
    FusionWeights,
    TailInput,
    TailWeights,
    kernel_decay,
    scan_branch,
    stepped,
)
from das2f_map.engines.shared_scan.triton_later_calls import COMMON_FIRST, LaterStage, apart
from das2f_map.network import NetworkConfig
from das2f_map.network.selective_scan import triton_scan

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_CLASSES = 64
_LEAST_BLOCK, _LARGEST_BLOCK = 16, 128
_FREE_SHARE = 0.7
MOST_PATCHES = 1024
"""The most patches that are computed together after the shared part."""
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


def _free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device, with the memory that torch has reserved but does not use."""
    free_now: int = torch.cuda.mem_get_info(device)[0]
    return free_now + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def block_size(config: NetworkConfig, device: torch.device, precision: str) -> int:
    """Side, in MS pixels, of the largest blocks whose tensors fit into a device's free memory."""
    scanned = 4 * 4 * config.tokens * config.width * DTYPES[precision].itemsize
    # Maps in float32: 25 position classes of MS tokens and 9 of PAN tokens, for two branches each (more in a
    # small block). Twice, for the temporary tensors while the maps are made and scanned.
    features = config.width + 4 * (config.width + 2 * config.state_size)
    maps = 2 * 2 * (25 + 9) * features * 4 * 2
    side = int((_FREE_SHARE * _free_bytes(device) / (scanned + maps)) ** 0.5)
    return max(_LEAST_BLOCK, min(_LARGEST_BLOCK, side // 16 * 16))


def patches_at_once(config: NetworkConfig, device: torch.device, precision: str) -> int:
    """The most patches for which half of the memory that blocks leave free is enough; 32 to 1024."""
    each = triton_patch_bytes(config, DTYPES[precision].itemsize)
    return max(_LEAST_PATCHES, min(MOST_PATCHES, int((1 - _FREE_SHARE) / 2 * _free_bytes(device) / each)))


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
        """The results of ``compute`` for all patches (…, n), joined along the first axis.

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


class TritonKernels:
    """A network in Triton kernels, from the maps of its first stage to the logits.

    Parameters
    ----------
    first:
        The first stage in torch operations, float32, on the device; it makes the maps that the kernels read.
    precision:
        Type of the products, and of the scanned tokens and specific parts in memory.
    patches:
        Patches that are computed together after the shared part, see :class:`PatchBatches`.
    """

    def __init__(self, first: FirstStage, precision: str, patches: int = MOST_PATCHES) -> None:
        network, self._dtype = first.network, DTYPES[precision]
        self._batches = PatchBatches(patches)
        # The branches give sub-tokens, as the fusion reads them: the four of a token one after the other.
        channels = torch.arange(network.config.width, device=first.decays[0].device)
        self._order = channels.view(-1, 4).t().flatten()
        self._decays = [kernel_decay(decay) for decay in first.decays]
        stages = [Branch.of(stage) for stage in network.stages]
        self._tails = [
            [
                TailWeights(Tail(branch), parameters.D, self._order, self._dtype)
                for branch, parameters in zip(branches, scans(branches), strict=True)
            ]
            for branches in stages
        ]
        self._later = [LaterStage(branches, self._order, self._dtype) for branches in stages[1:]]
        self._fusion = FusionWeights(network, self._order)

    @property
    def patches(self) -> int:
        """Patches that are computed together at present."""
        return self._batches.size

    def scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> list[TailInput]:
        """Scan every patch of a block, for each branch. Overwrites the maps: dt becomes its softplus."""
        with torch.cuda.device_of(maps[0].scan):  # type: ignore[no-untyped-call]  # torch has no types there
            return self._scan(tokens, maps)

    def _scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> list[TailInput]:
        states, width = self._decays[0].shape[1:]
        scan = [stepped(m.scan, width, states) for m in maps]
        own = [t.tokens[..., self._order].contiguous() for t in tokens]
        found = []
        for i, j in enumerate(PARAMETERS_OF):
            y = scan_branch(scan[i], maps[i].runs, scan[j], maps[j].runs, self._decays[i], self._dtype)
            gate, runs = maps[i].gate.contiguous(), tokens[i % 2].runs
            found.append(TailInput(y, scan[i], maps[i].runs, gate, own[i % 2], runs))
        return found

    def finish(self, scanned: list[TailInput], rows: Indices, cols: Indices) -> Tensor:
        """Logits ``(n, C)`` of the patches of a block that start at ``rows``, ``cols`` (n,)."""
        device, runs = scanned[0].y.device, scanned[0].runs
        # One copy for all patches: each copy to the card waits until the card has done its work so far.
        patches = np.stack([rows * runs.cols.outputs + cols, rows, cols])
        there = torch.from_numpy(patches).to(device, torch.int32)
        with torch.cuda.device_of(scanned[0].y):  # type: ignore[no-untyped-call]  # torch has no types there
            return self._batches.run(lambda some: self._finish(scanned, some), there)

    def _finish(self, scanned: list[TailInput], patches: Tensor) -> Tensor:
        """Logits of some patches of a block, int32 (3, n): number, row, column."""
        n, patch = patches.shape[1], scanned[0].runs.rows.patch
        shape = (2, n, patch * patch, len(self._order))
        specific = torch.empty(len(self._tails), *shape, dtype=self._dtype, device=patches.device)
        # Float32: rounding the common parts would spoil the small differences to them, the specific parts.
        common = torch.empty(shape, device=patches.device)
        branches: Iterable[tuple[int, TailInput]] = ((i, scanned[i]) for i in COMMON_FIRST)
        self._stage(self._tails[0], branches, patches, specific[-1], common)
        for number, stage in enumerate(self._later, start=1):
            before, common = common, torch.empty_like(common)
            own = apart(n, patch, patches.device)
            self._stage(self._tails[number], stage.scan(before, patch), own, specific[-1 - number], common)
        return self._fusion(specific, common)

    @staticmethod
    def _stage(
        tails: Sequence[TailWeights],
        branches: Iterable[tuple[int, TailInput]],
        patches: Tensor,
        specific: Tensor,
        common: Tensor,
    ) -> None:
        """Write a stage's specific and common parts ``(2, n, P², D)``, of MS and PAN; CMDA comes first."""
        for i, block in branches:
            if i >= 2:
                tails[i](block, patches, common[i - 2])
            else:
                tails[i](block, patches, specific[i], minus=common[i])
