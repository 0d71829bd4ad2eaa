"""The mean of an engine's logits over flips and quarter turns of the images.

A network that has learnt from turned patches errs on some pixels with the image upright, and on others with
it turned. The mean over several views (test-time augmentation) is right a little more often on the average.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from das2f_map.engines import Engine
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.turns import turned
from das2f_map.types import Bool, Float32

VIEWS: Final = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3), 8: (0, 1, 2, 3, 4, 5, 6, 7)}
"""Turns of each number of views, see :mod:`das2f_map.scene.turns`."""


class TurnedEngine:
    """An engine that turns its block, lets another engine compute it, and takes the mean of the logits.

    Parameters
    ----------
    engine:
        Computes each view.
    patch:
        Geometry of the network's patches.
    turns:
        Number of views, a key of :data:`VIEWS`.
    """

    all_turns = True

    def __init__(self, engine: Engine, patch: PatchGeometry, turns: int) -> None:
        self._engine, self._patch, self._views = engine, patch, VIEWS[turns]
        self._first = max(patch.before, patch.after) - patch.before
        self.name = engine.name

    @property
    def device(self) -> str:
        """Device of the engine."""
        return self._engine.device

    @property
    def precision(self) -> str:
        """Precision of the engine."""
        return self._engine.precision

    @property
    def scan(self) -> str:
        """Selective-scan backend of the engine."""
        return self._engine.scan

    @property
    def block_size(self) -> int:
        """Block size that suits the engine."""
        return self._engine.block_size

    def memory_bytes(self, size: int) -> int:
        """The engine's memory, and a turned copy of the block."""
        side = size + self._patch.size - 1
        # A copy of PAN and of four MS bands, and the sums of some ten classes.
        return self._engine.memory_bytes(size) + 4 * (PAN_PER_MS**2 + 4) * side**2 + 40 * size**2

    def logits(self, ms: Float32, pan: Float32, targets: Bool) -> Float32:
        """Mean logits of the target pixels, float32 ``(n, C)``; see :meth:`das2f_map.engines.Engine.logits`.

        The block has the same halo on all four sides: that of
        :meth:`~das2f_map.scene.model_input.ModelInput.read` for all turns.
        """
        place = np.full(targets.shape, -1, np.int64)
        place[targets] = np.arange(int(targets.sum()))
        total: Float32 | None = None
        for turn in self._views:
            own = np.ascontiguousarray(turned(targets[None], turn)[0])
            found = self._engine.logits(self._cut(ms, own, turn), self._cut(pan, own, turn, PAN_PER_MS), own)
            if total is None:
                total = np.zeros_like(found)
            total[turned(place[None], turn)[0][own]] += found
        assert total is not None
        total /= len(self._views)
        return total

    def _cut(self, image: Float32, targets: Bool, turn: int, scale: int = 1) -> Float32:
        """The turned block with the halo of a plain one."""
        rows, cols = (
            slice(scale * self._first, scale * (self._first + n + self._patch.size - 1))
            for n in targets.shape
        )
        return np.ascontiguousarray(turned(image, turn)[:, rows, cols])
