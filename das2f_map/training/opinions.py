"""Opinions of other classifiers on pixels without labels, as soft targets of a training."""

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
from das2f_map.types import Float32

SPACING: Final = 4
"""MS pixels between the pixels of a patch that have opinions: its target and eight others around it."""

OFFSETS: Final = (-SPACING, 0, SPACING)
"""Rows, and columns, of these pixels from the target."""

NO_OPINION: Final = -1.0


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
    """

    pixels: ScenePixels
    table: Float32
    jitter: Jitter | None

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
