"""Polygons of maps that exist, against GDAL's and against those of the map's own run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes, write_map

import das2f_map
from das2f_map.errors import InputError, OutputError
from das2f_map.products.polygons import write_polygons
from das2f_map.scene.grid import Grid

CLASSES = patchy_classes(97, 130, AWKWARD_LEGEND.ids[:-1], seed=1)


def layers(path: Path) -> dict[str, geopandas.GeoDataFrame]:
    names = [n for n, kind in pyogrio.list_layers(path) if kind is not None]
    return {name: geopandas.read_file(path, layer=name) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("min_area", [None, 5000.0])
def test_as_in_the_run_of_the_map(tmp_path: Path, min_area: float | None) -> None:
    sure = tmp_path / "c.tif"
    raster = write_map(tmp_path / "m.tif", CLASSES, confidence_path=sure, confidence=confidence_of(CLASSES))
    write_polygons(
        raster, tmp_path / "own.gpkg", AWKWARD_LEGEND, confidence_raster=sure, min_area_m2=min_area
    )
    made = das2f_map.vectorize(raster, tmp_path / "m.gpkg", confidence=sure, min_area_m2=min_area)
    own, found = layers(tmp_path / "own.gpkg"), layers(tmp_path / "m.gpkg")
    assert [*own] == [*found]
    for name in own:
        assert_geodataframe_equal(own[name], found[name])
    assert sum(c.polygons for c in made.classes.values()) == sum(len(f) for f in own.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("c.tif", "m.gpkg", "m.tif", "m.tif.aux.xml", "own.gpkg"),
    ]


def test_foreign_raster_with_large_codes_and_its_own_nodata(tmp_path: Path) -> None:
    codes = np.choose(CLASSES % 3, [112, 311, -9]).astype(np.int16)
    with rasterio.open(
        tmp_path / "m.tif",
        "w",
        driver="GTiff",
        height=97,
        width=130,
        count=1,
        dtype="int16",
        nodata=-9,
        crs=UTM.crs,
        transform=UTM.transform,
    ) as out:
        out.write(codes, 1)
    made = das2f_map.vectorize(tmp_path / "m.tif", tmp_path / "m.fgb")
    assert made.legend.names == ("class 112", "class 311")
    found = geopandas.read_file(tmp_path / "m.fgb")
    for code, i in ((112, 1), (311, 2)):
        shapes = found[found["class_id"] == i]
        drawn = rasterio.features.rasterize(shapes.geometry, codes.shape, transform=UTM.transform)
        np.testing.assert_array_equal(drawn == 1, codes == code)
        assert set(shapes["class_name"]) == {f"class {code}"}
    assert found["confidence"].isna().all()


def test_refuses_before_it_writes(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "m.tif", CLASSES)
    other = write_map(tmp_path / "o.tif", CLASSES[:50])
    empty = write_map(tmp_path / "e.tif", np.zeros_like(CLASSES))
    with pytest.raises(OutputError, match="unknown vector format"):
        das2f_map.vectorize(raster, tmp_path / "m.kml")
    with pytest.raises(InputError, match="not on the grid"):
        das2f_map.vectorize(raster, tmp_path / "m.gpkg", confidence=other)
    with pytest.raises(InputError, match="no pixel with a class"):
        das2f_map.vectorize(empty, tmp_path / "m.gpkg")
    with pytest.raises(InputError, match="smallest area"):
        das2f_map.vectorize(raster, tmp_path / "m.gpkg", min_area_m2=-1)
    assert not (tmp_path / "m.gpkg").exists()
    das2f_map.vectorize(raster, tmp_path / "m.gpkg")
    with pytest.raises(OutputError, match="exists already"):
        das2f_map.vectorize(raster, tmp_path / "m.gpkg")
    das2f_map.vectorize(raster, tmp_path / "m.gpkg", overwrite=True)


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as src:
        return np.asarray(src.read(1))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_merged_regions_and_a_raster_that_agrees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raster = write_map(tmp_path / "m.tif", CLASSES, unsure=9)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    das2f_map.vectorize(raster, tmp_path / "p.fgb", min_area_m2=10_000.0)
    (said,) = warned(caplog)
    assert said.startswith(f"small regions are merged in {tmp_path}/p.fgb alone, {raster} keeps them")
    caplog.clear()
    made = das2f_map.vectorize(
        raster, tmp_path / "p.fgb", min_area_m2=10_000.0, raster=tmp_path / "merged.tif", overwrite=True
    )
    assert warned(caplog) == []
    assert made.raster == tmp_path / "merged.tif"
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    merged, found = pixels(tmp_path / "merged.tif"), geopandas.read_file(tmp_path / "p.fgb")
    burnt = rasterio.features.rasterize(
        zip(found.geometry, found["class_id"], strict=True), CLASSES.shape, transform=UTM.transform
    )
    np.testing.assert_array_equal(burnt, merged)
    assert (merged != CLASSES).any()
    assert ((merged > 0) == (CLASSES > 0)).all()
    with rasterio.open(tmp_path / "merged.tif") as src, rasterio.open(raster) as old:
        assert src.colormap(1) == old.colormap(1)
        assert src.tags() == old.tags()
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert (tmp_path / "merged.qml").is_file()
    with pytest.raises(OutputError, match="is also an input"):
        das2f_map.vectorize(raster, tmp_path / "q.fgb", raster=raster, overwrite=True)
    with pytest.raises(OutputError, match="is not a GeoTIFF"):
        das2f_map.vectorize(raster, tmp_path / "q.fgb", raster=tmp_path / "q.png")
    assert not (tmp_path / "q.fgb").exists()


def test_polygons_of_a_map_are_made_again_with_its_report(tmp_path: Path) -> None:
    write_map(tmp_path / "a.tif", CLASSES[:20, :40])
    below = Grid(20, 40, UTM.transform * Affine.translation(0, 20), UTM.crs)
    write_map(tmp_path / "b.tif", CLASSES[20:40, :40], grid=below)
    m, polygons = tmp_path / "m.tif", tmp_path / "p.fgb"
    maps = [tmp_path / "a.tif", tmp_path / "b.tif"]
    before = das2f_map.mosaic(maps, m, vectors=polygons).model_dump(mode="json")

    def told() -> dict[str, Any]:
        return json.loads((tmp_path / "m.json").read_text())

    das2f_map.vectorize(m, tmp_path / "other.fgb", min_area_m2=10_000.0)
    assert told() == before, "other polygons are not the map's"
    made = das2f_map.vectorize(m, polygons, min_area_m2=10_000.0, simplify_m=60.0, overwrite=True)
    after = told()
    assert {key for key in before if before[key] != after[key]} == {"classes", "checksums", "warnings"}
    assert after["checksums"]["vectors"] == hashlib.sha256(polygons.read_bytes()).hexdigest()
    assert after["checksums"]["raster"] == before["checksums"]["raster"]
    for old, c in zip(before["classes"], after["classes"], strict=True):
        own = made.classes[c["id"]]
        assert (c["polygons"], c["polygon_area_m2"]) == (own.polygons, own.drawn_m2)
        assert (c["pixels"], c["area_m2"]) == (old["pixels"], old["area_m2"])
    assert after["warnings"][-1] == (
        "the polygons were made again from the raster, "
        "with --min-area 10000 and --simplify 60; the raster keeps its small regions"
    )
    # Where they were removed, no option is needed to replace the report.
    for path in (polygons, polygons.with_suffix(".qml")):
        path.unlink()
    das2f_map.vectorize(m, polygons)
    assert told() == before | {"checksums": told()["checksums"]}
    assert told()["checksums"]["vectors"] == hashlib.sha256(polygons.read_bytes()).hexdigest()
