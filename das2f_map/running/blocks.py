"""Classes of any window of a scene, computed in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from das2f_map.engines import Engine
from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.running.certainty import Certainty
from das2f_map.running.read_ahead import one_ahead
from das2f_map.scene.grid import Window
from das2f_map.scene.model_input import InputBlock, ModelInput
from das2f_map.types import Bool, Float32, UInt8

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
        """Input of the engine for a window; ``None`` where no pixel is to be classified."""
        wanted = None if self.wanted is None else self.wanted(window)
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
            best = logits.argmax(axis=1)
            found = _Softmax.of(logits, best, self.certainty.temperature)
            classes[block.usable] = self._answers(best, found.highest)
            confidence[block.usable] = found.highest
            if every is not None:
                every[:, block.usable] = found.probabilities().T
            if entropy is not None:
                entropy[block.usable] = found.entropy()
        return ClassifiedBlock(window, classes, confidence, every, entropy)

    def classify(self, window: Window) -> ClassifiedBlock:
        """Classes of one window, read and computed at once."""
        return self.compute(window, self.read(window))

    def classify_all(self, windows: Iterable[Window]) -> Generator[ClassifiedBlock, None, None]:
        """Classes of windows in their order; the next window is read while one is computed.

        Close the generator explicitly, and before the scene. Python drops an interrupt that reaches a
        generator while it is collected as garbage.
        """

        def read(window: Window) -> tuple[Window, InputBlock | None]:
            return window, self.read(window)

        with closing(one_ahead(read, windows)) as blocks:
            for window, block in blocks:
                yield self.compute(window, block)

    @cached_property
    def _unsure(self) -> int:
        """Id of the class of pixels that are rejected."""
        return self.legend.with_unsure()[1]

    def _answers(self, best: npt.NDArray[np.intp], highest: Float32) -> UInt8:
        """Class ids (n,) from positions of the best classes and their probabilities."""
        ids = np.array(self.legend.ids, dtype=np.uint8)[best]
        if self.certainty.reject is not None:
            ids[highest < self.certainty.reject] = self._unsure
        return ids

    def _require_finite(self, logits: Float32, block: InputBlock) -> None:
        finite = np.isfinite(logits).all(axis=1)
        if finite.all():
            return
        rows, cols = np.nonzero(block.usable)
        first = int((~finite).argmax())
        pair = self.input.pair
        raise InputError(
            f"values around row {block.window.row + rows[first]}, column {block.window.col + cols[first]} in "
            f"{pair.ms_path} or {pair.pan_path} are beyond what the network can take",
            "a nodata value that the file does not declare? give it with --nodata",
        )


@dataclass(frozen=True, eq=False)
class _Softmax:
    """Probabilities of n pixels as odds against the best class, which does not overflow.

    Attributes
    ----------
    margins:
        float32 (n, classes), logits less the best one, over the temperature: 0 or less.
    odds:
        Their exponentials, 0..1.
    highest:
        float32 (n,), probability of the best class.
    """

    margins: Float32
    odds: Float32
    highest: Float32

    @classmethod
    def of(cls, logits: Float32, best: npt.NDArray[np.intp], temperature: float) -> _Softmax:
        """Of logits (n, classes) and the positions (n,) of the largest ones."""
        margins = (logits - np.take_along_axis(logits, best[:, None], axis=1)) / np.float32(temperature)
        odds = np.exp(margins)
        return cls(margins, odds, np.asarray(1.0 / odds.sum(axis=1), dtype=np.float32))

    def probabilities(self) -> Float32:
        """float32 (n, classes)."""
        return self.odds * self.highest[:, None]

    def entropy(self) -> Float32:
        """Shannon entropy over that of equal probabilities, float32 (n,) in 0..1."""
        # -sum(p log p) with p = odds / total is log(total) - sum(odds * margins) / total. Odds below what
        # float32 holds are 0 and add nothing, however large their margin.
        parts = np.multiply(self.odds, self.margins, out=np.zeros_like(self.odds), where=self.odds > 0)
        nats = -np.log(self.highest) - parts.sum(axis=1) * self.highest
        return np.asarray(np.clip(nats / np.log(max(2, self.odds.shape[1])), 0.0, 1.0), dtype=np.float32)
