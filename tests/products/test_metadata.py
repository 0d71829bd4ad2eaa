"""Statistics, pixel counts, model, software and source in the files of a map, as other readers see them."""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes

import das2f_map
from das2f_map.products.map_files import MapPaths, MapWriter
from das2f_map.products.provenance import Provenance
from das2f_map.scene.grid import Grid, blocks_of

SHAPE = (70, 90)
CLASSES = patchy_classes(*SHAPE, AWKWARD_LEGEND.ids[:-1], seed=5)
CONFIDENCE = confidence_of(CLASSES)
FROM = Provenance("a & b", "ms.tif and pan.tif", "das2f-map 9.9")


def write(folder: Path, block: int, vectors: str = "m.gpkg") -> MapPaths:
    paths = MapPaths(
        folder / "m.tif", folder / "m.json", folder / vectors, folder / "c.tif", folder / "p.tif"
    )
    grid = Grid(*SHAPE, UTM.transform, UTM.crs)
    chances = probabilities()
    with MapWriter(paths, grid, AWKWARD_LEGEND, provenance=FROM) as writer:
        for window in blocks_of(grid.window, block):
            rows, cols = window.slices()
            writer.write(window, CLASSES[rows, cols], CONFIDENCE[rows, cols], chances[:, rows, cols])
        writer.finish()
    return paths


def probabilities() -> npt.NDArray[np.float32]:
    random = np.random.default_rng(0).dirichlet(np.ones(5), SHAPE).astype(np.float32)
    return random.transpose(2, 0, 1)


def of_gdal(path: Path, band: int) -> dict[str, float]:
    """The statistics in the file's own metadata."""
    with rasterio.open(path) as file:
        tags = file.tags(band)
    found = {k.removeprefix("STATISTICS_"): float(v) for k, v in tags.items() if k.startswith("STATISTICS_")}
    assert {*found} == {"MINIMUM", "MAXIMUM", "MEAN", "STDDEV", "VALID_PERCENT"}
    return found


def test_statistics_of_value_rasters(tmp_path: Path) -> None:
    paths = write(tmp_path, 16)
    assert paths.confidence is not None
    assert paths.probabilities is not None
    assert not paths.confidence.with_name("c.tif.aux.xml").exists()
    bands = {(paths.confidence, 1): CONFIDENCE}
    bands |= {(paths.probabilities, i + 1): band for i, band in enumerate(probabilities())}
    valid = CLASSES != 0
    for (path, band), values in bands.items():
        known, found = values[valid].astype(np.float64), of_gdal(path, band)
        assert found["MINIMUM"] == pytest.approx(known.min(), abs=1e-9)
        assert found["MAXIMUM"] == pytest.approx(known.max(), abs=1e-9)
        assert found["MEAN"] == pytest.approx(known.mean(), abs=1e-7)
        assert found["STDDEV"] == pytest.approx(known.std(), abs=1e-6)
        assert found["VALID_PERCENT"] == pytest.approx(100 * valid.mean())
        with rasterio.open(path) as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_statistics_of_a_map_whose_small_regions_are_merged(tmp_path: Path) -> None:
    """The confidence is read before its file is complete."""
    paths = MapPaths(tmp_path / "m.tif", tmp_path / "m.json", None, tmp_path / "c.tif")
    grid = Grid(*SHAPE, UTM.transform, UTM.crs)
    with MapWriter(paths, grid, AWKWARD_LEGEND, min_area_m2=5000.0) as writer:
        for window in blocks_of(grid.window, 32):
            writer.write(window, CLASSES[window.slices()], CONFIDENCE[window.slices()])
        assert writer.finish().merged_pixels > 0
    with rasterio.open(tmp_path / "c.tif") as file:
        values = file.read(1)
    assert of_gdal(tmp_path / "c.tif", 1)["MEAN"] == pytest.approx(np.nanmean(values, dtype=float), abs=1e-7)
    table = ET.parse(tmp_path / "m.tif.aux.xml").find(".//GDALRasterAttributeTable")
    assert table is not None
    counts = {int(r[0].text or ""): int(r[-1].text or "") for r in table.iterfind("Row")}
    with rasterio.open(paths.raster) as file:
        merged = file.read(1)
    assert counts == {i: np.count_nonzero(merged == i) for i in AWKWARD_LEGEND.ids}


@pytest.mark.slow
def test_files_do_not_depend_on_the_blocks(tmp_path: Path) -> None:
    for name, block in (("one", 16), ("other", 33)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, block, "m.fgb")
    for name in ("m.tif", "m.tif.aux.xml", "c.tif", "p.tif", "m.fgb"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name


def test_table_counts_the_pixels(tmp_path: Path) -> None:
    write(tmp_path, 40)
    table = ET.parse(tmp_path / "m.tif.aux.xml").find(".//GDALRasterAttributeTable")
    assert table is not None
    fields = [(f.findtext("Name"), f.findtext("Usage")) for f in table.iterfind("FieldDefn")]
    place = fields.index(("Count", "1"))
    counts = {int(r[0].text or ""): int(r[place].text or "") for r in table.iterfind("Row")}
    assert counts == {i: np.count_nonzero(i == CLASSES) for i in AWKWARD_LEGEND.ids}


def test_rasters_say_model_and_software(tmp_path: Path) -> None:
    paths = write(tmp_path, 40)
    for path in (paths.raster, paths.confidence, paths.probabilities):
        with rasterio.open(path) as file:
            tags = file.tags()
        assert {k: tags[k] for k in ("model", "software")} == {"model": "a & b", "software": "das2f-map 9.9"}
        assert "source" not in tags  # a product's map is that of its two files, to the byte
        assert tags["TIFFTAG_SOFTWARE"] == "das2f-map 9.9"
        assert tags["TIFFTAG_IMAGEDESCRIPTION"] == "Land-cover map by model a & b, with das2f-map 9.9"


def check_geopackage(path: Path, provenance: Provenance = FROM) -> None:
    with closing(sqlite3.connect(path)) as database:
        layers = dict(
            database.execute(
                "SELECT identifier, description FROM gpkg_contents WHERE data_type = 'features'"
            ).fetchall()
        )
        noted = database.execute(
            "SELECT r.table_name, r.reference_scope, m.metadata FROM gpkg_metadata m "
            "JOIN gpkg_metadata_reference r ON r.md_file_id = m.id"
        ).fetchall()
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(layers) == len(AWKWARD_LEGEND)
    assert layers["Wald 2"] == provenance.sentence("Land cover: Wald 2,")
    assert sorted(table for table, _, _ in noted) == sorted(layers)
    for _, scope, text in noted:
        assert scope == "table"
        items = {e.attrib["key"]: e.text for e in ET.fromstring(text).iter() if "key" in e.attrib}
        assert items.items() >= provenance.items().items()
    # Programs that read the file leave nothing next to it.
    pyogrio.read_info(path)
    pyogrio.list_layers(path)
    assert not path.with_name(f"{path.name}.aux.xml").exists()


@pytest.mark.slow
def test_geopackages_say_so_too(tmp_path: Path) -> None:
    paths = write(tmp_path, 40)
    assert paths.vectors is not None
    check_geopackage(paths.vectors)
    assert FROM.sentence("Land cover: Wald 2,") == (
        "Land cover: Wald 2, by model a & b from ms.tif and pan.tif, with das2f-map 9.9"
    )
    # Those of the map made again, and with its own names: without a report beside it the source is not known.
    unknown = replace(FROM, source="")
    das2f_map.vectorize(paths.raster, tmp_path / "again.gpkg")
    check_geopackage(tmp_path / "again.gpkg", unknown)
    das2f_map.style(paths.raster, AWKWARD_LEGEND)
    check_geopackage(paths.vectors, unknown)


@pytest.mark.parametrize("name", ["m.fgb", "m.geojson"])
def test_other_formats_have_the_description(tmp_path: Path, name: str) -> None:
    write(tmp_path, 40, name)
    found = pyogrio.read_info(tmp_path / name)["layer_metadata"] or {}
    text = found.get("DESCRIPTION") or (tmp_path / name).read_text(errors="replace")[:2000]
    assert "by model a & b from ms.tif and pan.tif" in text


def test_sources_are_names_without_folders() -> None:
    paths = ["/a/b/ms\n.tif", "https://example.org/x/pan.tif?token=secret"]
    found = Provenance.of_run("m", paths)
    assert found.source == "ms?.tif and pan.tif"
    assert Provenance.of_run("m", ["/data/LC08_X/"]).source == "LC08_X"
    assert Provenance().tags() == {"TIFFTAG_IMAGEDESCRIPTION": "Land-cover map"}
