"""The route from the example scene to areas with intervals, as a user runs it, with the report."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import pytest
import rasterio
from command import run_example


@pytest.mark.slow
def test_route_from_scene_to_areas(tmp_path: Path) -> None:
    done = run_example("areas.sh", tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    estimates = found["estimates"]
    frame = gpd.read_file(tmp_path / "points.gpkg", layer="sample", engine="pyogrio")
    assert len(frame) == 1500
    # The labels know the class of some points, and the estimates rest on these.
    assert 150 < frame["class"].notna().sum() == estimates["units"] < 600
    with rasterio.open(tmp_path / "landcover.tif") as file:
        classes = file.read(1)
    by_name = {c["name"]: c for c in estimates["classes"]}
    for k, name in enumerate(("bare_soil", "built_up", "cloud", "forest", "low_vegetation", "water"), 1):
        assert by_name[name]["mapped_pixels"] == (classes == k).sum()
    for c in estimates["classes"]:
        area = c["area_ha"]
        assert 0 <= area["lower"] <= area["estimate"] <= area["upper"]
        assert area["lower"] < area["upper"]
    total = sum(c["area_ha"]["estimate"] for c in estimates["classes"])
    assert total == pytest.approx(estimates["area_ha"])
    assert 900 < total <= 12_544 * 0.0901
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "stratified by the map" in page
    assert f"{by_name['built_up']['area_ha']['estimate']:.1f}" in page
    assert "points have no class" in " ".join(found["notices"])
    assert "Accuracy of each class" in done.stdout
