"""Reading a block while the last one is computed."""

from __future__ import annotations

import threading

import pytest
import rasterio
import rasterio.env
from rasterio import _env  # what GDAL itself has, whoever set it

from das2f_map.mapping.blocks import one_ahead

PATIENCE = 60  # seconds; never waited for unless something is broken


def test_next_one_is_made_while_the_last_is_used() -> None:
    started = [threading.Event() for _ in range(5)]

    def work(item: int) -> int:
        started[item].set()
        return 10 * item

    results = one_ahead(work, range(5))
    for item in range(5):
        assert next(results) == 10 * item
        if item < 4:
            assert started[item + 1].wait(PATIENCE)  # though nobody has asked for it yet
        if item < 3:
            assert not started[item + 2].is_set()  # one ahead, no more
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
    results = one_ahead(str, range(9))
    next(results)
    results.close()
    assert not any(t.name.startswith("read-ahead") for t in threading.enumerate())


def test_options_of_gdal_hold_there_too() -> None:
    """Outside the main thread rasterio sets them for one thread only."""
    found: list[object] = []

    def ask() -> None:
        with rasterio.Env(GDAL_HTTP_USERAGENT="das2f-map"):
            found.extend(one_ahead(_env.get_gdal_config, ["GDAL_HTTP_USERAGENT"]))
        found.extend(one_ahead(_env.get_gdal_config, ["GDAL_HTTP_USERAGENT"]))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == ["das2f-map", None]


def test_credentials_of_the_caller_hold_there_too() -> None:
    """A session puts them among the options, though rasterio takes them from nobody else."""
    with rasterio.Env():
        rasterio.env.setenv(AWS_ACCESS_KEY_ID="an id", AWS_SECRET_ACCESS_KEY="a secret")
        found = list(one_ahead(_env.get_gdal_config, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]))
    assert found == ["an id", "a secret"]
