"""A sample's design in its GeoPackage: written, read back, and seen by GDAL as a table."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import pyogrio
import pytest
import shapely

from das2f_map.assess.sample_design import (
    ClusterDesign,
    DrawnBlock,
    SampleDesign,
    Stratum,
    read_design,
    write_design,
)
from das2f_map.errors import LabelError

DESIGN = SampleDesign(
    design="cluster",
    seed=7,
    map_path="land cover.tif",
    map_sha256="00ff",
    strata=(
        Stratum(id=1, name='"Gewässer"', pixels=9_000_000_000, sampled=3, area_m2=8.1e12),
        Stratum(id=255, name="unsure", pixels=5, sampled=0, area_m2=4500.0),
    ),
    population_pixels=9_000_000_005,
    pixel_area_m2=None,
    clusters=ClusterDesign(
        selection="proportional",
        blocks=100,
        size=64,
        drawn=(DrawnBlock(id=4, row=0, col=256, pixels=4000, sampled=3, inclusion=0.25),),
    ),
    software_version="1.2.3",
)


@pytest.fixture
def gpkg(tmp_path: Path) -> Path:
    path = tmp_path / "my points.gpkg"
    frame = gpd.GeoDataFrame({"class": ["a"]}, geometry=[shapely.Point(1, 2)], crs=32631)
    frame.to_file(path, layer="sample", engine="pyogrio")
    return path


def test_what_is_written_is_read_back(gpkg: Path) -> None:
    write_design(gpkg, DESIGN)
    assert read_design(gpkg) == DESIGN
    other = DESIGN.model_copy(update={"clusters": None, "design": "simple", "pixel_area_m2": 900.0})
    write_design(gpkg, other)
    assert read_design(str(gpkg)) == other
    assert len(gpd.read_file(gpkg, layer="sample", engine="pyogrio")) == 1


def test_it_is_metadata_of_the_layer_and_no_layer_itself(gpkg: Path) -> None:
    for _ in range(2):
        write_design(gpkg, DESIGN)
    assert [name for name, _ in pyogrio.list_layers(gpkg)] == ["sample"]
    found = pyogrio.read_info(gpkg, layer="sample")["layer_metadata"] or {}
    texts = [text for text in found.values() if text.startswith("{")]
    assert [json.loads(text)["seed"] for text in texts] == [7]


def test_files_without_a_design(gpkg: Path, tmp_path: Path) -> None:
    before = gpkg.read_bytes()
    assert read_design(gpkg) is None
    assert gpkg.read_bytes() == before
    (tmp_path / "text.gpkg").write_text("no database, but long enough to be taken for one" * 40)
    assert read_design(tmp_path / "text.gpkg") is None
    assert read_design(tmp_path / "none.gpkg") is None
    assert not (tmp_path / "none.gpkg").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE gpkg_metadata SET metadata = replace(metadata, '_version\": 1', '_version\": 2')",
            "format_version",
        ),
        ("UPDATE gpkg_metadata SET metadata = replace(metadata, 'strata', 'layers')", "strata"),
        ("UPDATE gpkg_metadata SET metadata = '{'", "EOF while parsing"),
    ],
)
def test_a_damaged_design_is_an_error_that_names_the_file(gpkg: Path, change: str, message: str) -> None:
    write_design(gpkg, DESIGN)
    with closing(sqlite3.connect(gpkg)) as database, database:
        database.execute(change)
    with pytest.raises(
        LabelError, match=f"my points.gpkg.*{message}" if message != "design" else "my points"
    ):
        read_design(gpkg)


def test_which_designs_give_estimates() -> None:
    assert DESIGN.is_probability_sample
    assert DESIGN.inclusion_is_exact
    assert not DESIGN.model_copy(update={"min_distance": 50.0}).inclusion_is_exact
    assert not DESIGN.model_copy(update={"design": "uncertainty"}).is_probability_sample
    assert DESIGN.sampled == 3
    assert DESIGN.stratum(255).name == "unsure"
    with pytest.raises(KeyError):
        DESIGN.stratum(2)
