"""Results that a thread takes while the caller makes the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import rasterio.env

from das2f_map.running.read_ahead import acquired, can_start, gdal_options

Item = TypeVar("Item")


@contextmanager
def one_behind(work: Callable[[Item], None], *, thread: bool = True) -> Iterator[Callable[[Item], None]]:
    """Calls ``work`` with items in their order, one after the other, while the caller makes the next one.

    The function that the ``with`` block gets takes an item and returns as soon as the item before it is done,
    so that one is in work at most. An error of ``work`` is raised when the next item is given, or at the end
    of the block; items after it are not worked on. The GDAL options (:class:`rasterio.Env`) of the caller
    hold in the thread too.

    When the block has ended, also by an error, Ctrl-C or SIGTERM, ``work`` no longer runs, and the caller may
    close the files that it writes.

    Parameters
    ----------
    work:
        Takes an item. It runs in another thread, never twice at a time.
    thread:
        Without it, and where no thread can be started, as under a limit on processes or memory, the caller's
        thread does the work.
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write-behind")
    if not thread or not can_start(executor):
        yield work
        return
    options = dict(rasterio.env.getenv()) if rasterio.env.hasenv() else None
    running = threading.RLock()
    ended = False
    last: Future[None] | None = None

    def do(item: Item) -> None:
        with running:
            if not ended:
                with gdal_options(options):
                    work(item)

    def give(item: Item) -> None:
        nonlocal last
        if last is not None:
            last.result()
        last = executor.submit(do, item)

    try:
        yield give
        if last is not None:
            last.result()
    finally:
        ended = True
        executor.shutdown(wait=False, cancel_futures=True)
        # A second interrupt may come during this wait, but the item in work must be finished.
        acquired(running)
