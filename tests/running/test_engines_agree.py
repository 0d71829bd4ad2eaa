"""Every engine gives a scene with holes, collars and a mask the same classes and the same nodata."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from rasterio.windows import Window as RasterioWindow
from synthetic import write_raster

from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import Engine
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.engines.shared_scan import SharedScanEngine
from das2f_map.running.blocks import BlockClassifier
from das2f_map.scene.grid import Grid, blocks_of
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair, open_pair

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gulf"
SIDE = 24
MASKED = np.zeros((SIDE, SIDE), bool)
MASKED[9:13, 2:6] = True
MS_HOLES = np.zeros((SIDE, SIDE), bool)
MS_HOLES[:5] = True  # a collar
MS_HOLES[14:17, 11:14] = True
MS_HOLES[20, 4] = True
PAN_HOLES = np.zeros((4 * SIDE, 4 * SIDE), bool)
PAN_HOLES[:, 80:] = True  # a collar on another side
PAN_HOLES[37, 50] = True


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_bundle(find_model("landsat8-gulf"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """24 × 24 MS pixels of the example, PAN doubled so that the files nest; and a polygon."""
    folder = tmp_path_factory.mktemp("crop")
    with rasterio.open(EXAMPLE / "ms.tif") as src:
        ms = src.read(window=RasterioWindow(60, 70, SIDE, SIDE)).astype(float)
        grid = Grid(SIDE, SIDE, src.transform, src.crs)
    with rasterio.open(EXAMPLE / "pan.tif") as src:
        pan = src.read(window=RasterioWindow(120, 140, 2 * SIDE, 2 * SIDE)).astype(float)
    pan = pan.repeat(2, axis=1).repeat(2, axis=2)
    ms[:, MS_HOLES], pan[:, PAN_HOLES] = 0, 0
    names = ("blue", "green", "red", "nir")
    rows, cols = np.nonzero(MASKED)
    (x0, y1), (x1, y0) = (
        grid.pixel_to_map(rows.min(), cols.min()),
        grid.pixel_to_map(rows.max() + 1, cols.max() + 1),
    )
    geopandas.GeoSeries([shapely.box(x0, y0, x1, y1)], crs=grid.crs.to_wkt()).to_file(folder / "mask.gpkg")
    return (
        write_raster(folder / "ms.tif", ms, grid, dtype="uint16", nodata=0, names=names),
        write_raster(folder / "pan.tif", pan, grid.refined(4), dtype="uint16", nodata=0),
        folder / "mask.gpkg",
    )


def classes_of(pair: ScenePair, engine: Engine, bundle: ModelBundle, block_size: int) -> np.ndarray:
    out = np.full((SIDE, SIDE), 255, np.uint8)
    card = bundle.card
    classifier = BlockClassifier(ModelInput(pair, card.normalisation, card.patch), engine, card.legend)
    for block in classifier.classify_all(blocks_of(pair.grids.ms.window, block_size)):
        out[block.window.slices()] = block.classes
    return out


def made(name: str, bundle: ModelBundle) -> Engine:
    if name == "onnx":
        pytest.importorskip("onnx", reason="needs the extra onnx")
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    if name == "shared in torch":
        return SharedScanEngine(bundle.network(), kernels=False)
    return make_engine(bundle, EngineChoice(engine=name, device=torch.device("cpu"), precision="fp32"))


@pytest.fixture(scope="module")
def truth(files: tuple[Path, Path, Path], bundle: ModelBundle) -> np.ndarray:
    with open_pair(*files[:2], mask=MaskFile(files[2])) as pair:
        return classes_of(pair, made("patch", bundle), bundle, 24)


def test_nodata_is_where_it_should_be(truth: np.ndarray, bundle: ModelBundle) -> None:
    """The test finds nodata from the holes: invalid or masked targets, and patches more than half invalid."""
    patch = bundle.card.patch
    before, after = patch.target_index, patch.size - 1 - patch.target_index
    # Each image is reflected at its own scale.
    wide = np.pad(MS_HOLES, (before, after), mode="reflect")
    pan = np.pad(PAN_HOLES, (4 * before, 4 * after), mode="reflect")
    wide |= pan.reshape(len(wide), 4, len(wide), 4).any(axis=(1, 3))
    invalid = wide[before : before + SIDE, before : before + SIDE]
    shares = np.lib.stride_tricks.sliding_window_view(wide, (patch.size, patch.size)).mean(axis=(2, 3))
    expected = invalid | MASKED | (shares > patch.max_invalid_share)
    assert (expected & ~invalid & ~MASKED).any(), "the share decides somewhere"
    np.testing.assert_array_equal(truth == 0, expected)
    assert len(np.unique(truth)) >= 3


@pytest.mark.parametrize("block_size", [pytest.param(24, marks=pytest.mark.slow), 10])
@pytest.mark.parametrize(
    "name",
    ["shared", *(pytest.param(n, marks=pytest.mark.slow) for n in ("shared in torch", "onnx", "patch"))],
)
def test_engines_agree(
    name: str, block_size: int, files: tuple[Path, Path, Path], bundle: ModelBundle, truth: np.ndarray
) -> None:
    with open_pair(*files[:2], mask=MaskFile(files[2])) as pair:
        np.testing.assert_array_equal(classes_of(pair, made(name, bundle), bundle, block_size), truth)
