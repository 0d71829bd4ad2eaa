"""The products in real QGIS, in a process of its own: they come up styled, without any click."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
from maps import AWKWARD_LEGEND, GEOGRAPHIC, ROTATED, UTM, confidence_of, patchy_classes, write_map
from rasterio.crs import CRS

from das2f_map.assess.sample_design import read_design
from das2f_map.products.polygons import write_polygons
from das2f_map.products.qgis import style_raster
from das2f_map.scene.grid import Grid
from das2f_map.workflows.sample import sample_map

SCRIPT = Path(__file__).with_name("open_in_qgis.py")
LABEL = Path(__file__).with_name("label_in_qgis.py")
PYTHON = "/usr/bin/python3"
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PROJ", "GDAL", "VIRTUAL_ENV"))},
    "QT_QPA_PLATFORM": "offscreen",
    "LC_ALL": "C.UTF-8",
}

# No code of any authority: what a scene with its own projection has.
NAMELESS = Grid(
    UTM.height,
    UTM.width,
    UTM.transform,
    CRS.from_proj4(
        "+proj=laea +lat_0=52 +lon_0=10.5 +x_0=500000 +y_0=5600000 +ellps=GRS80 +units=m +no_defs"
    ),
)
CLASSES = patchy_classes(97, 130, AWKWARD_LEGEND.ids[:-1], seed=2)  # the last class of the legend is absent
EXPECTED = [[c.id, c.name, c.color] for c in AWKWARD_LEGEND.each()]


@pytest.fixture(scope="module", autouse=True)
def qgis() -> None:
    probe = None
    if shutil.which(PYTHON):
        probe = subprocess.run(
            [PYTHON, "-c", "import qgis.core"], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
    if probe is None or probe.returncode:
        reason = "QGIS's Python bindings are not installed (Debian: apt install python3-qgis)"
        if os.environ.get("DAS2F_MAP_REQUIRE_QGIS") == "1":
            pytest.fail(f"{reason}, and DAS2F_MAP_REQUIRE_QGIS=1 asks for them: {probe and probe.stderr}")
        pytest.skip(reason)


def open_in_qgis(folder: Path, *files: Path, home: Path) -> dict[str, list[dict[str, Any]]]:
    done = subprocess.run(
        [PYTHON, str(SCRIPT), str(folder), *map(str, files)],
        env={**ENVIRONMENT, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Whatever GDAL inside QGIS has to complain about in these files, users see as well.
    assert "Warning 1" not in done.stderr, done.stderr
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(
    scope="module",
    params=[
        "utm",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("geographic", "rotated", "nameless")),
    ],
)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    grid = {"utm": UTM, "geographic": GEOGRAPHIC, "rotated": ROTATED, "nameless": NAMELESS}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    raster, sure = folder / "land cover.tif", folder / "sure.tif"
    write_map(raster, CLASSES, grid=grid, confidence_path=sure, confidence=confidence_of(CLASSES))
    style_raster(raster, AWKWARD_LEGEND)
    suffixes = [".gpkg", ".shp", ".fgb"] + ([] if request.param == "nameless" else [".geojson"])
    files = [raster.with_suffix(s) for s in suffixes]
    for file in files:
        write_polygons(raster, file, AWKWARD_LEGEND, confidence_raster=sure)
    return grid, open_in_qgis(folder, raster, *files, home=tmp_path_factory.mktemp("home"))


def same_crs(layer: dict[str, Any], grid: Grid) -> bool:
    epsg = grid.crs.to_epsg()
    if epsg is not None:
        return bool(layer["crs"] == f"EPSG:{epsg}")
    return bool(CRS.from_proj4(layer["wkt"]).to_dict() == grid.crs.to_dict())


def visible(layer: dict[str, Any]) -> dict[str, int]:
    """Colours that cover more than stray antialiased pixels."""
    return {c: n for c, n in layer["colors"].items() if n > 150}


def test_raster_is_paletted_with_names_and_colours(opened: Any) -> None:
    grid, found = opened
    (layer,) = found["land cover.tif"]
    assert layer["valid"]
    assert same_crs(layer, grid)
    assert layer["renderer"] == "QgsPalettedRasterRenderer"
    assert [[int(v), label, colour] for v, label, colour in layer["classes"]] == EXPECTED
    assert layer["nodata"] == 0
    present = {c.color for c in AWKWARD_LEGEND.each() if (c.id == CLASSES).any()}
    assert len(present) == 4
    assert set(visible(layer)) == present | {"transparent"}


def test_every_layer_of_the_geopackage_comes_in_its_class_colour(opened: Any) -> None:
    grid, found = opened
    layers = [layer for layer in found["land cover.gpkg"] if layer["spatial"]]
    assert [layer["layer"] for layer in layers] == [
        "Wald",
        "Wald 2",
        "Straße / Weg",
        "_Gewässer_ & <Ufer>",
        "wald (9)",
    ]
    for layer, c in zip(layers, AWKWARD_LEGEND.each(), strict=True):
        assert layer["valid"]
        assert same_crs(layer, grid)
        assert layer["renderer"] == "QgsSingleSymbolRenderer"
        assert layer["color"] == c.color
        assert layer["fields"] == ["fid", "class_id", "class_name", "area_m2", "confidence"]
        assert (layer["features"] > 0) == bool((c.id == CLASSES).any())
        if layer["features"]:
            assert c.color in visible(layer)
            assert "transparent" in visible(layer)


@pytest.mark.parametrize("suffix", [".shp", ".fgb", ".geojson"])
def test_single_layer_formats_are_categorised(opened: Any, suffix: str) -> None:
    grid, found = opened
    if f"land cover{suffix}" not in found:
        assert grid is NAMELESS
        assert suffix == ".geojson"
        return
    (layer,) = found[f"land cover{suffix}"]
    assert layer["valid"]
    assert same_crs(layer, grid)
    assert layer["renderer"] == "QgsCategorizedSymbolRenderer"
    assert layer["classes"] == EXPECTED
    present = {c.color for c in AWKWARD_LEGEND.each() if (c.id == CLASSES).any()}
    assert set(visible(layer)) >= present | {"transparent"}


@pytest.mark.parametrize("shape", [pytest.param("points", marks=pytest.mark.slow), "squares"])
def test_interpreter_labels_a_sample_without_seeing_the_maps_class(tmp_path: Path, shape: str) -> None:
    write_map(tmp_path / "map.tif", CLASSES)
    file = tmp_path / "my sample.gpkg"
    sample_map(tmp_path / "map.tif", file, points=60, squares=shape == "squares", second_interpreter=True)
    names = [c.name for c in AWKWARD_LEGEND.each()]
    done = subprocess.run(
        [PYTHON, str(LABEL), str(file), names[3], str(tmp_path / "form.png")],
        env={**ENVIRONMENT, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["valid"]
    # A second layer would make QGIS ask which one is meant.
    assert found["layers"] == ["sample"]
    assert found["renderer"] == "QgsRuleBasedRenderer"
    assert [text for text in found["labels"] if text] == ["Unit", "Class", "Class (2nd interpreter)"]
    assert [choices[1:] for choices in found["choices"]] == [names, names]
    assert found["at_first"] == [choices[0] for choices in found["choices"]]
    assert found["read_only"] == ["sample_id"]
    assert {*found["hidden_columns"]} == {"fid", "stratum", "stratum_pixels", "inclusion", "cluster"}
    assert found["saved"]
    assert found["of_the_first"] == names[3]
    frame = gpd.read_file(file, layer="sample", engine="pyogrio")
    assert frame["class"].notna().sum() == 1
    assert frame["class_2"].isna().all()
    design = read_design(file)
    assert design is not None
    assert design.sampled == 60
