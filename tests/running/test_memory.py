"""A run's limit of memory decides the size of its blocks."""

from __future__ import annotations

import pytest

from das2f_map.errors import InputError
from das2f_map.running.memory import SMALLEST_BLOCK, Demand, MemoryPlan, plan_memory
from das2f_map.running.resources import Resources, available_memory, bytes_of, in_words, resident_memory

GIB = 1 << 30


def demand(width: int = 1000, engine_bytes: int = 0) -> Demand:
    return Demand(
        width=width,
        pixels=width * width,
        bands=4,
        halo=15,
        results=2,
        engine_bytes=lambda size: engine_bytes * size * size,
    )


def test_blocks_are_as_large_as_the_limit_allows() -> None:
    sizes = []
    for limit in (64 * GIB, 8 * GIB, 3 * GIB):
        plan = plan_memory(demand(engine_bytes=20_000), Resources(max_memory=limit), 1024)
        assert plan.expected_bytes <= plan.limit_bytes == limit
        assert plan.cache_bytes <= limit / 8
        sizes.append(plan.block_size)
    assert sizes[0] == 1024
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1024


def test_the_width_changes_nothing() -> None:
    limit = Resources(max_memory=resident_memory() + GIB)
    narrow, wide = (plan_memory(demand(w), limit, 1024, resident=0) for w in (8_000, 100_000))
    assert wide.block_size == narrow.block_size
    assert wide.expected_bytes == narrow.expected_bytes


@pytest.mark.parametrize("workers", [None, 4])
def test_a_limit_that_is_too_small_names_one_that_is_not(workers: int | None) -> None:
    def planned(limit: str) -> MemoryPlan:
        return plan_memory(demand(), Resources(max_memory=bytes_of(limit), workers=workers), 64)

    with pytest.raises(InputError, match="a limit of 100M of memory is too small") as caught:
        planned("100M")
    enough = str(caught.value.hint).removeprefix("--max-memory ")
    assert caught.value.message.endswith(f"this run needs {enough}")
    plan = planned(enough)
    assert plan.block_size >= SMALLEST_BLOCK
    assert plan.expected_bytes <= plan.limit_bytes
    # Not much less would do.
    with pytest.raises(InputError, match="is too small"):
        planned(str(int(0.8 * (bytes_of(enough) or 0))))


def test_blocks_of_a_run_that_goes_on_keep_their_size() -> None:
    assert plan_memory(demand(), Resources(max_memory=64 * GIB), 1024, fixed=48).block_size == 48


def test_workers_share_the_limit() -> None:
    def size(workers: int | None) -> int:
        limit = Resources(max_memory=16 * GIB, workers=workers)
        return plan_memory(demand(engine_bytes=10_000), limit, 1024).block_size

    assert size(8) < size(None)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2G", 2 << 30), ("1.5GiB", 3 << 29), ("800M", 800 << 20), ("4096", 4096), (10, 10), ("1 tb", 1 << 40)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "0", "1X", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match="is no size of memory"):
        bytes_of(text)


def test_memory_of_the_machine() -> None:
    assert 0 < resident_memory() < 1 << 40
    assert 0 < available_memory() < 1 << 50
    assert in_words(1_234_000_000) == "1.23 GB"
