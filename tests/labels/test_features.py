"""Features of label files with known faults."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from maps import UTM

from das2f_map.errors import LabelError
from das2f_map.labels.features import LabelFeatures, names_alike, read_features
from das2f_map.labels.labelled_pixels import read_labels
from das2f_map.scene.grid import Window
from das2f_map.scene.vector_file import VectorFile

X, Y = UTM.transform.c, UTM.transform.f


def box(col: float, row: float, width: float, height: float) -> shapely.Polygon:
    """A rectangle in pixels of UTM, as map coordinates."""
    return shapely.box(X + 30 * col, Y - 30 * (row + height), X + 30 * (col + width), Y - 30 * row)


def read(folder: Path, rows: list[tuple[object, shapely.Geometry]], crs: object = UTM.crs) -> LabelFeatures:
    path = folder / "labels.gpkg"
    frame = gpd.GeoDataFrame({"class": [c for c, _ in rows]}, geometry=[g for _, g in rows], crs=crs)
    frame.to_file(path)
    return read_features(VectorFile.open(path, "labels"), UTM, None)


def test_overlaps_are_between_classes_and_more_than_slivers(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        [
            ("a", box(2, 2, 6, 6)),
            ("b", box(6, 6, 6, 6)),  # shares 4 pixels with the first
            ("a", box(3, 3, 2, 2)),  # of the first's class
            ("b", box(8, 1, 5, 4.0001)),  # touches the first's edge; its sliver is too thin
            ("b", shapely.Point(X + 30 * 2.5, Y - 30 * 7.5)),  # a point in the first
        ],
    )
    assert found.overlaps().tolist() == [[0, 1], [0, 4]]


def test_rows_of_features_on_pixels(tmp_path: Path) -> None:
    point = shapely.Point(X + 30 * 20.5, Y - 30 * 11.5)
    found = read(tmp_path, [("a", box(2, 3, 4, 2)), ("b", point), ("c", box(-50, -50, 10, 10))])
    expected = np.full((20, 30), -1)
    expected[3:5, 2:6] = 0
    expected[11, 20] = 1
    np.testing.assert_array_equal(found.at(Window(0, 0, 20, 30)), expected)
    np.testing.assert_array_equal(found.at(Window(4, 3, 10, 20)), expected[4:14, 3:23])
    assert found.inside.tolist() == [True, True, False]


def test_faults_of_single_features(tmp_path: Path) -> None:
    bow = shapely.Polygon([(X, Y), (X + 300, Y - 300), (X + 300, Y), (X, Y - 300)])
    found = read(tmp_path, [("a", bow), (None, box(1, 1, 2, 2)), ("b", None), ("b ", box(9, 9, 2, 2))])
    assert found.unreadable == 1
    assert found.frame["class"].fillna("").tolist() == ["a", "", "b"]
    assert found.frame["invalid"].str.startswith("Self-intersection").tolist() == [True, False, False]
    assert found.frame["feature"].tolist() == [0, 1, 3]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_features_are_moved_to_the_scene(tmp_path: Path, crs: str) -> None:
    shapes = gpd.GeoSeries([box(20, 20, 3, 4)], crs=UTM.crs).to_crs(crs)
    found = read(tmp_path, [(7, shapes[0])], crs)
    assert found.frame["class"].tolist() == ["class 7"]
    assert (found.at(Window(0, 0, 40, 40)) == 0).sum() == 12


def test_names_alike() -> None:
    groups = names_alike(
        ["Forest", "forest", "bare soil", "bare_soil", "Bare-Soil", "water", "water 2", "??"]
    )
    assert groups == [("Forest", "forest"), ("Bare-Soil", "bare soil", "bare_soil")]
    # Signs and points of numbers are no spelling.
    assert names_alike(["class -3", "class 3", "zone 1.5", "zone 15", "-1", "1"]) == []
    assert names_alike(["zone-1", "Zone 1", "class -3", "Class -3"]) == [
        ("Zone 1", "zone-1"),
        ("Class -3", "class -3"),
    ]


@pytest.mark.parametrize("kind", ["empty", "lines", "mixed"])
def test_files_without_areas_and_points_are_refused_as_by_a_training(kind: str, tmp_path: Path) -> None:
    path, line = tmp_path / "labels.gpkg", box(2, 2, 5, 5).boundary
    shapes = {"empty": [], "lines": [line, line], "mixed": [line, box(1, 1, 3, 3)]}[kind]
    frame = gpd.GeoDataFrame({"class": ["a", "b"][: len(shapes)]}, geometry=shapes, crs=UTM.crs)
    frame.to_file(path)
    with pytest.raises(LabelError) as one:
        read_features(VectorFile.open(path, f"labels {path}"), UTM, None)
    with pytest.raises(LabelError) as other:
        read_labels(path, UTM)
    assert str(one.value) == str(other.value)
    assert ("no features" if kind == "empty" else "hold LineString") in str(one.value)
