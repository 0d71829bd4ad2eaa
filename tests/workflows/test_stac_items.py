"""STAC Items of maps and models, against STAC's schemas, other readers, and the files that they describe."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
from das2f_map.bundle.card import Ground
from das2f_map.bundle.files import save_bundle
from das2f_map.errors import MissingDependencyError, OutputError
from das2f_map.products.report import RunReport
from das2f_map.products.stac_item import map_item
from das2f_map.scene.report import ProductReport
from das2f_map.workflows.model_item import write_model_item

pystac = pytest.importorskip("pystac", reason="needs the extra stac")
pytest.importorskip("jsonschema", reason="compares Items with STAC's schemas")

from pystac.extensions.raster import RasterExtension  # noqa: E402 - only where the extra is
from stac_rules import check_classes, check_core, check_files, check_map_item  # noqa: E402 - only where the extra is


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a map, its rasters of values in a folder of their own, and its Item."""
    folder = tmp_path_factory.mktemp("stac")
    ms, pan = make_pair(folder, ms_shape=(30, 50))
    (folder / "more").mkdir()
    das2f_map.classify(
        ms, pan, folder / "m.tif", model=tiny_bundle(folder, patch=8), coregistration="off", device="cpu",
        confidence=folder / "more" / "c.tif", probabilities=folder / "more" / "p.tif", stac=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def report(made: Path) -> RunReport:
    return RunReport.model_validate_json((made / "m.json").read_text())


def item_of(made: Path, report: RunReport, **changes: Any) -> dict[str, Any]:
    """The Item of a report with other content."""
    files = {k: Path(p) for k, p in report.outputs.items() if k != "stac"}
    return map_item(report.model_copy(update=changes), made / "m.stac.json", files)


@pytest.mark.slow
def test_item_of_a_map(made: Path, report: RunReport) -> None:
    document = json.loads((made / "m.stac.json").read_text())
    item = check_map_item(document, made)
    assert {*item.assets} == {"raster", "vectors", "confidence", "probabilities", "report"}
    assert item.assets["confidence"].href == "more/c.tif"
    assert item.id == "m"
    assert document["properties"]["proj:code"] == "EPSG:32632"
    assert item.datetime == pystac.utils.str_to_datetime(report.created)
    assert "not known" in document["properties"]["description"]
    assert "ms.tif and pan.tif" in document["properties"]["processing:lineage"]

    with rasterio.open(made / "m.tif") as raster:
        assert document["properties"]["proj:shape"] == [raster.height, raster.width]
        assert document["properties"]["proj:transform"] == pytest.approx([*raster.transform][:6])
        left, bottom, right, top = rasterio.warp.transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
        assert item.bbox == pytest.approx([left, bottom, right, top], abs=1e-6)
        colours = raster.colormap(1)
    classes = document["assets"]["raster"]["classification:classes"]
    assert {c["value"]: c["title"] for c in classes} == {
        0: "no data", 2: "water", 5: "forest", 9: "bare soil",
    }  # fmt: skip
    assert [c["name"] for c in classes][-1] == "bare-soil"
    for c in classes[1:]:
        assert c["color_hint"] == "{:02X}{:02X}{:02X}".format(*colours[c["value"]][:3])
    with rasterio.open(made / "more" / "p.tif") as raster:
        values = raster.read()
        names = raster.descriptions
    assert [b["name"] for b in document["assets"]["probabilities"]["bands"]] == [*names]
    for band, own in zip(RasterExtension.ext(item.assets["probabilities"]).bands or [], values, strict=True):
        assert band.statistics is not None
        assert band.statistics.mean == pytest.approx(np.nanmean(own, dtype=float), abs=1e-6)
        assert band.statistics.maximum == pytest.approx(np.nanmax(own), abs=1e-6)


@pytest.mark.slow
def test_style_keeps_the_item_in_step(made: Path) -> None:
    before = {p: p.read_bytes() for p in made.glob("m.*")}
    try:
        legend = made / "legend.json"
        legend.write_text(json.dumps({"classes": [{"id": 2, "name": "sea"}, {"id": 5}, {"id": 9}]}))
        made_anew = das2f_map.style(made / "m.tif", legend)
        assert {p.name for p in made_anew.files} == {"m.tif", "m.gpkg", "m.json", "m.stac.json"}
        document = json.loads((made / "m.stac.json").read_text())
        item = check_map_item(document, made)
        assert {*item.assets} == {"raster", "vectors", "confidence", "probabilities", "report"}
        titles = [c["title"] for c in document["assets"]["raster"]["classification:classes"]]
        assert titles == ["no data", "sea", "forest", "bare soil"]
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@pytest.mark.slow
def test_vectorize_keeps_the_item_in_step(made: Path) -> None:
    before = {p: p.read_bytes() for p in made.glob("m.*")}
    report = json.loads(before[made / "m.json"])
    try:
        das2f_map.vectorize(made / "m.tif", made / "m.gpkg", min_area_m2=5_000.0, overwrite=True)
        item = check_map_item(json.loads((made / "m.stac.json").read_text()), made)
        assert {*item.assets} == {"raster", "vectors", "confidence", "probabilities", "report"}
        after = json.loads((made / "m.json").read_text())
        assert after["checksums"]["vectors"] != report["checksums"]["vectors"]
        assert after["checksums"]["vectors"] == hashlib.sha256((made / "m.gpkg").read_bytes()).hexdigest()
        assert "with --min-area 5000; the raster keeps its small regions" in after["warnings"][-1]
        assert sum(c["polygons"] for c in after["classes"]) < sum(c["polygons"] for c in report["classes"])
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@pytest.mark.slow
def test_draft_says_so(made: Path, report: RunReport) -> None:
    settings = report.settings.model_copy(update={"every": 3})
    found = item_of(made, report, draft=True, settings=settings)["properties"]
    assert found["gsd"] == pytest.approx(3 * report.scene.ms.gsd_m)
    assert found["description"].startswith("Draft")


@pytest.mark.slow
def test_over_the_180th_meridian_and_without_degrees(made: Path, report: RunReport) -> None:
    size = {"height": 10, "width": 20}
    fiji = report.grid.model_copy(
        update={"crs": "EPSG:4326", "transform": [0.1, 0, 179.0, 0, -0.1, -16.0], **size}
    )
    document = item_of(made, report, grid=fiji)
    check_core(document)
    assert document["bbox"] == pytest.approx([179.0, -17.0, -179.0, -16.0])
    assert document["geometry"]["type"] == "MultiPolygon"
    (x,) = {max(abs(p[0]) for part in document["geometry"]["coordinates"] for p in part[0])}
    assert x == 180

    beyond = fiji.model_copy(update={"transform": [0.1, 0, 190.0, 0, -0.1, -16.0]})
    assert item_of(made, report, grid=beyond)["bbox"] == pytest.approx([-170.0, -17.0, -168.0, -16.0])

    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    nowhere = item_of(made, report, grid=report.grid.model_copy(update={"crs": local}))
    check_core(nowhere)
    assert nowhere["geometry"] is None
    assert "bbox" not in nowhere
    assert nowhere["properties"]["proj:wkt2"].startswith("ENGCRS")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("date", "moment", "first", "last"),
    [
        ("2016-11-25T16:30:24.1234567Z", "2016-11-25T16:30:24", None, None),
        ("2016-11-25T16:30:24+02:00", "2016-11-25T14:30:24", None, None),
        ("2016-11-25", None, "2016-11-25T00:00:00Z", "2016-11-25T23:59:59Z"),
    ],
)
def test_time_of_a_product(
    made: Path, report: RunReport, date: str, moment: str | None, first: str | None, last: str | None
) -> None:
    product = ProductReport(
        path="/data/LC08_X", kind="Landsat", name="LC08_X", sensor="OLI", date=date, bands=[], nodata=0,
        reflectance=None, reflectance_applied=False, clouds=None, clouds_excluded="", notes=[],
    )  # fmt: skip
    document = item_of(made, report, scene=report.scene.model_copy(update={"product": product}))
    item = check_core(document)
    found = document["properties"]
    assert (found.get("start_datetime"), found.get("end_datetime")) == (first, last)
    if moment is None:
        assert found["datetime"] is None
    else:
        assert item.datetime is not None
        assert item.datetime.strftime("%Y-%m-%dT%H:%M:%S") == moment
    assert "from LC08_X" in found["processing:lineage"]
    assert "not known" not in found["description"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_item_of_a_model(tmp_path: Path, kind: str) -> None:
    bundle = tiny_bundle(tmp_path, patch=8)
    card = bundle.card.model_copy(update={"licence": "CC-BY-4.0", "name": "my model"})
    card.training.ground = (Ground(west=170, south=-20, east=-175, north=-10),)
    path = tmp_path / ("tiny" if kind == "folder" else "tiny.zip")
    save_bundle(path, card, bundle.state_dict)
    (tmp_path / "items").mkdir()
    output = write_model_item(path, tmp_path / "items" / "m.json")
    document = json.loads(output.read_text())
    item = check_core(document)
    check_files(item, output.parent)
    assert document["bbox"] == [170, -20, -175, -10]
    found = document["properties"]
    assert found["license"] == "CC-BY-4.0"
    assert found["mlm:total_parameters"] == sum(t.numel() for t in bundle.state_dict.values())
    ms, pan = found["mlm:input"]
    assert ms["input"]["shape"] == [-1, 4, 8, 8]
    assert pan["input"]["shape"] == [-1, 1, 32, 32]
    assert ms["bands"] == ["blue", "green", "red", "nir"]
    assert ms["value_scaling"][0] == {"type": "z-score", "mean": 2500.0, "stddev": 700.0}
    (logits,) = found["mlm:output"]
    assert logits["result"]["shape"] == [-1, 3]
    check_classes(logits["classification:classes"])
    assert [c["value"] for c in logits["classification:classes"]] == [2, 5, 9]
    assert sum("mlm:model" in (a.roles or []) for a in item.assets.values()) == 1

    # The extension's own types, as pystac and stac-model have them.
    from pystac.extensions.mlm import MLMExtension

    read = MLMExtension.ext(item)
    assert (read.mlm_name, read.architecture, read.tasks) == ("my-model", "DAS2F", ["classification"])
    assert [i.name for i in read.input] == ["ms", "pan"]
    schema = pytest.importorskip("stac_model.schema", reason="has the MLM extension's types")
    checked = schema.MLModelProperties.model_validate(found)
    assert [i.input.shape for i in checked.input] == [[-1, 4, 8, 8], [-1, 1, 32, 32]]
    wrong = json.loads(json.dumps(found))
    wrong["mlm:input"][0]["input"]["shape"].pop()
    with pytest.raises(ValueError, match="Dimension order"):
        schema.MLModelProperties.model_validate(wrong)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_bundle(tmp_path, patch=8)
    with pytest.raises(OutputError, match="is no STAC Item"):
        write_model_item(tmp_path / "tiny", tmp_path / "m.txt")
    (tmp_path / "m.json").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_model_item(tmp_path / "tiny", tmp_path / "m.json")
    monkeypatch.setitem(sys.modules, "pystac", None)
    with pytest.raises(MissingDependencyError, match="needs pystac") as missing:
        write_model_item(tmp_path / "tiny", tmp_path / "n.json")
    assert "stac" in (missing.value.hint or "")
    # Before any image is opened.
    with pytest.raises(MissingDependencyError, match="needs pystac"):
        das2f_map.classify(
            tmp_path / "no.tif", tmp_path / "no.tif", tmp_path / "m.tif", model=bundle, stac=True
        )
