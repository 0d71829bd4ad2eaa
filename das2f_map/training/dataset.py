"""Patches of labelled pixels, cut on the fly from normalised blocks of the scene.

Only blocks that hold labelled pixels are read, once each. They stay in memory up to a limit. Blocks beyond
the limit go to a temporary folder as memory-mapped arrays.

Flips and quarter turns. The classified pixel sits at index 7 of 0..15, and a flip would move it to index 8.
The reader therefore takes a symmetric square around the target: 17 × 17 MS pixels with the target at
index 8, and 68 × 68 PAN pixels whose centre is the centre of the target. It turns the square first, then
cuts the patch out of the turned square as a map does. Without a turn this is exactly the patch of a map. A
turned patch reaches at most 8 pixels to every side, so targets 17 apart share no pixel of the common grid
under any turn. Where an image is resampled, one pixel of the file affects several pixels of the common grid,
and targets must lie further apart by the support of the resampling (:attr:`PatchReader.reach`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from das2f_map.labels.labelled_pixels import by_block
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import PAN_PER_MS, Window
from das2f_map.scene.model_input import InputBlock, ModelInput
from das2f_map.scene.turns import turned
from das2f_map.types import Bool, Float32

BLOCK = 64
"""MS pixels a side of a cached block."""


@dataclass(frozen=True)
class _Block:
    """Normalised pixels of a block with its margin, and the usable targets ``valid`` without the margin."""

    ms: Float32
    pan: Float32
    valid: Bool


class PatchReader:
    """Cuts patches of a scene around the pixels that were passed to :meth:`load`.

    Parameters
    ----------
    source:
        The scene as the network sees it.
    memory:
        Bytes of blocks to keep in memory before the rest goes to disk.
    """

    def __init__(self, source: ModelInput, *, memory: int = 1 << 30) -> None:
        self.source = source
        self._patch = source.patch
        self._radius = source.radius
        self._memory = memory
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._held = 0
        self._spool: tempfile.TemporaryDirectory[str] | None = None

    @property
    def reach(self) -> int:
        """Chebyshev distance in MS pixels at which two targets' patches share no pixel of the files.

        It holds for all turns, and serves as the gap between the parts of a split. It is the side of the
        square that a patch may come from, plus the support of the resampling.
        """
        return self._side + self.source.pair.support_ms_pixels

    @property
    def _side(self) -> int:
        """MS pixels a side of the square that a patch may come from, over all turns."""
        return 2 * self._radius + 1

    def load(self, rows: NDArray[Any], cols: NDArray[Any], progress: Progress = silent) -> Bool:
        """Which of some pixels are valid in both sensors, bool ``(n,)``; their blocks are read."""
        valid = np.zeros(rows.size, bool)
        blocks = by_block(rows, cols, BLOCK)
        with progress("Reading the scene around the labels", len(blocks)) as advance:
            for block_row, block_col, members in blocks:
                block = self._block(block_row, block_col)
                valid[members] = block.valid[rows[members] % BLOCK, cols[members] % BLOCK]
                advance(1)
        return valid

    def _block(self, block_row: int, block_col: int) -> _Block:
        key = (block_row, block_col)
        if key not in self._blocks:
            grid = self.source.pair.grids.ms
            # Blocks at the scene's lower and right edge are cut off there: reflection starts at the edge.
            window = Window(block_row * BLOCK, block_col * BLOCK, BLOCK, BLOCK).intersection(grid.window)
            self._blocks[key] = self._keep(key, self.source.read(window, all_turns=True), window)
        return self._blocks[key]

    def _keep(self, key: tuple[int, int], read: InputBlock | None, window: Window) -> _Block:
        if read is None:  # the block has no usable pixel
            none = np.zeros((0, 0, 0), np.float32)
            return _Block(none, none, np.zeros((window.height, window.width), np.bool_))
        ms, pan, valid = read.ms, read.pan, read.usable
        size = ms.nbytes + pan.nbytes
        if self._held + size <= self._memory:
            self._held += size
            return _Block(ms, pan, valid)
        if self._spool is None:
            self._spool = tempfile.TemporaryDirectory(prefix="das2f-map-")
        mapped = []
        for name, array in (("ms", ms), ("pan", pan)):
            path = Path(self._spool.name) / f"{name}_{key[0]}_{key[1]}.npy"
            np.save(path, array)
            mapped.append(np.load(path, mmap_mode="r"))
        return _Block(mapped[0], mapped[1], valid)

    def close(self) -> None:
        """Forget all blocks and remove the temporary folder."""
        self._blocks.clear()
        if self._spool is not None:
            self._spool.cleanup()
            self._spool = None

    def __enter__(self) -> PatchReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def patches(
        self, rows: NDArray[Any], cols: NDArray[Any], turns: NDArray[Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Patches of targets, float32: MS ``(n, bands, P, P)`` and PAN ``(n, 1, 4P, 4P)``.

        ``turns`` (``(n,)``, 0..7, see :mod:`das2f_map.scene.turns`) flips and rotates; the target stays at
        its index.
        """
        size, side = self._patch.size, self._side
        first = self._radius - self._patch.before
        ms_out = np.empty((rows.size, len(self.source.normalisation.ms_bands), size, size), np.float32)
        pan_out = np.empty((rows.size, 1, PAN_PER_MS * size, PAN_PER_MS * size), np.float32)
        ms_cut = slice(first, first + size)
        pan_cut = slice(PAN_PER_MS * first, PAN_PER_MS * (first + size))
        for k in range(rows.size):
            row, col = int(rows[k]), int(cols[k])
            block = self._block(row // BLOCK, col // BLOCK)
            r, c = row % BLOCK, col % BLOCK
            ms = block.ms[:, r : r + side, c : c + side]
            pan = block.pan[
                :, PAN_PER_MS * r : PAN_PER_MS * (r + side), PAN_PER_MS * c : PAN_PER_MS * (c + side)
            ]
            turn = 0 if turns is None else int(turns[k])
            ms_out[k] = turned(ms, turn)[:, ms_cut, ms_cut]
            pan_out[k] = turned(pan, turn)[:, pan_cut, pan_cut]
        return torch.from_numpy(ms_out), torch.from_numpy(pan_out)
