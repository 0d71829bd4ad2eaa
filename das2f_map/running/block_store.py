"""The finished blocks of a map that is being made, on disk, so that a run that was ended can go on.

Two files in a folder of the run's own: the blocks' values one after the other, and a journal with a line for
each block, which has the checksum of its number and values. Both are on their way to the disk at once, and
safe on it after a second. So a killed run has lost no block that was finished. A power cut may lose those of
the last second: their lines are torn, or their checksum is wrong. Such blocks are computed again. So are
those whose lines or values are damaged later on; the others stay.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from das2f_map.errors import InputError, OutputError
from das2f_map.legend import NODATA_CLASS
from das2f_map.outputs.names import shown_folder
from das2f_map.running.block_journal import FORMAT, JOURNAL_NAME, VALUES_NAME, JournalEntry, read_journal
from das2f_map.running.blocks import ClassifiedBlock
from das2f_map.running.plan import ClassifyPlan
from das2f_map.scene.grid import Window

log = logging.getLogger(__name__)

_SAFE_S: Final = 1.0
"""Seconds after which finished blocks are made safe on the disk."""


class _Soon:
    """Calls ``work`` a second after it is asked for, in a thread: waiting for the disk holds nobody up."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="block-store")
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._asked = self._busy = False
        self._call: Future[None] | None = None

    def ask(self) -> None:
        """Ask for a call; raises the error of the last one. Where no thread can be started, call at once."""
        with self._lock:
            self._asked = True
            if self._busy:
                return
            self._busy = True
        if self._call is not None:
            self._call.result()
        try:
            self._call = self._pool.submit(self._run)
        except RuntimeError:  # "can't start new thread"
            self._busy = self._asked = False
            self._work()

    def end(self) -> None:
        """Wait for a call that is being made, and make no other."""
        self._ended.set()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._ended.wait(_SAFE_S):
            with self._lock:
                self._asked = False
            try:
                self._work()
            except BaseException:  # whatever it was, the next call must not wait for this one
                with self._lock:
                    self._busy = False
                raise
            with self._lock:
                if not self._asked:
                    self._busy = False
                    return


class BlockStore:
    """Keeps the finished blocks of a plan in a folder.

    Use it as a context manager. The folder goes away with the run's other work files.

    Parameters
    ----------
    folder:
        Exists; the run's own.
    plan:
        The map's plan.
    resume:
        Go on with the blocks that lie there. Otherwise they are dropped.
    or_anew:
        Drop them also where they are those of another plan, and log that.

    Raises
    ------
    InputError
        The blocks in the folder are those of another plan, or of another version's journal, and ``or_anew``
        does not drop them.
    OSError
        The files cannot be read or written.
    """

    def __init__(
        self, folder: Path, plan: ClassifyPlan, *, resume: bool = False, or_anew: bool = False
    ) -> None:
        self._folder, self._plan = folder, plan
        self._shapes = _layers(plan)
        self._entries: dict[int, JournalEntry] = {}
        journal, kept = folder / JOURNAL_NAME, 0
        try:
            if resume and journal.is_file():
                self._entries, kept = read_journal(journal, plan)
        except InputError as error:
            if not or_anew:
                raise
            log.warning("%s: its blocks are dropped, and the run begins anew", error.message)
        self._values: IO[bytes] = (folder / VALUES_NAME).open("r+b" if kept else "w+b")
        self._end = max((e.start + e.length for e in self._entries.values()), default=0)
        self._values.truncate(self._end)
        self._journal: IO[bytes] = journal.open("r+b" if kept else "w+b")
        self._journal.truncate(kept)
        self._journal.seek(kept)
        if not kept:
            self._note(
                {
                    "das2f-map": FORMAT,
                    "block_size": plan.block_size,
                    "every": plan.options.every,
                    "plan": plan.parts,
                }
            )
        self._sync()
        self._soon = _Soon(self._keep_safe)

    def __enter__(self) -> BlockStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._soon.end()
            if kind is not None:
                # Another run may go on with these blocks. The error itself is to be seen.
                with suppress(OSError):
                    self._sync()
        finally:
            for file in (self._values, self._journal):
                with suppress(OSError):
                    file.close()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, index: int) -> bool:
        return index in self._entries

    @property
    def is_there(self) -> bool:
        """Whether the files are still where another run finds them."""
        return self._folder.joinpath(JOURNAL_NAME).is_file()

    @property
    def finished(self) -> frozenset[int]:
        """Numbers of the blocks that are stored."""
        return frozenset(self._entries)

    def add(self, index: int, block: ClassifiedBlock) -> None:
        """Keep the block with a number; a kill does not lose it, and after a second no power cut does.

        Raises
        ------
        OSError
            The disk is full or cannot be written.
        OutputError
            The folder is gone.
        """
        layers = [
            np.ascontiguousarray(layer, dtype)
            for layer, (_, dtype) in zip(_values_of(block), self._shapes, strict=True)
        ]
        length, checksum = 0, _checksum(index)
        # Most blocks of a scene's collar have no class; they cost a line.
        if (block.classes != NODATA_CLASS).any():
            self._values.seek(self._end)
            for layer in layers:
                self._values.write(layer.data)
                checksum = zlib.crc32(layer.data, checksum)
                length += layer.nbytes
            self._values.flush()
        entry = JournalEntry(self._end, length, checksum)
        self._note({"block": index, "start": entry.start, "length": entry.length, "crc32": entry.checksum})
        self._end += length
        self._entries[index] = entry
        self._soon.ask()

    def read(self, index: int, window: Window) -> ClassifiedBlock | None:
        """A block that was kept; ``None`` where its values are damaged."""
        entry = self._entries[index]
        layers = [
            np.full(
                (*leading, window.height, window.width), NODATA_CLASS if dtype == np.uint8 else np.nan, dtype
            )
            for leading, dtype in self._shapes
        ]
        sound = entry.length in (0, sum(layer.nbytes for layer in layers))
        self._values.seek(entry.start)
        values = self._values.read(entry.length) if sound else b""
        if not sound or len(values) != entry.length or zlib.crc32(values, _checksum(index)) != entry.checksum:
            log.warning("Block %d of the unfinished run is damaged; it is computed again", index)
            del self._entries[index]
            return None
        if values:
            start = 0
            for k, layer in enumerate(layers):
                part = values[start : start + layer.nbytes]
                layers[k] = np.frombuffer(part, layer.dtype).reshape(layer.shape).copy()
                start += layer.nbytes
        classes, confidence, *others = layers
        certainty = self._plan.certainty
        probabilities = others.pop(0) if certainty.probabilities else None
        return ClassifiedBlock(
            window, classes, confidence, probabilities, others.pop(0) if certainty.entropy else None
        )

    def _note(self, line: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()

    def _sync(self) -> None:
        """Make everything safe on the disk, the values before the lines that name them."""
        for file in (self._values, self._journal):
            file.flush()
        self._make_safe()

    def _keep_safe(self) -> None:
        """As :meth:`_sync` once all is flushed. Raises :class:`OutputError` if the folder is gone.

        No output could be put there in the end.
        """
        self._make_safe()
        if not self.is_there:
            raise OutputError(
                f"the output folder {shown_folder(self._folder)} is gone, or what the run keeps in it",
                "bring it back, and go on with --resume",
            )

    def _make_safe(self) -> None:
        for file in (self._values, self._journal):
            os.fsync(file.fileno())


def _checksum(index: int) -> int:
    """The beginning of a block's checksum: a damaged number would give its values to another block."""
    return zlib.crc32(str(index).encode())


Compute = Callable[[Iterator[tuple[int, Window]]], Generator[tuple[int, ClassifiedBlock], None, None]]
"""Computes the blocks with some numbers and windows, in any order, and gives each with its number."""


def stored_or_computed(
    plan: ClassifyPlan,
    store: BlockStore,
    compute: Compute,
    compute_one: Callable[[Window], ClassifiedBlock],
) -> Generator[ClassifiedBlock, None, None]:
    """All blocks of a plan in their order. Those that are not stored are computed, and stored.

    Blocks that are computed ahead of their turn wait in the store, not in memory.

    Parameters
    ----------
    plan, store:
        The map, and its finished blocks.
    compute:
        Computes the blocks that are missing.
    compute_one:
        Computes a block whose stored values turn out to be damaged.

    Close the generator explicitly, and before the scene.
    """
    if len(store):
        log.info("%d blocks are there already", len(store))
    # A stored block may turn out to be damaged, which must not change what is computed.
    stored = store.finished
    missing = ((k, window) for k, window in enumerate(plan.blocks()) if k not in stored)
    with closing(compute(missing)) as computed:
        for k, window in enumerate(plan.blocks()):
            block: ClassifiedBlock | None = None
            while k not in store:
                number, found = next(computed)
                store.add(number, found)
                if number == k:
                    block = found
            if block is None:
                block = store.read(k, window)
            if block is None:
                block = compute_one(window)
                store.add(k, block)
            yield block


def _layers(plan: ClassifyPlan) -> list[tuple[tuple[int, ...], Any]]:
    """Leading dimensions and type of each layer that a block has."""
    certainty = plan.certainty
    classes = len(plan.bundle.card.legend)
    return [
        ((), np.dtype(np.uint8)),
        ((), np.dtype(np.float32)),
        *([((classes,), np.dtype(np.float32))] if certainty.probabilities else []),
        *([((), np.dtype(np.float32))] if certainty.entropy else []),
    ]


def _values_of(block: ClassifiedBlock) -> list[NDArray[Any]]:
    layers = (block.classes, block.confidence, block.probabilities, block.entropy)
    return [layer for layer in layers if layer is not None]
