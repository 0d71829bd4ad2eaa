"""Tasks run two at a time, whether or not threads can be started, and their errors arrive."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from das2f_map.products.in_parallel import in_parallel


def test_two_tasks_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=60)
    in_parallel(lambda: both.wait() and None, lambda: both.wait() and None)
    done: list[int] = []
    in_parallel(*(partial(done.append, k) for k in range(5)))
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_without_threads_all_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    done: list[int] = []
    in_parallel(*(partial(done.append, k) for k in range(3)))
    assert done == [0, 1, 2]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_arrives(failing: int) -> None:
    def task(k: int) -> None:
        if k == failing:
            raise OSError(f"task {k}")

    with pytest.raises(OSError, match=f"task {failing}"):
        in_parallel(lambda: task(0), lambda: task(1))
