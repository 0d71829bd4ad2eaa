"""The shared-scan engine: logits of every pixel of a block, with work that patches share done once."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from das2f_map.engines.memory import block_bytes, free, out_of_memory, overhead, patch_bytes, too_small
from das2f_map.engines.shared_scan import compiled, cuda
from das2f_map.engines.shared_scan.compiled import CompiledKernels
from das2f_map.engines.shared_scan.cuda import TritonKernels
from das2f_map.engines.shared_scan.first_stage import FirstStage
from das2f_map.engines.shared_scan.maps import MS_EDGE, MixerMaps, TokenMap
from das2f_map.engines.shared_scan.runs import Indices
from das2f_map.engines.shared_scan.tensor_bytes import (
    BRANCHES,
    map_bytes,
    scanned_bytes,
    torch_scan_bytes,
    triton_bytes,
    work_bytes,
)
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.das2f import StageOutput
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.types import Bool, Float32

log = logging.getLogger(__name__)

_CPU_BLOCK, _CPU_BATCH = 32, 16
_CUDA_BATCH = 256
# Smaller batches save little memory compared with the block.
_LEAST_BATCH = 8


class _Kernels(Protocol):
    """Kernels for a network: :class:`.CompiledKernels`, :class:`.TritonKernels`."""

    def scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> Any:
        """Scan every patch of a block. It may write into the maps, so they must not be used again."""
        ...

    def finish(self, scanned: Any, rows: Indices, cols: Indices) -> Tensor:
        """Logits ``(n, C)`` of the patches that start at ``rows``, ``cols`` (n,)."""
        ...


class SharedScanEngine:
    """Computes once what neighbouring patches of a block have in common.

    The logits equal those of the per-patch engine but for rounding. Blocks use the same memory one after the
    other, so threads that call one engine wait for each other; one engine uses all cores.

    Parameters
    ----------
    network:
        The engine uses a copy with a folded classifier.
    device:
        Where to compute.
    precision:
        ``fp32``, ``bf16`` or ``fp16``; a float64 network computes in float64 with ``fp32``.
    batch_size:
        Patches at a time after the shared part, in torch operations (by default 16 on the CPU, 256 on CUDA)
        or in the Triton kernels (by default as many as fit into free memory, at most 1024). The compiled
        kernels need no batches. When memory runs out in a batch, the engine halves it for the rest of its
        life: down to 8, with the Triton kernels to 32.
    block_size:
        MS pixels a side of the area that is computed at once; by default 32 on the CPU, and on CUDA as many
        as fit into free memory. When memory runs out, the engine halves it for the rest of its life.
    kernels:
        ``False`` computes in PyTorch operations even where there are kernels, for comparisons.
    """

    name = "shared"
    all_turns = False

    def __init__(
        self,
        network: Das2fNet,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        batch_size: int | None = None,
        block_size: int | None = None,
        kernels: bool = True,
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
        self._alone = threading.Lock()
        self._kernels: _Kernels | None = None
        if self._device.type == "cuda":
            self.batch_size = batch_size or _CUDA_BATCH
            self.block_size = block_size or cuda.block_size(network.config, self._device, precision)
            reason = cuda.unavailable(network.config, self._device, precision)
            if kernels and self._dtype is torch.float32 and not reason:
                patches = batch_size or cuda.patches_at_once(network.config, self._device, precision)
                self._kernels = TritonKernels(self._first, precision, patches)
        else:
            self.batch_size, self.block_size = batch_size or _CPU_BATCH, block_size or _CPU_BLOCK
            if kernels and not compiled.unavailable(network.config, self._dtype, precision):
                self._kernels = CompiledKernels(self._first, precision)
        if precision != "fp32" and self._kernels is None:
            raise ValueError(f"precision {precision} needs the kernels")

    def memory_bytes(self, size: int) -> int:
        """See :class:`das2f_map.engines.Engine`: the block, and the maps and scanned tokens of the part of it
        that is computed at once."""
        config, item = self._network.config, self._dtype.itemsize
        side = min(size, self.block_size)
        taken = overhead(self._device) + block_bytes(config, size)
        taken += map_bytes(config, side, item) + work_bytes(config, side, item)
        if isinstance(self._kernels, TritonKernels):
            results = cuda.DTYPES[self.precision].itemsize
            taken += triton_bytes(config, side, results, self._kernels.patches)
        elif isinstance(self._kernels, CompiledKernels):
            taken += scanned_bytes(config, side, self._kernels.scanned_item)
        else:
            at_once = torch.get_num_threads() if self._device.type == "cpu" else 1
            taken += torch_scan_bytes(config, side, item, min(2 * BRANCHES, at_once))
            taken += min(self.batch_size, side * side) * patch_bytes(config)
        return taken

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def scan(self) -> str:
        """How the scan is computed: the compiled kernels' instruction set, triton, or torch."""
        if isinstance(self._kernels, TritonKernels):
            return "triton"
        return "torch" if self._kernels is None else f"compiled, {compiled.instruction_set()}"

    @torch.inference_mode()
    def logits(
        self,
        ms: Float32,
        pan: Float32,
        targets: Bool,
    ) -> Float32:
        """See :class:`das2f_map.engines.Engine`."""
        halo, f = self._patch - 1, PAN_PER_MS
        h, w = targets.shape
        if ms.shape[1:] != (h + halo, w + halo) or pan.shape[1:] != (f * (h + halo), f * (w + halo)):
            raise ValueError(f"block of {ms.shape} and {pan.shape} does not fit targets {targets.shape}")
        out = np.empty((h, w, self._network.config.classes), dtype=np.float32)
        ms_all, pan_all = torch.from_numpy(ms), torch.from_numpy(pan)
        todo = [(0, h, 0, w)]
        with self._alone, self._exact_convolutions():
            while todo:
                top, bottom, left, right = todo.pop()
                size = self.block_size
                if max(bottom - top, right - left) > size:
                    todo += [
                        (row, min(row + size, bottom), col, min(col + size, right))
                        for row in reversed(range(top, bottom, size))
                        for col in reversed(range(left, right, size))
                    ]
                    continue
                rows, cols = np.nonzero(targets[top:bottom, left:right])
                if not len(rows):
                    continue
                # Compute only the rectangle that holds the targets.
                r, c = rows.min() + top, cols.min() + left
                height, width = int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1
                result = self._block_that_fits(
                    ms_all[:, r : r + height + halo, c : c + width + halo],
                    pan_all[:, f * r : f * (r + height + halo), f * c : f * (c + width + halo)],
                    rows - rows.min(),
                    cols - cols.min(),
                )
                if result is None:
                    self._halve(max(height, width))
                    todo.append((top, bottom, left, right))
                else:
                    out[rows + top, cols + left] = result
        return out[targets]

    def _block_that_fits(self, ms: Tensor, pan: Tensor, rows: Indices, cols: Indices) -> Float32 | None:
        """Logits as from :meth:`_block`, or ``None`` if memory is too small for them.

        Raises ``DeviceError`` if memory is too small for a single output.
        """
        try:
            ms, pan = (v.to(self._device, self._dtype) for v in (ms, pan))
            return self._block(ms, pan, rows, cols).float().cpu().numpy()
        except Exception as error:  # PyTorch and its libraries raise several types for it
            if not out_of_memory(error):
                raise
            if max(np.ptp(rows), np.ptp(cols)) == 0:
                raise too_small(self._device) from error
            return None

    def _halve(self, size: int) -> None:
        """Halve the block size after a block of ``size`` MS pixels a side was too large."""
        # The caller has left the except block: the error in it keeps the block's tensors alive.
        self._first.free()
        free(self._device)
        self.block_size = (size + 1) // 2
        log.warning("out of memory on %s: going on with blocks of %d pixels", self.device, self.block_size)

    def _exact_convolutions(self) -> AbstractContextManager[object]:
        """Context in which cuDNN does not round the operands of convolutions to TF32."""
        if self._device.type != "cuda":
            return nullcontext()
        flags: AbstractContextManager[object] = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        return flags

    def _block(self, ms: Tensor, pan: Tensor, rows: Indices, cols: Indices) -> Tensor:
        """Logits ``(n, C)`` of the outputs at ``rows``, ``cols`` (n,) of a block with its halo."""
        tokens, maps = self._first.maps(ms, pan)
        if self._kernels is not None:
            return self._kernels.finish(self._kernels.scan(tokens, maps), rows, cols)
        y = self._first.scans(maps)

        def output(r: Indices, c: Indices) -> StageOutput:
            return self._first.output(y, tokens, maps, r, c)

        parts: list[Tensor] = []
        done = 0
        while done < len(rows):
            some = slice(done, done + self.batch_size)
            logits = self._batch_that_fits(output, rows[some], cols[some])
            if logits is None:
                self.batch_size = len(rows[some]) // 2
                free(self._device)
                log.warning("out of memory on %s: going on with batches of %d", self.device, self.batch_size)
                continue
            parts.append(logits)
            done += len(logits)
        return torch.cat(parts)

    def _batch_that_fits(
        self, output: Callable[[Indices, Indices], StageOutput], rows: Indices, cols: Indices
    ) -> Tensor | None:
        """Logits of some outputs, or ``None`` if memory is too small and a smaller batch may fit."""
        try:
            features = self._network.features_after(output(rows, cols))
            logits: Tensor = self._network.classifier(features)
            return logits
        except Exception as error:  # PyTorch and its libraries raise several types for it
            if len(rows) < 2 * _LEAST_BATCH or not out_of_memory(error):
                raise
            return None


def unavailable(config: NetworkConfig, device: torch.device, precision: str) -> str:
    """The reason why the engine cannot run a network on a device in a precision; empty if it can."""
    if config.patch_size <= 2 * (MS_EDGE + 1):
        return f"patches of {config.patch_size} pixels have no middle to share"
    if precision == "fp32":
        return ""
    if device.type == "cuda":
        return cuda.unavailable(config, device, precision)
    return compiled.unavailable(config, torch.float32, precision)
