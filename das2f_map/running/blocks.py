"""Classes of any window of a scene, computed in this process."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from das2f_map.engines import Engine
from das2f_map.errors import InputError, ReadError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.running.certainty import Certainty
from das2f_map.running.read_ahead import one_ahead
from das2f_map.running.smoothing import entropy_of, guide_of, smoothed, spread
from das2f_map.scene.finite import all_finite
from das2f_map.scene.grid import PAN_PER_MS, Window
from das2f_map.scene.lattice import Lattice
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
        Pixels of the map's grid: MS pixels of the common grid, or cells of a draft.
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
    lattice:
        The MS pixels that are classified, one for each pixel of a draft; by default all. Windows here and in
        ``wanted`` are those of its cells.
    """

    input: ModelInput
    engine: Engine
    legend: Legend
    wanted: Wanted | None = None
    certainty: Certainty = field(default_factory=Certainty)
    lattice: Lattice = field(default_factory=Lattice)

    def read(self, window: Window) -> InputBlock | None:
        """Input of the engine for a window; ``None`` where no pixel is to be classified.

        A read that fails is tried again after a pause, more often over a network.

        Raises
        ------
        ReadError
            It fails every time.
        """
        wanted = None if self.wanted is None else self.wanted(window)
        if self.certainty.smooth is not None:
            wanted, window = self._with_margin(window, wanted, self.certainty.smooth)
        elif self.lattice.step > 1:
            every = np.ones((window.height, window.width), np.bool_) if wanted is None else wanted
            wanted, window = self.lattice.spread(every), self.lattice.reach(window)
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
            found, usable = self._softmax(block)
            if self.certainty.smooth is not None:
                found, usable = self._smoothed(window, block, found, self.certainty.smooth)
            _put(classes, usable, self._answers(found.best, found.highest))
            _put(confidence, usable, found.highest)
            if every is not None and found.probabilities is not None:
                _put(every, usable, found.probabilities)
            if entropy is not None and found.entropy is not None:
                _put(entropy, usable, found.entropy)
        return ClassifiedBlock(window, classes, confidence, every, entropy)

    def _softmax(self, block: InputBlock) -> tuple[_Softmax, Bool]:
        """Probabilities of a block's pixels, and the pixels of the lattice that have them."""
        logits = self.engine.logits(block.ms, block.pan, block.usable)
        self._require_finite(logits, block)
        smooths = self.certainty.smooth is not None
        kept = replace(self.certainty, probabilities=True, entropy=False) if smooths else self.certainty
        found = _Softmax(len(logits), kept)
        for start in range(0, len(logits), _AT_ONCE):
            found.add(start, logits[start : start + _AT_ONCE])
        return found, self.lattice.taken(block.usable)

    def _with_margin(self, window: Window, wanted: Bool | None, margin: int) -> tuple[Bool, Window]:
        """A window with the pixels around it that smoothing needs, inside the scene, and these pixels."""
        inner = np.ones((window.height, window.width), np.bool_) if wanted is None else wanted
        around = window.padded(margin, margin)
        inside = around.intersection(self.input.pair.grids.ms.window)
        return spread(inner, margin)[inside.shifted(-around.row, -around.col).slices()], inside

    def _smoothed(
        self, window: Window, block: InputBlock, found: _Softmax, margin: int
    ) -> tuple[_Softmax, Bool]:
        """Smoothed probabilities of a window, which a block holds with its margin; and its usable pixels."""
        every = np.full((len(self.legend), *block.usable.shape), np.nan, np.float32)
        every[:, block.usable] = found.probabilities
        patch = self.input.patch
        first = PAN_PER_MS * (self.input.radius if self.engine.all_turns else patch.before)
        height, width = (PAN_PER_MS * side for side in block.usable.shape)
        guide = guide_of(block.pan[0, first : first + height, first : first + width])
        part = window.shifted(-block.window.row, -block.window.col).slices()
        usable = block.usable[part]
        if self.wanted is not None:
            usable = usable & self.wanted(window)
        return _Softmax.of(
            smoothed(every, guide, margin)[(slice(None), *part)][:, usable], self.certainty
        ), usable

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

    @classmethod
    def of(cls, probabilities: Float32, certainty: Certainty) -> _Softmax:
        """The values of pixels with these probabilities (classes, n)."""
        found = cls(probabilities.shape[1], certainty)
        found.best = probabilities.argmax(axis=0).astype(np.uint8)
        found.highest = probabilities.max(axis=0)
        found.probabilities = probabilities
        if certainty.entropy:
            found.entropy = entropy_of(probabilities)
        return found

    def add(self, start: int, logits: Float32) -> None:
        """Take pixels from number ``start`` on, with logits (m, classes)."""
        # Class by class: sums over a short last axis are slow.
        odds = np.ascontiguousarray(logits.T)
        some = slice(start, start + len(logits))
        odds -= _best_of(odds, self.best[some])
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


def _best_of(logits: Float32, best: UInt8) -> Float32:
    """Largest logit of each pixel (m,), of (classes, m); ``best`` (m,) gets the first class that has it."""
    # As argmax does, in whole rows: along a first axis argmax is several times slower.
    highest: Float32 = logits[0].copy()
    best[:] = 0
    for k, row in enumerate(logits[1:], start=1):
        better = row > highest
        np.maximum(best, better.view(np.uint8) * np.uint8(k), out=best)
        np.maximum(highest, row, out=highest)
    return highest


def _entropy(margins: Float32, odds: Float32, highest: Float32) -> Float32:
    """Entropy (m,) from logits less the best one (classes, m), their exponentials, and probabilities (m,)."""
    # -sum(p log p) with p = odds / total is log(total) - sum(odds * margins) / total. Odds below what
    # float32 holds are 0 and add nothing, however large their margin.
    parts = np.multiply(odds, margins, out=np.zeros_like(odds), where=odds > 0)
    nats = -np.log(highest) - parts.sum(axis=0) * highest
    return np.asarray(np.clip(nats / np.log(max(2, len(odds))), 0.0, 1.0), dtype=np.float32)


def _put(out: NDArray[Any], usable: Bool, values: NDArray[Any]) -> None:
    """Put values (…, n) of the usable pixels into an array (…, h, w)."""
    if values.shape[-1] == usable.size:  # without a mask: several times as quick
        out[...] = values.reshape(out.shape)
    else:
        out[..., usable] = values


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
