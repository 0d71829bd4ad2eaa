"""Whole scenes through `classify`, against patches cut from whole arrays with NumPy's own padding."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from naive_fill import filled
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import InputError, ModelError, OutputError
from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.plan import ClassifyPlan
from das2f_map.scene.grid import blocks_of

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
    """Class ids and their probability for every pixel, from whole arrays, without the code for blocks."""
    card = bundle.card
    with rasterio.open(pair[0]) as src:
        ms = src.read().astype(np.float64)
    with rasterio.open(pair[1]) as src:
        pan = src.read().astype(np.float64)
    ms_invalid, pan_invalid = (ms == NODATA), (pan == NODATA)
    h, w = ms.shape[1:]
    bad = ms_invalid.any(axis=0) | pan_invalid[0].reshape(h, 4, w, 4).any(axis=(1, 3))
    ms, pan = (np.where(i, np.nan, v) for i, v in ((ms_invalid, ms), (pan_invalid, pan)))
    ms, pan = filled(ms, 8), filled(pan, 32)
    ms = (ms - [[[b.mean]] for b in card.ms_bands]) / [[[b.std]] for b in card.ms_bands]
    pan = (pan - card.pan_band.mean) / card.pan_band.std
    crowded = np.pad(bad, (7, 8), mode="reflect")
    for r, c in np.ndindex(h, w):
        bad[r, c] |= crowded[r : r + 16, c : c + 16].mean() > 0.5
    ms, pan = np.nan_to_num(ms), np.nan_to_num(pan)  # farther than any patch of a valid target reaches
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


@pytest.mark.slow
def test_map_does_not_depend_on_the_block_size(bundle, pair, tmp_path: Path, monkeypatch) -> None:
    maps = []
    for size in (64, 7):
        monkeypatch.setattr(ClassifyPlan, "blocks", lambda plan, size=size: blocks_of(plan.window, size))
        das2f_map.classify(*pair, tmp_path / f"map{size}.tif", model=bundle, vectors=False)
        with rasterio.open(tmp_path / f"map{size}.tif") as src:
            maps.append(src.read(1))
    np.testing.assert_array_equal(*maps)


@pytest.mark.slow
def test_interrupt_while_the_blocks_are_left_is_raised(bundle, pair, tmp_path: Path, monkeypatch) -> None:
    """A second interrupt ends a run that is stopped twice; a generator collected as garbage would lose it."""
    original = BlockClassifier.classify_all

    def interrupted(*args):
        try:
            yield from original(*args)
        finally:
            raise KeyboardInterrupt

    def failing(pixels: int) -> None:
        raise ValueError("the caller's")

    monkeypatch.setattr(BlockClassifier, "classify_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        das2f_map.classify(
            *pair,
            tmp_path / "map.tif",
            model=bundle,
            vectors=False,
            progress=lambda *_: contextlib.nullcontext(failing),
        )
    # The block that was finished waits for --resume; there is no map.
    assert [p.name for p in tmp_path.iterdir()] == [".map.tif.das2f-map"]


@pytest.mark.slow
def test_nodata_around_and_inside(bundle, tmp_path: Path, monkeypatch) -> None:
    """Collar, hole and scattered pixels, for any block size and nodata value; truth from whole arrays."""
    rng = np.random.default_rng(0)
    scattered = zip(rng.integers(0, 28, 30), rng.integers(0, 30, 30), strict=True)
    ms_invalid = [(slice(None), slice(24, 40)), *((slice(r, r + 1), slice(c, c + 1)) for r, c in scattered)]
    pan_invalid = [(slice(40, 80), slice(8, 40)), (slice(90, 91), slice(0, 96, 7))]
    maps = {}
    for value in (0, 65535):
        folder = tmp_path / str(value)
        folder.mkdir()
        files = make_pair(
            folder, ms_shape=(28, 40), nodata=value, ms_invalid=ms_invalid, pan_invalid=pan_invalid
        )
        for size in (64, 7) if value == 0 else (64,):
            monkeypatch.setattr(ClassifyPlan, "blocks", lambda plan, size=size: blocks_of(plan.window, size))
            das2f_map.classify(
                *files,
                folder / f"{size}.tif",
                model=bundle,
                vectors=False,
                confidence=folder / "sure.tif",
                overwrite=True,
            )
            with rasterio.open(folder / f"{size}.tif") as src:
                maps[value, size] = src.read(1)
    classes, probability = _truth(bundle, (tmp_path / "0" / "ms.tif", tmp_path / "0" / "pan.tif"))
    crowded = (classes == 0) & (maps[0, 64] == 0)
    clear = np.nan_to_num(probability, nan=1.0) > 0.34
    np.testing.assert_array_equal(maps[0, 64][clear], classes[clear])
    with rasterio.open(tmp_path / "0" / "ms.tif") as src:
        measured = (src.read() != 0).all(axis=0)
    assert (crowded & measured).sum() > 20, "some valid pixels should have too much nodata around"
    np.testing.assert_array_equal(maps[0, 64], maps[0, 7])
    np.testing.assert_array_equal(maps[0, 64], maps[65535, 64])


@pytest.mark.slow
def test_undeclared_nodata(bundle, tmp_path: Path) -> None:
    """A black collar that no file declares, `nodata=0`: the same map as with files that declare it.

    In MS a pixel is black where all bands are: zeros in one of them are measurements.
    """
    declared, bare = tmp_path / "declared", tmp_path / "bare"
    collar = {"ms_invalid": [(slice(0, 4), slice(None))], "pan_invalid": [(slice(60, 96), slice(0, 20))]}
    for folder in (declared, bare):
        folder.mkdir()
        files = make_pair(folder, ms_shape=(24, 26), nodata=0, **collar)
    for path in files:
        with rasterio.open(path, "r+") as out:
            out.nodata = None
    das2f_map.classify(
        declared / "ms.tif", declared / "pan.tif", tmp_path / "a.tif", model=bundle, vectors=False
    )
    report = das2f_map.classify(*files, tmp_path / "b.tif", model=bundle, vectors=False, nodata=0)
    assert report.scene.nodata == 0
    with rasterio.open(tmp_path / "a.tif") as one, rasterio.open(tmp_path / "b.tif") as two:
        np.testing.assert_array_equal(one.read(1), two.read(1))
        assert (one.read(1)[:4] == 0).all()
    with rasterio.open(files[0], "r+") as out:
        values = out.read()
        values[3, 10, 10], values[:, 10, 14] = 0, 0
        out.write(values)
    # One file declares it now, the other does not.
    with rasterio.open(files[1], "r+") as out:
        out.nodata = 0
    das2f_map.classify(*files, tmp_path / "c.tif", model=bundle, vectors=False, nodata=0)
    with rasterio.open(tmp_path / "c.tif") as src:
        assert src.read(1)[10, 10] != 0
        assert src.read(1)[10, 14] == 0


@pytest.mark.slow
def test_masked_pixels_are_nodata_and_change_nothing_else(bundle, pair, tmp_path: Path) -> None:
    das2f_map.classify(*pair, tmp_path / "all.tif", model=bundle, vectors=False)
    with rasterio.open(tmp_path / "all.tif") as src:
        everything, profile = src.read(1), src.profile
    clouds = np.zeros(everything.shape, np.uint8)
    clouds[8:14, 10:15] = 1
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        **{k: profile[k] for k in ("width", "height", "crs", "transform")},
    }
    with rasterio.open(tmp_path / "clouds.tif", "w", **profile) as out:
        out.write(clouds, 1)
    report = das2f_map.classify(
        *pair, tmp_path / "map.tif", model=bundle, vectors=False, mask=tmp_path / "clouds.tif"
    )
    with rasterio.open(tmp_path / "map.tif") as src:
        np.testing.assert_array_equal(src.read(1), np.where(clouds, 0, everything))
    assert report.scene.mask.path == str(tmp_path / "clouds.tif")


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


@pytest.mark.slow
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


def test_values_beyond_the_network_are_an_error_not_a_class(bundle: ModelBundle, tmp_path: Path) -> None:
    ms, pan = make_pair(tmp_path, ms_shape=(12, 12))
    with rasterio.open(ms) as src:
        profile, values = src.profile, src.read().astype(np.float32)
    values[:, 6, 6] = np.finfo(np.float32).min  # an undeclared nodata value
    with rasterio.open(ms, "w", **{**profile, "dtype": "float32"}) as dst:
        dst.write(values)
    output = tmp_path / "map.tif"
    with pytest.raises(InputError, match=r"values around row .* beyond what the network can take") as caught:
        das2f_map.classify(ms, pan, output, model=bundle)
    assert "--nodata" in caught.value.hint
    assert not output.exists()
