"""Classes of any window of a scene, computed in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from das2f_map.engines import Engine
from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS, Legend
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
        float32 (h, w), probability of the class, NaN where there is none.
    """

    window: Window
    classes: UInt8
    confidence: Float32


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
    """

    input: ModelInput
    engine: Engine
    legend: Legend
    wanted: Wanted | None = None

    def read(self, window: Window) -> InputBlock | None:
        """Input of the engine for a window; ``None`` where no pixel is to be classified."""
        return self.input.read(window, None if self.wanted is None else self.wanted(window))

    def compute(self, window: Window, block: InputBlock | None) -> ClassifiedBlock:
        """Classes of a window from its input block.

        Raises
        ------
        InputError
            The network gives no finite numbers for the values.
        """
        classes = np.full((window.height, window.width), NODATA_CLASS, dtype=np.uint8)
        confidence = np.full(classes.shape, np.nan, dtype=np.float32)
        if block is not None:
            logits = self.engine.logits(block.ms, block.pan, block.usable)
            self._require_finite(logits, block)
            best = logits.argmax(axis=1)
            classes[block.usable] = self.legend.ids_at(best)
            confidence[block.usable] = _probability(logits, best)
        return ClassifiedBlock(window, classes, confidence)

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


def _probability(logits: Float32, best: npt.NDArray[np.intp]) -> Float32:
    """Softmax of the best class, float32 (n,)."""
    top = np.take_along_axis(logits, best[:, None], axis=1)
    return np.asarray(1.0 / np.exp(logits - top).sum(axis=1), dtype=np.float32)
