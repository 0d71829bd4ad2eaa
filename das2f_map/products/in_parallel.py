"""Files that are completed at the same time, each by a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from das2f_map.outputs.libtiff_messages import libtiff_kept_quiet


def in_parallel(*tasks: Callable[[], None]) -> None:
    """Run tasks at the same time and wait for all of them; then raise the first error, in the tasks' order.

    Where no thread can be started, as under a limit on processes or memory, they run one after the other.
    """
    with libtiff_kept_quiet(), ThreadPoolExecutor(max(1, len(tasks) - 1), "finish") as pool:
        others: list[Future[None]] = []
        for task in tasks[1:]:
            try:
                others.append(pool.submit(task))
            except RuntimeError:  # "can't start new thread"
                break
        tasks[0]()
        for other in others:
            other.result()
    for task in tasks[1 + len(others) :]:
        task()
