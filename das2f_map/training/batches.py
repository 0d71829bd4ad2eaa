"""Batches of labelled patches: which pixels, how turned, and how their radiometry is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from das2f_map.scene.turns import TURNS
from das2f_map.training.jitter import Jitter
from das2f_map.training.label_patches import LabelPatches
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Int64


@dataclass(frozen=True)
class PatchBatch:
    """The patches of a batch: positions in a dataset, a turn for each, and what decides the radiometry.

    Attributes
    ----------
    positions:
        int64 ``(n,)``.
    turns:
        int64 ``(n,)``, 0..7.
    jitter_seed:
        Numbers that the random changes follow from; ``None`` for patches as they are.
    """

    positions: Int64
    turns: Int64
    jitter_seed: tuple[int, ...] | None = None


class PatchDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of labelled patches; the index is a whole :class:`PatchBatch`.

    An item holds MS patches, PAN patches and positions of the classes in the legend: int64 ``(n,)`` of the
    targets, or with ``neighbours`` int64 ``(n, P, P)`` of all labelled pixels near the targets, -1 elsewhere.

    Parameters
    ----------
    pixels:
        The labelled pixels.
    jitter:
        Random radiometry of batches that have a seed for it.
    neighbours:
        Distance in MS pixels from the target up to which labelled pixels of ``pixels`` count; 0: the target
        alone.
    """

    def __init__(self, pixels: TrainingPixels, jitter: Jitter | None = None, neighbours: int = 0) -> None:
        self.pixels = pixels
        self.jitter, self.neighbours = jitter, neighbours
        self._labels = LabelPatches(pixels, neighbours) if neighbours else None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, batch: PatchBatch) -> tuple[Tensor, Tensor, Tensor]:
        at = batch.positions
        ms, pan = self.pixels.patches(at, batch.turns)
        if self.jitter is not None and batch.jitter_seed is not None:
            rng = np.random.default_rng(batch.jitter_seed)
            ms, pan = map(torch.from_numpy, self.jitter(ms.numpy(), pan.numpy(), rng))
        if self._labels is not None:
            return ms, pan, torch.from_numpy(self._labels.patches(at, batch.turns))
        return ms, pan, torch.from_numpy(self.pixels.positions[at])


class DrawnBatches(Sampler[PatchBatch]):
    """The training batches between two checks: classes drawn by their balance, each patch randomly turned.

    A class with more pixels than its draws gives a new random selection every time. A class with fewer gives
    all its pixels, repeated as often as needed. The batches depend on seed and check alone, so a resumed
    training sees the same ones as an uninterrupted training.

    Parameters
    ----------
    positions:
        int64 ``(n,)``: class of each pixel.
    steps:
        Batches between two checks.
    balance:
        0 draws classes as often as they are labelled, 1 equally often; between them, by a power of the count.
    rank, world_size:
        Process, and number of processes that share the work; each has ``steps`` batches of its own.
    """

    def __init__(
        self,
        positions: Int64,
        *,
        steps: int,
        batch_size: int,
        balance: float,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._members = [np.flatnonzero(positions == k) for k in np.unique(positions)]
        self._quotas = _quotas([m.size for m in self._members], steps * batch_size * world_size, balance)
        self._steps, self._batch_size, self._seed = steps, batch_size, seed
        self._rank, self._world_size = rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the check whose batches follow; Lightning calls this before each of its epochs."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[PatchBatch]:
        rng = np.random.default_rng([self._seed, self.epoch])
        drawn = []
        for members, quota in zip(self._members, self._quotas, strict=True):
            repeats = -(-quota // members.size)
            shuffled = np.concatenate([rng.permutation(members) for _ in range(repeats)])
            drawn.append(shuffled[:quota])
        positions = rng.permutation(np.concatenate(drawn)).astype(np.int64)
        turns = rng.integers(0, TURNS, positions.size)
        for k in range(len(self)):
            first = (k * self._world_size + self._rank) * self._batch_size
            chosen = slice(first, first + self._batch_size)
            yield PatchBatch(positions[chosen], turns[chosen], (self._seed, self.epoch, k, self._rank))


def _quotas(counts: list[int], draws: int, balance: float) -> list[int]:
    """Draws of each class, at least one, ``draws`` in all where there are as many classes or more draws."""
    weights = np.array(counts, float) ** (1.0 - balance)
    exact = weights / weights.sum() * draws
    quotas = np.maximum(1, np.floor(exact)).astype(int)
    for k in np.argsort(np.floor(exact) - exact, kind="stable"):
        if quotas.sum() >= draws:
            break
        quotas[k] += 1
    # Rare classes that got their one draw beyond the sum take it from the most frequent ones.
    while quotas.sum() > draws and quotas.max() > 1:
        quotas[quotas.argmax()] -= 1
    return [int(q) for q in quotas]


class PlainBatches(Sampler[PatchBatch]):
    """Batches of ``n`` patches, each patch once, in order, with one of the eight turns for all."""

    def __init__(self, n: int, batch_size: int, turn: int = 0) -> None:
        self._starts = range(0, n, batch_size)
        self._n, self._batch_size, self._turn = n, batch_size, turn

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[PatchBatch]:
        for start in self._starts:
            positions = np.arange(start, min(start + self._batch_size, self._n), dtype=np.int64)
            yield PatchBatch(positions, np.full(positions.size, self._turn, np.int64))
