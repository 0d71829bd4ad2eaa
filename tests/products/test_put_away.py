"""Lists that refer to lists put away before, against plain Python lists; and where they are kept."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from das2f_map.outputs import work_files
from das2f_map.products.put_away import LEAST, PutAway, references


@pytest.mark.parametrize("held", [1, 1 << 20], ids=["file", "memory"])
def test_lists_come_back_whole(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_files, "MOST_HELD", held)
    random = np.random.default_rng(1)
    away = PutAway(tmp_path)
    known: dict[int, list[int]] = {}
    for _ in range(60):
        rows, truth = [], []
        for _ in range(int(random.integers(1, 5))):
            row: list[int] = []
            true: list[int] = []
            for _ in range(int(random.integers(1, 6))):
                if known and random.random() < 0.4:
                    place = int(random.choice(list(known)))
                    if len(known[place]) > 200:
                        continue
                    row.append(int(references(np.array([place]))[0]))
                    true += known[place]
                else:
                    row.append(int(random.integers(LEAST, 1 << 40)))
                    true.append(row[-1])
            rows.append(row or [7])
            truth.append(true or [7])
        places = away.put(
            np.array([n for row in rows for n in row], np.int64), np.array([len(r) for r in rows], np.int64)
        )
        known.update(zip(places.tolist(), truth, strict=True))
    assert len(known) > 60
    for place, true in known.items():
        assert away.whole(references(np.array([place]))).tolist() == true
    away.close()


def test_references_may_nest_as_often_as_a_map_has_strips() -> None:
    away = PutAway()
    place = away.put(np.array([0]), np.array([1]))
    for n in range(1, 5_000):
        place = away.put(np.append(references(place), n), np.array([2]))
    assert away.whole(references(place)).tolist() == list(range(5_000))
    away.close()


def test_many_lists_are_no_longer_in_memory(tmp_path: Path) -> None:
    away = PutAway(tmp_path)
    values, lengths = np.arange(100_000), np.full(1000, 100)
    tracemalloc.start()
    try:
        places = [away.put(values, lengths) for _ in range(50)]
        held = tracemalloc.get_traced_memory()[0] - sum(p.nbytes for p in places)
    finally:
        tracemalloc.stop()
    assert held < 1 << 20 < 50 * values.nbytes // 30
    assert away.whole(references(places[3][7:9])).tolist() == list(range(700, 900))
    away.close()
    assert list(tmp_path.iterdir()) == []
