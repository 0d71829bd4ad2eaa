"""Maps with other names and colours: no pixel and no shape changes, and every file says the new names."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes, write_map
from tiny import tiny_bundle

import das2f_map
from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend, LegendClass
from das2f_map.scene.grid import Grid

CLASSES = patchy_classes(60, 70, AWKWARD_LEGEND.ids, seed=3)
NEW = {"classes": [
    {"id": 1, "name": "Wald 2", "color": "#010203"},
    {"id": 2, "name": "Wald"},
    {"id": 3, "color": "#0A0B0C"},
    {"id": 5},
    {"id": 9, "name": "Moor", "color": "#112233"},
]}  # fmt: skip
NAMES = {1: "Wald 2", 2: "Wald", 3: "Straße / Weg", 5: '"Gewässer" & <Ufer>', 9: "Moor"}
"""Two classes have swapped their names."""
COLOURS = {1: "#010203", 2: "#8fcf5a", 3: "#0A0B0C", 5: "#2f6fc4", 9: "#112233"}


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    return write_map(tmp_path / "m.tif", CLASSES)


def legend_file(folder: Path, content: object) -> Path:
    path = folder / "legend.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def check_raster(path: Path) -> None:
    """Colours, category names, attribute table and QGIS style, as GDAL and the XML have them."""
    np.testing.assert_array_equal(pixels(path), CLASSES)
    with rasterio.open(path) as file:
        assert file.nodata == 0
        assert file.profile["driver"] == "GTiff"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        colours = file.colormap(1)
    for i, colour in COLOURS.items():
        assert "#{:02x}{:02x}{:02x}".format(*colours[i][:3]) == colour.lower()
    side = ET.parse(path.with_name(path.name + ".aux.xml"))
    categories = [e.text for e in side.iterfind(".//Category")]
    assert {i: categories[i] for i in NAMES} == NAMES
    assert {row[1].text for row in side.iterfind(".//Row")} == {*NAMES.values()}
    entries = ET.parse(path.with_suffix(".qml")).findall(".//paletteEntry")
    assert {int(e.attrib["value"]): (e.attrib["label"], e.attrib["color"]) for e in entries} == {
        i: (NAMES[i], COLOURS[i]) for i in NAMES
    }


@pytest.mark.slow
def test_raster_and_polygons_of_a_geopackage(tmp_path: Path) -> None:
    sure = tmp_path / "sure.tif"
    raster = write_map(tmp_path / "m.tif", CLASSES, confidence_path=sure, confidence=confidence_of(CLASSES))
    das2f_map.vectorize(raster, tmp_path / "m.gpkg", confidence=sure)
    old = {c.id: geopandas.read_file(tmp_path / "m.gpkg", layer=c.name) for c in AWKWARD_LEGEND.classes[:2]}
    made = das2f_map.style(raster, legend_file(tmp_path, NEW))
    assert dict(zip(made.legend.ids, made.legend.names, strict=True)) == NAMES
    assert made.before == AWKWARD_LEGEND
    assert {p.name for p in made.files} == {"m.tif", "m.gpkg"}
    check_raster(raster)
    layers = {str(n): kind for n, kind in pyogrio.list_layers(tmp_path / "m.gpkg").tolist()}
    assert {"Wald", "Wald 2", "Moor"} <= {*layers}
    assert "wald" not in layers
    for i, own in old.items():
        found = geopandas.read_file(tmp_path / "m.gpkg", layer=NAMES[i])
        assert len(found) > 3
        assert found.geometry.geom_equals_exact(own.geometry, 0).all()
        np.testing.assert_array_equal(found[["area_m2", "confidence"]], own[["area_m2", "confidence"]])
        assert {*found["class_name"]} == {NAMES[i]}
        assert {*found["class_id"]} == {i}
    with closing(sqlite3.connect(tmp_path / "m.gpkg")) as database:
        styles = dict(database.execute("SELECT f_table_name, styleQML FROM layer_styles").fetchall())
    assert len(styles) == len(NAMES)
    assert "17,34,51,255" in styles["Moor"]


@pytest.mark.slow
@pytest.mark.parametrize("extension", [".shp", ".geojson", ".fgb", ".parquet"])
def test_polygons_of_other_formats(tmp_path: Path, raster: Path, extension: str) -> None:
    if extension == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    read = geopandas.read_parquet if extension == ".parquet" else geopandas.read_file
    path = tmp_path / f"m{extension}"
    das2f_map.vectorize(raster, path)
    before = read(path).sort_values("class_id", kind="stable", ignore_index=True)
    das2f_map.style(raster, legend_file(tmp_path, NEW))
    after = read(path).sort_values("class_id", kind="stable", ignore_index=True)
    assert len(after) == len(before) > 50
    assert {*zip(after["class_id"], after["class_name"], strict=True)} == {*NAMES.items()}
    assert after.geometry.geom_equals(before.geometry).sum() > 0
    assert after.geometry.area.sum() == pytest.approx(before.geometry.area.sum())
    check_raster(raster)


def test_sources_of_names_other_than_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    legend = Legend.from_names(("a", "b"), ids=(2, 5))
    classes = np.where(CLASSES == 0, 0, np.where(CLASSES < 4, 2, 5)).astype(np.uint8)
    raster = write_map(tmp_path / "m.tif", classes, legend=legend)
    tiny_bundle(tmp_path)
    made = das2f_map.style(raster, tmp_path / "tiny", tmp_path / "by_model.tif")
    assert made.legend.names == ("water", "forest")
    assert "the map has no class 9" in caplog.text
    again = das2f_map.style(raster, tmp_path / "by_model.tif", tmp_path / "by_map.tif")
    assert again.legend == made.legend
    given = Legend(classes=(LegendClass(id=2, name="x", color="#000001"), legend[5]))
    assert das2f_map.style(raster, given).legend.names == ("x", "b")
    np.testing.assert_array_equal(pixels(tmp_path / "by_map.tif"), classes)
    assert pixels(raster).tobytes() == classes.tobytes()


def test_class_unsure_stays(tmp_path: Path) -> None:
    own, unsure = Legend.from_names(("a", "b"), ids=(1, 2)).with_unsure()
    classes = np.where(CLASSES < 2, 1, np.where(CLASSES < 5, 2, unsure)).astype(np.uint8)
    raster = write_map(tmp_path / "m.tif", classes, legend=own, unsure=unsure)
    made = das2f_map.style(raster, legend_file(tmp_path, {"classes": [{"id": 1, "name": "c"}, {"id": 2}]}))
    assert made.legend.names == ("c", "b", "unsure")
    with rasterio.open(raster) as file:
        assert file.tags()["DAS2F_MAP_UNSURE"] == str(unsure)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 9}]}, r"lacks class ids of the map: 5 \("),
        ({"classes": [*NEW["classes"], {"id": 9}]}, "has class id 9 twice"),
        ({"classes": [{"id": i, "name": "same"} for i in NAMES]}, "names must be unique"),
        ({"classes": [{"id": i, "color": "red"} for i in NAMES]}, "color"),
        ({"classes": [{"id": i, "colour": "#000000"} for i in NAMES]}, "colour"),
        ({"classes": [{"id": 300}]}, "300|255"),
        ({"classes": []}, "at least 1"),
        ("{", "not JSON"),
        ("[1]", "cannot be used"),
    ],
)
def test_legends_that_are_refused(tmp_path: Path, raster: Path, content: object, message: str) -> None:
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message) as refused:
        das2f_map.style(raster, legend_file(tmp_path, content))
    assert "\n" not in refused.value.message
    (tmp_path / "legend.json").unlink()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_what_is_not_ours_is_not_replaced(tmp_path: Path, raster: Path) -> None:
    legend = legend_file(tmp_path, NEW)
    foreign = tmp_path / "foreign.tif"
    with rasterio.open(
        foreign, "w", driver="GTiff", height=60, width=70, count=1, dtype="uint8", nodata=0,
        crs=UTM.crs, transform=UTM.transform,
    ) as out:  # fmt: skip
        out.write(CLASSES, 1)
    held = foreign.read_bytes()
    with pytest.raises(InputError, match="is not of das2f-map"):
        das2f_map.style(foreign, legend)
    every = {"classes": [{"id": i, "name": NAMES[i], "color": COLOURS[i]} for i in NAMES]}
    das2f_map.style(foreign, legend_file(tmp_path, every), tmp_path / "copy.tif")
    legend_file(tmp_path, NEW)
    check_raster(tmp_path / "copy.tif")
    assert foreign.read_bytes() == held
    with pytest.raises(OutputError, match="exists already"):
        das2f_map.style(foreign, legend, tmp_path / "copy.tif")
    with pytest.raises(InputError, match="does not exist"):
        das2f_map.style(raster, tmp_path / "none.json")

    das2f_map.vectorize(raster, tmp_path / "m.gpkg")
    held, map_before = (tmp_path / "m.gpkg").read_bytes(), raster.read_bytes()
    own = geopandas.read_file(tmp_path / "m.gpkg", layer="Wald").assign(note="mine")
    own.to_file(tmp_path / "m.gpkg", layer="Wald")
    held = (tmp_path / "m.gpkg").read_bytes()
    with pytest.raises(InputError, match="note"):
        das2f_map.style(raster, legend)
    assert (tmp_path / "m.gpkg").read_bytes() == held
    assert raster.read_bytes() == map_before
    das2f_map.style(raster, legend, vectors=False)
    assert (tmp_path / "m.gpkg").read_bytes() == held
    check_raster(raster)


def test_a_mosaic_and_its_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map(tmp_path / "a.tif", CLASSES[:, :40])
    east = Grid(60, 30, UTM.transform * Affine.translation(40, 0), UTM.crs)
    write_map(tmp_path / "b.tif", CLASSES[:, 40:], grid=east)
    m = tmp_path / "m.tif"
    before = das2f_map.mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], m, vectors=tmp_path / "m.fgb")
    caplog.clear()
    made = das2f_map.style(m, legend_file(tmp_path, NEW))
    assert caplog.text == ""
    assert {p.name for p in made.files} == {"m.tif", "m.fgb", "m.json"}
    check_raster(m)
    after = json.loads((tmp_path / "m.json").read_text())
    assert {c["id"]: (c["name"], c["color"]) for c in after["classes"]} == {
        i: (NAMES[i], COLOURS[i]) for i in NAMES
    }
    for kind, name in (("raster", "m.tif"), ("vectors", "m.fgb")):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert after["checksums"][kind] == digest
        assert before.checksums[kind] != digest
    kept = before.model_dump(mode="json")
    assert {k for k in kept if kept[k] != after[k]} == {"classes", "checksums"}
