"""Polygons of maps that exist, against GDAL's and against those of the map's own run."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
from geopandas.testing import assert_geodataframe_equal
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes, write_map

import das2f_map
from das2f_map.errors import InputError, OutputError
from das2f_map.products.polygons import write_polygons

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
