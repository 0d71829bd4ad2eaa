"""Work in threads, and in the caller where no thread can be started."""

from __future__ import annotations

import signal
import threading
import time

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


def test_interrupted_work_has_ended() -> None:
    """Begun items are finished, as no thread may run while the interpreter exits; no others begin."""
    running: set[int] = set()
    begun: set[int] = set()

    def work(n: int) -> None:
        begun.add(n)
        running.add(n)
        time.sleep(0.8 if n == 0 else 0.3)
        running.remove(n)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_threads(work, range(10), 2)
        assert not running
        assert begun == {0, 1}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
