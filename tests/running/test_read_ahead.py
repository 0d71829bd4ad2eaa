"""Reading a block while the last one is computed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
import rasterio.env
from rasterio.env import get_gdal_config  # GDAL's own answer, whoever set the option
from rasterio.session import DummySession, Session

from das2f_map.legend import Legend
from das2f_map.running import blocks
from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.read_ahead import one_ahead
from das2f_map.scene.grid import Window
from das2f_map.scene.model_input import InputBlock

PATIENCE = 60  # seconds; never waited for unless something is broken


class Slow:
    """Work whose second item lasts until the test ends it; it records the items begun and running."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.running = threading.Event()
        self.end = threading.Event()

    def __call__(self, item: int) -> int:
        self.begun.append(item)
        if item == 1:
            self.running.set()
            assert self.end.wait(PATIENCE)
            time.sleep(0.1)  # whoever does not wait for it is gone by now
            self.running.clear()
        return item


@contextmanager
def interrupts(*times: float, last: threading.Event) -> Iterator[None]:
    """Send numbered interrupts after the given seconds, none after the block; the last one sets ``last``."""
    waits = iter(np.diff((0, *times)).tolist())
    count = 0

    def interrupt(*_: object) -> None:
        nonlocal count
        count += 1
        if count == len(times):
            last.set()
        signal.setitimer(signal.ITIMER_REAL, next(waits, 0))
        raise KeyboardInterrupt(count)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, next(waits))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_next_one_is_made_while_the_last_is_used() -> None:
    started = [threading.Event() for _ in range(5)]

    def work(item: int) -> int:
        started[item].set()
        return 10 * item

    results = one_ahead(work, range(5))
    for item in range(5):
        assert next(results) == 10 * item
        assert started[min(item + 1, 4)].wait(PATIENCE)  # though nobody has asked for it yet
        time.sleep(0.05)  # for one too many to begin
        assert sum(s.is_set() for s in started) == min(item + 2, 5)
    assert list(results) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few(count: int) -> None:
    assert list(one_ahead(str, range(count))) == [str(i) for i in range(count)]


def test_errors_come_when_it_is_their_turn() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("the second")
        return item

    results = one_ahead(work, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError, match="the second"):
        next(results)


def test_nothing_runs_on_after_it_was_left() -> None:
    work = Slow()
    results = one_ahead(work, range(9))
    next(results)
    assert work.running.wait(PATIENCE)
    threading.Timer(0.1, work.end.set).start()
    results.close()
    assert not work.running.is_set()
    deadline = time.monotonic() + PATIENCE
    while any(t.name.startswith("read-ahead") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "the thread should end by itself"
    assert work.begun == [0, 1]


def test_nothing_runs_on_after_an_interrupt() -> None:
    """It comes during the wait for the second item; the third is queued and must not begin."""
    work = Slow()
    results = one_ahead(work, range(9))
    next(results)
    assert work.running.wait(PATIENCE)
    with interrupts(0.1, last=work.end), pytest.raises(KeyboardInterrupt):
        next(results)
    assert not work.running.is_set()
    time.sleep(0.05)  # for one too many to begin
    assert work.begun == [0, 1]


def test_interrupt_while_it_is_left_is_raised() -> None:
    work = Slow()
    results = one_ahead(work, range(9))
    next(results)
    assert work.running.wait(PATIENCE)
    with interrupts(0.1, last=work.end), pytest.raises(KeyboardInterrupt):
        results.close()
    assert not work.running.is_set()


COLLECTED = """
import gc, threading
from das2f_map.running.read_ahead import one_ahead

dropped = threading.Event()

def work(item):
    if item == 1:
        assert dropped.wait(60)
        gc.collect()
        print("collected", flush=True)
    return item

class Cycle:
    pass

gc.disable()
cycle = Cycle()
cycle.own, cycle.results = cycle, one_ahead(work, range(9))
next(cycle.results)
del cycle
dropped.set()
"""


def test_one_collected_in_its_own_thread_does_not_wait_for_itself() -> None:
    """A generator in a reference cycle that nobody closed is collected; the interpreter still ends."""
    ended = subprocess.run(
        [sys.executable, "-c", COLLECTED], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "collected\n", "")


def test_an_error_of_the_options_comes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised while the options are undone, when there is a result already."""

    class Failing(rasterio.Env):
        def __exit__(self, *_: object) -> None:
            raise ValueError("the options'")

    with rasterio.Env():
        monkeypatch.setattr(rasterio, "Env", Failing)
        with pytest.raises(ValueError, match="the options'"):
            next(one_ahead(str, range(3)))


STOPPED_TWICE = """
import signal, threading, time
from das2f_map.running.read_ahead import one_ahead

signal.signal(signal.SIGINT, signal.default_int_handler)
begun, running = [], []

def work(item):
    begun.append(item)
    running.append(item)
    for _ in range(2):
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(0.2)
    running.clear()

class Files:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        print("closed with", running, "running and", begun, "begun", flush=True)

forgotten = one_ahead(str, range(9))
next(forgotten)
try:
    with Files():
        for _ in one_ahead(work, range(9)):
            pass
except KeyboardInterrupt:
    raise SystemExit(7)
"""


def test_files_are_closed_after_the_last_read_however_often_it_is_interrupted() -> None:
    """The interpreter ends too, though one of the generators is never closed."""
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED_TWICE], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.stdout == "closed with [] running and [0] begun\n"
    assert (ended.returncode, ended.stderr) == (7, "")


def test_without_a_thread_the_caller_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    made: list[int] = []

    def work(item: int) -> int:
        made.append(threading.get_ident())
        return 10 * item

    results = one_ahead(work, range(3))
    assert next(results) == 0
    assert len(made) == 1
    assert list(results) == [10, 20]
    assert made == 3 * [threading.get_ident()]


def test_interrupt_while_blocks_are_left_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would print and drop an exception that ends a generator collected as garbage."""

    def interrupted(work: Callable[..., object], parts: Iterator[Window]) -> Iterator[object]:
        try:
            for part in parts:
                none = np.zeros((1, 1, 1), np.float32)
                yield part, InputBlock(part, none, none, np.ones((part.height, part.width), bool))
        finally:
            raise KeyboardInterrupt

    class Engine:
        def logits(self, *_: object) -> object:
            raise ValueError("the engine's")

    monkeypatch.setattr(blocks, "one_ahead", interrupted)
    classifier = BlockClassifier(None, Engine(), Legend.from_names(["water"]))
    with pytest.raises(KeyboardInterrupt):
        list(classifier.classify_all([Window(0, 0, 4, 4)]))


def test_options_of_gdal_hold_there_too() -> None:
    """Outside the main thread rasterio sets them for one thread only."""
    found: list[object] = []

    def ask() -> None:
        with rasterio.Env(GDAL_HTTP_USERAGENT="das2f-map"):
            found.extend(one_ahead(get_gdal_config, ["GDAL_HTTP_USERAGENT"]))
        found.extend(one_ahead(get_gdal_config, ["GDAL_HTTP_USERAGENT"]))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == ["das2f-map", None]


def test_credentials_of_the_caller_hold_there_too() -> None:
    """A session puts credentials among the options; rasterio refuses them from anybody else."""
    with rasterio.Env():
        rasterio.env.setenv(AWS_ACCESS_KEY_ID="an id", AWS_SECRET_ACCESS_KEY="a secret")
        found = list(one_ahead(get_gdal_config, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]))
    assert found == ["an id", "a secret"]


def test_nobody_is_asked_for_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> Session:
        raise AssertionError("the caller's session has said what there is")

    with rasterio.Env(DummySession()):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        monkeypatch.setattr(Session, "from_environ", asked)
        assert list(one_ahead(str, range(3))) == ["0", "1", "2"]
