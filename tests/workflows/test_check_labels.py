"""Labels with known faults, from the files to the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from small_scene import NAMES, Scene

import das2f_map
from das2f_map.errors import OutputError
from das2f_map.training.label_check import LabelCheck


def checked(scene: Scene, labels: Any, **more: Any) -> LabelCheck:
    return das2f_map.check_labels(scene.ms, scene.pan, labels, **more)


def kinds(found: LabelCheck) -> dict[str, int]:
    return {f.kind: f.count for f in found.findings}


def test_good_labels_have_no_findings(small_scene: Scene) -> None:
    found = checked(small_scene, small_scene.labels)
    assert kinds(found).pop("unlike", 0) <= 3  # of 1024 pixels, by chance
    assert {*kinds(found)} <= {"unlike"}
    assert found.usable
    assert found.verdict == "fit to train on"
    frame = gpd.read_file(small_scene.labels)
    for c in found.classes:
        assert c.features == (frame["class"] == c.name).sum()
        assert (c.pixels, c.invalid) == (16 * c.features, 0)
    assert found.hold_out is not None
    assert found.hold_out.pixels == sum(c.tested for c in found.classes) == 16 * 64
    assert found.doubtful.empty
    assert "fit to train on" in found.to_html()


def test_every_fault_is_found_and_written(small_scene: Scene, tmp_path: Path) -> None:
    frame = gpd.read_file(small_scene.labels)
    wrong = next(k for k, name in enumerate(frame["class"]) if name == "water")
    frame.loc[wrong, "class"] = "bare_soil"
    alike = [k for k, name in enumerate(frame["class"]) if name == "forest"][:2]
    frame.loc[alike, "class"] = "Forest "
    x, y = small_scene.grid.pixel_to_map(0, 0)
    first = frame.geometry.iloc[-1].bounds
    extra = [
        ("sliver", shapely.box(x + 1, y - 4, x + 3, y - 1)),
        ("water" if frame["class"].iloc[-1] != "water" else "forest", shapely.box(*first).buffer(-5)),
        ("forest", shapely.box(x - 900, y, x - 800, y + 50)),
        (None, shapely.box(x, y - 300, x + 10, y - 290)),
    ]
    more = gpd.GeoDataFrame({"class": [c for c, _ in extra]}, geometry=[g for _, g in extra], crs=frame.crs)
    labels = gpd.GeoDataFrame(pd.concat([frame, more], ignore_index=True), crs=frame.crs)
    found = checked(small_scene, labels, output=tmp_path / "d.gpkg")
    count = kinds(found)
    assert count["overlap"] == 2
    assert count["names alike"] == 2
    assert count["too small"] == count["outside the scene"] == count["no class"] == 1
    assert count["empty class"] == 1
    assert [f.kind for f in found.findings if f.serious] == ["names alike", "empty class"]
    assert found.verdict.startswith("mend the labels before training: names alike, empty class")
    written = gpd.read_file(tmp_path / "d.gpkg", layer="features")
    reasons = dict(zip(written["feature"], written["reasons"], strict=True))
    assert reasons[wrong] == "unlike its class, like water"
    assert {*reasons} == {wrong, *alike, *range(len(frame) - 1, len(frame) + 4)}
    pixels = gpd.read_file(tmp_path / "d.gpkg", layer="pixels")
    inside = pixels[pixels.within(frame.geometry.iloc[wrong].buffer(0.1))]
    assert len(inside) == 16
    assert {*inside["looks_like"]} == {"water"}
    with pytest.raises(OutputError, match="exists already"):
        checked(small_scene, labels, output=tmp_path / "d.gpkg")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.set_crs(32640, allow_override=True), "fit the scene's own CRS"),
        (lambda f: f.to_crs(4326).set_crs(32631, allow_override=True), "Assign EPSG:4326"),
        (lambda f: f.set_geometry(f.geometry.affine_transform([0, 1, 1, 0, 0, 0])), "look swapped"),
        (lambda f: f.set_geometry(f.geometry.translate(400_000, 90_000)), "show the same place"),
    ],
)
def test_labels_elsewhere_are_explained(small_scene: Scene, change: Callable[[Any], Any], said: str) -> None:
    found = checked(small_scene, change(gpd.read_file(small_scene.labels)))
    assert not found.usable
    assert said in found.findings[0].text
    assert found.hold_out is None


def test_masked_pixels_and_few_labels(small_scene: Scene, tmp_path: Path) -> None:
    frame = gpd.read_file(small_scene.labels)
    one = frame.groupby("class").head(1)
    mask = gpd.GeoDataFrame(geometry=[one[one["class"] == "water"].geometry.iloc[0]], crs=frame.crs)
    mask.to_file(tmp_path / "cloud.gpkg")
    found = checked(small_scene, one, mask=tmp_path / "cloud.gpkg")
    count = kinds(found)
    assert count["empty class"] == 1
    assert count["few places"] == 2
    (water,) = [c for c in found.classes if c.name == "water"]
    assert (water.pixels, water.invalid) == (0, 16)
    assert found.hold_out is None
    alone = checked(small_scene, frame[frame["class"] == "water"])
    assert not alone.usable
    assert "it needs two classes" in alone.verdict


def test_a_raster_has_no_features(small_scene: Scene, tmp_path: Path) -> None:
    with rasterio.open(small_scene.ms) as ms:
        profile = {**ms.profile, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(tmp_path / "l.tif", "w", **profile) as file:
        file.write(small_scene.truth, 1)
    found = checked(small_scene, tmp_path / "l.tif")
    assert [c.features for c in found.classes] == [None] * len(NAMES)
    assert [c.pixels for c in found.classes] == np.bincount(small_scene.truth.ravel())[1:].tolist()
    assert json.loads(json.dumps(found.to_dict()))["usable"]
