"""Class ids and their positions in a network's logits."""

from __future__ import annotations

import numpy as np
import pytest

from das2f_map.errors import InputError
from das2f_map.legend import Legend, LegendClass

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


def test_unsure_has_the_largest_free_id() -> None:
    legend, unsure = Legend.from_names(["water", "forest"], ids=[3, 9]).with_unsure()
    assert (unsure, legend.ids, legend.names) == (255, (3, 9, 255), ("water", "forest", "unsure"))
    assert legend[255].color == "#808080"
    assert legend.without(255) == Legend.from_names(["water", "forest"], ids=[3, 9])
    legend, unsure = LEGEND.with_unsure()
    assert (unsure, legend.ids) == (254, (2, 7, 254, 255))


def test_unsure_is_told_from_a_class_of_that_name_or_colour() -> None:
    legend, unsure = Legend.from_names(["unsure", "water"]).with_unsure()
    assert (legend[1].name, legend[unsure].name) == ("unsure", "unsure (255)")
    roads = Legend(classes=(LegendClass(id=1, name="road", color="#8c8c94"),))
    legend, unsure = roads.with_unsure()
    assert legend[unsure].color == "#d0d0d0"


def test_a_full_legend_has_no_room_for_unsure() -> None:
    with pytest.raises(InputError, match="All 255 class ids are taken"):
        Legend.from_names([f"class {i}" for i in range(1, 256)]).with_unsure()
