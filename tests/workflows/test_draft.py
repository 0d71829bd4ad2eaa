"""Drafts of every K-th pixel, against the whole map by strides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from made_maps import KINDS, OPTIONS, made
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
import das2f_map.mapping.planned as planned_module
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import InputError
from das2f_map.workflows.classify import forecast_map

HEIGHT, WIDTH = 23, 31


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"), patch=8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scene")
    return make_pair(folder, ms_shape=(HEIGHT, WIDTH), nodata=0, ms_invalid=[(slice(0, 6), slice(0, 9))])


@pytest.fixture(scope="module")
def area(pair: tuple[Path, Path]) -> Path:
    """A triangle over a part of the scene."""
    with rasterio.open(pair[0]) as src:
        corners = [src.transform * c for c in ((6.2, 4.1), (27.7, 9.3), (11.4, 21.6))]
        path = pair[0].with_name("area.gpkg")
        geopandas.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=src.crs).to_file(path)
    return path


@pytest.mark.parametrize(
    "step", [3, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_draft_is_the_map_by_strides(
    step: int, pair: tuple[Path, Path], area: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    whole = made(pair, tmp_path / "whole", bundle, vectors=False)
    draft = made(pair, tmp_path / "draft", bundle, every=step)
    first = (step - 1) // 2
    for kind in ("classes", *KINDS):
        own = whole[kind][:, first::step, first::step]
        np.testing.assert_array_equal(
            draft[kind] if kind == "classes" else np.isnan(draft[kind]),
            own if kind == "classes" else np.isnan(own),
        )
        np.testing.assert_allclose(draft[kind], own, atol=1e-5)
    assert draft["transform"] == whole["transform"] * rasterio.Affine.scale(step)
    report = draft["report"]
    assert (report.draft, report.settings.every, report.grid.pixel_size) == (True, step, [8.0 * step] * 2)
    assert (whole["report"].draft, whole["report"].settings.every) == (False, 1)
    assert f"a draft: one pixel of each {step} × {step}" in report.warnings[0]
    assert draft["tags"]["every"] == str(step)
    assert draft["tags"]["draft"] == f"one pixel of each {step} x {step} classified"
    assert "draft" not in whole["tags"]
    # Polygons and table describe the draft's pixels.
    for c in report.classes:
        assert c.pixels == int((draft["classes"] == c.id).sum())
        assert c.area_m2 == pytest.approx(c.pixels * (8.0 * step) ** 2, rel=2e-3)
        shapes = geopandas.read_file(tmp_path / "draft" / "m.gpkg", layer=c.name)
        assert shapes.geometry.area.sum() == pytest.approx(c.pixels * (8.0 * step) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3])
def test_area_and_mask_hit_the_same_pixels(
    step: int, pair: tuple[Path, Path], area: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    """The map of an area, put back into the scene's grid, has the pixels of the whole draft's window."""
    with rasterio.open(pair[0]) as src:
        profile = {**src.profile, "count": 1, "dtype": "uint8", "nodata": None}
    hidden = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) % 5 == 0).astype(np.uint8)
    mask = tmp_path / "mask.tif"
    with rasterio.open(mask, "w", **profile) as out:
        out.write(hidden, 1)
    more = {"aoi": area, "mask": mask, "vectors": False}
    whole = made(pair, tmp_path / "whole", bundle, **more)
    draft = made(pair, tmp_path / "draft", bundle, every=step, **more)

    def on_scene(found: dict[str, Any], k: int, shape: tuple[int, int]) -> np.ndarray:
        """Classes on the whole scene's grid of k × k pixels."""
        col, row = ~(profile["transform"] * rasterio.Affine.scale(k)) * (
            found["transform"].c,
            found["transform"].f,
        )
        assert (row, col) == pytest.approx((round(row), round(col)))
        out = np.zeros(shape, np.uint8)
        part = found["classes"][0]
        out[round(row) : round(row) + part.shape[0], round(col) : round(col) + part.shape[1]] = part
        return out

    first = (step - 1) // 2
    full = on_scene(whole, 1, (HEIGHT, WIDTH))[first::step, first::step]
    assert (full > 0).sum() > 8
    np.testing.assert_array_equal(on_scene(draft, step, full.shape), full)


@pytest.mark.slow
def test_blocks_and_smallest_areas(
    pair: tuple[Path, Path], bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(pair, tmp_path / "one", bundle, every=3, turns=4)
    monkeypatch.setattr(planned_module, "BLOCK_SIZE", 6)
    monkeypatch.setattr("das2f_map.engines.per_patch.PerPatchEngine.block_size", 6)
    monkeypatch.setattr(planned_module, "DRAFT_PIXELS", 2)
    merged = made(pair, tmp_path / "many", bundle, every=3, turns=4, min_area_m2=3 * 24.0**2)
    np.testing.assert_allclose(merged["confidence"], one["confidence"], atol=1e-5)
    changed = merged["classes"] != one["classes"]
    assert 0 < changed.sum() == merged["report"].merged_pixels
    sizes = [
        shape.area
        for c in merged["report"].classes
        for shape in geopandas.read_file(tmp_path / "many" / "m.gpkg", layer=c.name).geometry
    ]
    assert min(sizes) >= 3 * 24.0**2 - 1e-6


def test_plan_and_what_cannot_be(pair: tuple[Path, Path], bundle: ModelBundle, tmp_path: Path) -> None:
    plan = forecast_map(*pair, tmp_path / "m.tif", model=bundle, every=4, **OPTIONS)
    assert (plan.every, plan.rows, plan.columns) == (4, 6, 8)
    assert plan.valid_share == pytest.approx(1 - 1 * 2 / 48, abs=0.05)
    with pytest.raises(InputError, match="leaves none of the scene's 23 × 31") as caught:
        forecast_map(*pair, tmp_path / "m.tif", model=bundle, every=70, **OPTIONS)
    assert caught.value.hint == "give a smaller --every"
    for wrong in (0, 2.5, True):
        with pytest.raises(InputError, match="every"):
            das2f_map.classify(*pair, tmp_path / "m.tif", model=bundle, every=wrong)
    with rasterio.open(pair[0]) as src:
        tiny = shapely.Point(src.transform * (20.5, 10.5)).buffer(5)
        geopandas.GeoDataFrame(geometry=[tiny], crs=src.crs).to_file(tmp_path / "tiny.gpkg")
    with pytest.raises(InputError, match="covers no pixel centre") as caught:
        das2f_map.classify(
            *pair, tmp_path / "m.tif", model=bundle, every=8, aoi=tmp_path / "tiny.gpkg", **OPTIONS
        )
    assert caught.value.hint == "draw a larger area; or a smaller --every, or none"
    with pytest.raises(InputError, match="has no layer 'other'") as caught:
        das2f_map.classify(
            *pair, tmp_path / "m.tif", model=bundle, every=8, aoi=f"{tmp_path}/tiny.gpkg|layername=other"
        )
    assert "--every" not in (caught.value.hint or "")
    assert json.loads(plan.model_dump_json())["every"] == 4
