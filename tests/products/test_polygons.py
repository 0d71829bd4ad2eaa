"""Polygons of a map against GDAL's, in every format."""

from __future__ import annotations

import builtins
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import rasterio
import rasterio.features
import shapely
from maps import AWKWARD_LEGEND, GEOGRAPHIC, ROTATED, UTM, confidence_of, patchy_classes, write_map
from rasterio.crs import CRS

from das2f_map.errors import InputError, MissingDependencyError, OutputError
from das2f_map.legend import Legend, LegendClass
from das2f_map.products.polygons import check_vector_path, layer_names, write_polygons
from das2f_map.scene.grid import Grid

CLASSES = patchy_classes(97, 130, AWKWARD_LEGEND.ids[:-1], seed=1)
CONFIDENCE = confidence_of(CLASSES)
GRIDS = {"utm": UTM, "geographic": GEOGRAPHIC, "rotated": ROTATED}
NAMES = ["Wald", "Wald 2", "Straße / Weg", "_Gewässer_ & <Ufer>", "wald (9)"]


@pytest.fixture(scope="module", params=GRIDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("polygons")
    grid = GRIDS[request.param]
    raster, sure = folder / "m.tif", folder / "c.tif"
    write_map(raster, CLASSES, grid=grid, confidence_path=sure, confidence=CONFIDENCE)
    totals = write_polygons(raster, folder / "m.gpkg", AWKWARD_LEGEND, confidence_raster=sure)
    return grid, folder / "m.gpkg", totals


def read_all(path: Path) -> geopandas.GeoDataFrame:
    layers = [n for n, kind in pyogrio.list_layers(path) if kind is not None]
    return pd.concat([geopandas.read_file(path, layer=n).assign(layer=n) for n in layers], ignore_index=True)


def geodesic_area(polygon: shapely.Polygon, crs: Any, step: float) -> float:
    """Area inside geodesics between closely set vertices, without the holes."""
    crs = pyproj.CRS.from_user_input(crs)
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)

    def ring(r: shapely.LinearRing) -> float:
        x, y = shapely.get_coordinates(shapely.segmentize(r, step)).T
        return abs(crs.get_geod().polygon_area_perimeter(*to_degrees.transform(x, y))[0])

    return ring(polygon.exterior) - sum(ring(r) for r in polygon.interiors)


def test_a_layer_for_each_class_in_the_crs_of_the_raster(made: Any) -> None:
    grid, path, _ = made
    layers = pyogrio.list_layers(path)
    assert [n for n, kind in layers if kind is not None] == NAMES
    for c, name in zip(AWKWARD_LEGEND.each(), NAMES, strict=True):
        info = pyogrio.read_info(path, layer=name)
        assert info["geometry_type"] == "Polygon"
        assert info["crs"] == f"EPSG:{grid.crs.to_epsg()}"
        assert list(info["fields"]) == ["class_id", "class_name", "area_m2", "confidence"]
        features = geopandas.read_file(path, layer=name)
        assert set(features["class_id"]) <= {c.id}
        assert set(features["class_name"]) <= {c.name}


def test_polygons_tile_the_classified_area_exactly(made: Any) -> None:
    grid, path, _ = made
    found = read_all(path)
    assert found.geometry.is_valid.all()
    # Valid as a coverage: no overlaps, and touching edges agree vertex by vertex.
    assert shapely.coverage_is_valid(found.geometry.to_numpy())
    ids = rasterio.features.rasterize(
        zip(found.geometry, found["class_id"], strict=True),
        out_shape=CLASSES.shape,
        transform=grid.transform,
        dtype="uint8",
    )
    np.testing.assert_array_equal(ids, CLASSES)
    step_y, step_x = grid.pixel_size
    assert found.area.sum() == pytest.approx((CLASSES != 0).sum() * step_y * step_x, rel=1e-12)


def test_one_polygon_for_each_region(made: Any) -> None:
    grid, path, totals = made
    found = read_all(path)
    shapes = rasterio.features.shapes(CLASSES, mask=CLASSES != 0, connectivity=4, transform=grid.transform)
    expected = pd.Series([int(v) for _, v in shapes]).value_counts()
    assert found["class_id"].value_counts().to_dict() == expected.to_dict()
    assert {i: t.polygons for i, t in totals.items()} == {
        i: int(expected.get(i, 0)) for i in AWKWARD_LEGEND.ids
    }


def test_area_is_measured_on_the_ellipsoid(made: Any) -> None:
    grid, path, totals = made
    found = read_all(path)
    holed = found[shapely.get_num_interior_rings(found.geometry) > 0]
    assert len(holed) > 5
    step = min(grid.pixel_size) / 8
    for _, f in pd.concat([holed.head(6), found.nlargest(4, "area_m2"), found.head(6)]).iterrows():
        assert f["area_m2"] == pytest.approx(geodesic_area(f.geometry, grid.crs, step), rel=1e-5)
    for i, total in totals.items():
        assert total.area_m2 == pytest.approx(found.loc[found["class_id"] == i, "area_m2"].sum(), rel=1e-12)


def test_confidence_is_the_mean_over_the_polygon(made: Any) -> None:
    grid, path, totals = made
    found = read_all(path)
    labels = rasterio.features.rasterize(
        [(g, i + 1) for i, g in enumerate(found.geometry)],
        out_shape=CLASSES.shape,
        transform=grid.transform,
        dtype="int32",
    )
    counts = np.bincount(labels.ravel())[1:]
    means = np.bincount(labels.ravel(), np.nan_to_num(CONFIDENCE).ravel())[1:] / counts
    np.testing.assert_allclose(found["confidence"], means, rtol=1e-9)
    for i, total in totals.items():
        mine = i == CLASSES
        assert total.pixels == mine.sum()
        if mine.any():
            assert total.mean_confidence == pytest.approx(CONFIDENCE[mine].mean(dtype=float), rel=1e-9)


@pytest.mark.slow
def test_result_does_not_depend_on_the_strips(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "m.tif", CLASSES, confidence_path=tmp_path / "c.tif", confidence=CONFIDENCE)
    results = []
    for rows in (1, 13, 97):
        path = tmp_path / f"{rows}.gpkg"
        totals = write_polygons(
            raster, path, AWKWARD_LEGEND, confidence_raster=tmp_path / "c.tif", strip_rows=rows
        )
        found = read_all(path)
        results.append((totals, found))
    for totals, found in results[1:]:
        assert [g.wkb for g in found.geometry] == [g.wkb for g in results[0][1].geometry]
        np.testing.assert_allclose(found["area_m2"], results[0][1]["area_m2"], rtol=1e-10)
        np.testing.assert_allclose(found["confidence"], results[0][1]["confidence"], rtol=1e-9)
        assert {i: t.pixels for i, t in totals.items()} == {i: t.pixels for i, t in results[0][0].items()}


def test_min_area_merges_into_neighbours_and_still_tiles(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "m.tif", CLASSES)
    path = tmp_path / "m.gpkg"
    before = raster.read_bytes()
    totals = write_polygons(raster, path, AWKWARD_LEGEND, min_area_m2=10 * 900, strip_rows=13)
    found = read_all(path)
    assert shapely.coverage_is_valid(found.geometry.to_numpy())
    assert sum(t.pixels for t in totals.values()) == (CLASSES != 0).sum()
    assert found.area.sum() == (CLASSES != 0).sum() * 900
    assert raster.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gpkg", "m.tif", "m.tif.aux.xml"]
    # A polygon that is still smaller has no neighbour that is large enough.
    small = found[found.area < 10 * 900 - 1]
    large = found[found.area >= 10 * 900 - 1]
    assert len(small) < len(large)
    for polygon in small.geometry:
        shared = large.geometry.intersection(polygon).length
        assert (shared == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".shp", ".geojson", ".fgb"])
@pytest.mark.parametrize(
    "name", ["utm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("geographic", "rotated"))]
)
def test_single_layer_formats_hold_the_same(tmp_path: Path, suffix: str, name: str) -> None:
    grid = GRIDS[name]
    raster = write_map(
        tmp_path / "m.tif", CLASSES, grid=grid, confidence_path=tmp_path / "c.tif", confidence=CONFIDENCE
    )
    truth_totals = write_polygons(
        raster, tmp_path / "m.gpkg", AWKWARD_LEGEND, confidence_raster=tmp_path / "c.tif"
    )
    path = tmp_path / f"m{suffix}"
    totals = write_polygons(raster, path, AWKWARD_LEGEND, confidence_raster=tmp_path / "c.tif")
    assert totals == truth_totals
    found, truth = geopandas.read_file(path), read_all(tmp_path / "m.gpkg")
    assert found.crs == truth.crs
    assert pyogrio.list_layers(path)[:, 1].tolist() == ["Polygon"]
    fields = ["class_id", "class_name", "area_m2", "confidence"]
    assert [c for c in found.columns if c != "geometry"] == fields
    key = ["minx", "maxy", "class_id", "area_m2"]

    def ordered(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
        return frame.join(frame.bounds.round(6)).sort_values(key).reset_index(drop=True)

    found, truth = ordered(found), ordered(truth)
    pd.testing.assert_frame_equal(
        pd.DataFrame(found[fields]), pd.DataFrame(truth[fields]), check_dtype=False, rtol=1e-12
    )
    assert shapely.coverage_is_valid(found.geometry.to_numpy())
    assert shapely.equals_exact(
        shapely.normalize(found.geometry), shapely.normalize(truth.geometry), 1e-9
    ).all()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_shapefile_keeps_umlauts_and_geojson_names_its_crs(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "m.tif", CLASSES[:20, :20])
    write_polygons(raster, tmp_path / "m.shp", AWKWARD_LEGEND)
    assert (tmp_path / "m.cpg").read_text().strip() == "UTF-8"
    write_polygons(raster, tmp_path / "m.geojson", AWKWARD_LEGEND)
    document = json.loads((tmp_path / "m.geojson").read_text(encoding="utf-8"))
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    x, y = document["features"][0]["geometry"]["coordinates"][0][0]
    assert 500_000 <= x <= 500_600
    assert 5_599_400 <= y <= 5_600_000


def test_geoparquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="GeoParquet needs the extra `parquet`")
    raster = write_map(tmp_path / "m.tif", CLASSES, confidence_path=tmp_path / "c.tif", confidence=CONFIDENCE)
    write_polygons(raster, tmp_path / "m.parquet", AWKWARD_LEGEND, confidence_raster=tmp_path / "c.tif")
    write_polygons(raster, tmp_path / "m.gpkg", AWKWARD_LEGEND, confidence_raster=tmp_path / "c.tif")
    found, truth = geopandas.read_parquet(tmp_path / "m.parquet"), read_all(tmp_path / "m.gpkg")
    assert found.crs == truth.crs
    assert found["area_m2"].sum() == pytest.approx(truth["area_m2"].sum(), rel=1e-12)
    assert {g.wkb for g in found.geometry} == {g.wkb for g in truth.geometry}


def test_geoparquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError) as caught:
        check_vector_path(tmp_path / "m.parquet")
    assert re.fullmatch(r"pip install '.*\[parquet\].*'", caught.value.hint or "")


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "m.tif", CLASSES[:5, :5])
    with pytest.raises(OutputError, match=r"unknown vector format '\.kmz'") as caught:
        write_polygons(raster, tmp_path / "m.kmz", AWKWARD_LEGEND)
    assert ".gpkg (GPKG)" in (caught.value.hint or "")
    with pytest.raises(OutputError, match="without extension"):
        write_polygons(raster, tmp_path / "m", AWKWARD_LEGEND)
    with pytest.raises(OutputError, match=r"cannot write m\.gpkg"):
        write_polygons(raster, tmp_path / "no" / "m.gpkg", AWKWARD_LEGEND)
    nameless = CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=10.5 +ellps=GRS80 +units=m +no_defs")
    with pytest.raises(OutputError, match="GeoJSON can only name a CRS by its EPSG code"):
        check_vector_path(tmp_path / "m.geojson", nameless)


def test_values_outside_the_legend_leave_nothing(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "m.tif", np.full((5, 5), 9, dtype=np.uint8))
    before = set(tmp_path.iterdir())
    for suffix in (".gpkg", ".shp", ".fgb"):
        with pytest.raises(InputError, match="does not know: 9"):
            write_polygons(raster, tmp_path / f"v{suffix}", Legend.from_names(["a"]))
        assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "names",
    [
        [">60 % canopy", "<10 % canopy", "(water)", "-", ".", " x", "a/b", "a\\b", "x:y?", "'q'", "#1", "@"],
        ["x (3)", "x", "X", "X (3)", "x (2)"],
        ["fid", "geom", "rtree_a_geom", "a", "sqlite_sequence", "layer_styles", "😀", "a" * 300, "A" * 300],
    ],
)
def test_every_legend_can_be_written(names: list[str], tmp_path: Path) -> None:
    """A layer for each class, readable by GDAL, and the class's own name in the field."""
    legend = Legend(
        classes=tuple(LegendClass(id=i, name=n, color="#000000") for i, n in enumerate(names, start=1))
    )
    classes = np.repeat(np.arange(1, len(names) + 1, dtype=np.uint8)[None], 4, axis=0)
    write_map(tmp_path / "m.tif", classes, grid=UTM, legend=legend)
    write_polygons(tmp_path / "m.tif", tmp_path / "m.gpkg", legend)
    found = read_all(tmp_path / "m.gpkg")
    assert found.layer.nunique() == len(names)
    assert dict(zip(found.class_id, found.class_name, strict=True)) == dict(enumerate(names, start=1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h.SHP", "lower case"),
        ("x!y.gpkg", "characters"),
        ("a!/y.fgb", "characters"),
        ("a;b/y.gpkg", "characters"),
        ("a\nb.shp", "characters"),
        ("caf\udce9.gpkg", "characters"),
        ("a" * 230 + ".gpkg", "too long"),
    ],
)
def test_paths_that_cannot_be_written_are_refused_first(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        check_vector_path(tmp_path / name)
    assert "\n" not in caught.value.message


def test_layer_names_are_safe_and_unique() -> None:
    names = ["Layer_Styles", "a|b", "a_b", "gpkg_contents", "Äcker", "äcker", "  ", 'say "x"', "rtree_a"]
    legend = Legend(
        classes=tuple(LegendClass(id=i, name=n, color="#000000") for i, n in enumerate(names, start=1))
    )
    found = list(layer_names(legend).values())
    assert found == [
        "Layer_Styles (1)",
        "a_b",
        "a_b (3)",
        "class_gpkg_contents",
        "Äcker",
        "äcker (6)",
        "class_7",
        "say _x_",
        "class_rtree_a",
    ]


def test_geopackage_is_sound_and_registers_its_styles(made: Any) -> None:
    _, path, _ = made
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    contents = dict(database.execute("SELECT table_name, data_type FROM gpkg_contents"))
    assert contents == {**dict.fromkeys(NAMES, "features"), "layer_styles": "attributes"}
    styles = database.execute(
        "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML, styleSLD FROM layer_styles"
    ).fetchall()
    columns = dict(database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns"))
    assert [(name, column, default) for name, column, default, _, _ in styles] == [
        (name, columns[name], 1) for name in NAMES
    ]
    for c, (*_, qml, sld) in zip(AWKWARD_LEGEND.each(), styles, strict=True):
        assert ",".join(map(str, c.rgb)) in qml
        assert c.color in sld
    database.close()


def test_grid_with_rows_from_south_to_north(tmp_path: Path) -> None:
    upward = Grid(97, 130, UTM.transform * UTM.transform.scale(1, -1), UTM.crs)
    raster = write_map(tmp_path / "m.tif", CLASSES, grid=upward)
    write_polygons(raster, tmp_path / "m.gpkg", AWKWARD_LEGEND)
    found = read_all(tmp_path / "m.gpkg")
    assert found.geometry.is_valid.all()
    assert shapely.is_ccw(shapely.get_exterior_ring(found.geometry.to_numpy())).all()
    assert found.area.sum() == (CLASSES != 0).sum() * 900
