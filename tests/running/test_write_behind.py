"""Writing a block while the next one is computed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import rasterio
from rasterio.env import get_gdal_config  # GDAL's own answer, whoever set the option

from das2f_map.running.write_behind import one_behind

PATIENCE = 60  # seconds; never waited for unless something is broken


def test_an_item_is_in_work_while_the_next_one_is_made() -> None:
    done: list[int] = []
    may_end = [threading.Event() for _ in range(4)]
    begun = [threading.Event() for _ in range(4)]

    def work(item: int) -> None:
        begun[item].set()
        assert may_end[item].wait(PATIENCE)
        done.append(item)

    with one_behind(work) as give:
        give(0)
        for item in range(1, 4):
            assert begun[item - 1].wait(PATIENCE)
            assert done == list(range(item - 1))  # the caller goes on before it is done
            may_end[item - 1].set()
            give(item)
            assert done == list(range(item))  # the next one waits for it
        may_end[3].set()
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("thread", [True, False])
def test_an_error_comes_with_the_next_item(thread: bool) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise OSError("disk full")
        done.append(item)

    given: list[int] = []

    def give_all() -> None:
        with one_behind(work, thread=thread) as give:
            for item in range(9):
                given.append(item)
                give(item)

    with pytest.raises(OSError, match="disk full"):
        give_all()
    assert done == [0]
    assert given == [0, 1, 2] if thread else [0, 1]


def test_an_error_of_the_last_item_comes_at_the_end() -> None:
    def work(item: int) -> None:
        raise OSError(f"no room for {item}")

    with pytest.raises(OSError, match="no room for 7"), one_behind(work) as give:
        give(7)


def test_nothing_runs_on_after_an_interrupt() -> None:
    """The caller closes its files then: the item in work is finished, and no other begins."""
    begun, may_end, done = threading.Event(), threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.set()
        assert may_end.wait(PATIENCE)
        time.sleep(0.1)  # whoever does not wait for it is gone by now
        done.set()

    def interrupted() -> None:
        with one_behind(work) as give:
            give(0)
            assert begun.wait(PATIENCE)
            threading.Timer(0.1, may_end.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done.is_set()
    deadline = time.monotonic() + PATIENCE
    while any(t.name.startswith("write-behind") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "the thread should end by itself"


def test_gdal_options_hold_in_the_thread() -> None:
    found: list[object] = []
    with (
        rasterio.Env(DAS2F_MAP_TEST_OPTION="here"),
        one_behind(lambda name: found.append(get_gdal_config(name))) as ask,
    ):
        ask("DAS2F_MAP_TEST_OPTION")
    assert found == ["here"]


def test_without_threads_the_caller_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    found: list[str] = []
    with one_behind(lambda item: found.append(f"{item} in {threading.current_thread().name}")) as give:
        give(3)
        assert found == [f"3 in {threading.main_thread().name}"]
