"""Estimates from samples in files: the papers' examples, known truth, what is refused, two maps."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from maps import write_map
from numpy.typing import NDArray
from rasterio.crs import CRS

import das2f_map
from das2f_map.assess.estimates import Estimate
from das2f_map.assess.map_difference import mcnemar
from das2f_map.errors import InputError, LabelError
from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid

Array = NDArray[Any]
CHANGE = Legend.from_names(["deforestation", "gain", "stable forest", "stable non-forest"])
ABCD = Legend.from_names(list("ABCD"))
Z = 1.959964


def grid_of(classes: Array) -> Grid:
    """Pixels of 100 m × 100 m, that is 1 ha in the plane, near the meridian where the scale is 1."""
    return Grid(*classes.shape, Affine(100, 0, 320_000, 0, -100, 5_600_000), CRS.from_epsg(32631))


def points_in(rows: Array, cols: Array, names: list[str]) -> gpd.GeoDataFrame:
    """Points at the centres of pixels, with a class each."""
    at = shapely.points(320_000 + 100 * (cols + 0.5), 5_600_000 - 100 * (rows + 0.5))
    return gpd.GeoDataFrame({"class": names}, geometry=at, crs=32631)


def map_of(folder: Path, classes: Array, legend: Legend, name: str = "map.tif") -> Path:
    return write_map(folder / name, classes.astype(np.uint8), grid=grid_of(classes), legend=legend)


def olofsson(folder: Path) -> tuple[Path, gpd.GeoDataFrame]:
    """The example of Olofsson et al. 2014 (tables 8 and 9), with a hundredth of the pixels."""
    counts = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    sizes = [2000, 1500, 32_000, 64_500]
    classes = np.random.default_rng(0).permutation(np.repeat([1, 2, 3, 4], sizes)).reshape(250, 400)
    rows, cols, names = [], [], []
    for k, line in enumerate(counts):
        at = np.random.default_rng(k).choice(np.flatnonzero(classes == k + 1), line.sum(), replace=False)
        rows += (at // 400).tolist()
        cols += (at % 400).tolist()
        names += np.repeat(CHANGE.names, line).tolist()
    return map_of(folder, classes, CHANGE), points_in(np.array(rows), np.array(cols), names)


def test_olofsson_2014_through_files(tmp_path: Path) -> None:
    path, frame = olofsson(tmp_path)
    frame.to_crs(4326).to_file(tmp_path / "points.gpkg", engine="pyogrio")
    found = das2f_map.evaluate(path, tmp_path / "points.gpkg", design="stratified")
    estimates = found.estimates
    assert estimates is not None
    loss = estimates.classes[0]
    assert (loss.mapped_pixels, round(loss.mapped_area_m2 / 1e7, 1)) == (2000, 2.0)
    # The paper: 235,086 of 10 million pixels, overall accuracy 0.947.
    assert (loss.share.value or 0) * 1e7 == pytest.approx(235_086, rel=0.001)
    assert round(estimates.overall_accuracy.value or 0, 3) == 0.947
    assert [round(c.users_accuracy.value or 0, 2) for c in estimates.classes] == [0.88, 0.73, 0.93, 0.96]
    assert [round(c.producers_accuracy.value or 0, 2) for c in estimates.classes] == [0.75, 0.85, 0.93, 0.96]
    # Standard error of the share, with the finite population that the paper leaves out.
    right = {0: 66 / 75, 2: 1 / 165, 3: 2 / 325}
    variance = sum(
        (n_map / 1e5) ** 2 * (1 - n / n_map) * p * (1 - p) / (n - 1)
        for k, p in right.items()
        for n, n_map in [((75, 75, 165, 325)[k], (2000, 1500, 32_000, 64_500)[k])]
    )
    assert loss.share.standard_error == pytest.approx(math.sqrt(variance), rel=0.01)
    assert found.matrix.counts.T.tolist()[0] == [66, 0, 5, 4]
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["probability_sample"] is True
    assert record["overall_accuracy"] == record["estimates"]["overall_accuracy"]["estimate"]
    assert record["classes"][0]["users_accuracy"] == pytest.approx(0.88, abs=1e-4)
    area = record["estimates"]["classes"][0]
    assert area["area_m2"]["estimate"] == pytest.approx(1e4 * area["area_ha"]["estimate"])
    assert area["area_map_unit"] == pytest.approx(area["area_m2"])
    assert record["estimates"]["map_unit"] == "square metre"
    assert "as given: no file says so" in record["notices"][0]
    assert "deforestation" in found.to_html()


def test_stehman_2014_with_strata_of_their_own(tmp_path: Path) -> None:
    """Table 2: strata of 400, 300, 200 and 100 pixels that are not the map's classes."""
    strata = np.repeat([1, 2, 3, 4], [400, 300, 200, 100]).reshape(25, 40)
    drawn = np.concatenate([np.flatnonzero(strata == k)[::9][:10] for k in (1, 2, 3, 4)])
    mapped = "AAAAAAABBBABBBBBBBBBBBCCCCCCBBDDDDDDDDDD"
    reference = "AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB"
    classes = np.random.default_rng(0).integers(1, 5, (25, 40))
    classes.ravel()[drawn] = ["ABCD".index(c) + 1 for c in mapped]
    path = map_of(tmp_path, classes, ABCD)
    legend = Legend.from_names(["north", "east", "south", "west"])
    other = map_of(tmp_path, strata, legend, "strata.tif")
    frame = points_in(drawn // 40, drawn % 40, list(reference))
    found = das2f_map.evaluate(path, frame, design="stratified", strata=other).estimates
    assert found is not None
    a, b, c, _ = found.classes
    assert (round(a.share.value or 0, 4), round(c.share.value or 0, 4)) == (0.35, 0.20)
    assert round(found.overall_accuracy.value or 0, 4) == 0.63
    assert round(b.users_accuracy.value or 0, 3) == 0.574
    assert round(b.producers_accuracy.value or 0, 3) == 0.794
    # The printed 0.082 is without the finite population, of which 2.5 to 10 % were drawn here.
    assert 0.075 < (a.share.standard_error or 0) < 0.082
    # The same strata as polygons.
    boxes = [shapely.box(320_000, 5_600_000 - 100 * b, 324_000, 5_600_000 - 100 * a) for a, b in ROWS]
    polygons = gpd.GeoDataFrame({"class": ["1", "2", "3", "4"]}, geometry=[*boxes], crs=32631)
    again = das2f_map.evaluate(path, frame, design="stratified", strata=polygons).estimates
    assert again is not None
    assert again.area_m2 == pytest.approx(found.area_m2)


ROWS = [(0, 10), (10, 17.5), (17.5, 22.5), (22.5, 25)]


# --- samples of `sample`, labelled with a known truth -------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Array, Path]:
    """A map of 200 × 300 pixels, the truth, and a worse map."""
    rng = np.random.default_rng(5)
    coarse = rng.choice([1, 2, 3], (20, 30), p=[0.6, 0.35, 0.05])
    truth = np.kron(coarse, np.ones((10, 10), int))
    folder = tmp_path_factory.mktemp("world")

    def flawed(share: float, seed: int) -> Array:
        random = np.random.default_rng(seed)
        wrong = random.random(truth.shape) < share
        classes = np.where(wrong, random.integers(1, 4, truth.shape), truth)
        classes[:12, :40] = 0
        return classes

    legend = Legend.from_names(["forest", "field", "water"])
    best, worse = (
        map_of(folder, flawed(share, seed), legend, name)
        for share, seed, name in ((0.15, 1, "best.tif"), (0.3, 2, "worse.tif"))
    )
    truth = truth.copy()
    truth[:12, :40] = 0
    return best, truth, worse


def labelled(frame: gpd.GeoDataFrame, truth: Array) -> gpd.GeoDataFrame:
    """The interpreter's work: the truth at each point."""
    inside = frame.geometry.centroid
    rows = ((5_600_000 - inside.y) // 100).astype(int)
    cols = ((inside.x - 320_000) // 100).astype(int)
    names = np.array([None, "forest", "field", "water"], dtype=object)
    return frame.assign(**{"class": names[truth[rows, cols]]})


def covers(found: Estimate, truth: float) -> bool:
    assert found.lower is not None
    assert found.upper is not None
    assert found.upper > found.lower
    return found.lower <= truth <= found.upper


DESIGNS: list[dict[str, Any]] = [
    {"design": "simple", "points": 300},
    {"design": "stratified", "points": 300},
    {"design": "stratified", "points": 300, "allocation": "equal", "squares": True},
    {"design": "cluster", "points": 300, "block_size": 20, "per_block": 5},
    {"design": "cluster", "points": 300, "block_size": 20, "per_block": 5, "block_selection": "equal"},
]


@pytest.mark.parametrize("settings", DESIGNS)
@pytest.mark.parametrize("seeds", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_estimates_of_known_ground(
    world: tuple[Path, Array, Path], settings: dict[str, Any], seeds: int
) -> None:
    path, truth, _ = world
    valid = truth > 0
    shares = [(truth[valid] == k).mean() for k in (1, 2, 3)]
    hits, values = 0, []
    for seed in range(seeds):
        sample = das2f_map.sample(path, seed=seed, **settings)
        found = das2f_map.evaluate(path, labelled(sample.points, truth)).estimates
        assert found is not None
        assert found.design.startswith(sample.design.in_words)
        assert found.area_m2 == pytest.approx(sum(s.area_m2 for s in sample.design.strata))
        hits += sum(covers(c.share, s) for c, s in zip(found.classes, shares, strict=True))
        values.append([c.share.value for c in found.classes])
    if seeds == 1:
        assert hits >= 2
        return
    assert 0.9 <= hits / (3 * seeds) <= 0.99
    assert np.mean(np.array(values, float), axis=0) == pytest.approx(shares, abs=0.02)


def test_file_labelled_as_qgis_does_it(world: tuple[Path, Array, Path], tmp_path: Path) -> None:
    path, truth, _ = world
    file = tmp_path / "points.gpkg"
    sample = das2f_map.sample(path, file, points=120, second_interpreter=True)
    names = labelled(sample.points, truth)["class"].tolist()
    with closing(sqlite3.connect(file)) as database, database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:  # they call functions that only GeoPackage readers have
            database.execute(f'DROP TRIGGER "{name}"')
        for number, name in enumerate(names[:110], 1):
            database.execute(
                "UPDATE sample SET class = ?, class_2 = ? WHERE sample_id = ?",
                (name, "forest" if number == 1 else name, number),
            )
    found = das2f_map.evaluate(path, file)
    assert found.estimates is not None
    assert found.estimates.units == 110
    notes = " ".join(found.notices())
    assert "10 of 120 points have no class" in notes
    agreed = 110 if names[0] == "forest" else 109
    assert f"Two interpreters labelled 110 points and agree on {agreed}" in notes
    # A GeoDataFrame with the same classes, and the design in its attrs, gives the same.
    frame = sample.points.assign(**{"class": [*names[:110], *[None] * 10]})
    again = das2f_map.evaluate(path, frame).estimates
    assert again is not None
    assert again.overall_accuracy == found.estimates.overall_accuracy


def test_another_map_keeps_the_strata_of_the_first(world: tuple[Path, Array, Path]) -> None:
    path, truth, worse = world
    sample = das2f_map.sample(path, points=200)
    found = das2f_map.evaluate(worse, labelled(sample.points, truth))
    assert found.estimates is not None
    assert "drawn from another map" in " ".join(found.notices())
    ours = das2f_map.evaluate(path, labelled(sample.points, truth)).estimates
    assert ours is not None
    # Areas follow from the reference and the strata, whatever map is assessed.
    for one, other in zip(found.estimates.classes, ours.classes, strict=True):
        assert one.share.value == pytest.approx(other.share.value)
    assert (found.estimates.overall_accuracy.value or 0) < (ours.overall_accuracy.value or 0)


@pytest.mark.parametrize("settings", [DESIGNS[1], DESIGNS[3]])
def test_two_maps_on_one_sample(world: tuple[Path, Array, Path], settings: dict[str, Any]) -> None:
    path, truth, worse = world
    frame = labelled(das2f_map.sample(path, **settings).points, truth)
    found = das2f_map.evaluate(path, frame, other_map=worse)
    other = das2f_map.evaluate(worse, frame)
    difference = found.difference
    assert difference is not None
    assert found.estimates is not None
    assert other.estimates is not None
    assert difference.difference.value == pytest.approx(
        (found.estimates.overall_accuracy.value or 0) - (other.estimates.overall_accuracy.value or 0)
    )
    assert difference.first_only > difference.second_only
    counts = (difference.first_only, difference.second_only, difference.both, difference.neither)
    assert sum(counts) == found.estimates.units
    # 15 against 30 % of the pixels have a random class.
    assert covers(difference.difference, 0.10)
    assert difference.p_value < 0.1
    assert "McNemar" in " ".join(found.notices())
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["comparison"]["both_right"] == counts[2]


def test_mcnemar_of_the_textbook() -> None:
    """Exact: 2 · P(X ≤ 3 | 14, ½) = 0.0574; Agresti's approval ratings: 150 against 86, z² = 17.36 (16.8)."""
    assert mcnemar(3, 11) == pytest.approx(0.0574, abs=1e-4)
    assert mcnemar(86, 150) == pytest.approx(math.erfc(math.sqrt(63**2 / 236 / 2)))
    assert mcnemar(0, 0) == 1.0


def test_polygons_are_no_probability_sample(world: tuple[Path, Array, Path], tmp_path: Path) -> None:
    path, truth, worse = world
    names = np.array([None, "forest", "field", "water"], dtype=object)
    at = [(r, c) for r in range(20, 200, 20) for c in range(0, 300, 30)]
    boxes = [
        shapely.box(320_000 + 100 * c, 5_600_000 - 100 * (r + 5), 320_500 + 100 * c, 5_600_000 - 100 * r)
        for r, c in at
    ]
    frame = gpd.GeoDataFrame({"class": [names[truth[r, c]] for r, c in at]}, geometry=boxes, crs=32631)
    found = das2f_map.evaluate(path, frame, other_map=worse)
    assert found.estimates is None
    assert found.intervals is not None
    assert "Not a probability sample" in " ".join(found.notices())
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    ends = record["intervals"]["overall_accuracy"]
    assert ends["lower"] < record["overall_accuracy"] < ends["upper"]
    assert record["probability_sample"] is False
    assert found.interval_table()[1][0] == "overall"
    difference = found.difference
    assert difference is not None
    other = das2f_map.evaluate(worse, frame)
    assert difference.difference.value == pytest.approx(
        (found.matrix.overall_accuracy or 0) - (other.matrix.overall_accuracy or 0)
    )
    assert covers(difference.difference, 0.10)
    with pytest.raises(LabelError, match="the units of a sample are points"):
        das2f_map.evaluate(path, frame, design="simple")


def test_candidates_give_no_areas(world: tuple[Path, Array, Path], tmp_path: Path) -> None:
    path, truth, _ = world
    random = np.random.default_rng(0).random(truth.shape).astype(np.float32)
    confidence = tmp_path / "confidence.tif"
    write_map(
        tmp_path / "again.tif",
        np.where(truth > 0, truth, 0).astype(np.uint8),
        grid=grid_of(truth),
        legend=Legend.from_names(["forest", "field", "water"]),
        confidence_path=confidence,
        confidence=random,
    )
    sample = das2f_map.sample(path, uncertainty=confidence, points=50)
    frame = labelled(sample.points, truth)
    found = das2f_map.evaluate(path, frame)
    assert found.estimates is None
    assert "least sure" in found.notices()[0]
    for design in ("simple", "stratified"):
        with pytest.raises(LabelError, match="no probability sample"):
            das2f_map.evaluate(path, frame, design=design)


def test_empty_strata_and_classes_of_the_reference_alone_are_told(world: tuple[Path, Array, Path]) -> None:
    path, truth, _ = world
    frame = labelled(das2f_map.sample(path, points=200).points, truth)
    frame.loc[frame["stratum"] == 3, "class"] = None
    frame.loc[frame.index[frame["stratum"] != 3][:3], "class"] = "road"
    found = das2f_map.evaluate(path, frame)
    assert found.estimates is not None
    notes = " ".join(found.notices())
    assert "No point with a class lies in water" in notes
    assert "figures are of the rest" in notes
    road = found.estimates.classes[-1]
    assert (road.name, road.id, road.mapped_pixels) == ("road", None, 0)
    assert road.users_accuracy.value is None
    assert (road.area_m2.value or 0) > 0
    assert found.only_in_reference == {"road": int((frame["class"] == "road").sum())}


def test_clusters_from_elsewhere(world: tuple[Path, Array, Path]) -> None:
    path, truth, _ = world
    sample = das2f_map.sample(path, **DESIGNS[3])
    frame = gpd.GeoDataFrame(labelled(sample.points, truth)[["class", "geometry"]])
    frame.attrs.clear()
    frame["plot"] = [f"p{k}" for k in sample.points["cluster"]]
    found = das2f_map.evaluate(path, frame, design="cluster", cluster_field="plot").estimates
    ours = das2f_map.evaluate(path, labelled(sample.points, truth)).estimates
    assert found is not None
    assert ours is not None
    # Blocks at the map's edge are whole, and none is drawn surely: both weights are the same.
    assert found.overall_accuracy.value == pytest.approx(ours.overall_accuracy.value, abs=1e-6)


def test_arguments_that_do_not_fit(world: tuple[Path, Array, Path]) -> None:
    path, truth, _ = world
    frame = labelled(das2f_map.sample(path, points=50).points, truth)
    with pytest.raises(InputError, match="Strata belong to a stratified design"):
        das2f_map.evaluate(path, frame, strata=path)
    with pytest.raises(InputError, match="go together"):
        das2f_map.evaluate(path, frame, design="cluster")
    with pytest.raises(InputError, match="design 'random'"):
        das2f_map.evaluate(path, frame, design="random")
    with pytest.raises(LabelError, match="has a class yet"):
        das2f_map.evaluate(path, frame.assign(**{"class": None}))
    with pytest.raises(LabelError, match="stratum 77, which its design does not have"):
        das2f_map.evaluate(path, frame.assign(stratum=77))
    with pytest.raises(LabelError, match="estimates need 2"):
        das2f_map.evaluate(path, frame.assign(**{"class": ["forest", *[None] * (len(frame) - 1)]}))


def test_tables_are_called_so_and_not_by_a_file_that_nobody_knows(
    world: tuple[Path, Array, Path],
) -> None:
    path, truth, _ = world
    frame = labelled(das2f_map.sample(path, points=200).points, truth)
    with pytest.raises(LabelError, match="no point of the GeoDataFrame has a class yet"):
        das2f_map.evaluate(path, frame.assign(**{"class": None}))
    x, y = frame.geometry.x, frame.geometry.y
    halves = [shapely.box(x.min() - 50, y.min() - 50, x.mean(), y.max() + 50)]
    halves.append(shapely.box(x.mean(), y.min() - 50, x.max() + 50, y.max() + 50))
    strata = gpd.GeoDataFrame({"class": ["west", "east"]}, geometry=halves, crs=frame.crs)
    found = das2f_map.evaluate(path, frame, design="stratified", strata=strata).estimates
    assert found is not None
    assert found.design == "stratified by the GeoDataFrame of strata"


def test_points_that_were_copied_are_told(world: tuple[Path, Array, Path]) -> None:
    path, truth, _ = world
    frame = labelled(das2f_map.sample(path, points=100).points, truth)
    assert not any("another point" in note for note in das2f_map.evaluate(path, frame).notices())
    doubled = frame.iloc[[*range(len(frame)), 3, 4]]
    found = das2f_map.evaluate(path, doubled)
    assert any("2 points lie in a pixel with another point" in note for note in found.notices())


def test_points_whose_design_an_export_left_behind_are_told(
    world: tuple[Path, Array, Path], tmp_path: Path
) -> None:
    path, truth, _ = world
    frame = labelled(das2f_map.sample(path, points=100).points, truth)
    frame.to_file(tmp_path / "exported.geojson", driver="GeoJSON")
    found = das2f_map.evaluate(path, tmp_path / "exported.geojson")
    assert found.estimates is None
    assert any("lacks its design" in note and "--design" in note for note in found.notices())
    known = frame[["class", "geometry"]]
    known.attrs = {}
    assert not any("lacks its design" in note for note in das2f_map.evaluate(path, known).notices())


def test_report_of_a_census_prints_no_interval_without_a_width(tmp_path: Path) -> None:
    classes = np.tile(np.array([1, 2], np.uint8), (6, 4))
    path = map_of(tmp_path, classes, Legend.from_names(["forest", "field"]))
    truth = np.where(np.arange(48).reshape(6, 8) == 5, 1, classes)
    frame = labelled(das2f_map.sample(path, points=100).points, truth)
    found = das2f_map.evaluate(path, frame)
    page = das2f_map.report(path, evaluation=found)._repr_html_()
    assert "<small>exact</small>" in page
    for text in (page, found._repr_html_()):
        ends = re.findall(r"([\d.]+) ?(?:–|to) ?([\d.]+)", text)
        assert not [pair for pair in ends if float(pair[0]) == float(pair[1])]
