"""Ground that is held out: spatial folds whose pixels share no image content with the training pixels.

Folds of random pixels would flatter the model: a held-out pixel's patch overlaps the patches of its
neighbours in the training part. So ground is held out, not pixels: strips of the scene, or blocks of it.
Patches reach over the border of a fold, so training pixels closer than a gap to a held-out pixel are left out
of that fold's training. Only labelled pixels count, so sparse labels lose little.

Strips have short borders and lose few pixels to the gap. Blocks give every fold some of every class. Many
strips and blocks are tried. The search takes those that leave each class most pixels to learn from, assess
most of its pixels, and spread it over the folds. It depends on labels, grid, gap and the seed alone.

In a small scene a gap of a whole patch would leave too little. There the gap shrinks, and
:attr:`Folds.leak` says how many held-out patches overlap training patches, and by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from das2f_map.training.nearby import near, nearest_overlap
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Bool, Int64

LEAST_TO_LEARN = 8
"""Training pixels without which a fold does not assess a class."""

_SEARCHED = 20_000
"""Pixels of a scene that the search looks at; more are thinned."""

_SHRUNK = (1.0, 0.75, 0.5, 0.25)
"""Shares of the gap that are tried until enough is left."""

_ENOUGH = 0.5
"""Least share of the pixels outside a fold, over all folds, that the gap may leave for training."""


@dataclass(frozen=True)
class Fold:
    """Positions of pixels: those to learn from, and those held out."""

    train: Int64
    held: Int64


@dataclass(frozen=True)
class Leak:
    """Image content that held-out patches share with training patches.

    Attributes
    ----------
    share:
        Held-out pixels whose patch overlaps a training pixel's, 0..1.
    overlap:
        Mean share of a held-out patch that the nearest training patch covers, over all held-out pixels.
    """

    share: float
    overlap: float


@dataclass(frozen=True, eq=False)
class Folds:
    """Labelled pixels in folds.

    Attributes
    ----------
    pixels:
        All labelled pixels.
    of_pixel:
        int64 ``(n,)``: number of the fold that holds a pixel out, from 0.
    count:
        Number of folds.
    gap:
        Least distance (Chebyshev, MS pixels) between a fold's held-out and training pixels.
    reach:
        Distance at which patches share no pixel of the files.
    """

    pixels: TrainingPixels
    of_pixel: Int64
    count: int
    gap: int
    reach: int

    def fold(self, *held: int) -> Fold:
        """Training and held-out pixels when these folds are held out."""
        out = np.isin(self.of_pixel, held)
        train = ~out
        for scene in range(len(self.pixels.readers)):
            here = self.pixels.scene == scene
            mine, others = np.flatnonzero(here & train), np.flatnonzero(here & out)
            close = _near(self.pixels, mine, others, self.gap)
            train[mine[close]] = False
        return Fold(np.flatnonzero(train), np.flatnonzero(out))

    def each(self) -> Iterator[Fold]:
        """The folds, one after the other."""
        return (self.fold(k) for k in range(self.count))

    def leak(self, fold: Fold) -> Leak:
        """Image content that the held-out pixels of a fold share with its training pixels."""
        overlaps = np.zeros(fold.held.size)
        for scene in range(len(self.pixels.readers)):
            held = np.flatnonzero(self.pixels.scene[fold.held] == scene)
            train = fold.train[self.pixels.scene[fold.train] == scene]
            at = fold.held[held]
            overlaps[held] = nearest_overlap(
                self.pixels.rows[at],
                self.pixels.cols[at],
                self.pixels.rows[train],
                self.pixels.cols[train],
                self.reach,
            )
        if not overlaps.size:
            return Leak(0.0, 0.0)
        return Leak(float((overlaps > 0).mean()), float(overlaps.mean()))

    def summary(self, trained: Sequence[Fold] | None = None) -> dict[str, Any]:
        """Rule and sizes, for the model card, and the leak of the ``trained`` folds, by default all."""
        leaks = [self.leak(fold) for fold in (self.each() if trained is None else trained)]
        return {
            "method": "spatial folds with a gap",
            "folds": self.count,
            "gap_ms_pixels": self.gap,
            "patches_apart_at_ms_pixels": self.reach,
            "held_out_overlapping_training": round(float(np.mean([k.share for k in leaks])), 4),
            "mean_overlap": round(float(np.mean([k.overlap for k in leaks])), 4),
            "pixels": np.bincount(self.of_pixel, minlength=self.count).tolist(),
            "pixels_per_class": self.pixels.counts(),
        }


def spatial_folds(
    pixels: TrainingPixels, count: int, *, gap: int, seed: int, by_scene: bool = False
) -> Folds:
    """Folds of the labelled ground.

    Parameters
    ----------
    count:
        Folds of each scene's ground.
    gap:
        Distance in MS pixels at which patches share no pixel of the files.
    by_scene:
        Hold out whole scenes in turn; ``count`` and ``gap`` play no part then.
    """
    scenes = len(pixels.readers)
    if by_scene and scenes > 1:
        return Folds(pixels, pixels.scene.copy(), scenes, 0, gap)
    found = Folds(pixels, np.zeros(len(pixels), np.int64), count, gap, gap)
    for share in _SHRUNK:
        used = max(1, round(share * gap))
        of_pixel = np.zeros(len(pixels), np.int64)
        for scene in range(scenes):
            here = np.flatnonzero(pixels.scene == scene)
            if here.size:
                of_pixel[here] = _search(
                    pixels.select(here), count, used, np.random.default_rng([seed, scene])
                )
        found = Folds(pixels, of_pixel, count, used, gap)
        left = sum(fold.train.size for fold in found.each())
        if left >= _ENOUGH * sum(int((of_pixel != k).sum()) for k in range(count)):
            break
    return found


def _search(pixels: TrainingPixels, count: int, gap: int, rng: np.random.Generator) -> Int64:
    """The best of some ways to cut one scene's ground into folds, int64 ``(n,)``."""
    rows, cols = pixels.rows.astype(np.int64), pixels.cols.astype(np.int64)
    seen = np.arange(len(pixels))
    if seen.size > _SEARCHED:
        seen = np.sort(rng.choice(seen.size, _SEARCHED, replace=False))
    looked_at = pixels.select(seen)
    best: tuple[float, Int64] | None = None
    for of_pixel in _candidates(rows, cols, count, gap, rng):
        score = _score(looked_at, of_pixel[seen], count, gap)
        if best is None or score > best[0]:
            best = score, of_pixel
    assert best is not None  # there is at least one way
    return best[1]


def _candidates(rows: Int64, cols: Int64, count: int, gap: int, rng: np.random.Generator) -> Iterator[Int64]:
    """Ways to cut ground into folds: strips in some directions, then blocks of some sizes."""
    for angle in np.arange(8) * np.pi / 8:
        along = np.cos(angle) * rows + np.sin(angle) * cols
        limits = np.quantile(along, np.arange(1, count) / count)
        yield np.searchsorted(limits, along, side="right")
    extent = int(max(np.ptp(rows), np.ptp(cols))) + 1
    for size in (2 * gap, 3 * gap, 4 * gap, 6 * gap, 8 * gap):
        if size * 2 > extent:
            break
        for _ in range(6):
            top, left = rng.integers(0, size, 2)
            block = (rows + top) // size * (extent // size + 3) + (cols + left) // size
            _, of_block = np.unique(block, return_inverse=True)
            # Blocks are dealt like cards, so that folds have as many each.
            dealt = rng.permutation(int(of_block.max()) + 1) % count
            yield dealt[of_block]


def _score(pixels: TrainingPixels, of_pixel: Int64, count: int, gap: int) -> float:
    """Quality of a cut: pixels of each class left to learn from, and pixels of each class assessed."""
    n = len(pixels.legend)
    totals = np.bincount(pixels.positions, minlength=n).astype(float)
    assessed, learnt, spread = np.zeros(n), np.zeros(n), np.zeros(n)
    for fold in Folds(pixels, of_pixel, count, gap, gap).each():
        train = np.bincount(pixels.positions[fold.train], minlength=n)
        held = np.bincount(pixels.positions[fold.held], minlength=n)
        assessed += np.where(train >= LEAST_TO_LEARN, held, 0)
        learnt += train / (count - 1)
        spread += np.minimum(1.0, held * count / np.maximum(totals, 1)) / count
    present = totals > 0
    shares = [assessed[present] / totals[present], learnt[present] / totals[present], spread[present]]
    # The logarithm makes the worst-served class count most.
    return float(sum(np.log(0.05 + s).mean() for s in shares) + _evenness(of_pixel, count))


def _evenness(of_pixel: Int64, count: int) -> float:
    """At most 0, lower the less even the folds are."""
    shares = np.bincount(of_pixel, minlength=count) / max(1, of_pixel.size)
    return float(np.log(0.05 + count * shares.min()) - np.log(1.05))


def _near(pixels: TrainingPixels, at: Int64, others: Int64, distance: int) -> Bool:
    if not at.size or not others.size or distance < 1:
        return np.zeros(at.size, bool)
    rows, cols = pixels.rows.astype(np.int64), pixels.cols.astype(np.int64)
    return near(rows[at], cols[at], rows[others], cols[others], distance)
