"""Which patches a training sees: draws by the balance, the same ones after a resume, apart by process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import pixels_at
from numpy.typing import NDArray

from das2f_map.scene.radiometry import BandStatistics, Normalisation
from das2f_map.training.batches import DrawnBatches, PatchBatch, PatchDataset, PlainBatches
from das2f_map.training.jitter import Jitter
from das2f_map.types import Int64

BAND = BandStatistics(name="b", mean=10.0, std=2.0, p01=5.0, p99=16.0)


def classes(*counts: int) -> Int64:
    """Class of every pixel, for classes of some sizes."""
    return np.repeat(np.arange(len(counts)), counts)


def sampler(
    positions: Int64, draws: int, balance: float = 0.5, batch_size: int = 10, **more: int
) -> DrawnBatches:
    settings = {"seed": 0} | more
    steps = draws // batch_size
    return DrawnBatches(positions, steps=steps, batch_size=batch_size, balance=balance, **settings)


def drawn(batches: DrawnBatches | PlainBatches) -> NDArray[np.int64]:
    return np.concatenate([b.positions for b in batches])


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (0.0, [640, 160, 40]),  # as labelled, 16 : 4 : 1
        (0.5, [480, 240, 120]),  # by the square root, 4 : 2 : 1
        (1.0, [280, 280, 280]),
    ],
)
def test_draws_follow_the_balance(balance: float, expected: list[int]) -> None:
    positions = classes(640, 160, 40)
    batches = sampler(positions, 840, balance)
    found = drawn(batches)
    assert len(batches) == len(list(batches)) == 84
    assert np.bincount(positions[found]).tolist() == expected
    # No pixel more often than its class needs.
    times = np.bincount(found, minlength=840)
    for k, (draws, size) in enumerate(zip(expected, (640, 160, 40), strict=True)):
        own = times[positions == k]
        assert own.max() == -(-draws // size)
        assert own.min() == draws // size


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_every_class_is_drawn_however_rare(balance: float) -> None:
    positions = classes(100_000, 40_000, 3, 1)
    found = np.bincount(positions[drawn(sampler(positions, 20, balance))], minlength=4)
    assert found.min() >= 1
    assert found.sum() == 20


def test_draws_add_up_where_shares_are_no_whole_numbers() -> None:
    positions = classes(7, 11, 13)
    for balance in (0.0, 0.3, 1.0):
        found = np.bincount(positions[drawn(sampler(positions, 100, balance))])
        weights = np.array([7, 11, 13]) ** (1 - balance)
        assert found.sum() == 100
        assert np.abs(found - 100 * weights / weights.sum()).max() < 1


def test_a_frequent_class_gives_new_pixels_at_every_check() -> None:
    positions = classes(1000, 1000)
    batches = sampler(positions, 400)
    first = drawn(batches)
    batches.set_epoch(1)
    second = drawn(batches)
    assert np.unique(first).size == 400, "each pixel once"
    assert 20 < np.intersect1d(first, second).size < 150  # 80 expected


def test_a_resumed_training_sees_the_batches_of_an_uninterrupted_one() -> None:
    positions = classes(300, 30)
    whole = sampler(positions, 100, seed=3)
    for check in range(3):
        whole.set_epoch(check)
        uninterrupted = list(whole)
    resumed = sampler(positions, 100, seed=3)
    resumed.set_epoch(2)
    for one, other in zip(resumed, uninterrupted, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        assert one.turns.tolist() == other.turns.tolist()
        assert one.jitter_seed == other.jitter_seed
    other_seed = sampler(positions, 100, seed=4)
    other_seed.set_epoch(2)
    assert not np.array_equal(drawn(other_seed), drawn(resumed))


def test_all_turns_occur_and_no_two_batches_share_their_jitter() -> None:
    batches = sampler(classes(300, 300), 400)
    seeds = set()
    for check in range(3):
        batches.set_epoch(check)
        found = list(batches)
        assert np.bincount(np.concatenate([b.turns for b in found]), minlength=8).min() > 20  # 50 expected
        seeds |= {b.jitter_seed for b in found}
    assert len(seeds) == 3 * 40


def test_processes_share_the_draws_without_overlap() -> None:
    positions = classes(300, 300)
    whole = drawn(sampler(positions, 120, batch_size=20))
    shares = [list(sampler(positions, 60, rank=r, world_size=2)) for r in (0, 1)]
    assert [len(s) for s in shares] == [6, 6]
    one, other = (np.concatenate([b.positions for b in s]) for s in shares)
    assert not set(one) & set(other)
    assert sorted([*one, *other]) == sorted(whole)
    assert not {b.jitter_seed for b in shares[0]} & {b.jitter_seed for b in shares[1]}


def test_plain_batches_are_all_patches_in_order() -> None:
    batches = PlainBatches(95, 10, turn=3)
    assert len(batches) == len(list(batches)) == 10
    assert drawn(batches).tolist() == list(range(95))
    assert {int(t) for b in batches for t in b.turns} == {3}
    assert {b.jitter_seed for b in batches} == {None}
    assert len(PlainBatches(0, 10)) == len(list(PlainBatches(0, 10))) == 0


class Painter:
    """A reader whose patches say which pixel they are of, and how they are turned."""

    def patches(
        self, rows: Int64, cols: Int64, turns: Int64 | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        turns = np.zeros(rows.size, np.int64) if turns is None else turns
        value = torch.from_numpy(100.0 * rows + 10.0 * cols + turns).float()[:, None, None, None]
        return value.repeat(1, 2, 4, 4), value.repeat(1, 1, 16, 16)


def painted(jitter: Jitter | None = None) -> PatchDataset:
    pixels = pixels_at(np.arange(6), np.arange(6) % 2, np.array([0, 1, 2, 2, 1, 0]))
    return PatchDataset(replace(pixels, readers=(Painter(),)), jitter)


def test_an_item_is_a_batch_of_patches_with_their_classes() -> None:
    dataset = painted()
    assert len(dataset) == 6
    ms, pan, target = dataset[PatchBatch(np.array([4, 1]), np.array([0, 7]), (1,))]
    assert ms[:, 0, 0, 0].tolist() == pan[:, 0, 0, 0].tolist() == [400.0, 117.0]
    assert target.tolist() == [1, 1]


def test_jitter_follows_from_the_seed_of_the_batch() -> None:
    dataset = painted(Jitter(Normalisation((BAND, BAND), BAND), 1.0, 0.5))

    def item(seed: tuple[int, ...] | None) -> tuple[torch.Tensor, torch.Tensor]:
        ms, pan, _ = dataset[PatchBatch(np.arange(6), np.zeros(6, np.int64), seed)]
        return ms, pan

    plain = item(None)
    assert plain[0][:, 0, 0, 0].tolist() == [0, 110, 200, 310, 400, 510]
    one, same, other = item((0, 1)), item((0, 1)), item((0, 2))
    for k in range(2):
        assert torch.equal(one[k], same[k])
        assert not torch.equal(one[k], other[k])
        assert not torch.equal(one[k], plain[k])
