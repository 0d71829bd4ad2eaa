"""Intervals by resampling: clusters of a probability sample, and spatial blocks of any reference.

Pixels that lie close together tend to be right or wrong together. Resampling whole clusters or blocks keeps
this likeness, which formulae for independent pixels ignore.

Sources: Rao, J. N. K., Wu, C. F. J. (1988), "Resampling inference with complex survey data", Journal of the
American Statistical Association 83, 231–241. Lahiri, S. N. (2003), "Resampling Methods for Dependent Data",
Springer, for spatial blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float64, Int64

REPLICATES = 2000
_AT_ONCE = 200
"""Replicates computed together, which bounds the memory."""

CELLS_ALONG = 128
"""Most cells along a side of a map, by which :class:`BlockCounts` counts."""

LEAST_CELL = 4
"""Side of a cell in pixels, at least."""

WANTED_BLOCKS = 30
"""Blocks with reference pixels that a bootstrap should have."""

FEWEST_BLOCKS = 5
"""Blocks with reference pixels below which there is no interval."""


@dataclass(frozen=True, eq=False)
class BootstrapFigures:
    """Replicates of the figures of an error matrix; nan where a replicate has none.

    Attributes
    ----------
    overall, kappa:
        float64 (R,).
    users, producers, f1:
        float64 (R, C).
    confidence:
        Level of the intervals.
    """

    overall: Float64
    kappa: Float64
    users: Float64
    producers: Float64
    f1: Float64
    confidence: float

    def kappa_interval(self) -> tuple[float, float, float]:
        """Standard error, lower and upper end of kappa; nan without replicates."""
        return spread_of(self.kappa, self.confidence)

    def f1_errors(self) -> list[float]:
        """Standard error of F1 of every class; nan where most replicates lack the class."""
        return [spread_of(column, self.confidence)[0] for column in self.f1.T]

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Standard errors and intervals of all figures, for JSON."""
        return {
            "overall_accuracy": _as_dict(spread_of(self.overall, self.confidence)),
            "kappa": _as_dict(self.kappa_interval()),
            "classes": [
                {
                    "name": name,
                    "users_accuracy": _as_dict(spread_of(self.users[:, k], self.confidence)),
                    "producers_accuracy": _as_dict(spread_of(self.producers[:, k], self.confidence)),
                    "f1": _as_dict(spread_of(self.f1[:, k], self.confidence)),
                }
                for k, name in enumerate(names)
            ],
        }


def spread_of(replicates: Float64, confidence: float) -> tuple[float, float, float]:
    """Standard deviation and the two percentiles of replicates, nan if fewer than half of them exist."""
    known = replicates[np.isfinite(replicates)]
    if known.size < max(2, replicates.size / 2):
        return float("nan"), float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(known.std(ddof=1)), float(low), float(high)


def bootstrap_clusters(cells: Float64, *, confidence: float, seed: int) -> BootstrapFigures:
    """Replicates of the figures, from clusters drawn with replacement, one fewer than there are.

    Parameters
    ----------
    cells:
        float64 (m, C, C): weight of every (mapped, reference) pair in each cluster.
    confidence:
        Level of the intervals.
    seed:
        Of the draws.
    """
    m, n = cells.shape[0], cells.shape[1]
    rng = np.random.default_rng([seed, 11])
    flat = cells.reshape(m, n * n)
    parts: list[BootstrapFigures] = []
    for start in range(0, REPLICATES, _AT_ONCE):
        drawn = rng.multinomial(max(1, m - 1), np.full(m, 1 / m), min(_AT_ONCE, REPLICATES - start))
        parts.append(_figures((drawn @ flat).reshape(-1, n, n), confidence))
    return BootstrapFigures(
        np.concatenate([p.overall for p in parts]),
        np.concatenate([p.kappa for p in parts]),
        np.concatenate([p.users for p in parts]),
        np.concatenate([p.producers for p in parts]),
        np.concatenate([p.f1 for p in parts]),
        confidence,
    )


def resampled_difference(
    blocks: SpatialBlocks, confidence: float, seed: int = 0
) -> tuple[float, float, float]:
    """Standard error and ends of the interval of the difference of two maps' accuracies.

    ``blocks`` count pixels by whether each of two maps is right, as in
    :func:`das2f_map.assess.map_difference.of_blocks`.
    """
    flat = blocks.cells.reshape(len(blocks.cells), 4)
    m = len(flat)
    rng = np.random.default_rng([seed, 12])
    drawn = rng.multinomial(max(1, m - 1), np.full(m, 1 / m), REPLICATES) @ flat
    return spread_of((drawn[:, 2] - drawn[:, 1]) / drawn.sum(axis=1), confidence)


def _figures(cells: Float64, confidence: float) -> BootstrapFigures:
    """Figures of error matrices (R, C, C), map down, reference across."""
    total = cells.sum(axis=(1, 2))
    right = np.diagonal(cells, axis1=1, axis2=2)
    mapped, true = cells.sum(axis=2), cells.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = right.sum(axis=1) / total
        chance = (mapped * true).sum(axis=1) / total**2
        kappa = np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
        return BootstrapFigures(
            observed, kappa, right / mapped, right / true, 2 * right / (mapped + true), confidence
        )


class BlockCounts:
    """Error matrices of the cells of a map, for a bootstrap of spatial blocks.

    A cell is a square of pixels, so large that a map has at most 128 along a side.
    """

    def __init__(self, grid: Grid, classes: int) -> None:
        self.cell = max(LEAST_CELL, -(-max(grid.height, grid.width) // CELLS_ALONG))
        self._classes = classes
        self._counts: dict[tuple[int, int], Int64] = {}

    def add(self, window: Window, reference: Int64, mapped: Int64) -> None:
        """Count the pixels of a window: positions of classes int64 (h, w), -1 where one is missing."""
        rows, cols = np.nonzero((reference >= 0) & (mapped >= 0))
        if not rows.size:
            return
        n = self._classes
        pair = mapped[rows, cols] * n + reference[rows, cols]
        at = np.stack([(rows + window.row) // self.cell, (cols + window.col) // self.cell], axis=1)
        cells, of = np.unique(at, axis=0, return_inverse=True)
        sums = np.bincount(of.ravel() * n * n + pair, minlength=len(cells) * n * n).reshape(-1, n, n)
        for (row, col), own in zip(cells.tolist(), sums, strict=True):
            before = self._counts.get((row, col))
            self._counts[row, col] = own if before is None else before + own

    def total(self) -> Int64:
        """The error matrix of all cells, int64 (C, C), map down."""
        none = np.zeros((self._classes, self._classes), np.int64)
        return np.asarray(sum(self._counts.values(), none), np.int64)

    def blocks(self) -> SpatialBlocks | None:
        """Blocks for a bootstrap, ``None`` if too few have reference pixels.

        They are the largest of doubling size of which at least 30 have reference pixels, or else the cells.
        """
        if len(self._counts) < FEWEST_BLOCKS:
            return None
        places = np.array(list(self._counts), np.int64)
        counts = np.stack(list(self._counts.values()))
        size, chosen = 1, np.arange(len(places))
        while True:
            kept, of = np.unique(places // (2 * size), axis=0, return_inverse=True)
            if len(kept) < WANTED_BLOCKS:
                break
            size, chosen = 2 * size, of.ravel()
        cells = np.zeros((int(chosen.max()) + 1, self._classes, self._classes))
        np.add.at(cells, chosen, counts)
        return SpatialBlocks(cells, size * self.cell)


@dataclass(frozen=True, eq=False)
class SpatialBlocks:
    """Error matrices float64 (blocks, C, C) of square blocks of a map, map down, and their side in pixels."""

    cells: Float64
    side: int

    def bootstrap(self, confidence: float = 0.95, seed: int = 0) -> BootstrapFigures:
        """Replicates of the figures from blocks drawn with replacement."""
        return bootstrap_clusters(self.cells, confidence=confidence, seed=seed)


def _as_dict(spread: tuple[float, float, float]) -> dict[str, float | None]:
    error, low, high = (None if np.isnan(number) else number for number in spread)
    return {"standard_error": error, "lower": low, "upper": high}
