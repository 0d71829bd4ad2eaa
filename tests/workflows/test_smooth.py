"""Smoothed probabilities, against the filter's formula and whatever the blocks."""

from __future__ import annotations

import math
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
from made_maps import made
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
import das2f_map.mapping.planned as planned_module
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import InputError
from das2f_map.running.smoothing import smoothed

HEIGHT, WIDTH = 14, 19


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"), patch=8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scene")
    return make_pair(folder, ms_shape=(HEIGHT, WIDTH), nodata=0, ms_invalid=[(slice(0, 4), slice(0, 5))])


def by_formula(
    probabilities: npt.NDArray[np.float32], guide: npt.NDArray[np.float64], radius: int
) -> npt.NDArray[np.float64]:
    """The filter pixel by pixel, in float64."""
    out = np.full(probabilities.shape, np.nan)
    height, width = guide.shape
    known = np.isfinite(probabilities[0])
    for r, c in np.argwhere(known).tolist():
        total, weights = np.zeros(len(probabilities)), 0.0
        for i in range(max(0, r - radius), min(height, r + radius + 1)):
            for j in range(max(0, c - radius), min(width, c + radius + 1)):
                if known[i, j]:
                    near = -2 * ((i - r) ** 2 + (j - c) ** 2) / radius**2
                    weight = math.exp(near - ((guide[i, j] - guide[r, c]) / 0.5) ** 2 / 2)
                    total, weights = total + weight * probabilities[:, i, j], weights + weight
        out[:, r, c] = total / weights
    return out


@pytest.mark.parametrize("radius", [1, 3])
def test_filter_against_its_formula_and_part_by_part(radius: int) -> None:
    rng = np.random.default_rng(radius)
    values = rng.dirichlet(np.ones(4), (17, 23)).transpose(2, 0, 1).astype(np.float32)
    values[:, rng.random((17, 23)) < 0.2] = np.nan
    guide = rng.normal(0, 1, (17, 23)).astype(np.float32)
    whole = smoothed(values, guide, radius)
    np.testing.assert_allclose(whole, by_formula(values, guide.astype(float), radius), rtol=2e-5)
    known = np.isfinite(values[0])
    np.testing.assert_allclose(whole.sum(axis=0)[known], 1, rtol=1e-5)
    part = slice(5 - radius, 12 + radius), slice(6 - radius, 20 + radius)
    inner = smoothed(values[(slice(None), *part)], guide[part], radius)[:, radius:-radius, radius:-radius]
    np.testing.assert_array_equal(inner, whole[:, 5:12, 6:20])


def test_a_wrong_pixel_goes_and_an_edge_of_pan_stays() -> None:
    """A class on each side of an edge; one pixel beside it is doubtful on the wrong side."""
    one, other = np.array([0.9, 0.1], np.float32), np.array([0.1, 0.9], np.float32)
    values = np.empty((2, 7, 8), np.float32)
    values[:, :, :4], values[:, :, 4:] = one[:, None, None], other[:, None, None]
    values[:, 3, 3] = 0.4, 0.6
    guide = np.where(np.arange(8) < 4, 0, 3).astype(np.float32) * np.ones((7, 1), np.float32)
    best = smoothed(values, guide, 2).argmax(axis=0)
    np.testing.assert_array_equal(best, np.broadcast_to(np.arange(8) >= 4, (7, 8)))


@pytest.mark.slow
def test_map_against_the_formula_in_any_blocks(
    pair: tuple[Path, Path], bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = made(pair, tmp_path / "plain", bundle, vectors=False)
    with rasterio.open(pair[1]) as src:
        pan = (src.read(1).astype(float) - bundle.card.pan_band.mean) / bundle.card.pan_band.std
    guide = pan.reshape(HEIGHT, 4, WIDTH, 4).mean(axis=(1, 3))
    expected = by_formula(plain["probabilities"], guide, 2)
    known = plain["classes"][0] > 0
    assert 0 < known.sum() < known.size
    one = made(pair, tmp_path / "one", bundle, smooth=2, vectors=False)
    monkeypatch.setattr(planned_module, "BLOCK_SIZE", 5)
    monkeypatch.setattr("das2f_map.engines.per_patch.PerPatchEngine.block_size", 5)
    many = made(pair, tmp_path / "many", bundle, smooth=2, vectors=False)
    ids = np.array(bundle.card.legend.ids)
    for found in (one, many):
        np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found["confidence"][0], expected.max(axis=0), rtol=1e-3)
        clear = known & (np.diff(np.sort(expected, axis=0), axis=0)[-1] > 1e-3)
        np.testing.assert_array_equal(found["classes"][0][clear], ids[expected.argmax(axis=0)][clear])
        nats = -(expected * np.log(expected)).sum(axis=0)
        np.testing.assert_allclose(found["entropy"][0], nats / np.log(3), atol=1e-4)
        np.testing.assert_array_equal(found["classes"][0] > 0, known)
    np.testing.assert_array_equal(one["classes"], many["classes"])
    assert (one["classes"] != plain["classes"]).any()


def test_an_area_of_interest_changes_no_pixel(
    pair: tuple[Path, Path], bundle: ModelBundle, tmp_path: Path
) -> None:
    whole = made(pair, tmp_path / "whole", bundle, smooth=2, vectors=False)
    with rasterio.open(pair[0]) as src:
        corners = [src.transform * c for c in ((4.2, 2.1), (17.7, 6.3), (6.4, 12.6))]
        area = tmp_path / "area.gpkg"
        geopandas.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=src.crs).to_file(area)
        transform = src.transform
    part = made(pair, tmp_path / "part", bundle, smooth=2, vectors=False, aoi=area)
    col, row = (round(x) for x in ~transform * (part["transform"].c, part["transform"].f))
    height, width = part["classes"].shape[1:]
    inside = part["classes"] > 0
    assert inside.sum() > 20
    same = whole["classes"][:, row : row + height, col : col + width]
    np.testing.assert_array_equal(part["classes"][inside], same[inside])
    sure = whole["confidence"][:, row : row + height, col : col + width]
    np.testing.assert_allclose(part["confidence"][inside], sure[inside], rtol=1e-4)


def test_a_draft_cannot_be_smoothed(pair: tuple[Path, Path], bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="draft cannot be smoothed"):
        das2f_map.classify(*pair, tmp_path / "m.tif", model=bundle, smooth=2, every=2)
    with pytest.raises(InputError, match="less than or equal to 8"):
        das2f_map.classify(*pair, tmp_path / "m.tif", model=bundle, smooth=9)
