"""Shares of the classes in the run report."""

from __future__ import annotations

import pytest

from das2f_map.legend import Legend
from das2f_map.products.class_areas import ClassArea
from das2f_map.products.report import class_reports


def test_shares_are_of_the_area_not_of_the_pixels() -> None:
    legend = Legend.from_names(["water", "forest", "absent"], [1, 4, 7])
    areas = {1: ClassArea(10, 300.0, 0, 0.5), 4: ClassArea(10, 100.0, 0, 0.9), 7: ClassArea(0, 0.0)}
    polygons = {1: ClassArea(10, 300.0, 3), 4: ClassArea(10, 100.0, 1), 7: ClassArea(0, 0.0)}
    found = class_reports(legend, areas, polygons)
    assert [(c.id, c.name, c.pixels, c.share, c.polygons) for c in found] == [
        (1, "water", 10, 0.75, 3),
        (4, "forest", 10, 0.25, 1),
        (7, "absent", 0, 0.0, 0),
    ]
    assert found[2].mean_confidence is None
    assert [c.polygons for c in class_reports(legend, areas, None)] == [None] * 3


def test_map_without_any_class() -> None:
    legend = Legend.from_names(["water"])
    (only,) = class_reports(legend, {1: ClassArea(0, 0.0)}, None)
    assert only.share == pytest.approx(0)
