"""Vector files as people have them: layers, broken outlines, nulls, encodings, CRSs, damage, GeoParquet."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio.raw
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from das2f_map.errors import Das2fMapError, InputError, LabelError, MissingDependencyError
from das2f_map.labels.labelled_pixels import read_labels
from das2f_map.scene.area import Area
from das2f_map.scene.grid import Grid, GridPair
from das2f_map.scene.mask import MaskFile, open_mask
from das2f_map.scene.vector_path import VectorPath, local_file
from das2f_map.workflows.classify import classify
from das2f_map.workflows.evaluate import evaluate_map
from das2f_map.workflows.train import train

GRID = Grid(40, 50, Affine(10, 0, 500_000, 0, -10, 5_600_000), CRS.from_epsg(32631))
LOCAL = CRS.from_wkt('LOCAL_CS["Site grid",UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]')


def box(row: int, col: int, height: int, width: int) -> shapely.Polygon:
    x0, y0 = GRID.pixel_to_map(row, col)
    x1, y1 = GRID.pixel_to_map(row + height, col + width)
    return shapely.box(x0, y1, x1, y0)


BOXES = [box(0, 0, 10, 10), box(0, 20, 10, 10), box(20, 0, 10, 20)]


def frame(values: list[Any], shapes: list[Any] | None = None, field: str = "class") -> gpd.GeoDataFrame:
    shapes = BOXES[: len(values)] if shapes is None else shapes
    return gpd.GeoDataFrame({field: values}, geometry=shapes, crs=GRID.crs)


def raw_layer(path: Path, wkb: list[bytes | None], values: list[str], layer: str = "a") -> Path:
    """Geometries as they are, valid or not."""
    pyogrio.raw.write(
        str(path),
        np.array(wkb, object),
        [np.array(values, object)],
        np.array(["class"], object),
        geometry_type="Unknown",
        crs="EPSG:32631",
        layer=layer,
        driver="GPKG",
    )
    return path


def ring(*corners: tuple[float, float]) -> bytes:
    """WKB of one ring in row and column, as it is."""
    points = [GRID.pixel_to_map(r, c) if r == r else (np.nan, c) for r, c in corners]
    return struct.pack("<I", len(points)) + b"".join(struct.pack("<dd", *p) for p in points)


def polygon(*rings: bytes) -> bytes:
    return struct.pack("<BII", 1, 3, len(rings)) + b"".join(rings)


def multi(*polygons: bytes) -> bytes:
    return struct.pack("<BII", 1, 6, len(polygons)) + b"".join(polygons)


SQUARE = ring((20, 0), (20, 20), (30, 20), (30, 0), (20, 0))
NAN = ring((2, 2), (2, 8), (np.nan, 8), (8, 2), (2, 2))
BROKEN = {
    "NaN vertex": polygon(NAN),
    "NaN in a hole": polygon(ring((0, 0), (0, 10), (10, 10), (10, 0), (0, 0)), NAN),
    "NaN in a part": multi(polygon(ring((0, 0), (0, 9), (9, 9), (0, 0))), polygon(NAN)),
    "open ring": polygon(ring((2, 2), (2, 8), (8, 8), (8, 2))),
    "two points": polygon(ring((2, 2), (2, 8))),
    "TIN": struct.pack("<BII", 1, 16, 0),
    "no geometry": None,
}


def pixels(path: Path, **how: Any) -> NDArray[np.uint8]:
    table = read_labels(path, GRID, **how)
    found = np.zeros((40, 50), np.uint8)
    found[table.rows, table.cols] = table.classes
    return found


def area(path: Path | str) -> NDArray[np.bool_]:
    return Area.from_file(path, GRID).mask(GRID.window)


def masked(path: Path | str) -> NDArray[np.bool_]:
    with open_mask(MaskFile(path), GridPair(GRID)) as mask:
        return mask.excluded(GRID.window)


def class_map(path: Path) -> Path:
    options = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 40, "width": 50}
    with rasterio.open(path, "w", crs=GRID.crs, transform=GRID.transform, nodata=0, **options) as file:
        file.write(np.ones((1, 40, 50), np.uint8))
    return path


# --- features that cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_features_are_left_out_and_told(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = raw_layer(tmp_path / "b.gpkg", [BROKEN[kind], polygon(SQUARE)], ["x", "y"])
    expected = np.zeros((40, 50), bool)
    expected[20:30, :20] = True
    with caplog.at_level(logging.WARNING, "das2f_map"):
        assert np.array_equal(area(path), expected)
        assert np.array_equal(masked(path), expected)
        assert np.array_equal(pixels(path) > 0, expected)
    told = [m for m in caplog.messages if "features left out of layer a: 1 with" in m]
    assert len(told) == 3, caplog.messages


@pytest.mark.parametrize("kind", BROKEN)
def test_nothing_but_broken_features_is_refused(kind: str, tmp_path: Path) -> None:
    path = raw_layer(tmp_path / "b.gpkg", [BROKEN[kind]], ["x"])
    land = class_map(tmp_path / "m.tif")
    for read in (
        lambda: area(path),
        lambda: masked(path),
        lambda: pixels(path),
        lambda: evaluate_map(land, path),
    ):
        with pytest.raises(Das2fMapError, match=r"b\.gpkg has no feature that can be used: 1 with") as caught:
            read()
        assert "\n" not in str(caught.value)


# --- layers -----------------------------------------------------------------------------------------------


def two_layers(path: Path, **second: list[Any]) -> Path:
    frame(["a", "b"]).to_file(path, layer="one")
    gpd.GeoDataFrame(second, geometry=[BOXES[2]], crs=GRID.crs).to_file(path, layer="two")
    return path


def test_several_layers_that_fit_are_listed(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "l.gpkg", type=["c"])
    land = class_map(tmp_path / "m.tif")
    reads: list[tuple[Callable[[], object], str]] = [
        (lambda: pixels(path), "--layer one"),
        (lambda: evaluate_map(land, path), "--layer one"),
        (lambda: area(path), "--aoi-layer one"),
        (lambda: masked(path), "name one: "),
    ]
    for read, hint in reads:
        with pytest.raises(Das2fMapError, match=r"several layers.*: one, two") as caught:
            read()
        assert hint in (caught.value.hint or "")
        assert "l.gpkg|layername=one" in (caught.value.hint or "")


def test_a_layer_can_be_named(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "l.gpkg", type=["c"])
    second = np.zeros((40, 50), bool)
    second[20:30, :20] = True
    assert np.array_equal(area(f"{path}|layername=two"), second)
    assert np.array_equal(masked(f"{path}|layername=two"), second)
    assert np.array_equal(pixels(path, layer="two") > 0, second)
    assert read_labels(f"{path}|layername=one", GRID).legend.names == ("a", "b")
    assert np.array_equal(Area.from_file(path, GRID, "TWO").mask(GRID.window), second)
    with pytest.raises(LabelError, match="no layer 'three'") as caught:
        pixels(path, layer="three")
    assert "one, two" in str(caught.value)
    with pytest.raises(InputError, match="subset"):
        area(f"{path}|layername=two|subset=a=1")


def test_the_only_layer_that_fits_is_taken_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = two_layers(tmp_path / "l.gpkg", owner=["c"], note=["d"])
    line = gpd.GeoDataFrame(
        {"class": ["road"]}, geometry=[shapely.LineString([(0, 0), (1, 1)])], crs=GRID.crs
    )
    line.to_file(path, layer="roads")
    with caplog.at_level(logging.INFO, "das2f_map"):
        assert read_labels(path, GRID).legend.names == ("a", "b")
    assert any("layer one is taken" in m and "left out: two, roads" in m for m in caplog.messages)
    assert read_labels(path, GRID, class_field="note").legend.names == ("d",)
    frame(["x"]).iloc[:0].to_file(path, layer="two")  # empty now
    assert area(path).sum() == 200


def test_layers_of_a_map_of_this_package_are_taken_together(tmp_path: Path) -> None:
    path = tmp_path / "map.gpkg"
    for k, name in enumerate(("water", "soil")):
        gpd.GeoDataFrame(
            {"class_id": [k + 1], "class_name": [name], "area_m2": [1.0], "confidence": [0.5]},
            geometry=[BOXES[k]],
            crs=GRID.crs,
        ).to_file(path, layer=name)
    table = read_labels(path, GRID)
    assert table.counts() == {"soil": 100, "water": 100}
    assert area(path).sum() == 200


def test_paths_with_layers(tmp_path: Path) -> None:
    assert VectorPath.parse("a.gpkg|layername=b c") == VectorPath("a.gpkg", "b c")
    assert VectorPath.parse("a|b.gpkg") == VectorPath("a|b.gpkg", None)
    assert local_file("a.gpkg|layername=b") == "a.gpkg"
    odd = tmp_path / "a.gpkg|layername=b"
    odd.touch()
    assert VectorPath.parse(odd) == VectorPath(str(odd), None)
    assert local_file(odd) == str(odd)


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "null",
    [-1.797693134862315e308, -1.79769313486e308, -3.4028234663852886e38, -9999, -99999, -(2**31), 1e20],
)
def test_numbers_for_none_are_unlabelled(
    null: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame([1.0, float(null), 2.0]).to_file(tmp_path / "l.gpkg")
    with caplog.at_level(logging.WARNING, "das2f_map"):
        table = read_labels(tmp_path / "l.gpkg", GRID)
    assert table.counts() == {"class 1": 100, "class 2": 200}
    assert any("features left out as unlabelled: 1 with" in m for m in caplog.messages)


@pytest.mark.parametrize("null", ["<Null>", "NULL", "nan", " ", None])
def test_texts_for_none_are_unlabelled(null: str | None, tmp_path: Path) -> None:
    frame(["a", null, "b"]).to_file(tmp_path / "l.gpkg")
    assert read_labels(tmp_path / "l.gpkg", GRID).counts() == {"a": 100, "b": 200}


@pytest.mark.parametrize("value", [1e300, float(2**70), -1e200])
def test_numbers_that_are_no_codes(value: float, tmp_path: Path) -> None:
    frame([1.0, value, 2.0]).to_file(tmp_path / "l.gpkg")
    with pytest.raises(LabelError, match="no class number") as caught:
        read_labels(tmp_path / "l.gpkg", GRID)
    assert f"{value:g}" in str(caught.value)
    assert "l.gpkg" in str(caught.value)


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".geojson", ".parquet"])
@pytest.mark.parametrize("values", [[True, False, True], [True, None, False]])
def test_truth_values_are_two_classes(suffix: str, values: list[Any], tmp_path: Path) -> None:
    path = tmp_path / f"l{suffix}"
    made = frame(values)
    made["class"] = made["class"].astype("boolean")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
        made.to_parquet(path)
    else:
        made.to_file(path)
    assert read_labels(path, GRID).legend.names == ("False", "True")


def test_an_undeclared_zero_is_counted_in_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame([0, 7, 8]).to_file(tmp_path / "l.gpkg")
    with caplog.at_level(logging.WARNING, "das2f_map"):
        assert read_labels(tmp_path / "l.gpkg", GRID).counts() == {"class 7": 100, "class 8": 200}
    assert any(m.startswith("100 pixels left out") for m in caplog.messages)


def test_names_of_blanks_are_one_class_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame(["water", "water ", "Water"]).to_file(tmp_path / "l.gpkg")
    with caplog.at_level(logging.INFO, "das2f_map"):
        assert read_labels(tmp_path / "l.gpkg", GRID).counts() == {"Water": 200, "water": 200}
    assert any("'water ' is 'water'" in m for m in caplog.messages)


# --- encodings --------------------------------------------------------------------------------------------


def latin1(suffix: str, folder: Path) -> Path:
    path = folder / f"l{suffix}"
    made = frame(["Wälder", "See", "Moor"])
    if suffix == ".shp":
        made.to_file(path, encoding="ISO-8859-1")
        path.with_suffix(".cpg").write_text("UTF-8")
    else:
        made.to_crs(4326).to_file(path, driver="GeoJSON")
        path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    return path


@pytest.mark.parametrize("suffix", [".shp", ".geojson"])
def test_a_wrong_encoding_is_named(suffix: str, tmp_path: Path) -> None:
    path = latin1(suffix, tmp_path)
    with pytest.raises(LabelError, match=rf"l\{suffix} holds text that is not UTF-8") as caught:
        read_labels(path, GRID)
    assert "\n" not in str(caught.value)
    # Areas need no attributes.
    assert area(path).sum() == 400


@pytest.mark.parametrize(
    ("claimed", "says"),
    [("KLINGON-8", "l.cpg claims the encoding 'KLINGON-8'"), (None, "without a .cpg file")],
)
def test_an_encoding_that_is_assumed_is_told(
    claimed: str | None, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame(["Wälder", "See", "Moor"]).to_file(tmp_path / "l.shp", encoding="ISO-8859-1")
    side = tmp_path / "l.cpg"
    with caplog.at_level(logging.WARNING, "das2f_map"):
        for known in ("ISO-8859-1", "1252", "ANSI 1252", "88591"):
            side.write_text(known)
            read_labels(tmp_path / "l.shp", GRID)
        assert not caplog.messages
        side.unlink() if claimed is None else side.write_text(claimed)
        read_labels(tmp_path / "l.shp", GRID)
    assert any(says in m for m in caplog.messages)


def test_names_in_another_encoding_are_suspected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame(["Wälder", "See", "Moor"]).to_file(tmp_path / "l.shp", encoding="UTF-8")
    (tmp_path / "l.cpg").write_text("ISO-8859-1")
    with caplog.at_level(logging.WARNING, "das2f_map"):
        read_labels(tmp_path / "l.shp", GRID)
    assert any("looks like 'Wälder'" in m for m in caplog.messages)


# --- coordinate reference systems -------------------------------------------------------------------------

UNDEFINED = 'ENGCRS["Undefined Cartesian SRS",EDATUM["Unknown"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'  # noqa: E501 - WKT


@pytest.mark.parametrize(
    ("crs", "says"), [(UNDEFINED, "no coordinate reference system"), (LOCAL.to_wkt(), "Site grid")]
)
def test_files_in_a_plane_of_their_own(crs: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "l.gpkg"
    made = frame(["a", "b"]).set_crs(pyproj.CRS.from_wkt(crs), allow_override=True)
    made.to_file(path)
    land = class_map(tmp_path / "m.tif")
    for read in (
        lambda: pixels(path),
        lambda: area(path),
        lambda: masked(path),
        lambda: evaluate_map(land, path),
    ):
        with pytest.raises(Das2fMapError, match=says) as caught:
            read()
        assert "l.gpkg" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_scene_in_a_plane_of_its_own(tmp_path: Path) -> None:
    local = Grid(GRID.height, GRID.width, GRID.transform, LOCAL)
    path = tmp_path / "l.gpkg"
    frame(["a", "b"]).to_file(path)
    for read in (
        lambda: read_labels(path, local),
        lambda: Area.from_file(path, local),
        lambda: open_mask(MaskFile(path), GridPair(local)),
        lambda: read_labels(class_map(tmp_path / "m.tif"), local),
        lambda: open_mask(MaskFile(tmp_path / "m.tif"), GridPair(local)),
    ):
        with pytest.raises(Das2fMapError, match="cannot be laid over the scene"):
            read()
    same = frame(["a", "b"]).set_crs(pyproj.CRS.from_wkt(LOCAL.to_wkt()), allow_override=True)
    same.to_file(tmp_path / "same.gpkg")
    assert read_labels(tmp_path / "same.gpkg", local).counts() == {"a": 100, "b": 100}
    assert Area.from_file(tmp_path / "same.gpkg", local).mask(local.window).sum() == 200


def test_a_missing_grid_is_told_with_its_accuracy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Great Britain's grid, whose exact shift needs a file; the accuracy comes from PROJ."""
    group = pyproj.transformer.TransformerGroup(
        27700,
        32630,
        always_xy=True,
        area_of_interest=pyproj.transformer.AreaOfInterest(-1.6, 52.4, -1.4, 52.6),
    )
    if group.best_available:
        pytest.skip("the grid is installed here")
    x, y = pyproj.Transformer.from_crs(4326, 32630, always_xy=True).transform(-1.5, 52.5)
    grid = Grid(40, 50, Affine(10, 0, x, 0, -10, y), CRS.from_epsg(32630))
    left, top = grid.pixel_to_map(0, 0)
    shapes = [
        shapely.box(left, top - 400, left + 250, top),
        shapely.box(left + 250, top - 400, left + 500, top),
    ]
    made = gpd.GeoDataFrame({"class": ["a", "b"]}, geometry=shapes, crs=32630).to_crs(27700)
    made.to_file(tmp_path / "l.gpkg")
    with caplog.at_level(logging.WARNING, "das2f_map"):
        read_labels(tmp_path / "l.gpkg", grid)
    (told,) = [m for m in caplog.messages if m.startswith("Coordinates of")]
    assert f"{group.transformers[0].accuracy:g} m" in told
    assert group.unavailable_operations[0].grids[0].short_name in told


# --- damage, locks and other reasons ----------------------------------------------------------------------


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.mark.parametrize(
    ("suffix", "says"),
    [
        (".gpkg", "malformed"),
        (".geojson", "cannot be read"),
        (".fgb", "cannot be read"),
        (".shp", "cut short"),
        (".parquet", "cannot be read"),
    ],
)
def test_files_cut_short_say_so(suffix: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / f"l{suffix}"
    made = frame(["a", "b", "c"] * 40, BOXES * 40)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
        made.to_parquet(path)
    else:
        made.to_file(path)
    cut(path)
    for read in (lambda: pixels(path), lambda: area(path), lambda: masked(path)):
        with pytest.raises(Das2fMapError, match=says) as caught:
            read()
        assert f"l{suffix}" in caught.value.message
        assert "neither" not in caught.value.message
        assert "\n" not in caught.value.message


def test_a_shapefile_without_its_index(tmp_path: Path) -> None:
    frame(["a", "b"]).to_file(tmp_path / "l.shp")
    (tmp_path / "l.shx").unlink()
    for read in (lambda: pixels(tmp_path / "l.shp"), lambda: area(tmp_path / "l.shp")):
        with pytest.raises(Das2fMapError, match=r"l\.shx") as caught:
            read()
        assert "SHAPE_RESTORE_SHX" in (caught.value.hint or "")


@pytest.mark.slow  # GDAL waits for the lock for ten seconds
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_geopackage_that_another_program_has_locked(
    journal: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "l.gpkg"
    frame(["a", "b"]).to_file(path)
    code = (
        "import sqlite3, sys\nlock = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        f"lock.execute('PRAGMA journal_mode={journal}')\nlock.execute('PRAGMA locking_mode=EXCLUSIVE')\n"
        "lock.execute('BEGIN EXCLUSIVE')\nlock.execute('CREATE TABLE other (a)')\n"
        "print('locked', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        if journal == "DELETE":
            with pytest.raises(LabelError, match=r"labels .*l\.gpkg cannot be read: .*locked") as caught:
                read_labels(path, GRID)
            assert "close the program" in (caught.value.hint or "")
        else:  # GDAL reads past the lock
            with caplog.at_level(logging.WARNING, "das2f_map"):
                assert read_labels(path, GRID).counts() == {"a": 100, "b": 100}
            assert any("open in another program" in m for m in caplog.messages)
        other.communicate(b"")


def test_cut_rasters_say_so(tmp_path: Path) -> None:
    path = cut(class_map(tmp_path / "m.tif"), 0.1)
    for read in (lambda: pixels(path), lambda: masked(path)):
        with pytest.raises(Das2fMapError, match=r"m\.tif") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_table_is_no_label_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("class,id\na,1\n")
    with pytest.raises(LabelError, match="have no geometries"):
        read_labels(tmp_path / "t.csv", GRID)


# --- GeoParquet -------------------------------------------------------------------------------------------


def test_geoparquet_serves_as_labels_area_mask_and_reference(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    frame(["a", "b", "c"]).to_file(tmp_path / "l.gpkg")
    frame(["a", "b", "c"]).to_crs(4326).to_parquet(tmp_path / "l.parquet")
    readers: tuple[Callable[[Path], Any], ...] = (pixels, area, masked)
    for read in readers:
        assert np.array_equal(read(tmp_path / "l.gpkg"), read(tmp_path / "l.parquet"))
    broken = gpd.GeoDataFrame({"class": ["a", "b"]}, geometry=BOXES[:2], crs=None)
    broken.to_parquet(tmp_path / "no_crs.parquet")
    with pytest.raises(LabelError, match="no coordinate reference system"):
        pixels(tmp_path / "no_crs.parquet")
    frame(["a"]).drop(columns="geometry").to_parquet(tmp_path / "table.parquet")
    with pytest.raises(LabelError, match="it is a table"):
        pixels(tmp_path / "table.parquet")


def test_geoparquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    frame(["a", "b", "c"]).to_parquet(tmp_path / "l.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    readers: tuple[Callable[[Path], Any], ...] = (pixels, area, masked)
    for read in readers:
        with pytest.raises(MissingDependencyError, match=r"l\.parquet.*pyarrow"):
            read(tmp_path / "l.parquet")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_files_that_gdal_lacks_a_reader_for_get_a_hint(packed: bool, suffix: str, tmp_path: Path) -> None:
    """Feather as it is, and Feather and Parquet in an archive."""
    if not packed and suffix == ".parquet":
        pytest.skip("it can be read")
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    path, made = tmp_path / f"l{suffix}", frame(["a", "b"])
    if suffix == ".parquet":
        made.to_parquet(path)
    else:
        made.to_feather(path)
    if packed:
        with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
            archive.write(path, f"in/l{suffix}")
        path = tmp_path / "l.zip"
    for read in (lambda: pixels(path), lambda: area(path), lambda: masked(path)):
        with pytest.raises(Das2fMapError) as caught:
            read()
        hint = caught.value.hint or ""
        if packed:
            assert hint == f"it is an archive; unpack it, and give the file: in/l{suffix}"
            continue
        assert "it is an Arrow or Feather file" in caught.value.message
        command = hint.removeprefix("convert it: python -c ").strip('"')
        subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path)
        assert gpd.read_file(tmp_path / "l.gpkg")["class"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "value", [["water"], [1, 2], [1.5], {"name": "water"}, [["water", 1], None]], ids=json.dumps
)
def test_values_of_several_parts_are_no_classes(value: Any, tmp_path: Path) -> None:
    """GeoJSON may hold lists and objects, which GDAL gives as arrays or as their text."""
    shapes = gpd.GeoSeries(BOXES[:2], crs=GRID.crs).to_crs(4326)
    features = [
        {"type": "Feature", "properties": {"class": value}, "geometry": shapely.geometry.mapping(shape)}
        for shape in shapes
    ]
    path = tmp_path / "l.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(LabelError, match="holds lists or other values of several parts") as caught:
        pixels(path)
    assert "--class-field" in (caught.value.hint or "")
    with pytest.raises(LabelError, match="holds lists or other values of several parts"):
        evaluate_map(class_map(tmp_path / "m.tif"), path)


# --- Python -----------------------------------------------------------------------------------------------


def test_a_frame_in_place_of_a_file(tmp_path: Path) -> None:
    made = frame(["a", "b"])
    with pytest.raises(InputError, match="aoi cannot be a GeoDataFrame"):
        classify("ms.tif", "pan.tif", tmp_path / "o.tif", aoi=made)
    with pytest.raises(InputError, match="labels cannot be a GeoDataFrame"):
        train("ms.tif", "pan.tif", made, tmp_path / "model")
