"""Whole scenes through `classify`, against patches cut from whole arrays with NumPy's own padding."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
from das2f_map.errors import InputError, ModelError, OutputError
from das2f_map.mapping import blocks
from das2f_map.model import ModelBundle

NODATA = 0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """20 × 26 MS pixels, nodata in a corner of MS and in one PAN pixel."""
    return make_pair(
        tmp_path_factory.mktemp("scene"),
        ms_shape=(20, 26),
        nodata=NODATA,
        ms_invalid=[(slice(0, 3), slice(0, 4))],
        pan_invalid=[(slice(41, 42), slice(60, 61))],
    )


def _truth(bundle: ModelBundle, pair: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and their probability for every pixel, from whole arrays, without any of the blocks' code."""
    card = bundle.card
    with rasterio.open(pair[0]) as src:
        ms = src.read().astype(np.float64)
    with rasterio.open(pair[1]) as src:
        pan = src.read().astype(np.float64)
    ms_invalid, pan_invalid = (ms == NODATA), (pan == NODATA)
    h, w = ms.shape[1:]
    bad = ms_invalid.any(axis=0) | pan_invalid[0].reshape(h, 4, w, 4).any(axis=(1, 3))
    ms = (ms - [[[b.mean]] for b in card.ms_bands]) / [[[b.std]] for b in card.ms_bands]
    pan = (pan - card.pan_band.mean) / card.pan_band.std
    ms[ms_invalid], pan[pan_invalid] = 0, 0  # the band's mean
    ms = np.pad(ms, ((0, 0), (7, 8), (7, 8)), mode="reflect").astype(np.float32)
    pan = np.pad(pan, ((0, 0), (28, 32), (28, 32)), mode="reflect").astype(np.float32)
    classes, probability = np.zeros((h, w), np.uint8), np.full((h, w), np.nan, np.float32)
    network = bundle.network()
    for r in range(h):
        a = np.stack([ms[:, r : r + 16, c : c + 16] for c in range(w)])
        b = np.stack([pan[:, 4 * r : 4 * r + 64, 4 * c : 4 * c + 64] for c in range(w)])
        with torch.no_grad():
            p = torch.softmax(network(torch.from_numpy(a), torch.from_numpy(b)), dim=1).numpy()
        classes[r] = np.array(card.legend.ids)[p.argmax(axis=1)]
        probability[r] = p.max(axis=1)
    classes[bad], probability[bad] = 0, np.nan
    return classes, probability


def test_every_pixel_is_classified_from_its_patch(bundle, pair, tmp_path: Path) -> None:
    report = das2f_map.classify(
        *pair, tmp_path / "map.tif", model=bundle, confidence=tmp_path / "sure.tif", batch_size=16
    )
    classes, probability = _truth(bundle, pair)
    assert len(np.unique(classes)) == 4, "the scene should show all three classes and nodata"
    with rasterio.open(tmp_path / "map.tif") as src, rasterio.open(pair[0]) as ms:
        assert (src.crs, src.transform, src.shape) == (ms.crs, ms.transform, ms.shape)
        assert (src.dtypes, src.nodata) == (("uint8",), 0)
        result = src.read(1)
    with rasterio.open(tmp_path / "sure.tif") as src:
        sure = src.read(1)
    np.testing.assert_allclose(sure, probability, atol=1e-4)
    clear = np.nan_to_num(probability, nan=1.0) > 0.34  # rounding may tip an exact tie
    np.testing.assert_array_equal(result[clear], classes[clear])
    assert report.nodata_pixels == int((classes == 0).sum()) == 13
    assert sum(c.pixels for c in report.classes) == 20 * 26 - 13


def test_map_does_not_depend_on_the_block_size(bundle, pair, tmp_path: Path, monkeypatch) -> None:
    maps = []
    for size in (64, 7):
        original = blocks.classify_blocks.__kwdefaults__
        monkeypatch.setitem(original, "block_size", size)
        das2f_map.classify(*pair, tmp_path / f"map{size}.tif", model=bundle, vectors=False)
        with rasterio.open(tmp_path / f"map{size}.tif") as src:
            maps.append(src.read(1))
    np.testing.assert_array_equal(*maps)


def test_outputs_and_report(bundle, pair, tmp_path: Path) -> None:
    report = das2f_map.classify(*pair, tmp_path / "map.tif", model=bundle)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "map.gpkg",
        "map.json",
        "map.qml",
        "map.tif",
        "map.tif.aux.xml",
    ]
    written = json.loads((tmp_path / "map.json").read_text())
    assert written == report.model_dump(mode="json")
    assert written["model"]["name"] == "tiny"
    assert written["engine"] == "shared"
    assert written["scene"]["strategy"] == "native"
    shares = [c["share"] for c in written["classes"]]
    assert sum(shares) == pytest.approx(1)

    with rasterio.open(tmp_path / "map.tif") as src:
        classes = src.read(1)
        pixel = abs(src.transform.determinant)
    for c in written["classes"]:
        layer = geopandas.read_file(tmp_path / "map.gpkg", layer=c["name"])
        assert layer.geometry.area.sum() == pytest.approx(pixel * (classes == c["id"]).sum())
        assert len(layer) == c["polygons"]
        assert layer["area_m2"].sum() == pytest.approx(c["area_m2"], rel=1e-9)
        # UTM's scale near its central meridian is 0.9996: ground areas are larger by its square.
        assert c["area_m2"] == pytest.approx(pixel * c["pixels"] / 0.9996**2, rel=1e-3)


def test_area_of_interest_cuts_the_map(bundle, pair, tmp_path: Path) -> None:
    das2f_map.classify(*pair, tmp_path / "whole.tif", model=bundle, vectors=False)
    with rasterio.open(tmp_path / "whole.tif") as src:
        whole, transform, crs = src.read(1), src.transform, src.crs
    x, y = transform.c + 8 * 8 + 1, transform.f - 8 * 5 - 1  # no pixel centre lies on an edge
    triangle = shapely.Polygon([(x, y), (x + 83, y), (x, y - 77)])
    geopandas.GeoDataFrame(geometry=[triangle], crs=crs).to_crs(4326).to_file(tmp_path / "aoi.gpkg")
    report = das2f_map.classify(
        *pair, tmp_path / "part.tif", model=bundle, vectors=False, aoi=tmp_path / "aoi.gpkg"
    )
    with rasterio.open(tmp_path / "part.tif") as src:
        part = src.read(1)
        row, col = (
            round(v) for v in ((transform.f - src.transform.f) / 8, (src.transform.c - transform.c) / 8)
        )
    inside = np.zeros(part.shape, bool)
    for r in range(part.shape[0]):
        for c in range(part.shape[1]):
            centre = shapely.Point(transform.c + 8 * (col + c + 0.5), transform.f - 8 * (row + r + 0.5))
            inside[r, c] = triangle.contains(centre)
    assert 40 <= inside.sum() <= 60
    expected = np.where(inside, whole[row : row + part.shape[0], col : col + part.shape[1]], 0)
    np.testing.assert_array_equal(part, expected)
    assert report.aoi == str(tmp_path / "aoi.gpkg")


def test_two_stage_networks_work_too(pair, tmp_path: Path) -> None:
    model = tiny_bundle(tmp_path, "two", stages=2)
    report = das2f_map.classify(*pair, tmp_path / "map.tif", model=model, vectors=False)
    assert sum(c.pixels for c in report.classes) == 20 * 26 - 13


def test_nothing_is_left_behind_when_the_engine_fails(bundle, pair, tmp_path: Path, monkeypatch) -> None:
    from das2f_map.engines.shared_scan import SharedScanEngine

    def fail(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SharedScanEngine, "logits", fail)
    with pytest.raises(KeyboardInterrupt):
        das2f_map.classify(*pair, tmp_path / "map.tif", model=bundle)
    assert list(tmp_path.iterdir()) == []


def test_refusals(bundle, pair, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a GeoTIFF"):
        das2f_map.classify(*pair, tmp_path / "map.png", model=bundle)
    with pytest.raises(OutputError, match="unknown vector format"):
        das2f_map.classify(*pair, tmp_path / "map.tif", model=bundle, vectors=tmp_path / "map.xyz")
    with pytest.raises(ModelError, match="needs 5 MS bands"):
        das2f_map.classify(*pair, tmp_path / "map.tif", model=tiny_bundle(tmp_path / "m", "five", bands=5))
    empty = tmp_path / "empty"
    empty.mkdir()
    folder = tmp_path / "bundle"
    tiny_bundle(folder, "b")
    with pytest.raises(OutputError, match="also an input"):
        das2f_map.classify(*pair, folder / "b" / "model.tif", model=folder / "b", overwrite=True)
    everywhere = [(slice(None), slice(None))]
    black = make_pair(empty, ms_shape=(20, 20), nodata=0, ms_invalid=everywhere)
    with pytest.raises(InputError, match="all nodata"):
        das2f_map.classify(*black, tmp_path / "map.tif", model=bundle)
    assert not list(tmp_path.glob("map*"))
