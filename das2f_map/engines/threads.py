"""Work items dealt out to threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """Results in the order of the items.

    As many threads as can be started share the items, at most ``threads``; the calling thread does the work
    where none can, as under a limit on processes or memory. The first error ends the work and is raised.
    """
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    pending = iter(range(len(items)))
    lock = threading.Lock()

    def take() -> None:
        while not errors:
            with lock:
                i = next(pending, None)
            if i is None:
                return
            try:
                results[i] = work(items[i])
            except BaseException as error:  # raised again by the calling thread
                errors.append(error)

    started: list[threading.Thread] = []
    try:
        for _ in range(min(threads, len(items))):
            thread = threading.Thread(target=take)
            try:
                thread.start()
            except RuntimeError:  # "can't start new thread"
                break
            started.append(thread)
        if not started:
            take()
        for thread in started:
            thread.join()
    except BaseException as error:  # an interrupt, while waiting
        errors.append(error)
        for thread in started:
            thread.join()
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(items))]
