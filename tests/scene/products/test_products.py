"""Every kind of product gives the values of the two files that it was made of, and says what it is."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import delivered
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from delivered import Pair
from fuzz import damage
from rasterio.windows import Window as RasterioWindow

from das2f_map.errors import InputError
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.products.recognise import recognise
from das2f_map.scene.request import PairRequest, PairView

Make = Callable[[Path, Pair], Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return delivered.crop(tmp_path_factory.mktemp("pair"))


def mtl_of(folder: Path) -> Path:
    (path,) = folder.glob("*_MTL.txt")
    return path


def dim_of(folder: Path, spectral: str = "MS") -> Path:
    (path,) = folder.glob(f"IMG_PHR1A_{spectral}_001/DIM_*.XML")
    return path


def unlisted(item: Path) -> Path:
    """The Item without any list of bands: the keys of the assets are the names."""
    content = json.loads(item.read_text())
    for asset in content["assets"].values():
        asset.pop("eo:bands", None)
    item.write_text(json.dumps(content))
    return item


def by_roles(item: Path, pair: Pair) -> Path:
    """The Item with one MS image and one PAN image, told apart by roles; absolute paths."""
    content = json.loads(item.read_text())
    content["assets"] = {
        "a": {"href": str(pair.ms), "roles": ["data", "multispectral"]},
        "b": {"href": str(pair.pan), "roles": ["data", "panchromatic"]},
    }
    item.write_text(json.dumps(content))
    return item


LAYOUTS: dict[str, Make] = {
    "Landsat Collection 2": lambda f, p: delivered.landsat(f, p),
    "Landsat Collection 1": lambda f, p: delivered.landsat(f, p, collection="1"),
    "Landsat before the collections": lambda f, p: delivered.landsat(f, p, collection=""),
    "Landsat 7": lambda f, p: delivered.landsat(f, p, satellite=7),
    "Landsat 9": lambda f, p: delivered.landsat(f, p, satellite=9),
    "MTL file": lambda f, p: mtl_of(delivered.landsat(f, p)),
    "tar": lambda f, p: delivered.tar(delivered.landsat(f, p)),
    "tar.gz": lambda f, p: delivered.tar(delivered.landsat(f, p), "w:gz"),
    "zip": lambda f, p: delivered.zipped(delivered.landsat(f, p)),
    "DIMAP": lambda f, p: delivered.dimap(f, p),
    "DIMAP in tiles": lambda f, p: delivered.dimap(f, p, tiles=3),
    "DIMAP with a list of bands": lambda f, p: delivered.dimap(f, p, index_list=True),
    "DIMAP file of MS": lambda f, p: dim_of(delivered.dimap(f, p)),
    "DIMAP file of PAN": lambda f, p: dim_of(delivered.dimap(f, p), "P"),
    "DIMAP zip": lambda f, p: delivered.zipped(delivered.dimap(f, p, tiles=2)),
    "Maxar": lambda f, p: delivered.maxar(f, p),
    "Maxar with XML": lambda f, p: delivered.maxar(f, p, metadata="XML", split=False),
    "Maxar without metadata": lambda f, p: delivered.maxar(f, p, metadata="txt"),
    "Gaofen": lambda f, p: delivered.gaofen(f, p),
    "STAC": lambda f, p: delivered.stac(f, p),
    "STAC in a folder": lambda f, p: delivered.stac(f, p).parent,
    "STAC in a zip": lambda f, p: delivered.zipped(delivered.stac(f, p).parent),
    "STAC with names alone": lambda f, p: unlisted(delivered.stac(f, p)),
    "STAC, MS by its role": lambda f, p: by_roles(delivered.stac(f, p), p),
    "STAC 1.1, bands in one file": lambda f, p: delivered.stac(f, p, version="1.1.0", single=False),
}


def blocks(pair: ScenePair) -> list[np.ndarray]:
    """The whole scene with a halo, in the order blue, green, red, nir."""
    grid = pair.grids.ms
    ordered = pair.with_bands([next(b for b in pair.bands if b.role == r) for r in delivered.ROLES])
    block = ordered.read_block(grid.window, 3, 3)
    return [block.ms, block.pan, block.valid]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_are_those_of_the_two_files(layout: str, pair: Pair, tmp_path: Path) -> None:
    scene = LAYOUTS[layout](tmp_path, pair)
    with PairRequest.of(pair.ms, pair.pan).open() as files, PairRequest.of(scene).open() as product:
        assert product.grids == files.grids
        assert product.ms_dtype == files.ms_dtype == "uint16"
        for got, wanted in zip(blocks(product), blocks(files), strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert product.report().product is not None


def test_another_process_reads_the_same(pair: Pair, tmp_path: Path) -> None:
    views, sums = [], []
    for layout in ("Landsat 9", "tar", "DIMAP in tiles", "STAC"):
        request = PairRequest.of(LAYOUTS[layout](tmp_path, pair))
        with request.open() as opened:
            views.append(PairView.of(request, opened))
            sums.append(opened.read_block(opened.grids.ms.window, 0, 0).ms.sum(dtype=np.float64))
    (tmp_path / "views").write_bytes(pickle.dumps(views))
    program = (
        "import pickle, sys, numpy\n"
        "for view in pickle.load(open(sys.argv[1], 'rb')):\n"
        "    with view.open() as p:\n"
        "        print(p.read_block(p.grids.ms.window, 0, 0).ms.sum(dtype=numpy.float64))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "views"], capture_output=True, text=True, check=True
    )
    assert [float(line) for line in done.stdout.split()] == sums


def test_facts_of_landsat(pair: Pair, tmp_path: Path) -> None:
    scene = recognise(str(delivered.landsat(tmp_path, pair, qa=np.zeros((40, 40), np.uint16))))
    assert (scene.kind, scene.name) == ("Landsat Collection 2 Level-1", delivered.PRODUCTS["2"])
    assert (scene.sensor, scene.date) == ("Landsat 8 OLI_TIRS", "2016-11-25T16:24:31Z")
    assert [(b.role, b.label) for b in (*scene.ms, scene.pan)] == [
        ("blue", "B2"),
        ("green", "B3"),
        ("red", "B4"),
        ("nir", "B5"),
        ("pan", "B8"),
    ]
    assert scene.nodata == 0
    old = recognise(str(delivered.landsat(tmp_path, pair, satellite=7)))
    assert [b.label for b in old.ms] == ["B1", "B2", "B3", "B4"]
    before = recognise(str(delivered.landsat(tmp_path, pair, collection="")))
    assert (before.kind, before.name) == ("Landsat pre-collection Level-1", "LC80210392016330LGN00")


def test_mtl_as_json_and_xml(pair: Pair, tmp_path: Path) -> None:
    folder = delivered.landsat(tmp_path, pair)
    wanted = recognise(str(folder))
    text = mtl_of(folder)
    lines = [
        line.split(" = ") for line in text.read_text().splitlines() if " = " in line and "GROUP" not in line
    ]
    facts = {key.strip(): json.loads(value) for key, value in lines}
    text.unlink()
    path = text.with_suffix(".json")
    path.write_text(json.dumps({"LANDSAT_METADATA_FILE": {"PRODUCT_CONTENTS": facts}}))
    assert [b.scale for b in recognise(str(path)).ms] == [b.scale for b in wanted.ms]
    path.unlink()
    inner = "".join(f"<{k}>{v}</{k}>" for k, v in facts.items())
    text.with_suffix(".xml").write_text(f"<LANDSAT_METADATA_FILE><A>{inner}</A></LANDSAT_METADATA_FILE>")
    again = recognise(str(folder))
    assert (again.name, again.ms, again.date) == (wanted.name, wanted.ms, wanted.date)


def test_facts_of_the_others(pair: Pair, tmp_path: Path) -> None:
    airbus = recognise(str(delivered.dimap(tmp_path, pair)))
    assert (airbus.kind, airbus.sensor, airbus.date) == ("DIMAP V2", "PHR 1A", "2016-11-25T16:24:00Z")
    assert [b.label for b in airbus.ms] == ["B2", "B1", "B0", "B3"]
    assert airbus.nodata == 0
    maxar = recognise(str(delivered.maxar(tmp_path, pair)))
    assert (maxar.kind, maxar.sensor, maxar.date) == (
        "Maxar 2AS",
        "WV02",
        "2016-11-25T16:24:00Z",
    )
    assert maxar.nodata is None
    gaofen = recognise(str(delivered.gaofen(tmp_path, pair)))
    assert (gaofen.sensor, gaofen.date) == ("GF2 PMS1", "2016-11-25T04:10:11Z")
    item = recognise(str(delivered.stac(tmp_path, pair)))
    assert (item.kind, item.name, item.sensor) == ("STAC Item", "gulf-20161125", "landsat-8 oli")


def reflectances(scene: Path) -> tuple[np.ndarray, np.ndarray]:
    """MS (blue, green, red, nir) and PAN of a product in reflectance, one MS pixel and its PAN pixels."""
    with PairRequest.of(scene, reflectance=True).open() as opened:
        ms, pan, _ = blocks(opened)
    return ms, pan


def numbers(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    with PairRequest.of(pair.ms, pair.pan).open() as opened:
        ms, pan, _ = blocks(opened)
    return ms.astype(np.float64), pan.astype(np.float64)


def test_reflectance_of_landsat(pair: Pair, tmp_path: Path) -> None:
    """(MULT × number + ADD) / sin(sun's elevation), by the USGS formula."""
    sine = math.sin(math.radians(delivered.SUN))
    for got, number in zip(reflectances(delivered.landsat(tmp_path, pair)), numbers(pair), strict=True):
        np.testing.assert_allclose(got, (delivered.MULT * number + delivered.ADD) / sine, rtol=2e-6)


def test_reflectance_of_dimap(pair: Pair, tmp_path: Path) -> None:
    """π d² L / (E sin(elevation)) with L = number / gain + bias; d from the day of the year."""
    day = date(2016, 11, 25).timetuple().tm_yday
    distance = 1 - 0.01672 * math.cos(math.radians(0.9856 * (day - 4)))
    factor = math.pi * distance**2 / (delivered.IRRADIANCE * math.sin(math.radians(delivered.SUN)))
    for got, number in zip(reflectances(delivered.dimap(tmp_path, pair)), numbers(pair), strict=True):
        radiance = number / delivered.DIMAP_GAIN + delivered.DIMAP_BIAS
        np.testing.assert_allclose(got, factor * radiance, rtol=2e-6)


def test_reflectance_of_stac(pair: Pair, tmp_path: Path) -> None:
    for got, number in zip(reflectances(delivered.stac(tmp_path, pair)), numbers(pair), strict=True):
        np.testing.assert_allclose(got, 0.0001 * number - 0.1, rtol=2e-5)


@pytest.mark.parametrize("make", [delivered.maxar, delivered.gaofen])
def test_reflectance_that_is_not_stated(make: Make, pair: Pair, tmp_path: Path) -> None:
    request = PairRequest.of(make(tmp_path, pair), reflectance=True)
    with pytest.raises(InputError, match="does not state a scale and offset to reflectance"):
        request.open()


def test_two_files_have_neither_reflectance_nor_clouds(pair: Pair) -> None:
    with pytest.raises(InputError, match="--reflectance needs a product"):
        PairRequest.of(pair.ms, pair.pan, reflectance=True)
    with pytest.raises(InputError, match="--mask clouds is the quality band of a product") as caught:
        PairRequest.of(pair.ms, pair.pan, mask="clouds")
    assert "./clouds" in str(caught.value)


CLOUDY = {
    "": [3 << 14, 3 << 12, 0xFFFF],
    "1": [1 << 4, 3 << 7, 3 << 11],
    "2": [1 << 1, 1 << 2, 1 << 3, 1 << 4],
}
"""Collection → numbers of the quality band that mean cloud, shadow or cirrus, by the USGS tables."""
CLEAR = {
    "": [0, 1 << 14, 1 << 15, 1 << 13, 1 << 12, 3 << 10, 3 << 4],
    "1": [0, 1 << 5, 3 << 5, 1 << 7, 1 << 8, 3 << 9, 1 << 11, 1 << 12],
    "2": [1, 1 << 5, 1 << 6, 1 << 7, 3 << 8, 3 << 10, 3 << 12, 3 << 14],
}
"""Numbers that do not: low and middle confidence, snow, water, fill."""


@pytest.mark.parametrize("collection", ["", "1", "2"])
def test_clouds_of_landsat(collection: str, pair: Pair, tmp_path: Path) -> None:
    qa = np.zeros((40, 40), np.uint16)
    coded = [*CLOUDY[collection], *CLEAR[collection]]
    qa[:, : len(coded)] = coded
    wanted = np.zeros((40, 40), bool)
    wanted[:, : len(CLOUDY[collection])] = True
    product = delivered.landsat(tmp_path, pair, collection=collection, qa=qa)
    for scene in (product, delivered.tar(product)):
        with PairRequest.of(scene, mask="clouds").open() as opened:
            # The common grid has the MS pixels: PAN is the resampled one.
            block = opened.read_block(opened.grids.ms.window, 0, 0)
            shape = opened.grids.ms.height, opened.grids.ms.width
        assert shape == wanted.shape
        np.testing.assert_array_equal(~block.valid & ~block.invalid, wanted)


def test_clouds_of_stac(pair: Pair, tmp_path: Path) -> None:
    qa = np.zeros((40, 40), np.uint16)
    qa[:, :4] = [1 << 3, 1 << 4, 3 << 8, 1]
    with PairRequest.of(delivered.stac(tmp_path, pair, qa=qa), mask="clouds").open() as opened:
        block = opened.read_block(opened.grids.ms.window, 0, 0)
    wanted = np.zeros((40, 40), bool)
    wanted[:, :2] = True
    np.testing.assert_array_equal(~block.valid & ~block.invalid, wanted)


def test_product_without_a_quality_band(pair: Pair, tmp_path: Path) -> None:
    request = PairRequest.of(delivered.landsat(tmp_path, pair), mask="clouds")
    with pytest.raises(InputError, match="the product has no quality band"):
        _ = request.files


def test_fill_of_a_product_is_nodata(pair: Pair, tmp_path: Path) -> None:
    product = delivered.landsat(tmp_path, pair)
    for file in product.glob("*_B*.TIF"):
        with rasterio.open(file, "r+") as ds:
            side = 4 if ds.width == 40 else 8
            ds.write(np.zeros((1, side, side), np.uint16), window=RasterioWindow(0, 0, side, side))
    with PairRequest.of(product).open() as opened:
        valid = opened.read_block(opened.grids.ms.window, 0, 0).valid
    assert not valid[:4, :4].any()
    assert valid[6:, 6:].all()
    with PairRequest.of(product, nodata=7).open() as opened:
        assert opened.read_block(opened.grids.ms.window, 0, 0).valid.all()


def test_gap_between_tiles_is_nodata(pair: Pair, tmp_path: Path) -> None:
    scene = delivered.dimap(tmp_path, pair, tiles=2, index_list=True)
    (missing,) = scene.glob("IMG_PHR1A_MS_001/*_R1C2.TIF")
    missing.unlink()
    with pytest.raises(InputError, match=r"lacks the file IMG_.*_R1C2.TIF"):
        recognise(str(scene))
    metadata = dim_of(scene)
    entry = f'<Data_File tile_R="1" tile_C="2"><DATA_FILE_PATH href="{missing.name}"/></Data_File>'
    assert entry in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(entry, ""))
    with PairRequest.of(scene).open() as opened:
        valid = opened.read_block(opened.grids.ms.window, 0, 0).valid
    assert not valid[:20, 20:].any()
    assert valid[:19, :19].all()
    assert valid[21:].all()


def test_only_the_window_is_read(pair: Pair, tmp_path: Path) -> None:
    """A tile that no window touches may be damaged."""
    scene = delivered.dimap(tmp_path, pair, tiles=2)
    (tile,) = scene.glob("IMG_PHR1A_MS_001/*_R2C2.TIF")
    request = PairRequest.of(scene)
    with request.open() as opened:
        tile.write_bytes(b"damaged")
        window = opened.grids.ms.window
        small = type(window)(0, 0, 10, 10)
        assert opened.read_block(small, 0, 0).valid.all()
        with pytest.raises(InputError, match="cannot be read"):
            opened.read_block(window, 0, 0)


def test_names_that_xml_and_gdal_treat_specially(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a & b <c>", ' "quoted" ', "x!y;z", "12:30", "äöü", "100%", os.fsdecode(b"caf\xe9")):
        folder = tmp_path / name
        # rasterio writes to no path that is not UTF-8.
        made = delivered.landsat(tmp_path / "made", pair)
        product = Path(shutil.copytree(made.parent, folder)) / made.name
        monkeypatch.chdir(folder)
        for scene in (product, Path(product.name), delivered.tar(product), delivered.zipped(product)):
            with PairRequest.of(scene).open() as opened:
                assert opened.read_block(opened.grids.ms.window, 0, 0).valid.all()
                assert json.loads(opened.report().model_dump_json())["product"]["kind"].startswith("Landsat")


PLAIN: dict[str, tuple[str, dict[str, str]]] = {
    "ENVI": (".dat", {}),
    "GTiff": (".tif", {}),
    "HFA": (".img", {}),
    "JP2OpenJPEG": (".jp2", {"QUALITY": "100", "REVERSIBLE": "YES"}),
    "NITF": (".ntf", {"ICORDS": "N"}),
    "VRT": (".vrt", {}),
}
"""GDAL's driver → ending, and options that keep every value and the place."""


@pytest.mark.parametrize("driver", PLAIN)
def test_pair_of_a_plain_format(driver: str, pair: Pair, tmp_path: Path) -> None:
    with rasterio.Env() as env:
        if driver not in env.drivers():
            pytest.skip(f"this GDAL has no driver {driver}")
    ending, options = PLAIN[driver]
    copies = [tmp_path / f"{file.stem}{ending}" for file in (pair.ms, pair.pan)]
    for file, copy in zip((pair.ms, pair.pan), copies, strict=True):
        rasterio.shutil.copy(file, copy, driver=driver, **options)
    with PairRequest.of(pair.ms, pair.pan).open() as files:
        wanted = files.read_block(files.grids.ms.window, 0, 0)
    for request in (PairRequest.of(*copies), PairRequest.of(tmp_path)):
        with request.open() as opened:
            block = opened.read_block(opened.grids.ms.window, 0, 0)
        np.testing.assert_array_equal(block.ms, wanted.ms)
        # A format may round the place, by far less than a pixel.
        np.testing.assert_allclose(block.pan, wanted.pan, rtol=1e-5)


def unusable(scene: Path | str, *says: str) -> str:
    """The error of a product that cannot be used, as one text."""
    with pytest.raises(InputError) as caught:
        _ = PairRequest.of(scene).images
    for text in says:
        assert text in str(caught.value)
    return str(caught.value)


def test_products_that_cannot_be_used(pair: Pair, tmp_path: Path) -> None:
    product = delivered.landsat(tmp_path, pair)
    unusable(next(product.glob("*_B4.TIF")), "is one band of a Landsat product", str(product))
    unusable(pair.ms, "PAN is missing", f"give MS and PAN, {pair.ms} and {pair.pan}, or their folder")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(pair.ms, alone)
    unusable(alone / "ms.tif", "PAN is missing", "give two files, MS and PAN, or a product")
    shutil.copy(pair.pan, alone)
    shutil.copy(pair.pan, alone / "third.tif")
    unusable(alone / "third.tif", "is a single band", "gdalbuildvrt -separate")
    gaofen = delivered.gaofen(tmp_path, pair)
    unusable(next(gaofen.glob("*-MSS1.tiff")), "one image of a product, Gaofen", f"folder, {gaofen}")
    unusable(tmp_path / "none", "does not exist")
    unusable(
        delivered.landsat(tmp_path / "l2", pair, level="L2SP"), "Level-2 product", "no PAN band", "Level-1"
    )
    unusable(delivered.landsat(tmp_path / "tm", pair, satellite=5), "LANDSAT_5 ETM has no PAN band")
    next(product.glob("*_B3.TIF")).unlink()
    next(product.glob("*_B8.TIF")).unlink()
    unusable(product, "lacks", "_B3.TIF, ", "_B8.TIF")
    mtl_of(product).unlink()
    unusable(product, "no MTL file")
    twice = tmp_path / "twice"
    for satellite in (7, 8):
        shutil.copytree(
            delivered.landsat(tmp_path / "each", pair, satellite=satellite), twice, dirs_exist_ok=True
        )
    unusable(twice, "has 2 Landsat products", f"{delivered.PRODUCTS['2']}_MTL.txt", "name one")
    assert recognise(str(twice / f"{delivered.PRODUCTS['2']}_MTL.txt")).sensor.startswith("Landsat 8")


def test_surface_reflectance_files_are_level_2(tmp_path: Path) -> None:
    (tmp_path / "LC08_L2SP_021039_20161125_20200905_02_T1_SR_B4.TIF").touch()
    unusable(tmp_path, "Level-2 product", "it has no PAN band", "use the Level-1 product")


def test_short_metadata_of_landsat(pair: Pair, tmp_path: Path) -> None:
    """Satellite, collection and files come from the product's name where the MTL file lacks them."""
    product = delivered.landsat(tmp_path, pair, collection="1", qa=np.zeros((40, 40), np.uint16))
    wanted = recognise(str(product))
    metadata = mtl_of(product)
    left_out = ("SPACECRAFT", "COLLECTION_NUMBER", "BAND_QUALITY", "NAME_BAND_8", "NAME_BAND_3")
    lines = [x for x in metadata.read_text().splitlines() if not any(w in x for w in left_out)]
    metadata.write_text("\n".join(lines))
    got = recognise(str(product))
    assert (got.ms, got.pan, got.clouds, got.kind) == (wanted.ms, wanted.pan, wanted.clouds, wanted.kind)
    assert got.sensor == "Landsat 8 OLI_TIRS"


def test_short_metadata_of_dimap(pair: Pair, tmp_path: Path) -> None:
    """Bands come from the file's name, their order from the descriptions of the image."""
    scene = delivered.dimap(tmp_path, pair, index_list=True)
    for spectral in ("MS", "P"):
        metadata = dim_of(scene, spectral)
        text = metadata.read_text()
        for tag in ("Raster_Display", "SPECTRAL_PROCESSING"):
            text = re.sub(f"<{tag}>.*?</{tag}>", "", text)
        metadata.write_text(text)
    (image,) = scene.glob("IMG_PHR1A_MS_001/*.TIF")
    with rasterio.open(image, "r+") as ds:
        ds.descriptions = ("nir", "red", "green", "blue")
    assert [(b.role, b.number) for b in recognise(str(scene)).ms] == [
        ("nir", 1),
        ("red", 2),
        ("green", 3),
        ("blue", 4),
    ]


def test_dimap_of_spot_5_is_named(tmp_path: Path) -> None:
    (tmp_path / "METADATA.DIM").write_text("<Dimap_Document/>")
    unusable(tmp_path, "DIMAP V1", "IMAGERY.TIF")


def test_pair_among_other_images(pair: Pair, tmp_path: Path) -> None:
    for file, name in ((pair.ms, "scene_MS.tif"), (pair.pan, "scene_PAN.tif"), (pair.pan, "landcover.tif")):
        shutil.copy(file, tmp_path / name)
    found = recognise(str(tmp_path))
    assert (found.ms[0].files, found.pan.files) == (
        (str(tmp_path / "scene_MS.tif"),),
        (str(tmp_path / "scene_PAN.tif"),),
    )
    shutil.copy(pair.ms, tmp_path / "other_ms.tif")
    unusable(tmp_path, "is no product that is recognised")


def test_several_items_and_archives_at_an_address(pair: Pair, tmp_path: Path) -> None:
    item = delivered.stac(tmp_path, pair)
    shutil.copy(item, item.with_name("second.json"))
    unusable(item.parent, "has 2 STAC Items: item.json, second.json", "name one of them")
    unusable("https://example.org/LC08_X.tar?key=1", "archive at an address", "download it")


def test_deliveries_with_one_part(pair: Pair, tmp_path: Path) -> None:
    airbus = delivered.dimap(tmp_path, pair)
    shutil.rmtree(airbus / "IMG_PHR1A_P_001")
    unusable(airbus, "has no PAN product: it has MS", "both the MS and the P product")
    maxar = delivered.maxar(tmp_path, pair)
    shutil.rmtree(next(maxar.glob("*_MUL")))
    unusable(maxar, "has no MS image")
    gaofen = delivered.gaofen(tmp_path, pair)
    next(gaofen.glob("*-PAN1.tiff")).unlink()
    unusable(gaofen, "no PAN image of the same name")
    item = delivered.stac(tmp_path, pair)
    content = json.loads(item.read_text())
    del content["assets"]["pan"]
    item.write_text(json.dumps(content))
    unusable(item, "no asset for the band pan")
    content["properties"]["landsat:correction"] = "L2SP"
    item.write_text(json.dumps(content))
    unusable(item, "Level-2 product gulf-20161125", "it has no PAN band")


def test_folder_of_something_else(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scene")
    unusable(tmp_path, "is no product that is recognised", "give MS and PAN as two files")
    shutil.copy(pair.ms, tmp_path)
    unusable(tmp_path, "has one image, ms.tif")
    shutil.copy(pair.ms, tmp_path / "ms2.tif")
    unusable(tmp_path, "which one is PAN is not clear", "gdalbuildvrt -separate")
    sentinel = tmp_path / "S2A_MSIL1C_20161125T163521.SAFE"
    sentinel.mkdir()
    (sentinel / "MTD_MSIL1C.xml").write_text("<a/>")
    unusable(sentinel, "Sentinel-2 product", "no PAN band")


@pytest.mark.parametrize("href", ["/vsimem/a.tif", "/vsicurl/https://a.org/b.tif", "ftp://a.org/b.tif", ""])
def test_item_names_files_that_are_not_read(href: str, pair: Pair, tmp_path: Path) -> None:
    item = delivered.stac(tmp_path, pair)
    content = json.loads(item.read_text())
    content["assets"]["red"]["href"] = href
    item.write_text(json.dumps(content))
    unusable(item, f"names the file {href}, which is not read")


def test_item_takes_addresses_and_paths(pair: Pair, tmp_path: Path) -> None:
    item = delivered.stac(tmp_path, pair)
    content = json.loads(item.read_text())
    content["assets"]["red"]["href"] = "s3://bucket/red.tif"
    content["assets"]["blue"]["href"] = "https://example.org/blue.tif?key=1&more=2"
    content["assets"]["green"]["href"] = str(pair.ms)
    content["assets"]["nir"]["href"] = f"../{item.parent.name}/nir.tif"
    content["assets"]["pan"]["href"] = pair.pan.as_uri()
    item.write_text(json.dumps(content))
    scene = recognise(str(item))
    assert [b.files[0] for b in scene.ms] == [
        "https://example.org/blue.tif?key=1&more=2",
        str(pair.ms),
        "s3://bucket/red.tif",
        str(item.parent / "nir.tif"),
    ]
    assert scene.pan.files == (str(pair.pan),)


def test_metadata_that_are_hostile(pair: Pair, tmp_path: Path) -> None:
    metadata = dim_of(delivered.dimap(tmp_path, pair))
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    text = metadata.read_text()
    metadata.write_text(text.replace("\n<Dimap", f"\n{bomb}<Dimap", 1))
    unusable(metadata, "declares XML entities")
    metadata.write_text(text[: len(text) // 2])
    unusable(metadata, "no well-formed XML")
    metadata.write_bytes(b"<a>" + b" " * (16 * 1024 * 1024) + b"</a>")
    unusable(metadata, "larger than")
    item = delivered.stac(tmp_path, pair)
    item.write_text("[" * 100_000)
    unusable(item, "no JSON")
    item.write_text('{"stac_version": "1.0.0", "type": "Feature", "assets": {"a": 1, "b": {"href": 2}}}')
    unusable(item, "no asset for the band pan")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and no more")
    unusable(broken, "cannot be read")
    whole = delivered.tar(delivered.landsat(tmp_path, pair), "w:gz")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:1000])
    unusable(cut, "cannot be read")


# Rasterio cannot decode GDAL's message about such a text; the command line hides that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("layout", ["Landsat Collection 2", "DIMAP in tiles", "Maxar", "Gaofen", "STAC"])
def test_damaged_metadata_are_read_or_refused(layout: str, pair: Pair, tmp_path: Path) -> None:
    made = LAYOUTS[layout](tmp_path / "sound", pair)
    sound = made if made.is_dir() else made.parent
    metadata = [p for p in sound.rglob("*") if p.suffix.lower() in (".txt", ".xml", ".imd", ".json")]
    rng = random.Random(layout)
    for number in range(8):
        product = shutil.copytree(sound, tmp_path / str(number))
        path = product / rng.choice(sorted(metadata)).relative_to(sound)
        how = damage.JSON if path.suffix == ".json" else damage.TEXT
        path.write_bytes(rng.choice(how)(path.read_bytes(), rng))
        request = PairRequest.of(product, reflectance=rng.random() < 0.5)
        with suppress(InputError), request.open() as opened:
            opened.read_block(opened.grids.ms.window, 0, 0)
            opened.report().model_dump_json()
