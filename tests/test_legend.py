"""Class ids and their positions in a network's logits."""

from __future__ import annotations

import numpy as np

from das2f_map.legend import Legend

LEGEND = Legend.from_names(["forest", "water", "soil"], ids=[255, 2, 7])


def test_positions_are_in_ascending_order_of_id() -> None:
    ids = np.array([[7, 255], [2, 7]], np.uint8)
    positions = LEGEND.positions(ids)
    assert positions.dtype == np.int64
    assert positions.tolist() == [[1, 2], [0, 1]]
    assert LEGEND.positions([7, 255]).tolist() == [1, 2]


def test_numbers_of_no_class_have_no_position() -> None:
    assert LEGEND.positions([0, 1, 3, 254, -1, -257, 256, 7 + 256, 1 << 40]).tolist() == [-1] * 9


def test_ids_at_positions_are_the_way_back() -> None:
    ids = LEGEND.ids_at(np.array([[2, 0], [1, 1]]))
    assert ids.dtype == np.uint8
    assert ids.tolist() == [[255, 2], [7, 7]]
    assert LEGEND.positions(LEGEND.ids_at([0, 1, 2])).tolist() == [0, 1, 2]
    assert LEGEND.ids_at(np.zeros(0, np.int64)).shape == (0,)
