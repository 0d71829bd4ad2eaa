"""Opinions of other classifiers on pixels all over the scenes, as soft targets of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from das2f_map.scene.turns import TURNS, turned
from das2f_map.training.jitter import Jitter
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.types import Float32, Int64

SPACING: Final = 4
"""MS pixels between the pixels of a patch that have opinions: its target and eight others around it."""

OFFSETS: Final = (-SPACING, 0, SPACING)
"""Rows, and columns, of these pixels from the target."""

NO_OPINION: Final = -1.0

SHARES: Final = np.linspace(0.0, 1.0, 11)
"""Weights of the CNNs that are tried."""

EQUAL: Final = 0.5
"""Weight of the CNNs where no ground is held out to choose it by."""

_LEAST_PROBABILITY = 1e-3
"""A teacher may be sure and wrong; a single such pixel must not decide."""

_NO_DIFFERENCE = 1e-3
"""Of the loss of a pixel."""


@dataclass(frozen=True, eq=False)
class Opinions:
    """Patches of a scene's pixels, and what other classifiers say of nine pixels in each.

    Attributes
    ----------
    pixels:
        The targets of the patches.
    table:
        Float32 ``(n, 3, 3, C)``: probabilities of the classes at the :data:`OFFSETS` from each target;
        :data:`NO_OPINION` at pixels that cannot be used.
    jitter:
        Random radiometry of the patches. The other classifiers have seen them as they are.
    share:
        Weight of the small CNNs in the opinions.
    """

    pixels: ScenePixels
    table: Float32
    jitter: Jitter | None
    share: float

    def batch(self, n: int, seed: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Some patches, turned and jittered at random: MS, PAN and the opinions on their pixels.

        The opinions are float32 ``(n, P, P, C)``, :data:`NO_OPINION` at pixels without one. All follows from
        the seed.
        """
        rng = np.random.default_rng(seed)
        at = rng.integers(0, len(self.pixels), n)
        turns = rng.integers(0, TURNS, n)
        ms, pan = self.pixels.patches(at, turns)
        if self.jitter is not None:
            ms, pan = map(torch.from_numpy, self.jitter(ms.numpy(), pan.numpy(), rng))
        patch = self.pixels.readers[0].source.patch
        found = np.full((n, patch.size, patch.size, self.table.shape[-1]), NO_OPINION, np.float32)
        first, last = patch.target_index - SPACING, patch.target_index + SPACING
        places = slice(first, last + 1, SPACING)
        for own, k, turn in zip(found, at, turns, strict=True):
            own[places, places] = turned(self.table[k].transpose(2, 0, 1), int(turn)).transpose(1, 2, 0)
        return ms, pan, torch.from_numpy(found)


@dataclass(frozen=True, eq=False)
class Answers:
    """What two teachers of a training say, small CNNs and the mean of other classifiers.

    Attributes
    ----------
    pixels:
        As in :class:`Opinions`.
    tables:
        Float32 ``(2, n, 3, 3, C)``: a table as in :class:`Opinions` of each teacher.
    held:
        Float32 ``(2, m, C)``: probabilities of each teacher at labelled pixels that they have not learnt.
    truth:
        int64 ``(m,)``: classes of these pixels.
    """

    pixels: ScenePixels
    tables: Float32
    held: Float32
    truth: Int64

    def weighted(self, share: float, jitter: Jitter | None) -> Opinions:
        """The mean of both teachers' opinions; ``share`` is the weight of the CNNs."""
        cnn, others = self.tables
        table = np.where(cnn == NO_OPINION, NO_OPINION, share * cnn + (1 - share) * others)
        return Opinions(self.pixels, table.astype(np.float32), jitter, share)


def share_of_cnns(answers: Sequence[Answers]) -> float:
    """Weight of the CNNs by the least loss on ground that the teachers have not learnt.

    Without such ground it is :data:`EQUAL`. Of weights that do as well, the most even one is taken.
    """
    if not sum(a.truth.size for a in answers):
        return EQUAL
    cnn, others = np.concatenate([a.held[:, np.arange(a.truth.size), a.truth] for a in answers], axis=1)
    losses = np.array(
        [-np.log(_LEAST_PROBABILITY + share * cnn + (1 - share) * others).mean() for share in SHARES]
    )
    good = SHARES[losses <= losses.min() + _NO_DIFFERENCE]
    return float(good[np.argmin(np.abs(good - EQUAL))])
