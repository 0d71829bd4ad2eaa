"""Samples as files: their design, their points on the map, their size; candidates where the map is unsure."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from maps import AWKWARD_LEGEND, GEOGRAPHIC, ROTATED, UTM, patchy_classes, write_map

import das2f_map
from das2f_map.assess.sample_design import read_design
from das2f_map.errors import InputError, OutputError
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.scene.grid import Grid
from das2f_map.workflows.sample import sample_map

CLASSES = patchy_classes(97, 130, AWKWARD_LEGEND.ids[:-1], seed=2)
COUNTS = np.bincount(CLASSES.ravel(), minlength=256)


@pytest.fixture
def class_map(tmp_path: Path) -> Path:
    return write_map(tmp_path / "map.tif", CLASSES)


def at_points(path: Path, frame: gpd.GeoDataFrame) -> list[int]:
    """Values of a raster at points, as GDAL finds them."""
    with rasterio.open(path) as file:
        places = zip(frame.geometry.x, frame.geometry.y, strict=True)
        return [int(v[0]) for v in file.sample(places)]


@pytest.mark.parametrize("grid", [UTM, GEOGRAPHIC, ROTATED])
def test_points_lie_on_their_stratum_and_the_file_has_the_design(tmp_path: Path, grid: Grid) -> None:
    path = write_map(tmp_path / "map.tif", CLASSES, grid=grid)
    found = sample_map(path, tmp_path / "p.gpkg", points=200, allocation="equal", seed=3)
    frame = gpd.read_file(tmp_path / "p.gpkg", layer="sample", engine="pyogrio")
    assert at_points(path, frame) == frame["stratum"].tolist()
    assert np.bincount(frame["stratum"], minlength=10)[[1, 2, 3, 5]].tolist() == [50] * 4
    assert frame["stratum_pixels"].tolist() == COUNTS[frame["stratum"]].tolist()
    assert frame["inclusion"].to_numpy() == pytest.approx(50 / COUNTS[frame["stratum"]])
    assert frame["sample_id"].tolist() == list(range(1, 201))
    assert frame["class"].isna().all()
    assert frame["cluster"].isna().all()
    # The order tells nothing of the stratum: equal neighbours are as frequent as by chance.
    same = (np.diff(frame["stratum"]) == 0).mean()
    assert abs(same - 0.25) < 0.12
    design = read_design(tmp_path / "p.gpkg")
    assert design == found.design
    assert design is not None
    assert [(s.id, s.pixels, s.sampled) for s in design.strata] == [
        (i, int(COUNTS[i]), 50) for i in (1, 2, 3, 5)
    ]
    assert design.pixel_area_m2 is not None
    assert sum(s.area_m2 for s in design.strata) == pytest.approx(
        design.pixel_area_m2 * design.population_pixels
    )
    assert found.points.geometry.geom_equals_exact(frame.geometry, 1e-6).all()


def test_seed_repeats_and_json_and_notebook(class_map: Path, tmp_path: Path) -> None:
    one, two, other = (das2f_map.sample(class_map, points=50, seed=s) for s in (1, 1, 2))
    assert one.points.geometry.equals(two.points.geometry)
    assert not one.points.geometry.equals(other.points.geometry)
    assert one.path is None
    record = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert (record["points"], record["design"], record["is_probability_sample"]) == (50, "stratified", True)
    assert "Straße / Weg" in one.to_html()
    assert [row[3] for row in one.table()][-1] == "50"


def test_squares_are_the_pixels(class_map: Path) -> None:
    found = das2f_map.sample(class_map, design="simple", points=30, squares=True)
    assert found.points.geometry.area.to_numpy() == pytest.approx(900)
    x = found.points.bounds["minx"].to_numpy()
    assert (x - 500_000) % 30 == pytest.approx(0)
    assert found.points["inclusion"].to_numpy() == pytest.approx(30 / COUNTS[1:].sum())


def test_clusters(class_map: Path, tmp_path: Path) -> None:
    found = sample_map(
        class_map, tmp_path / "c.gpkg", design="cluster", points=60, block_size=10, per_block=4
    )
    frame = gpd.read_file(tmp_path / "c.gpkg", layer="sample", engine="pyogrio")
    assert frame.groupby("cluster").size().tolist() == [4] * 15
    clusters = found.design.clusters
    assert clusters is not None
    rows = (5_600_000 - frame.geometry.y) // 30
    cols = (frame.geometry.x - 500_000) // 30
    assert (rows // 10 * 13 + cols // 10).astype(int).tolist() == frame["cluster"].tolist()
    known = {b.id: b for b in clusters.drawn}
    for block_id, block in known.items():
        row, col = divmod(block_id, 13)
        assert block.pixels == (CLASSES[row * 10 : row * 10 + 10, col * 10 : col * 10 + 10] > 0).sum()
    assert "Only 15 blocks" in " ".join(found.notices)


def test_precision_decides_the_size(class_map: Path) -> None:
    wide, narrow = (das2f_map.sample(class_map, precision=p, expected=0.9) for p in (0.06, 0.03))
    assert len(narrow.points) > 3 * len(wide.points)
    assert "half-width 0.06" in " ".join(wide.steps)
    sure = das2f_map.sample(class_map, precision=0.06, expected={"": 0.9, "Wald": 0.99})
    assert len(sure.points) < len(wide.points)
    # Half-width of a simple random sample: 1.96 √(0.9 · 0.1 / n).
    simple = das2f_map.sample(class_map, precision=0.03, expected=0.9, design="simple")
    assert len(simple.points) == pytest.approx(0.09 / (0.03 / 1.96) ** 2, rel=0.05)


def test_points_keep_their_distance(class_map: Path) -> None:
    found = das2f_map.sample(class_map, points=40, min_distance=300)
    gaps = [found.points.geometry.distance(p).sort_values().iloc[1] for p in found.points.geometry]
    assert min(gaps) > 299
    assert any("minimum distance" in n for n in found.notices)
    assert not found.design.inclusion_is_exact


def test_rejected_pixels_are_a_stratum_that_nobody_chooses(tmp_path: Path) -> None:
    legend, unsure = AWKWARD_LEGEND.with_unsure()
    values = np.where(np.arange(130) < 20, np.uint8(unsure), CLASSES)
    with_unsure = tmp_path / "rejected.tif"
    grid = Grid(97, 130, UTM.transform, UTM.crs)
    with ClassRasterWriter(with_unsure, grid, legend, unsure=unsure, tags={}) as out:
        out.write(grid.window, values, None)
    found = sample_map(with_unsure, tmp_path / "p.gpkg", points=100)
    last = found.design.strata[-1]
    assert (last.id, last.name, last.pixels) == (unsure, "unsure", 97 * 20)
    assert last.sampled > 10
    assert (found.points["stratum"] == unsure).sum() == last.sampled


@pytest.mark.parametrize("kind", ["confidence", "entropy", "probabilities"])
def test_candidates_are_unsure_and_spread(class_map: Path, tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    doubt = random.random((97, 130)).astype(np.float32)
    doubt[CLASSES == 0] = np.nan
    bands = {
        "confidence": (1 - doubt)[None],
        "entropy": doubt[None],
        "probabilities": np.stack([1 - doubt / 2, doubt / 2, np.where(np.isnan(doubt), np.nan, 0)]),
    }[kind]
    path = tmp_path / "values.tif"
    profile = {"transform": UTM.transform, "crs": UTM.crs, "dtype": "float32", "nodata": np.nan}
    with rasterio.open(path, "w", driver="GTiff", height=97, width=130, count=len(bands), **profile) as file:
        file.write(bands)
        file.set_band_description(1, "entropy of them" if kind == "entropy" else "first")
    found = sample_map(class_map, tmp_path / "u.gpkg", points=40, uncertainty=path)
    assert found.design.measure == {"probabilities": "margin"}.get(kind, kind)
    assert not found.design.is_probability_sample
    frame = gpd.read_file(tmp_path / "u.gpkg", layer="sample", engine="pyogrio")
    assert frame["inclusion"].isna().all()
    assert np.bincount(frame["stratum"])[[1, 2, 3, 5]].tolist() == [10] * 4
    rows = ((5_600_000 - frame.geometry.y) // 30).astype(int)
    cols = ((frame.geometry.x - 500_000) // 30).astype(int)
    chosen = doubt[rows, cols]
    assert (CLASSES[rows, cols] == frame["stratum"]).all()
    assert chosen.min() > 0.9
    # Not only a corner: every quarter of the map has some.
    assert len({(r // 49, c // 65) for r, c in zip(rows, cols, strict=True)}) == 4
    assert "no probability sample" in found.to_html()


def test_what_cannot_be_drawn_is_refused(class_map: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a GeoPackage"):
        sample_map(class_map, tmp_path / "p.shp")
    with pytest.raises(InputError, match="cannot both be given"):
        das2f_map.sample(class_map, points=10, precision=0.1)
    with pytest.raises(InputError, match="not known for a cluster design"):
        das2f_map.sample(class_map, design="cluster", precision=0.1)
    with pytest.raises(InputError, match="design 'random': Input should be simple, stratified or cluster"):
        das2f_map.sample(class_map, design="random")
    with pytest.raises(InputError, match="no class 'Forest'"):
        das2f_map.sample(class_map, precision=0.1, expected={"Forest": 0.9})
    with pytest.raises(InputError, match="need the optimal allocation"):
        das2f_map.sample(class_map, target=["Wald"])
    with pytest.raises(InputError, match="not between 0 and 1"):
        das2f_map.sample(class_map, precision=0.1, expected=90)
    shifted = write_map(tmp_path / "other.tif", CLASSES[:50])
    with pytest.raises(InputError, match="does not lie on the map's pixels"):
        das2f_map.sample(class_map, uncertainty=shifted)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".gpkg") == []


def test_optimal_allocation_for_a_rare_class(class_map: Path) -> None:
    overall = das2f_map.sample(class_map, points=300, allocation="optimal", min_per_stratum=5)
    named = das2f_map.sample(
        class_map, points=300, allocation="optimal", target=["Wald 2"], min_per_stratum=5
    )
    assert named.design.stratum(2).sampled > overall.design.stratum(2).sampled
    assert named.design.allocation == "optimal"
