"""Validity of a file's pixels if the file declares it in several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from synthetic import pair_grids, write_raster

from das2f_map.scene.grid import Window
from das2f_map.scene.source import RasterSource


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint16", 7.0), ("float32", -9999.9), ("float32", float("nan")), ("int16", -1.0)]
)
def test_a_mask_of_the_file_and_nodata_both_count(tmp_path: Path, dtype: str, nodata: float) -> None:
    grid, _ = pair_grids(ms_shape=(16, 16))
    values = np.full((2, 16, 16), 100.0)
    values[0, 2:4, 5], values[1, 9, 9] = nodata, nodata
    masked = np.zeros((16, 16), bool)
    masked[12:, :3] = True
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = tmp_path / "both.tif"
        with np.errstate(invalid="ignore"):
            write_raster(path, values, grid, dtype=dtype, nodata=nodata)
        with rasterio.open(path, "r+") as file:
            file.write_mask(~masked)
    truth = np.where(masked, np.nan, np.full((2, 16, 16), 100.0))
    truth[0, 2:4, 5] = truth[1, 9, 9] = np.nan
    with RasterSource(path, "MS") as source:
        np.testing.assert_array_equal(source.read(grid.window), truth)
        np.testing.assert_array_equal(source.read_raw(grid.window)[1], ~np.isnan(truth))
        np.testing.assert_array_equal(source.with_bands([2]).read(grid.window), truth[1:])
        np.testing.assert_array_equal(source.read_reduced(grid.window, 16, 16), truth)
        # No average includes an invalid pixel.
        reduced = source.read_reduced(grid.window, 4, 4)
        assert set(np.unique(reduced[np.isfinite(reduced)])) == {100.0}


@pytest.mark.parametrize("other", ["uint8", "float32"])
def test_bands_of_several_types(tmp_path: Path, other: str) -> None:
    """A VRT may stack measurements and a band of another type with its own nodata value."""
    grid, _ = pair_grids(ms_shape=(16, 16))
    values = np.arange(3 * 256, dtype="float64").reshape(3, 16, 16) % 250 + 1
    values[0, 1, 1], values[2, 2, 2] = 60_000, -9999.9 if other == "float32" else 255
    nodata = values[2, 2, 2]
    write_raster(tmp_path / "a.tif", values[:2], grid, dtype="uint16")
    write_raster(tmp_path / "b.tif", values[2:], grid, dtype=other, nodata=nodata)
    t = grid.transform
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{n}">{declared}<SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{file}</SourceFilename><SourceBand>{band}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for n, kind, file, band, declared in (
            (1, "UInt16", "a.tif", 1, ""),
            (2, "UInt16", "a.tif", 2, ""),
            (3, {"uint8": "Byte"}.get(other, "Float32"), "b.tif", 1, f"<NoDataValue>{nodata}</NoDataValue>"),
        )
    )
    (tmp_path / "stack.vrt").write_text(
        f'<VRTDataset rasterXSize="16" rasterYSize="16"><SRS>EPSG:32632</SRS><GeoTransform>'
        f"{t.c}, {t.a}, {t.b}, {t.f}, {t.d}, {t.e}</GeoTransform>{bands}</VRTDataset>"
    )
    truth = values.astype("float32")
    truth[2, 2, 2] = np.nan
    with RasterSource(tmp_path / "stack.vrt", "MS") as source:
        np.testing.assert_array_equal(source.read(source.grid.window), truth)
        np.testing.assert_array_equal(source.read_reduced(source.grid.window, 16, 16), truth)
        assert source.dtype == {"uint8": "uint16", "float32": "float32"}[other]
        assert source.with_bands([1, 2]).dtype == "uint16"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
@pytest.mark.parametrize(("declared", "given"), [(None, None), (7, None), (None, 7.0), (9, 7.0), (None, 7.5)])
@pytest.mark.parametrize("turned", [False, True])
def test_whole_numbers_with_and_without_nodata(
    tmp_path: Path, dtype: str, declared: float | None, given: float | None, turned: bool
) -> None:
    """Values are those of the file, the usual way up; a given nodata value counts in all bands at once."""
    grid, _ = pair_grids(ms_shape=(16, 16))
    values = np.random.default_rng(0).integers(6, 10, (2, 16, 16))
    values[:, 3, 4] = np.iinfo(dtype).max
    write_raster(tmp_path / "file.tif", values, grid, dtype=dtype, nodata=declared)
    if turned:
        with rasterio.open(tmp_path / "file.tif", "r+") as file:
            t = file.transform
            file.transform = t * t.translation(file.width, file.height) * t.scale(-1, -1)
    truth = values.astype(np.float32)
    if declared is not None:
        truth[values == declared] = np.nan
    if given is not None:
        truth[:, (values == given).all(axis=0)] = np.nan
    if turned:
        truth = truth[:, ::-1, ::-1]
    with RasterSource(tmp_path / "file.tif", "MS", nodata=given) as source:
        np.testing.assert_array_equal(source.read(source.grid.window), truth)
        part = Window(2, 5, 7, 9)
        np.testing.assert_array_equal(source.read(part), truth[:, 2:9, 5:14])
        outside = source.read(Window(-1, -2, 5, 5))
        assert np.isnan(outside[:, 0]).all()
        np.testing.assert_array_equal(outside[:, 1:, 2:], truth[:, :4, :3])
        assert source.always_valid == (declared is None and given is None)


def test_lists_of_all_bands_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged header may claim 65,535 bands; asking for such a list band by band takes minutes."""
    path, bands = tmp_path / "many.tif", 300
    options = {"driver": "GTiff", "height": 2, "width": 2, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", count=bands, transform=rasterio.Affine(1, 0, 0, 0, -1, 2), **options):
        pass
    asked: list[str] = []
    for name in ("dtypes", "scales", "offsets", "nodatavals"):
        plain = getattr(rasterio.DatasetReader, name)

        def counted(self: object, name: str = name, plain: Any = plain) -> Any:
            asked.append(name)
            return plain.__get__(self)

        monkeypatch.setattr(rasterio.DatasetReader, name, property(counted), raising=False)
    with RasterSource(path, "MS") as source:
        assert len(source.bands) == bands
    assert 0 < len(asked) < 40
