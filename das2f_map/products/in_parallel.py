"""Files that are completed at the same time, two at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from das2f_map.outputs.libtiff_messages import libtiff_kept_quiet


def in_parallel(*tasks: Callable[[], None]) -> None:
    """Run tasks, two at a time, and wait for all of them; then raise the first error, in the tasks' order.

    A thread takes all tasks but the first, one after the other, so that memory does not grow with their
    number. Where no thread can be started, as under a limit on processes or memory, the caller's takes all.
    After an error or an interrupt no other task begins.
    """
    with libtiff_kept_quiet(), ThreadPoolExecutor(1, "finish") as pool:
        others: list[Future[None]] = []
        for task in tasks[1:]:
            try:
                others.append(pool.submit(task))
            except RuntimeError:  # "can't start new thread"
                break
        try:
            tasks[0]()
            for other in others:
                other.result()
        except BaseException:  # an interrupt too
            pool.shutdown(cancel_futures=True)
            raise
    for task in tasks[1 + len(others) :]:
        task()
