"""The files behind a VRT are found, and no output may be one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import rasterio
from rasterio.vrt import WarpedVRT
from synthetic import make_pair

from das2f_map.scene.virtual_files import with_sources


def vrt(path: Path, source: str, size: tuple[int, int] = (8, 8), *, relative: bool = True) -> Path:
    path.write_text(
        f'<VRTDataset rasterXSize="{size[1]}" rasterYSize="{size[0]}">'
        '<VRTRasterBand dataType="UInt16" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="{int(relative)}">{source}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def test_nested_sources(tmp_path: Path) -> None:
    ms, pan = make_pair(tmp_path, ms_shape=(8, 8))
    (tmp_path / "in").mkdir()
    inner = vrt(tmp_path / "in" / "inner.vrt", "../ms.tif")
    outer = vrt(tmp_path / "outer.vrt", str(inner), relative=False)
    with rasterio.open(outer) as dataset:  # GDAL finds the pixels along this way
        assert dataset.read(1).any()
    found = {Path(p).resolve() for p in with_sources([outer, pan])}
    assert found == {outer, inner, ms, pan}


def test_circles_end(tmp_path: Path) -> None:
    one, two = vrt(tmp_path / "1.vrt", "2.vrt"), vrt(tmp_path / "2.vrt", "1.vrt")
    assert {Path(p) for p in with_sources([one])} == {one, two}


def test_a_warped_vrt(tmp_path: Path) -> None:
    ms, _ = make_pair(tmp_path, ms_shape=(8, 8))
    with rasterio.open(ms) as dataset, WarpedVRT(dataset, crs="EPSG:4326") as warped:
        rasterio.shutil.copy(warped, tmp_path / "w.vrt", driver="VRT")
    assert ms in {Path(p).resolve() for p in with_sources([tmp_path / "w.vrt"])}


def test_a_vrt_of_features_and_one_in_a_text(tmp_path: Path) -> None:
    layer = tmp_path / "areas.vrt"
    layer.write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource relativeToVRT="1">a.gpkg</SrcDataSource>'
        "</OGRVRTLayer></OGRVRTDataSource>"
    )
    text = f"vrt://{tmp_path}/ms.tif?bands=3,2,1"
    assert str(tmp_path / "a.gpkg") in with_sources([layer])
    assert f"{tmp_path}/ms.tif" in with_sources([text])


@pytest.mark.parametrize(
    "content", [b"", b"<VRTDataset", b"\xff\xd8", b"<VRTDataset><SourceFilename/></VRTDataset>"]
)
def test_what_is_no_vrt_has_no_sources(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.vrt").write_bytes(content)
    given = [str(tmp_path / "x.vrt"), "none.tif"]
    assert sorted(with_sources(given)) == sorted(given)
