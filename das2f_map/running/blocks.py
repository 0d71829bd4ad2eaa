"""Classes of any window of a scene, computed in this process."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from das2f_map.engines import Engine
from das2f_map.errors import InputError, ReadError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.running.certainty import Certainty
from das2f_map.running.read_ahead import one_ahead
from das2f_map.scene.finite import all_finite
from das2f_map.scene.grid import Window
from das2f_map.scene.model_input import InputBlock, ModelInput
from das2f_map.scene.paths import is_local
from das2f_map.scene.raster_file import fetch_anew
from das2f_map.types import Bool, Float32, UInt8

log = logging.getLogger(__name__)

_PAUSES: Final = (0.2,)
_REMOTE_PAUSES: Final = (0.5, 2.0, 8.0)
"""Seconds before a failed read is tried again."""

_AT_ONCE: Final = 1 << 14
"""Pixels whose probabilities are computed at once: they fit into a core's cache."""

Wanted = Callable[[Window], Bool]
"""Which pixels of a window are wanted: bool (h, w)."""


@dataclass(frozen=True, eq=False)
class ClassifiedBlock:
    """A block of the map.

    Attributes
    ----------
    window:
        MS pixels of the common grid.
    classes:
        uint8 (h, w), class ids, 0 where nodata or not wanted.
    confidence:
        float32 (h, w), probability of the most probable class, NaN where there is no class.
    probabilities:
        float32 (classes, h, w), probability of each class in the legend's order, NaN where there is no class;
        ``None`` unless they are asked for.
    entropy:
        float32 (h, w), Shannon entropy of the probabilities over that of equal ones, 0..1, NaN where there is
        no class; ``None`` unless it is asked for.
    """

    window: Window
    classes: UInt8
    confidence: Float32
    probabilities: Float32 | None = None
    entropy: Float32 | None = None


@dataclass(frozen=True, eq=False)
class BlockClassifier:
    """Classifies any window of an open scene.

    A pixel gets nodata where it is not usable (see :class:`~das2f_map.scene.model_input.InputBlock`) or not
    wanted.

    Attributes
    ----------
    input:
        The scene as the network sees it.
    engine:
        Computes logits of the legend's classes.
    legend:
        The classes, in the order of the logits.
    wanted:
        Pixels to classify; ``None`` for all.
    certainty:
        How probabilities are computed, and which are kept.
    """

    input: ModelInput
    engine: Engine
    legend: Legend
    wanted: Wanted | None = None
    certainty: Certainty = field(default_factory=Certainty)

    def read(self, window: Window) -> InputBlock | None:
        """Input of the engine for a window; ``None`` where no pixel is to be classified.

        A read that fails is tried again after a pause, more often over a network.

        Raises
        ------
        ReadError
            It fails every time.
        """
        wanted = None if self.wanted is None else self.wanted(window)
        pair = self.input.pair
        remote = not (is_local(pair.ms_path) and is_local(pair.pan_path))
        for pause in _REMOTE_PAUSES if remote else _PAUSES:
            try:
                return self.input.read(window, wanted, all_turns=self.engine.all_turns)
            except ReadError as error:
                log.warning("%s; once more in %g s", error.message, pause)
                time.sleep(pause)
                for path in (pair.ms_path, pair.pan_path):
                    fetch_anew(path)
        return self.input.read(window, wanted, all_turns=self.engine.all_turns)

    def compute(self, window: Window, block: InputBlock | None) -> ClassifiedBlock:
        """Classes of a window from its input block.

        Raises
        ------
        InputError
            The network gives no finite numbers for the values.
        """
        shape = (window.height, window.width)
        classes = np.full(shape, NODATA_CLASS, dtype=np.uint8)
        confidence = np.full(shape, np.nan, dtype=np.float32)
        every = (
            np.full((len(self.legend), *shape), np.nan, np.float32) if self.certainty.probabilities else None
        )
        entropy = np.full(shape, np.nan, dtype=np.float32) if self.certainty.entropy else None
        if block is not None:
            logits = self.engine.logits(block.ms, block.pan, block.usable)
            self._require_finite(logits, block)
            found = _Softmax(len(logits), self.certainty)
            for start in range(0, len(logits), _AT_ONCE):
                found.add(start, logits[start : start + _AT_ONCE])
            classes[block.usable] = self._answers(found.best, found.highest)
            confidence[block.usable] = found.highest
            if every is not None:
                every[:, block.usable] = found.probabilities
            if entropy is not None:
                entropy[block.usable] = found.entropy
        return ClassifiedBlock(window, classes, confidence, every, entropy)

    def classify(self, window: Window) -> ClassifiedBlock:
        """Classes of one window, read and computed at once."""
        return self.compute(window, self.read(window))

    def classify_all(
        self, windows: Iterable[Window], read_ahead: bool = True
    ) -> Generator[ClassifiedBlock, None, None]:
        """Classes of windows in their order; with ``read_ahead``, the next one is read while one is computed.

        Close the generator explicitly, and before the scene. Python drops an interrupt that reaches a
        generator while it is collected as garbage.
        """

        if not read_ahead:
            for window in windows:
                yield self.classify(window)
            return

        def read(window: Window) -> tuple[Window, InputBlock | None]:
            return window, self.read(window)

        with closing(one_ahead(read, windows)) as blocks:
            for window, block in blocks:
                yield self.compute(window, block)

    @cached_property
    def _unsure(self) -> int:
        """Id of the class of pixels that are rejected."""
        return self.legend.with_unsure()[1]

    def _answers(self, best: UInt8, highest: Float32) -> UInt8:
        """Class ids (n,) from positions of the best classes and their probabilities."""
        ids = np.array(self.legend.ids, dtype=np.uint8)[best]
        if self.certainty.reject is not None:
            ids[highest < self.certainty.reject] = self._unsure
        return ids

    def _require_finite(self, logits: Float32, block: InputBlock) -> None:
        if all_finite(logits):
            return
        finite = np.isfinite(logits).all(axis=1)
        rows, cols = np.nonzero(block.usable)
        first = int((~finite).argmax())
        pair = self.input.pair
        raise InputError(
            f"values around row {block.window.row + rows[first]}, column {block.window.col + cols[first]} in "
            f"{pair.ms_path} or {pair.pan_path} are beyond what the network can take",
            "a nodata value that the file does not declare? give it with --nodata",
        )


class _Softmax:
    """Probabilities of n pixels as odds against the best class, which does not overflow.

    Parameters
    ----------
    n:
        Number of pixels.
    certainty:
        The temperature, and which values are kept.

    Attributes
    ----------
    best:
        uint8 (n,), position of the largest logit.
    highest:
        float32 (n,), probability of the best class.
    probabilities:
        float32 (classes, n), if they are kept.
    entropy:
        float32 (n,), Shannon entropy over that of equal probabilities, 0..1, if it is kept.
    """

    def __init__(self, n: int, certainty: Certainty) -> None:
        self._certainty = certainty
        self.best = np.empty(n, dtype=np.uint8)
        self.highest = np.empty(n, dtype=np.float32)
        self.entropy = np.empty(n, dtype=np.float32) if certainty.entropy else None
        self.probabilities: Float32 | None = None
        self._n = n

    def add(self, start: int, logits: Float32) -> None:
        """Take pixels from number ``start`` on, with logits (m, classes)."""
        # Class by class: sums over a short last axis are slow.
        odds = np.ascontiguousarray(logits.T)
        some = slice(start, start + len(logits))
        self.best[some] = odds.argmax(axis=0)
        odds -= odds.max(axis=0)
        odds /= np.float32(self._certainty.temperature)
        margins = odds.copy() if self.entropy is not None else odds
        np.exp(odds, out=odds)
        highest = np.float32(1.0) / odds.sum(axis=0)
        self.highest[some] = highest
        if self.entropy is not None:
            self.entropy[some] = _entropy(margins, odds, highest)
        if self._certainty.probabilities:
            if self.probabilities is None:
                self.probabilities = np.empty((len(odds), self._n), dtype=np.float32)
            np.multiply(odds, highest, out=self.probabilities[:, some])


def _entropy(margins: Float32, odds: Float32, highest: Float32) -> Float32:
    """Entropy (m,) from logits less the best one (classes, m), their exponentials, and probabilities (m,)."""
    # -sum(p log p) with p = odds / total is log(total) - sum(odds * margins) / total. Odds below what
    # float32 holds are 0 and add nothing, however large their margin.
    parts = np.multiply(odds, margins, out=np.zeros_like(odds), where=odds > 0)
    nats = -np.log(highest) - parts.sum(axis=0) * highest
    return np.asarray(np.clip(nats / np.log(max(2, len(odds))), 0.0, 1.0), dtype=np.float32)


def computed_here(
    classifier: BlockClassifier, *, read_ahead: bool = True
) -> Callable[[Iterator[tuple[int, Window]]], Generator[tuple[int, ClassifiedBlock], None, None]]:
    """A function that computes blocks with some numbers and windows in this process, in their order."""

    def compute(
        items: Iterator[tuple[int, Window]],
    ) -> Generator[tuple[int, ClassifiedBlock], None, None]:
        numbers: deque[int] = deque()

        def windows() -> Iterator[Window]:
            for number, window in items:
                numbers.append(number)
                yield window

        with closing(classifier.classify_all(windows(), read_ahead)) as blocks:
            for block in blocks:
                yield numbers.popleft(), block

    return compute
