"""A short trial of a classifier on a part of its scene, for estimates of time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.output_sizes import Texture
from das2f_map.scene.grid import Window

TRIAL_BLOCK: Final = 64
"""MS pixels a side of the largest block of a trial."""

_TRIAL_S: Final = 1.5
"""Approximate limit of a trial, in seconds."""


@dataclass(frozen=True)
class Trial:
    """Outcome of a trial: pixels of its last block, pixels a second there, and how finely it is divided."""

    pixels: int
    rate: float
    texture: Texture


def trial_run(classifier: BlockClassifier, part: Window) -> Trial | None:
    """Classify a corner of a part of the scene; ``None`` if no pixel of it gets a class.

    Small blocks come first to limit the time. An engine that shares work between pixels reaches its full
    speed on a whole block only.
    """
    rate, done, seconds = 0.0, 0, 0.0
    texture: Texture | None = None
    for side in (8, 24, TRIAL_BLOCK):
        small = Window(part.row, part.col, min(side, part.height), min(side, part.width))
        if done and seconds / done * small.height * small.width > _TRIAL_S:
            break
        start = time.perf_counter()
        classes = classifier.classify(small).classes
        seconds = time.perf_counter() - start
        done, texture = int((classes > 0).sum()), Texture.of(classes) or texture
        if done:
            rate = done / seconds
    return None if texture is None else Trial(done, rate, texture)
