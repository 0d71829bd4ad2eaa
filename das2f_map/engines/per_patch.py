"""The per-patch engine: cuts out every target's patch and runs the network on it.

It is the reference for the other engines.
"""

from __future__ import annotations

import copy
import logging
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from das2f_map.engines.memory import (
    BLOCK_SIZE,
    block_bytes,
    free,
    out_of_memory,
    overhead,
    patch_bytes,
    too_small,
)
from das2f_map.network import Das2fNet
from das2f_map.network.selective_scan import default_backend
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.types import Bool, Float32

log = logging.getLogger(__name__)

_CPU_BATCH = 32
_CUDA_BATCH = 512
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class PerPatchEngine:
    """Runs the network on one patch a target pixel, many at a time.

    Parameters
    ----------
    network:
        The engine uses a copy, with the classifier folded to the equivalent single layer.
    device:
        Where to compute.
    precision:
        ``fp32`` computes in the type of the network's weights. ``bf16`` and ``fp16`` use autocast, with the
        scan, normalisations and sums in float32.
    batch_size:
        Patches at a time; by default 32 on the CPU and 512 on CUDA. When memory runs out, the engine halves
        it for the rest of its life.
    """

    name = "patch"
    all_turns = False

    def __init__(
        self,
        network: Das2fNet,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        batch_size: int | None = None,
    ) -> None:
        self._device = torch.device(device)
        if precision != "fp32" and precision not in _HALVES:
            raise ValueError(f"no precision {precision!r}; there are: fp32, {', '.join(_HALVES)}")
        self.precision = precision
        network = copy.deepcopy(network).eval()
        network.fold_classifier()
        self._network = network.to(self._device).requires_grad_(False)
        self._dtype = next(network.parameters()).dtype
        self._patch = network.config.patch_size
        self._classes = network.config.classes
        self.batch_size = batch_size or (_CPU_BATCH if self._device.type == "cpu" else _CUDA_BATCH)

    @property
    def block_size(self) -> int:
        """MS pixels a side of a block; patches are cut one by one, so any size would do."""
        return BLOCK_SIZE

    def memory_bytes(self, size: int) -> int:
        """See :class:`das2f_map.engines.Engine`: the block, and a batch's activations."""
        config = self._network.config
        batch = min(self.batch_size, size * size)
        return overhead(self._device) + block_bytes(config, size) + batch * patch_bytes(config)

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def scan(self) -> str:
        """Name of the selective-scan backend in use."""
        config = self._network.config
        dtype = self._dtype if self.precision == "fp32" else torch.float32
        kind = (self._device, dtype, config.width, config.state_size)
        return default_backend(*kind, gradients=False).name

    @torch.inference_mode()
    def logits(
        self,
        ms: Float32,
        pan: Float32,
        targets: Bool,
    ) -> Float32:
        """See :class:`das2f_map.engines.Engine`. Raises ``DeviceError`` when one patch is too much."""
        p, f = self._patch, PAN_PER_MS
        # Views of every patch of the block: (h, w, bands, P, P) and (h, w, 1, 4P, 4P), nothing copied.
        ms_patches = self._to_device(ms).unfold(1, p, 1).unfold(2, p, 1).permute(1, 2, 0, 3, 4)
        pan_patches = self._to_device(pan).unfold(1, f * p, f).unfold(2, f * p, f).permute(1, 2, 0, 3, 4)
        if ms_patches.shape[:2] != targets.shape or pan_patches.shape[:2] != targets.shape:
            raise ValueError(f"block of {ms.shape} and {pan.shape} does not fit targets {targets.shape}")
        rows, cols = (torch.from_numpy(i).to(self._device) for i in np.nonzero(targets))
        out = np.empty((len(rows), self._classes), dtype=np.float32)
        done = 0
        while done < len(rows):
            part = slice(done, done + self.batch_size)
            r, c = rows[part], cols[part]
            result = self._batch_that_fits(ms_patches, pan_patches, r, c)
            if result is None:
                self._halve(len(r))
                continue
            out[part] = result
            done += len(r)
        return out

    def _batch_that_fits(self, ms: Tensor, pan: Tensor, rows: Tensor, cols: Tensor) -> Float32 | None:
        """Logits of some patches, or ``None`` if memory is too small for them."""
        try:
            with arithmetic(self._device, self.precision):
                result: Tensor = self._network(ms[rows, cols], pan[rows, cols])
                return result.float().cpu().numpy()
        except Exception as error:  # PyTorch and its libraries raise several types for it
            if not out_of_memory(error):
                raise
            if len(rows) == 1:
                raise too_small(self._device) from error
            return None

    def _halve(self, patches: int) -> None:
        """Halve the batch size after a batch of ``patches`` was too large."""
        # The caller has left the except block: the error in it keeps the batch's tensors alive.
        self.batch_size = patches // 2
        free(self._device)
        log.warning("out of memory on %s: going on with batches of %d", self.device, self.batch_size)

    def _to_device(self, values: Float32) -> Tensor:
        return torch.from_numpy(values).to(self._device, self._dtype)


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a network computes in a precision: ``fp32``, ``bf16`` or ``fp16``."""
    if precision != "fp32":
        return torch.autocast(device.type, dtype=_HALVES[precision])
    if device.type == "cpu":
        return nullcontext()
    # Convolutions on CUDA would take TensorFloat-32 by default, which keeps 10 bits.
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[object] = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
    return flags
