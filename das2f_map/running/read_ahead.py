"""Making the next result in a thread while the last one is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import rasterio
import rasterio.env
from rasterio.session import DummySession

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """``map``, with the next result being made in a thread while the last one is used.

    Results come in order, and so do errors that ``work`` raises; never more than one result is made ahead.
    Where no thread can be started, as under a limit on processes or memory, the caller's thread makes them.
    GDAL's options that are set where the first result is asked for (:class:`rasterio.Env`) hold in the thread
    too.

    When the generator ends, also by Ctrl-C or SIGTERM, ``work`` no longer runs: the files that it reads may
    be closed then.
    """
    options = dict(rasterio.env.getenv()) if rasterio.env.hasenv() else None
    # Re-entrant: a generator that nobody closed may be collected, and so ended, in the reading thread.
    running = threading.RLock()
    ended = False

    def make(item: Item) -> Result | None:
        with running:
            if ended:
                return None
            with _gdal_options(options):
                return work(item)

    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    if not _can_start(thread):
        yield from map(work, items)
        return
    try:
        waiting: Future[Result | None] | None = None
        for item in items:
            following = thread.submit(make, item)
            if waiting is not None:
                yield waiting.result()  # type: ignore[misc]  # None only once this has ended
            waiting = following
        if waiting is not None:
            yield waiting.result()  # type: ignore[misc]  # the same
    finally:
        ended = True
        thread.shutdown(wait=False, cancel_futures=True)
        # A second interrupt may break off this wait too, but the result that is being made must be done.
        _acquired(running)


def _acquired(lock: threading.RLock) -> None:
    """Wait until nobody else holds a lock; an interrupt meanwhile is raised once that is so."""
    try:
        with lock:
            return
    except BaseException:
        with lock:
            raise


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
