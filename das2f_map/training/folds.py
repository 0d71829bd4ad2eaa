"""Ground that is held out: spatial folds whose pixels share no image content with the training pixels.

Folds of random pixels would flatter the model: a held-out pixel's patch overlaps the patches of its
neighbours in the training part. So ground is held out, not pixels: strips of the scene, or blocks of it.
Patches reach over the border of a fold, so training pixels closer than a gap to a held-out pixel are left out
of that fold's training. Only labelled pixels count, so sparse labels lose little.

Strips have short borders and lose few pixels to the gap. Blocks give every fold some of every class. Many
strips and blocks are tried. The search takes those that leave each class most pixels to learn from, assess
most of its pixels, and spread it over the folds. A hold-out uses two of the folds alone: there the search
takes two that have some of every class. It depends on labels, grid, gap and the seed alone.

Scenes that show the same ground are cut together, see :mod:`das2f_map.training.common_ground`.

In a small scene a gap of a whole patch would leave too little. There the gap shrinks, and
:attr:`Folds.leak` says how many held-out patches overlap training patches, and by how much.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from das2f_map.training.common_ground import Places
from das2f_map.training.nearby import near, nearest_overlap
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Bool, Float64, Int64

HOLDOUT_FOLDS, TEST_FOLD, CHOICE_FOLD = 5, 0, 1
"""Folds that a hold-out is made of; one of them gives the figures, another one chooses the steps."""

LEAST_TO_LEARN = 8
"""Training pixels without which a fold does not assess a class."""

_SEARCHED = 20_000
"""Pixels of a scene that the search looks at; more are thinned."""

_SHRUNK = (1.0, 0.75, 0.5, 0.25)
"""Shares of the gap that are tried until enough is left."""

_ENOUGH = 0.5
"""Least share of the pixels outside a fold, over all folds, that the gap may leave for training."""

MOST_FOLDS = 20
"""Folds of scenes; with more scenes some are held out together."""


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
    places:
        Where the pixels lie on the ground; ``None`` if no scenes share ground.
    by_scene:
        Whether each fold holds whole scenes out.
    """

    pixels: TrainingPixels
    of_pixel: Int64
    count: int
    gap: int
    reach: int
    places: Places | None = None
    by_scene: bool = False

    @property
    def _places(self) -> Places:
        return Places.apart(self.pixels) if self.places is None else self.places

    def fold(self, *held: int) -> Fold:
        """Training and held-out pixels when these folds are held out."""
        train: Bool = np.logical_and.reduce([self.away(k) for k in held])
        return Fold(np.flatnonzero(train), np.flatnonzero(np.isin(self.of_pixel, held)))

    def away(self, number: int) -> Bool:
        """Which pixels lie outside a fold and its gap, bool ``(n,)``."""
        out: Bool = self.of_pixel == number
        away: Bool = ~out
        places = self._places
        for part in np.unique(places.part):
            here = places.part == part
            mine, others = np.flatnonzero(here & away), np.flatnonzero(here & out)
            close = _near(places, mine, others, self.gap)
            away[mine[close]] = False
        return away

    def each(self) -> Iterator[Fold]:
        """The folds, one after the other."""
        return (self.fold(k) for k in range(self.count))

    def leak(self, fold: Fold) -> Leak:
        """Image content that the held-out pixels of a fold share with its training pixels."""
        overlaps = np.zeros(fold.held.size)
        places = self._places
        for part in np.unique(places.part):
            held = np.flatnonzero(places.part[fold.held] == part)
            train = fold.train[places.part[fold.train] == part]
            at = fold.held[held]
            overlaps[held] = nearest_overlap(
                places.rows[at], places.cols[at], places.rows[train], places.cols[train], self.reach
            )
        if not overlaps.size:
            return Leak(0.0, 0.0)
        return Leak(float((overlaps > 0).mean()), float(overlaps.mean()))

    def summary(self, trained: Sequence[Fold] | None = None) -> dict[str, Any]:
        """Rule and sizes, for the model card, and the leak of the ``trained`` folds, by default all."""
        leaks = [self.leak(fold) for fold in (self.each() if trained is None else trained)]
        return {
            "method": "whole scenes held out" if self.by_scene else "spatial folds with a gap",
            "folds": self.count,
            "gap_ms_pixels": self.gap,
            "patches_apart_at_ms_pixels": self.reach,
            "held_out_overlapping_training": round(float(np.mean([k.share for k in leaks])), 4),
            "mean_overlap": round(float(np.mean([k.overlap for k in leaks])), 4),
            "pixels": np.bincount(self.of_pixel, minlength=self.count).tolist(),
            "pixels_per_class": self.pixels.counts(),
        }


def spatial_folds(
    pixels: TrainingPixels,
    count: int,
    *,
    gap: int,
    seed: int,
    by_scene: bool = False,
    places: Places | None = None,
    holdout: bool = False,
) -> Folds:
    """Folds of the labelled ground.

    Parameters
    ----------
    count:
        Folds of each scene's ground.
    gap:
        Distance in MS pixels at which patches share no pixel of the files.
    by_scene:
        Hold out whole scenes in turn, all pixels of a scene in the same fold; ``count`` plays no part then.
        Where scenes share ground, pixels of the others near it are left out, unless that leaves too few.
    places:
        Where the pixels lie on the ground; ``None`` if no scenes share ground.
    holdout:
        :data:`TEST_FOLD` and :data:`CHOICE_FOLD` are held out together, and no other fold is. They are the
        two that serve the classes best.
    """
    places = Places.apart(pixels) if places is None else places
    if places.shared:
        gap += 1  # for the rounding
    if by_scene and len(pixels.readers) > 1:
        return _by_scene(pixels, places, gap, seed)
    found = Folds(pixels, np.zeros(len(pixels), np.int64), count, gap, gap, places)
    for share in _SHRUNK:
        used = max(1, round(share * gap))
        of_pixel = np.zeros(len(pixels), np.int64)
        for part in np.unique(places.part):
            here = np.flatnonzero(places.part == part)
            rng = np.random.default_rng([seed, int(part)])
            own = _Ground(pixels.select(here), places.select(here), count, used, holdout)
            of_pixel[here] = _search(own, rng)
        found = Folds(pixels, of_pixel, count, used, gap, places)
        if _leaves_enough(found, [(TEST_FOLD, CHOICE_FOLD)] if holdout else None):
            break
    return found


def _by_scene(pixels: TrainingPixels, places: Places, reach: int, seed: int) -> Folds:
    """Whole scenes held out in turn."""
    scenes = len(pixels.readers)
    count = min(scenes, MOST_FOLDS)
    dealt = np.arange(scenes) if scenes == count else np.random.default_rng(seed).permutation(scenes) % count
    of_pixel = dealt[pixels.scene].astype(np.int64)
    found = Folds(pixels, of_pixel, count, reach if places.shared else 0, reach, places, by_scene=True)
    return found if not places.shared or _leaves_enough(found) else replace(found, gap=0)


def _leaves_enough(folds: Folds, held: Sequence[tuple[int, ...]] | None = None) -> bool:
    """Whether the gap leaves enough pixels outside what is ``held`` out, by default each fold in turn."""
    held = [(k,) for k in range(folds.count)] if held is None else held
    left = sum(folds.fold(*some).train.size for some in held)
    return left >= _ENOUGH * sum(int((~np.isin(folds.of_pixel, some)).sum()) for some in held)


@dataclass(frozen=True, eq=False)
class _Ground:
    """Connected ground to cut into folds."""

    pixels: TrainingPixels
    places: Places
    count: int
    gap: int
    holdout: bool

    def cut(self, of_pixel: Int64) -> Folds:
        return Folds(self.pixels, of_pixel, self.count, self.gap, self.gap, self.places)


def _search(ground: _Ground, rng: np.random.Generator) -> Int64:
    """The best of some ways to cut connected ground into folds, int64 ``(n,)``."""
    seen = np.arange(len(ground.pixels))
    if seen.size > _SEARCHED:
        seen = np.sort(rng.choice(seen.size, _SEARCHED, replace=False))
    looked_at = replace(ground, pixels=ground.pixels.select(seen), places=ground.places.select(seen))
    best: tuple[float, Int64] | None = None
    for of_pixel in _candidates(ground.places.rows, ground.places.cols, ground.count, ground.gap, rng):
        folds = looked_at.cut(of_pixel[seen])
        if ground.holdout:
            score, number = _holdout_score(folds)
            of_pixel = number[of_pixel]
        else:
            score = _score(folds)
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


def _score(folds: Folds) -> float:
    """Quality of a cut: pixels of each class left to learn from, and pixels of each class assessed."""
    pixels, of_pixel, count = folds.pixels, folds.of_pixel, folds.count
    n = len(pixels.legend)
    totals = np.bincount(pixels.positions, minlength=n).astype(float)
    assessed, learnt, spread = np.zeros(n), np.zeros(n), np.zeros(n)
    for fold in folds.each():
        train = np.bincount(pixels.positions[fold.train], minlength=n)
        held = np.bincount(pixels.positions[fold.held], minlength=n)
        assessed += np.where(train >= LEAST_TO_LEARN, held, 0)
        learnt += train / (count - 1)
        spread += np.minimum(1.0, held * count / np.maximum(totals, 1)) / count
    present = totals > 0
    shares = [assessed[present] / totals[present], learnt[present] / totals[present], spread[present]]
    return sum(map(_service, shares)) + _evenness(of_pixel, count)


def _holdout_score(folds: Folds) -> tuple[float, Int64]:
    """Quality of the best two folds of a cut for a hold-out, and the new number of every fold.

    As for all folds: pixels of each class left to learn from, and shares of each class in both.
    """
    pixels, count = folds.pixels, folds.count
    n = len(pixels.legend)
    totals = np.bincount(pixels.positions, minlength=n)
    present = totals > 0
    held = np.stack([np.bincount(pixels.positions[folds.of_pixel == k], minlength=n) for k in range(count)])
    spread = np.minimum(1.0, held * count / np.maximum(totals, 1))
    away = [folds.away(k) for k in range(count)]
    best: tuple[float, list[int]] | None = None
    for pair in itertools.combinations(range(count), 2):
        left = np.bincount(pixels.positions[away[pair[0]] & away[pair[1]]], minlength=n)
        learnt = left / np.maximum(totals, 1)
        both = {k: _service((spread[k] * (left >= LEAST_TO_LEARN))[present]) for k in pair}
        score = _service(learnt[present]) + sum(both.values())
        if best is None or score > best[0]:
            # The figures come from the one with more of every class.
            best = score, sorted(pair, key=both.__getitem__, reverse=True)
    assert best is not None  # there are two folds at least
    order = [*best[1], *(k for k in range(count) if k not in best[1])]
    return best[0] + _evenness(folds.of_pixel, count), np.argsort(order).astype(np.int64)


def _service(shares: Float64) -> float:
    """How well classes with these shares, 0..1, are served: the logarithm makes the worst count most."""
    return float(np.log(0.05 + shares).mean())


def _evenness(of_pixel: Int64, count: int) -> float:
    """At most 0, lower the less even the folds are."""
    shares = np.bincount(of_pixel, minlength=count) / max(1, of_pixel.size)
    return float(np.log(0.05 + count * shares.min()) - np.log(1.05))


def _near(places: Places, at: Int64, others: Int64, distance: int) -> Bool:
    if not at.size or not others.size or distance < 1:
        return np.zeros(at.size, bool)
    rows, cols = places.rows, places.cols
    return near(rows[at], cols[at], rows[others], cols[others], distance)
