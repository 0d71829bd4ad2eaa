"""Tests which paths are local, and that every opener names a missing local file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas
import pytest
import rasterio
import shapely
from synthetic import make_pair, pair_grids

from das2f_map.assess.open_map import open_map
from das2f_map.errors import Das2fMapError
from das2f_map.labels.files import open_labels
from das2f_map.scene.area import Area
from das2f_map.scene.mask import MaskFile, open_mask
from das2f_map.scene.pair import open_pair
from das2f_map.scene.paths import is_local, missing_local_file
from das2f_map.scene.source import RasterSource

LOCAL = (
    "ms.tif",
    "/data/ms.tif",
    "./a:b.tif",
    "data/12:30.tif",
    "/data/12:30/ms.tif",
    r"C:\data\ms.tif",
    "-",
)
FOR_GDAL = (
    "https://example.org/ms.tif",
    "s3://bucket/ms.tif",
    "zip+https://example.org/a.zip!ms.tif",
    "/vsicurl/https://example.org/ms.tif",
    "/vsizip/a.zip/ms.tif",
    "NETCDF:a.nc:band",
    'HDF5:"a.h5"://band',
    "SENTINEL2_L1C:a.xml:10m:EPSG_32632",
    "PG:dbname=labels",
)


@pytest.mark.parametrize("path", LOCAL)
def test_local(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_local(path)
    assert is_local(Path(path))
    assert missing_local_file(path)


@pytest.mark.parametrize("path", FOR_GDAL)
def test_for_gdal(path: str) -> None:
    assert not is_local(path)
    assert not missing_local_file(path)


def test_what_is_there_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "12:30").mkdir()
    assert not missing_local_file(tmp_path / "12:30")
    assert missing_local_file(tmp_path / "12:30" / "ms.tif")


MS = pair_grids(ms_shape=(8, 8))[0]


def _mask(path: str, pair: tuple[Path, Path]) -> None:
    with open_pair(*pair) as scene:
        open_mask(MaskFile(path), scene.grids)


def _map(path: str) -> None:
    with open_map(path):
        pass


OPENERS: dict[str, Callable[[str, tuple[Path, Path]], object]] = {
    "image": lambda path, _: RasterSource(path, "MS"),
    "mask": _mask,
    "area": lambda path, _: Area.from_file(path, MS),
    "labels": lambda path, _: open_labels(path, MS),
    "map": lambda path, _: _map(path),
}


@pytest.mark.parametrize("kind", OPENERS)
def test_every_opener_asks_the_same(kind: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, ms_shape=(8, 8))
    missing = str(tmp_path / "12:30.tif")
    with pytest.raises(Das2fMapError) as caught:
        OPENERS[kind](missing, pair)
    assert "does not exist" in caught.value.message
    assert missing in caught.value.message
    elsewhere = f'NETCDF:"{tmp_path}/none.nc":band'
    with pytest.raises(Das2fMapError) as caught:
        OPENERS[kind](elsewhere, pair)
    assert elsewhere in caught.value.message
    assert not caught.value.message.endswith("does not exist")


def _mask_file(path: str, pair: tuple[Path, Path]) -> None:
    with open_pair(*pair) as scene, open_mask(MaskFile(path), scene.grids) as mask:
        assert mask.excluded(scene.grids.ms.window).all()


def _area_file(path: str, _: tuple[Path, Path]) -> None:
    assert Area.from_file(path, MS).mask(MS.window).all()


def _label_file(path: str, _: tuple[Path, Path]) -> None:
    with open_labels(path, MS) as labels:
        assert labels.legend.names == ("water",)
        assert (labels.read(MS.window).classes == 1).all()


READERS: dict[str, Callable[[str, tuple[Path, Path]], None]] = {
    "mask": _mask_file,
    "area": _area_file,
    "labels": _label_file,
}
ODD_NAMES = (
    "a!b",
    "a;b",
    "zip!x;y?",
    "two\nlines",
    " space first",
    "!all/labels",
    "sub;folder/x",
    "caf\udce9",
    "what?/w",
    "a#b%20c",
    "zip:a",
    "a[1]",
)


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["gpkg", "shp"])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_vector_files(
    name: str, extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is the same under any name; truth is the square of the whole scene."""
    pair = make_pair(tmp_path, ms_shape=(8, 8))
    xs, ys = zip(*MS.corners(), strict=True)
    square = shapely.box(min(xs), min(ys), max(xs), max(ys))
    plain = tmp_path / "plain"
    plain.mkdir()
    frame = geopandas.GeoDataFrame({"class": ["water"]}, geometry=[square], crs=MS.crs)
    frame.to_file(plain / f"q.{extension}")
    odd = tmp_path / f"{name}.{extension}"
    odd.parent.mkdir(exist_ok=True)
    for file in plain.iterdir():
        file.rename(odd.with_name(odd.stem + file.suffix))
    before = sorted(p.name for p in tmp_path.rglob("*"))
    monkeypatch.chdir(odd.parent)
    for path in (str(odd), f"/{odd}", odd.name):
        for read in READERS.values():
            read(path, pair)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ms, _ = make_pair(tmp_path, ms_shape=(8, 8))
    with rasterio.open(ms) as dataset:
        truth = dataset.read()
    odd = tmp_path / f"{name}.tif"
    odd.parent.mkdir(exist_ok=True)
    ms.rename(odd)
    monkeypatch.chdir(odd.parent)
    for path in (str(odd), f"/{odd}", odd.name):
        with RasterSource(path, "MS") as source:
            assert (source.read_raw(source.grid.window)[0] == truth).all()
