"""Patches of images that are disturbed: MS and PAN apart, noise, haze.

Other benchmarks import this module; it runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from held_ground import counts_of
from torch import Tensor

from das2f_map.scene.radiometry import Normalisation
from das2f_map.training.batches import PatchBatch, PatchDataset
from das2f_map.training.pixels import TrainingPixels
from das2f_map.types import Int64


class Disturbance(NamedTuple):
    """A kind of disturbance, ``shift``, ``noise`` or ``haze``, and its level."""

    kind: str
    level: float

    @property
    def name(self) -> str:
        return f"{self.kind} {self.level:g}"


NONE: Final = "none"
LEVELS: Final = {"shift": (1, 2, 3, 4), "noise": (0.1, 0.2, 0.4), "haze": (0.15, 0.3, 0.45)}
"""PAN pixels between MS and PAN; standard deviations of a band; share of the bright value in the image."""

DISTURBANCES: Final = tuple(Disturbance(kind, level) for kind, levels in LEVELS.items() for level in levels)


class DisturbedPatches(PatchDataset):
    """Patches whose images are disturbed; the same disturbance for all methods that read batches of one size.

    - ``shift``: PAN comes from ``level`` PAN pixels further up, for every second patch from further left.
      These are the scene's own pixels, none is made up.
    - ``noise``: white noise in MS and PAN of ``level`` standard deviations of the band.
    - ``haze``: all values of MS and PAN move by the share ``level`` towards the band's 99th percentile, as in
      the jitter of the training.
    """

    def __init__(
        self, pixels: TrainingPixels, disturbance: Disturbance, normalisation: Normalisation
    ) -> None:
        super().__init__(pixels)
        self._disturbance = disturbance
        bright = [(band.p99 - band.mean) / band.std for band in normalisation.bands]
        self._bright = torch.tensor(bright, dtype=torch.float32)[:, None, None]

    def __getitem__(self, batch: PatchBatch) -> tuple[Tensor, Tensor, Tensor]:
        ms, pan, target = super().__getitem__(batch)
        kind, level = self._disturbance
        if kind == "shift":
            pan = shifted_pan(self.pixels, batch.positions, int(level))
        elif kind == "noise":
            generator = torch.Generator().manual_seed(int(batch.positions[0]))
            ms, pan = (t + level * torch.randn(t.shape, generator=generator) for t in (ms, pan))
        else:
            ms = (1 - level) * ms + level * self._bright[:-1]
            pan = (1 - level) * pan + level * self._bright[-1:]
        return ms, pan, target


def disturbed_counts(
    predictor: Callable[[PatchDataset], Int64], pixels: TrainingPixels, normalisation: Normalisation
) -> dict[str, Any]:
    """Counts on disturbed images, by the name of the disturbance.

    ``predictor`` gives the positions of the classes of patches, ``(n,)``.
    """
    found = {}
    for disturbance in DISTURBANCES:
        named = predictor(DisturbedPatches(pixels, disturbance, normalisation))
        found[disturbance.name] = counts_of(pixels.positions, named, len(pixels.legend))
    return found


UP_DOWN, LEFT_RIGHT = 6, 4
"""Turns of a patch that are flips, see :mod:`das2f_map.scene.turns`."""


def shifted_pan(pixels: TrainingPixels, at: Int64, shift: int) -> Tensor:
    """PAN patches ``(n, 1, 64, 64)`` whose content comes from 0 to 4 PAN pixels up (odd positions: left).

    A patch reaches 4 PAN pixels further down than up. Its mirror image reaches further up, so both together
    hold the pixels that a shifted patch needs.
    """
    out = torch.empty_like(pixels.patches(at)[1])
    for parity, turn, axis in ((0, UP_DOWN, 2), (1, LEFT_RIGHT, 3)):
        here = np.flatnonzero(at % 2 == parity)
        if not here.size:
            continue
        plain = pixels.patches(at[here])[1]
        mirrored = pixels.patches(at[here], np.full(here.size, turn, np.int64))[1].flip(axis)
        side, more = plain.shape[axis], 4
        square = torch.cat([mirrored, plain.narrow(axis, side - more, more)], dim=axis)
        out[torch.from_numpy(here)] = square.narrow(axis, more - shift, side)
    return out
