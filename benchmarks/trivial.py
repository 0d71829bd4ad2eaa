"""An engine that computes next to nothing, so that a run costs only the pipe around the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.choose import EngineChoice
from das2f_map.types import Bool, Float32


class TrivialEngine:
    """Logits are linear in the target's MS values: a class by brightness, without any network.

    Parameters
    ----------
    classes:
        Number of logits.
    target:
        Rows and columns from a patch's first pixel to its target.
    size:
        MS pixels a side of a block.
    """

    name, device, precision, scan = "patch", "cpu", "fp32", "none"
    all_turns = False

    def __init__(self, classes: int, target: int, size: int) -> None:
        self._classes, self._target, self.block_size = classes, target, size

    def memory_bytes(self, size: int) -> int:
        """Bytes of a block's logits."""
        return 8 * self._classes * size * size

    def logits(self, ms: Float32, pan: Float32, targets: Bool) -> Float32:
        """See :class:`das2f_map.engines.Engine`."""
        height, width = targets.shape
        # PAN is read and normalised; one value of it counts so that nothing can be left out.
        mine = ms[-1, self._target : self._target + height, self._target : self._target + width][targets]
        mine = mine + np.float32(1e-9) * pan[0, 0, 0]
        steps = np.linspace(-1.5, 1.5, self._classes, dtype=np.float32)
        # -(x - s)² without its common part: the nearest step wins.
        # A class at a time: inner loops over six values are slow, and a product would wake BLAS's threads.
        logits = np.empty((self._classes, mine.size), np.float32)
        for row, step in zip(logits, steps, strict=True):
            np.multiply(mine, 2 * step, out=row)
            row -= step * step
        return np.ascontiguousarray(logits.T)


def make_trivial(size: int) -> Any:
    """A replacement of :func:`das2f_map.engines.choose.make_engine`."""

    def make(bundle: ModelBundle, choice: EngineChoice | None = None, *, every: int = 1) -> TrivialEngine:
        if every != 1:
            raise ValueError("the trivial engine makes no drafts")
        card = bundle.card
        return TrivialEngine(len(card.legend), card.patch.target_index, size)

    return make
