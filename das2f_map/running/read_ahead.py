"""Results that a thread makes while the caller still uses the last one."""

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
    """Results of ``work`` for each item, as ``map`` gives them; a thread makes the next one meanwhile.

    Results come in order, and so do errors that ``work`` raises. The thread is never more than one result
    ahead. Where no thread can be started, as under a limit on processes or memory, the caller's thread makes
    the results. The GDAL options (:class:`rasterio.Env`) of the caller of the first result hold in the
    thread too.

    When the generator has ended, also by Ctrl-C or SIGTERM, ``work`` no longer runs, and the caller may close
    the files that it reads.
    """
    options = dict(rasterio.env.getenv()) if rasterio.env.hasenv() else None
    # Re-entrant: the reading thread may collect, and so end, a generator that nobody closed.
    running = threading.RLock()
    ended = False

    def make(item: Item) -> Result | None:
        with running:
            if ended:
                return None
            with gdal_options(options):
                return work(item)

    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    if not can_start(thread):
        yield from map(work, items)
        return
    try:
        waiting: Future[Result | None] | None = None
        for item in items:
            following = thread.submit(make, item)
            if waiting is not None:
                yield waiting.result()  # type: ignore[misc]  # None only after the end
            waiting = following
        if waiting is not None:
            yield waiting.result()  # type: ignore[misc]  # the same
    finally:
        ended = True
        thread.shutdown(wait=False, cancel_futures=True)
        # A second interrupt may come during this wait, but the result in the making must be finished.
        acquired(running)


def acquired(lock: threading.RLock) -> None:
    """Wait until nobody else holds a lock; an interrupt during the wait is raised after it."""
    try:
        with lock:
            return
    except BaseException:  # an interrupt
        with lock:
            raise


def can_start(executor: ThreadPoolExecutor) -> bool:
    """Whether an executor can start its thread; the thread then runs."""
    try:
        executor.submit(int)
    except RuntimeError:  # "can't start new thread"
        return False
    return True


@contextmanager
def gdal_options(options: dict[str, object] | None) -> Iterator[None]:
    """Set the GDAL options of another thread inside the ``with`` block; ``None`` sets nothing."""
    if options is None:
        yield
        return
    # This session looks for no credentials: if the caller has any, they are among the options.
    with rasterio.Env(DummySession()):
        # Env itself would refuse credentials that another session has put among the options.
        rasterio.env.setenv(**options)
        yield
