"""Classifying a scene block by block: the loop between a pair, an engine and a writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from das2f_map.engines import Engine
from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.model import ModelCard
from das2f_map.scene.fill import invalid_shares
from das2f_map.scene.grid import Window, blocks_of
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.radiometry import BandStatistics, normalise

BLOCK_SIZE = 64
"""MS pixels a side of what is read, computed and written at once."""

Mask = Callable[[Window], npt.NDArray[np.bool_]]
"""Which pixels of a window are wanted: bool (h, w)."""


@dataclass(frozen=True)
class ClassifiedBlock:
    """A block of the result.

    Attributes
    ----------
    window:
        MS pixels of the common grid.
    classes:
        uint8 (h, w), class ids, 0 where nodata or not wanted.
    confidence:
        float32 (h, w), probability of the class, NaN where there is none.
    """

    window: Window
    classes: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]


def classify_blocks(
    pair: ScenePair,
    engine: Engine,
    card: ModelCard,
    window: Window,
    *,
    statistics: tuple[Sequence[BandStatistics], BandStatistics] | None = None,
    wanted: Mask | None = None,
    block_size: int = BLOCK_SIZE,
) -> Iterator[ClassifiedBlock]:
    """Classify a window of a scene, a block at a time, row by row.

    A pixel gets nodata where either sensor is invalid at it, where a mask excludes it, or where more of its
    patch is invalid than the card's ``max_invalid_share``; other invalid pixels in its patch are filled, see
    :mod:`das2f_map.scene.fill`. Values are normalised with ``statistics`` (MS bands, PAN) instead of the
    card's if given.
    """
    patch = card.patch
    ms_bands, pan_band = statistics or (card.ms_bands, card.pan_band)
    ids = np.array(card.legend.ids, dtype=np.uint8)
    for part in blocks_of(window, block_size):
        targets = np.ones((part.height, part.width), dtype=np.bool_) if wanted is None else wanted(part)
        classes = np.full(targets.shape, NODATA_CLASS, dtype=np.uint8)
        confidence = np.full(targets.shape, np.nan, dtype=np.float32)
        if targets.any():
            block = pair.read_block(part, patch.before, patch.after, fill=patch.fill_radius)
            shares = invalid_shares(block.invalid, patch.size)
            targets = targets & block.valid & (shares <= patch.max_invalid_share)
        if targets.any():
            ms, pan = normalise(block, ms_bands, pan_band)
            logits = engine.logits(ms, pan, targets)
            if not np.isfinite(logits).all():
                rows, cols = np.nonzero(targets)
                first = int((~np.isfinite(logits).all(axis=1)).argmax())
                raise InputError(
                    f"values around row {part.row + rows[first]}, column {part.col + cols[first]} in "
                    f"{pair.ms_path} or {pair.pan_path} are beyond what the network can take",
                    "a nodata value that the file does not declare? give it with --nodata",
                )
            best = logits.argmax(axis=1)
            classes[targets] = ids[best]
            confidence[targets] = _probability(logits, best)
        yield ClassifiedBlock(part, classes, confidence)


def _probability(logits: npt.NDArray[np.float32], best: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Softmax of the best class, float32 (n,)."""
    top = np.take_along_axis(logits, best[:, None], axis=1)
    return np.asarray(1.0 / np.exp(logits - top).sum(axis=1), dtype=np.float32)
