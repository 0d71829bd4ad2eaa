"""Work in threads, also where none can be started."""

from __future__ import annotations

import threading

import pytest

from das2f_map.engines.threads import in_threads


@pytest.mark.parametrize("startable", [0, 1, 8])
@pytest.mark.parametrize("threads", [1, 3, 20])
def test_results_in_order(startable: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller works only if no thread can be started."""
    begun: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if len(begun) == startable:
            raise RuntimeError("can't start new thread")
        begun.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    seen: set[int] = set()

    def work(n: int) -> int:
        seen.add(threading.get_ident())
        return n * n

    assert in_threads(work, range(10), threads) == [n * n for n in range(10)]
    assert len(begun) == min(startable, threads, 10)
    assert (threading.get_ident() in seen) is (startable == 0)
    assert in_threads(work, [], 3) == []


def test_errors_are_the_callers() -> None:
    def work(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    with pytest.raises(ValueError, match="three"):
        in_threads(work, range(10), 2)
    assert threading.active_count() < 50
