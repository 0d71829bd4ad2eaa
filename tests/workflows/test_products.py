"""Products as delivered through whole workflows: each gives the files that the two images give."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import delivered
import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from delivered import Pair
from rasterio.features import rasterize
from small_scene import TINY, Scene

import das2f_map
import das2f_map.training.run
import das2f_map.training.scene_pixels
from das2f_map.bundle.files import load_bundle
from das2f_map.scene.mask import open_mask
from das2f_map.scene.request import PairRequest
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.settings import TrainingSettings
from das2f_map.workflows.align import align
from das2f_map.workflows.inspect import inspect_pair
from das2f_map.workflows.train import run_training

Make = Callable[[Path, Pair], Path]

LAYOUTS: dict[str, Make] = {
    "Landsat folder": lambda f, p: delivered.landsat(f, p),
    "MTL file": lambda f, p: next(delivered.landsat(f, p).glob("*_MTL.txt")),
    "tar": lambda f, p: delivered.tar(delivered.landsat(f, p)),
    "tar.gz": lambda f, p: delivered.tar(delivered.landsat(f, p, collection="1"), "w:gz"),
    "zip": lambda f, p: delivered.zipped(delivered.landsat(f, p)),
    "DIMAP": lambda f, p: delivered.dimap(f, p),
    "DIMAP in tiles": lambda f, p: delivered.dimap(f, p, tiles=3, index_list=True),
    "Maxar": lambda f, p: delivered.maxar(f, p),
    "Gaofen": lambda f, p: delivered.gaofen(f, p),
    "STAC Item": lambda f, p: delivered.stac(f, p),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return delivered.crop(tmp_path_factory.mktemp("pair"), size=24)


def classified(folder: Path, ms: Path, pan: Path | None) -> Path:
    """The map of a scene by the bundled model, in a folder of its own."""
    folder.mkdir()
    das2f_map.classify(ms, pan, folder / "map.tif", model="landsat8-gulf", device="cpu")
    return folder


@pytest.fixture(scope="module")
def of_files(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classified(tmp_path_factory.mktemp("maps") / "files", pair.ms, pair.pan)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_map_is_that_of_the_two_files(layout: str, pair: Pair, of_files: Path, tmp_path: Path) -> None:
    """Byte for byte. A GeoPackage and the report hold times and their source: their contents are equal."""
    product = LAYOUTS[layout](tmp_path / "product", pair)
    of_product = classified(tmp_path / "map", product, None)
    names = sorted(p.name for p in of_files.iterdir())
    assert sorted(p.name for p in of_product.iterdir()) == names
    for name in ("map.tif", "map.tif.aux.xml", "map.qml"):
        assert (of_product / name).read_bytes() == (of_files / name).read_bytes(), name
    das2f_map.vectorize(of_product / "map.tif", tmp_path / "again.gpkg")
    for polygons in (of_product / "map.gpkg", tmp_path / "again.gpkg"):
        with closing(sqlite3.connect(polygons)) as database:
            about = database.execute("SELECT description FROM gpkg_contents").fetchall()
        assert f" from {product.name}, with das2f-map" in about[0][0]
    layers = gpd.list_layers(of_files / "map.gpkg")
    assert gpd.list_layers(of_product / "map.gpkg").equals(layers)
    for layer in layers.dropna().name:
        one, other = (gpd.read_file(f / "map.gpkg", layer=layer) for f in (of_files, of_product))
        assert one.equals(other), layer
    one, other = (json.loads((f / "map.json").read_text()) for f in (of_files, of_product))
    assert {k for k in one if one[k] != other[k]} <= {
        *("scene", "outputs", "seconds", "created", "folder", "request", "inputs", "checksums", "made_from"),
    }
    assert other["scene"]["product"]["path"] == str(product)
    parts = {k for k in one["scene"] if one["scene"][k] != other["scene"][k]}
    assert parts <= {"product", "ms", "pan", "nodata"}


@pytest.mark.slow
def test_clouds_are_left_out_of_the_map(pair: Pair, of_files: Path, tmp_path: Path) -> None:
    qa = np.zeros((24, 24), np.uint16)
    qa[5:12, 8:20] = 1 << 3
    qa[20:, :4] = 1 << 2
    product = delivered.landsat(tmp_path, pair, qa=qa)
    report = das2f_map.classify(
        product, None, tmp_path / "map.tif", model="landsat8-gulf", device="cpu", mask="clouds", vectors=False
    )
    with rasterio.open(tmp_path / "map.tif") as got, rasterio.open(of_files / "map.tif") as whole:
        # Patches still see the pixels, so that the others keep their classes.
        np.testing.assert_array_equal(got.read(1), np.where(qa == 0, whole.read(1), 0))
    assert report.scene.mask is not None
    assert report.scene.mask.path.endswith("_QA_PIXEL.TIF")


def test_quality_band_of_a_real_scene(shared_data: Path, tmp_path: Path) -> None:
    """Of a scene before the collections: by USGS's table, and by what people see."""
    gulf = shared_data / "gulf"
    with rasterio.open(gulf / "bqa.tif") as ds:
        qa = ds.read(1)
    scene = delivered.landsat(tmp_path, Pair(gulf / "ms.tif", gulf / "pan.tif"), collection="", qa=qa)
    request = PairRequest.of(scene, mask="clouds")
    with request.open() as opened:
        assert request.mask_file is not None
        (at, _), grid = opened.origins, opened.grids.ms
        assert at is not None
        with open_mask(request.mask_file, opened.grids) as mask:
            excluded = mask.excluded(grid.window)
    part = qa[at.row : at.row + at.height, at.col : at.col + at.width]
    np.testing.assert_array_equal(excluded, (part >> 14 == 3) | (part >> 12 & 3 == 3))
    labels = gpd.read_file(gulf / "labels.gpkg").to_crs(grid.crs)
    shares = {}
    for name, polygons in labels.groupby("class"):
        inside = rasterize(polygons.geometry, out_shape=excluded.shape, transform=grid.transform) == 1
        shares[name] = excluded[inside].mean()
    assert shares.pop("cloud") > 0.97
    assert max(shares.values()) < 0.05


@pytest.mark.slow
def test_inspect_names_the_product_and_what_to_type(pair: Pair, tmp_path: Path) -> None:
    product = delivered.landsat(tmp_path, pair, qa=np.zeros((24, 24), np.uint16))
    found = inspect_pair(product, mask="clouds", reflectance=True, device="cpu")
    facts = found.scene.product
    assert facts is not None
    assert (facts.kind, facts.reflectance_applied) == ("Landsat Collection 2 Level-1", True)
    assert [b.name for b in facts.bands] == [*delivered.ROLES, "pan"]
    assert str(product) in found.next_command
    assert "--mask clouds --reflectance" in found.next_command
    means = [b.values.mean for b in found.bands if b.values is not None]
    assert all(0 < m < 1 for m in means), "reflectance"


@pytest.mark.slow
def test_aligned_images_are_those_of_the_two_files(tmp_path: Path) -> None:
    pair = delivered.crop(tmp_path, size=100)
    product = delivered.dimap(tmp_path, pair)
    one = align(pair.ms, pair.pan, tmp_path / "files", bands={"blue": "blue", "green": "green"})
    other = align(product, None, tmp_path / "product", bands={"blue": "blue", "green": "green"})
    assert one.shift == other.shift
    images = []
    for folder in ("files", "product"):
        with (
            rasterio.open(tmp_path / folder / "ms.tif") as ms,
            rasterio.open(tmp_path / folder / "pan.tif") as p,
        ):
            by_name = dict(zip(ms.descriptions, ms.read(), strict=True))
            images.append(([by_name[r] for r in delivered.ROLES], p.read(), ms.transform, p.transform))
    for got, wanted in zip(images[1], images[0], strict=True):
        np.testing.assert_array_equal(got, wanted)


def training(pair: PairRequest, labels: Path, output: Path) -> TrainRequest:
    settings = TrainingSettings(
        steps=2, checks=1, batch_size=8, assess="none", distillation=0.0, device="cpu", seed=5
    )
    scene = SceneRequest(pair, LabelRequest(str(labels)))
    return TrainRequest((scene,), output, settings, network=TINY)


@pytest.fixture
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No random forest and few pixels to count shares of, which saves most of the time."""
    monkeypatch.setattr(das2f_map.training.run, "forest_figures", lambda *given: None)
    monkeypatch.setattr(das2f_map.training.scene_pixels, "SAMPLED", 50)


@pytest.mark.slow
@pytest.mark.usefixtures("few_pixels")
def test_trained_weights_are_those_of_the_two_files(small_scene: Scene, tmp_path: Path) -> None:
    made = delivered.landsat(tmp_path / "made", Pair(small_scene.ms, small_scene.pan))
    for name, images in (("files", (small_scene.ms, small_scene.pan)), ("product", (made, None))):
        request = PairRequest.of(*images, coregistration="off")
        run_training(training(request, small_scene.labels, tmp_path / name))
    one, other = (load_bundle(tmp_path / name) for name in ("files", "product"))
    assert one.state_dict.keys() == other.state_dict.keys()
    assert all(torch.equal(one.state_dict[k], other.state_dict[k]) for k in one.state_dict)
    # The product knows its bands; the files have none but numbers.
    assert [b.name for b in other.card.ms_bands] == list(delivered.ROLES)
    statistics = [[b.model_dump(exclude={"name"}) for b in m.card.ms_bands] for m in (one, other)]
    assert statistics[0] == statistics[1]
