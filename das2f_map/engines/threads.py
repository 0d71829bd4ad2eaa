"""Work items spread over threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """The result of ``work`` for each item, in the order of the items.

    At most ``threads`` threads share the items. Where the system starts no more of them, as under a limit on
    processes or memory, fewer do; where it starts none, the calling thread does the work. The first error
    ends the work and is raised.
    """
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    pending = iter(range(len(items)))
    lock = threading.Lock()

    def take(ended: threading.Event) -> None:
        try:
            while not errors:
                with lock:
                    i = next(pending, None)
                if i is None:
                    return
                results[i] = work(items[i])
        except BaseException as error:  # raised again by the calling thread
            errors.append(error)
        finally:
            ended.set()

    ends: list[threading.Event] = []
    try:
        for _ in range(min(threads, len(items))):
            ended = threading.Event()
            try:
                threading.Thread(target=take, args=(ended,)).start()
            except RuntimeError:  # "can't start new thread"
                break
            ends.append(ended)
        if not ends:
            take(threading.Event())
        _wait(ends)
    except BaseException as error:  # an interrupt, while waiting
        errors.append(error)
        _wait(ends)
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(items))]


def _wait(ends: Sequence[threading.Event]) -> None:
    """Wait until every thread has set its event.

    ``Thread.join`` would not do. Before Python 3.13 a thread whose ``join`` was interrupted counts as ended
    while it still runs: the interpreter exits, and aborts in the middle of the thread's work.
    """
    for ended in ends:
        ended.wait()
