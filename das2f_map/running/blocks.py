"""Classifying a scene block by block: the loop between a pair, an engine and a writer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.env
from rasterio.session import DummySession

from das2f_map.bundle.card import ModelCard
from das2f_map.engines import Engine
from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.scene.fill import invalid_shares
from das2f_map.scene.grid import Window, blocks_of
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.radiometry import BandStatistics, normalise
from das2f_map.types import Bool, Float32, UInt8

BLOCK_SIZE = 64
"""MS pixels a side of what is read, computed and written at once."""


Mask = Callable[[Window], Bool]
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
    classes: UInt8
    confidence: Float32


Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """``map``, with the next result being made in a thread of its own while the last one is used.

    Results come in order, and so does what ``work`` raises; never more than one is made ahead. Where no
    thread can be started, as under a limit on processes or memory, the calling one makes them. GDAL's options
    that are set where the first result is asked for (:class:`rasterio.Env`) hold in the thread too.

    When this is left, even by interrupts, ``work`` runs no longer: what it reads from may be closed then.
    """
    options = dict(rasterio.env.getenv()) if rasterio.env.hasenv() else None
    # Not a plain lock: a generator that nobody closed may be collected, and so left, in the reading thread.
    running = threading.RLock()
    made: SimpleQueue[Future[Result]] = SimpleQueue()
    left = False

    def make(item: Item) -> None:
        with running:
            if left:
                return
            result: Future[Result] = Future()
            try:
                with _gdal_options(options):
                    value = work(item)
            except BaseException as error:  # raised again when it is its turn
                result.set_exception(error)
            else:
                result.set_result(value)
            made.put(result)

    # Neither used in a `with` nor waited for through its futures. Before Python 3.13 a thread whose `join`
    # was interrupted counts as ended while it still runs, and two signals at once can leave a future locked.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    if not _can_start(thread):
        yield from map(work, items)
        return
    first: BaseException | None = None
    try:
        pending = 0
        for item in items:
            thread.submit(make, item)
            pending += 1
            if pending == 2:
                yield made.get().result()
                pending = 1
        if pending:
            yield made.get().result()
    except GeneratorExit:
        pass
    except BaseException as error:  # an interrupt too: raised again when nothing runs any more
        first = error
    # Nothing is called between handlers and `try`: of two signals at once the second is raised after a call.
    left = True
    while True:
        try:
            thread.shutdown(wait=False)
            with running:
                break
        except BaseException as error:  # an interrupt ends the wait, but not what is waited for
            first = first or error
    if first is not None:
        raise first


def _can_start(executor: ThreadPoolExecutor) -> bool:
    """Start the only thread of an executor, if one can be started."""
    try:
        executor.submit(int)
    except RuntimeError:  # "can't start new thread"
        return False
    return True


@contextmanager
def _gdal_options(options: dict[str, object] | None) -> Iterator[None]:
    """GDAL's options of another thread; ``None`` if it has set none."""
    if options is None:
        yield
        return
    # A session that asks nobody for credentials: if there are any, they are among the options.
    with rasterio.Env(DummySession()):
        # Not given to Env itself, which refuses the credentials that another session has put among them.
        rasterio.env.setenv(**options)
        yield


def classify_blocks(
    pair: ScenePair,
    engine: Engine,
    card: ModelCard,
    window: Window,
    *,
    statistics: tuple[Sequence[BandStatistics], BandStatistics] | None = None,
    wanted: Mask | None = None,
    block_size: int = BLOCK_SIZE,
) -> Generator[ClassifiedBlock, None, None]:
    """Classify a window of a scene, a block at a time, row by row; the next one is read meanwhile.

    Close it before the pair, and explicitly: what interrupts a generator that is merely dropped is lost.

    A pixel gets nodata where either sensor is invalid at it, where a mask excludes it, or where more of its
    patch is invalid than the card's ``max_invalid_share``; other invalid pixels in its patch are filled, see
    :mod:`das2f_map.scene.fill`. Values are normalised with ``statistics`` (MS bands, PAN) instead of the
    card's if given.
    """
    patch = card.patch
    ms_bands, pan_band = statistics or (card.ms_bands, card.pan_band)
    ids = np.array(card.legend.ids, dtype=np.uint8)

    def read(part: Window) -> tuple[Window, Bool, tuple[Float32, Float32] | None]:
        """The pixels to classify and, if there are any, the normalised block."""
        targets = np.ones((part.height, part.width), dtype=np.bool_) if wanted is None else wanted(part)
        if targets.any():
            block = pair.read_block(part, patch.before, patch.after, fill=patch.fill_radius)
            shares = invalid_shares(block.invalid, patch.size)
            targets = targets & block.valid & (shares <= patch.max_invalid_share)
        return part, targets, normalise(block, ms_bands, pan_band) if targets.any() else None

    with closing(one_ahead(read, blocks_of(window, block_size))) as blocks:
        for part, targets, values in blocks:
            classes = np.full(targets.shape, NODATA_CLASS, dtype=np.uint8)
            confidence = np.full(targets.shape, np.nan, dtype=np.float32)
            if values is not None:
                logits = engine.logits(*values, targets)
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


def _probability(logits: Float32, best: npt.NDArray[np.intp]) -> Float32:
    """Softmax of the best class, float32 (n,)."""
    top = np.take_along_axis(logits, best[:, None], axis=1)
    return np.asarray(1.0 / np.exp(logits - top).sum(axis=1), dtype=np.float32)
