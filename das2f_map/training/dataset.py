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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from das2f_map.labels.labelled_pixels import LabelTable, by_block
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import PAN_PER_MS, Window
from das2f_map.scene.model_input import InputBlock, ModelInput
from das2f_map.types import Bool, Float32, Int64

BLOCK = 64
"""MS pixels a side of a cached block."""

TURNS = 8
"""Flips and quarter turns of a square: turn ``t`` is ``t % 4`` quarter turns, then a flip if ``t >= 4``."""


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

        ``turns`` (``(n,)``, 0..7, see :data:`TURNS`) flips and rotates; the target stays at its index.
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


def turned(image: Float32, turn: int) -> Float32:
    """One of the eight flips and quarter turns of ``(bands, n, n)``, as a view."""
    result = np.rot90(image, turn % 4, axes=(1, 2))
    return result[:, :, ::-1] if turn >= 4 else result


@dataclass(frozen=True)
class PatchBatch:
    """The patches of a batch: their positions in a label table, and a turn for each."""

    positions: Int64
    turns: Int64


class PatchDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of labelled patches; the index is a whole :class:`PatchBatch`.

    An item holds MS patches, PAN patches and int64 ``(n,)`` positions of the classes in the legend.
    """

    def __init__(self, reader: PatchReader, table: LabelTable) -> None:
        self.table = table
        self._reader = reader
        self._targets = table.legend.positions(table.classes)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, batch: PatchBatch) -> tuple[Tensor, Tensor, Tensor]:
        at = batch.positions
        ms, pan = self._reader.patches(self.table.rows[at], self.table.cols[at], batch.turns)
        return ms, pan, torch.from_numpy(self._targets[at])


class BalancedBatches(Sampler[PatchBatch]):
    """An epoch's training batches: every class equally often, each patch randomly turned.

    A class with more pixels than ``per_class`` gives a new random selection every epoch. A class with fewer
    gives all its pixels, repeated as often as needed. The batches depend on seed and epoch alone, so a
    resumed training sees the same ones as an uninterrupted training.
    """

    def __init__(
        self,
        table: LabelTable,
        *,
        per_class: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._members = [np.flatnonzero(table.classes == c.id) for c in table.legend.each()]
        self._per_class, self._batch_size, self._seed = per_class, batch_size, seed
        self._rank, self._world_size = rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        drawn = self._per_class * len(self._members)
        # Every process has to see the same number of batches.
        return max(1, drawn // (self._batch_size * self._world_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches follow; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[PatchBatch]:
        rng = np.random.default_rng([self._seed, self.epoch])
        drawn = []
        for members in self._members:
            repeats = -(-self._per_class // members.size)
            shuffled = np.concatenate([rng.permutation(members) for _ in range(repeats)])
            drawn.append(shuffled[: self._per_class])
        positions = rng.permutation(np.concatenate(drawn)).astype(np.int64)
        turns = rng.integers(0, TURNS, positions.size)
        for k in range(len(self)):
            first = (k * self._world_size + self._rank) * self._batch_size
            # With fewer samples than one batch, the slice gives a smaller batch.
            chosen = slice(first, first + self._batch_size)
            yield PatchBatch(positions[chosen], turns[chosen])


class PlainBatches(Sampler[PatchBatch]):
    """Batches of ``n`` patches, each patch once, in order and unturned; every ``world_size``-th batch."""

    def __init__(self, n: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._starts = range(rank * batch_size, n, batch_size * world_size)
        self._n, self._batch_size = n, batch_size

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[PatchBatch]:
        for start in self._starts:
            positions = np.arange(start, min(start + self._batch_size, self._n), dtype=np.int64)
            yield PatchBatch(positions, np.zeros(positions.size, np.int64))
