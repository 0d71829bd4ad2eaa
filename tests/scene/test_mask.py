"""Masks from polygons and from rasters of other grids, against known areas."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from synthetic import make_pair, pair_grids, write_raster

from das2f_map.assess.sample_design import read_design
from das2f_map.errors import Das2fMapError, InputError
from das2f_map.labels.labelled_pixels import read_labels
from das2f_map.pages.pictures import read_values
from das2f_map.scene import source
from das2f_map.scene.grid import Grid, GridPair, Window
from das2f_map.scene.mask import MaskFile, open_mask, parse_numbers
from das2f_map.scene.pair import open_pair
from das2f_map.scene.radiometry import sample_statistics
from das2f_map.scene.report import MaskReport
from das2f_map.scene.source import RasterSource

MS, _ = pair_grids()  # 64 × 64 pixels of 8 m


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("scene"))


def box(row: float, col: float, row_stop: float, col_stop: float) -> shapely.Polygon:
    """A rectangle given in MS pixels, in map coordinates."""
    (x0, y1), (x1, y0) = MS.pixel_to_map(row, col), MS.pixel_to_map(row_stop, col_stop)
    return shapely.box(x0, y0, x1, y1)


def vector(path: Path, *shapes: shapely.Geometry, crs: str = "EPSG:32632") -> Path:
    frame = geopandas.GeoDataFrame(geometry=list(shapes), crs=MS.crs.to_wkt())
    frame.to_crs(crs).to_file(path)
    return path


def excluded(paths: tuple[Path, Path], mask: MaskFile) -> np.ndarray:
    with open_pair(*paths, mask=mask) as scene:
        return ~scene.read_block(scene.grids.ms.window, 0, 0).valid


def window(*box: int) -> np.ndarray:
    out = np.zeros((64, 64), bool)
    out[box[0] : box[2], box[1] : box[3]] = True
    return out


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:32633"])
def test_polygons(pair, tmp_path: Path, crs: str) -> None:
    # Rows 30.4 to 40.6 cover 60 % of the first and of the last pixel.
    path = vector(tmp_path / "m.gpkg", box(10, 20, 15, 28), box(30.4, 5, 40.6, 9), crs=crs)
    np.testing.assert_array_equal(
        excluded(pair, MaskFile(path)), window(10, 20, 15, 28) | window(30, 5, 41, 9)
    )
    path = vector(tmp_path / "less.gpkg", box(30.7, 5, 40.3, 9), crs=crs)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path)), window(31, 5, 40, 9))


def test_collections_of_polygons(pair, tmp_path: Path) -> None:
    """Polygons in collections, also nested ones, as GIS programs make them when they merge layers."""
    nested = shapely.GeometryCollection([box(40, 2, 44, 9), shapely.MultiPolygon([box(50, 1, 52, 3)])])
    both = shapely.GeometryCollection([box(10, 20, 15, 28), nested])
    for crs in ("EPSG:32632", "EPSG:4326"):
        path = vector(tmp_path / f"{crs[-4:]}.gpkg", both, box(60, 60, 64, 64), crs=crs)
        truth = window(10, 20, 15, 28) | window(40, 2, 44, 9) | window(50, 1, 52, 3) | window(60, 60, 64, 64)
        np.testing.assert_array_equal(excluded(pair, MaskFile(path)), truth)
    line = shapely.LineString([MS.pixel_to_map(1, 1), MS.pixel_to_map(5, 5)])
    path = vector(tmp_path / "line.gpkg", shapely.GeometryCollection([box(10, 20, 15, 28), line]))
    with pytest.raises(InputError, match="has LineString features") as caught:
        open_pair(*pair, mask=MaskFile(path))
    assert "-explodecollections" in str(caught.value.hint)


def test_values_of_a_raster(pair, tmp_path: Path) -> None:
    values = np.zeros((1, 64, 64))
    values[0, 3:6, 7:9], values[0, 20:30, 1:4], values[0, 50, 50] = 1, 53248, 61440
    path = write_raster(tmp_path / "qa.tif", values, MS, dtype="uint16")
    np.testing.assert_array_equal(excluded(pair, MaskFile(path)), values[0] != 0)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, values=(53248, 61440))), values[0] > 1)
    # 61440 is 0b1111 << 12, 53248 is 0b1101 << 12.
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, bits=(15,))), values[0] > 1)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, bits=(13,))), values[0] == 61440)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, bits=(0, 13))), (values[0] % 53248) != 0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int32"])
def test_bits_of_any_type(pair, tmp_path: Path, dtype: str) -> None:
    top = np.iinfo(dtype).bits - 1
    values = np.zeros((1, 64, 64), dtype)
    values[0, 3:6, 7:9] = np.array(1 << top, np.uint64).astype(dtype)
    values[0, 9, 9] = 1
    path = tmp_path / "qa.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=64,
        height=64,
        count=1,
        dtype=dtype,
        crs=MS.crs,
        transform=MS.transform,
    ) as out:
        out.write(values)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, bits=(top,))), window(3, 7, 6, 9))


def test_rasters_of_other_grids(pair, tmp_path: Path) -> None:
    """A mask of 3.2 m pixels in another CRS, turned and south-up, and one of 20 m pixels over a part only."""
    to = Transformer.from_crs("EPSG:32632", "EPSG:32631", always_xy=True)
    x, y = to.transform(*MS.pixel_to_map(32, 32))
    turn = (
        Affine.translation(x, y)
        * Affine.rotation(10)
        * Affine.scale(3.2, 3.2)
        * Affine.translation(-120, -120)
    )
    grid = Grid(240, 240, turn, CRS.from_epsg(32631))
    col, row = np.meshgrid(np.arange(240) + 0.5, np.arange(240) + 0.5)
    back = Transformer.from_crs("EPSG:32631", "EPSG:32632", always_xy=True).transform(
        *(grid.transform * (col, row))
    )
    ms_col, ms_row = ~MS.transform * back
    disc = (ms_row - 30) ** 2 + (ms_col - 25) ** 2 < 12**2
    path = write_raster(tmp_path / "fine.tif", disc[None] * 1.0, grid, dtype="uint8")
    found = excluded(pair, MaskFile(path))
    c, r = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    distance = np.hypot(r - 30, c - 25)
    assert found[distance < 11.3].all()
    assert not found[distance > 12.7].any()
    assert found.sum() == pytest.approx(np.pi * 144, rel=0.02)

    coarse = Grid(
        10, 10, Affine(20, 0, *MS.pixel_to_map(16, 16)[:1], 0, -20, MS.pixel_to_map(16, 16)[1]), MS.crs
    )
    path = write_raster(tmp_path / "coarse.tif", np.ones((1, 10, 10)), coarse, dtype="uint8")
    np.testing.assert_array_equal(excluded(pair, MaskFile(path)), window(16, 16, 41, 41))
    with open_pair(*pair, mask=MaskFile(path)) as scene:
        assert any("covers only a part of the scene" in n for n in scene.notices)
        assert scene.report().mask == MaskReport(
            path=str(path),
            values=None,
            bits=None,
            notices=[f"mask {path} covers only a part of the scene: it excludes nothing beyond"],
        )


def test_an_empty_window(pair, tmp_path: Path) -> None:
    path = vector(tmp_path / "m.gpkg", box(1, 1, 5, 5))
    with open_pair(*pair) as scene, open_mask(MaskFile(path), scene.grids) as mask:
        assert mask.excluded(Window(3, 3, 0, 0)).shape == (0, 0)


def test_nodata_of_a_mask_excludes_nothing(pair, tmp_path: Path) -> None:
    values = np.full((1, 64, 64), 255.0)
    values[0, 5:9, 5:9] = 1
    path = write_raster(tmp_path / "m.tif", values, MS, dtype="uint8", nodata=255)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path)), window(5, 5, 9, 9))


def test_any_window_is_the_same_and_only_it_is_read(pair, tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    fine = MS.refined(3)
    path = write_raster(tmp_path / "m.tif", rng.random((1, 192, 192)) < 0.5, fine, dtype="uint8")
    read: list[Window] = []
    original = RasterSource.read_raw

    def spy(self: RasterSource, window: Window) -> object:
        if self.role == "mask":
            read.append(window)
        return original(self, window)

    monkeypatch.setattr(RasterSource, "read_raw", spy)
    with open_pair(*pair, mask=MaskFile(path)) as scene:
        assert read == []
        whole = scene.read_block(scene.grids.ms.window, 0, 0).valid
        assert 0.2 < whole.mean() < 0.8
        read.clear()
        for w in (Window(0, 0, 1, 1), Window(30, 41, 7, 23), Window(63, 0, 1, 64)):
            np.testing.assert_array_equal(scene.read_block(w, 7, 8).valid, whole[w.slices()])
        assert read == [Window(0, 0, 3, 3), Window(90, 123, 21, 69), Window(189, 0, 3, 192)]


def test_patches_and_statistics(pair, tmp_path: Path) -> None:
    """Patches of neighbours still contain masked pixels; statistics do not."""
    path = vector(tmp_path / "m.gpkg", box(0, 0, 64, 32))
    with open_pair(*pair, mask=MaskFile(path)) as scene, open_pair(*pair) as plain:
        one, two = (s.read_block(Window(0, 20, 40, 40), 7, 8) for s in (scene, plain))
        np.testing.assert_array_equal(one.ms, two.ms)
        assert not one.invalid.any()
        with rasterio.open(pair[0]) as src:
            right = src.read(1)[:, 32:]
        assert sample_statistics(scene).ms_bands[0].mean == pytest.approx(right.mean(), rel=1e-6)


def test_a_mask_without_polygons_here_is_no_error(pair, tmp_path: Path) -> None:
    """A mask without clouds in the scene is valid; a notice says that it excludes nothing."""
    for path in (vector(tmp_path / "far.gpkg", box(500, 500, 510, 510)), vector(tmp_path / "none.gpkg")):
        with open_pair(*pair, mask=MaskFile(path)) as scene:
            assert "excludes nothing" in scene.notices[-1]
            assert scene.read_block(scene.grids.ms.window, 0, 0).valid.all()


def test_a_damaged_schema_is_told_though_the_reason_is_no_text(pair, tmp_path: Path) -> None:
    """GDAL's message quotes the damaged SQL, byte for byte."""
    path = vector(tmp_path / "m.gpkg", box(1, 1, 5, 5))
    whole = path.read_bytes()
    assert whole.count(b"UNIQUE (table_name)") == 1
    path.write_bytes(whole.replace(b"UNIQUE (table_name)", b"UNIQUE (table\xffname)"))
    reads: list[Callable[[], object]] = [
        lambda: open_pair(*pair, mask=MaskFile(path)),
        lambda: read_values(path, 100),
        lambda: read_labels(path, MS),
        lambda: RasterSource(path, "MS"),
    ]
    for read in reads:
        with pytest.raises(Das2fMapError, match=r"m\.gpkg") as caught:
            read()
        assert "\n" not in caught.value.message
    assert read_design(path) is None


def test_refused(pair, tmp_path: Path) -> None:
    def refused(mask: MaskFile, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            open_pair(*pair, mask=mask)
        assert "\n" not in caught.value.message

    polygons = vector(tmp_path / "m.gpkg", box(1, 1, 5, 5))
    lines = vector(tmp_path / "l.gpkg", shapely.LineString([MS.pixel_to_map(1, 1), MS.pixel_to_map(5, 5)]))
    floats = write_raster(tmp_path / "f.tif", np.ones((1, 64, 64)), MS)
    two = write_raster(tmp_path / "two.tif", np.ones((2, 64, 64)), MS)
    far = Grid(8, 8, MS.transform * Affine.translation(500, 500), MS.crs)
    elsewhere = write_raster(tmp_path / "far.tif", np.ones((1, 8, 8)), far, dtype="uint8")
    refused(MaskFile(tmp_path / "no.gpkg"), "mask file .*no.gpkg does not exist")
    refused(MaskFile(polygons, values=(3,)), "no raster: it has no values or bits")
    refused(MaskFile(lines), "LineString features")
    refused(MaskFile(floats, bits=(3,)), "no bits: its values are float32")
    refused(MaskFile(floats, values=(1,), bits=(3,)), "by values or by bits")
    words = write_raster(tmp_path / "w.tif", np.ones((1, 64, 64)), MS, dtype="uint16")
    signed = write_raster(tmp_path / "s.tif", np.ones((1, 64, 64)), MS, dtype="int16")
    refused(MaskFile(words, bits=(3, 20)), "no bit 20: its values are uint16, with bits 0 to 15")
    refused(MaskFile(signed, bits=(16,)), "no bit 16: its values are int16, with bits 0 to 15")
    refused(MaskFile(words, values=(-1, 65_536)), "values are uint16, 0 to 65535")
    refused(MaskFile(two), "has 2 bands, a mask has one")
    refused(MaskFile(elsewhere), "mask file .*far.tif does not touch the scene")


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
def test_a_tiny_mask_in_a_huge_scene(tmp_path: Path, crs: str) -> None:
    """A mask of 3 × 2 pixels in a scene of 80 000 × 80 000, which any sample of the scene would miss."""
    scene = GridPair(Grid(80_000, 80_000, MS.transform, MS.crs))
    row, col = 30_403, 51_207
    small = Grid(3, 2, MS.transform * Affine.translation(col, row), MS.crs)
    if crs != "EPSG:32632":
        x, y = Transformer.from_crs(MS.crs.to_wkt(), crs, always_xy=True).transform(
            *MS.pixel_to_map(row + 1.5, col + 1)
        )
        corner = Affine.translation(x - 1e-4, y + 1.5e-4) * Affine.scale(1e-4, -1e-4)
        small = Grid(3, 2, corner, CRS.from_user_input(crs))
    path = write_raster(tmp_path / "tiny.tif", np.ones((1, 3, 2)), small, dtype="uint8")
    with open_mask(MaskFile(path), scene) as mask:
        assert 0 < mask.covered < 1e-7
        assert mask.excluded(Window(row - 5, col - 5, 14, 14)).any()
        assert "covers only a part" in mask.notices()[0]


def test_covered(tmp_path: Path) -> None:
    """The covered part of the scene, for masks of half of it, of exactly all of it, and of more."""
    for cols, share in ((32, 0.5), (64, 1.0), (200, 1.0)):
        grid = Grid(64, cols, MS.transform, MS.crs)
        path = write_raster(tmp_path / f"{cols}.tif", np.ones((1, 64, cols)), grid, dtype="uint8")
        with open_mask(MaskFile(path), GridPair(MS)) as mask:
            assert mask.covered == pytest.approx(share, abs=0.01)
            assert bool(mask.notices()) is (share < 1)
    world = Grid(180, 360, Affine(1, 0, -180, 0, -1, 90), CRS.from_epsg(4326))
    path = write_raster(tmp_path / "world.tif", np.ones((1, 180, 360)), world, dtype="uint8")
    with open_mask(MaskFile(path), GridPair(MS)) as mask:
        assert mask.covered == 1


def test_at_a_glance_reads_a_reduced_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is read in few pixels, with values of the full size and not averages of them."""
    size = 4000
    scene = GridPair(Grid(size, size, MS.transform, MS.crs))
    values = np.full((1, size, size), 1)
    values[0, 1000:2000, 400:3000] = 2
    path = write_raster(tmp_path / "m.tif", values, scene.ms, dtype="uint8")
    read: list[int] = []
    open_raster = source.open_raster

    class Spy:
        def __init__(self, *args: str) -> None:
            self.dataset = open_raster(*args)

        def __getattr__(self, name: str) -> object:
            return getattr(self.dataset, name)

        def read(self, *args: object, **options: object) -> np.ndarray:
            values = self.dataset.read(*args, **options)
            read.append(values.size)
            return values

    monkeypatch.setattr(source, "open_raster", Spy)
    coarse = Grid(100, 100, MS.transform * Affine.scale(size / 100), MS.crs)
    with open_mask(MaskFile(path, bits=(1,)), scene) as mask:
        read.clear()
        seen = mask.at_a_glance(coarse)
    truth = np.zeros((100, 100), bool)
    truth[25:50, 10:75] = True
    np.testing.assert_array_equal(seen, truth)
    assert 0 < sum(read) <= 200 * 200


def test_numbers() -> None:
    assert parse_numbers("3, 8-10,61440") == (3, 8, 9, 10, 61440)
    assert parse_numbers("-1,-5--3, -1 - 1") == (-1, -5, -4, -3, -1, 0, 1)
    for text in ("", "a", "3-", "--3", "1-100000000", "3,", "10-8", "1.5"):
        with pytest.raises(ValueError, match=r"whole number|too many|counts down"):
            parse_numbers(text)


def test_a_missing_mask_is_missing_whatever_is_chosen_of_it(pair, tmp_path: Path) -> None:
    for mask in (MaskFile(tmp_path / "no.tif", values=(1,)), MaskFile(tmp_path / "no.tif", bits=(3,))):
        with pytest.raises(InputError, match=r"no\.tif does not exist"):
            open_pair(*pair, mask=mask)


def test_a_mask_whose_coordinates_cannot_be_converted(tmp_path: Path) -> None:
    """The error names the mask, not PAN."""
    here = Grid(8, 8, MS.transform, CRS.from_wkt('LOCAL_CS["here",UNIT["metre",1]]'))
    mask = write_raster(tmp_path / "mask.tif", np.ones((1, 8, 8)), here, dtype="uint8")
    with pytest.raises(InputError, match=r"mask file .*mask\.tif cannot be laid over the scene") as caught:
        open_mask(MaskFile(mask), GridPair(MS))
    assert "PAN" not in caught.value.message


def test_a_choice_that_finds_nothing_is_told(pair, tmp_path: Path) -> None:
    """A notice says that no pixel has the chosen number, as a wrong number looks like a clear sky."""
    values = np.zeros((1, 64, 64))
    values[0, 50:, 60:] = 4
    path = write_raster(tmp_path / "qa.tif", values, MS, dtype="uint16")
    for choice, nothing in (
        (MaskFile(path, bits=(3,)), "its chosen bits are set nowhere"),
        (MaskFile(path, values=(1, 5)), "its chosen values are nowhere"),
        (MaskFile(path, bits=(2,)), None),
        (MaskFile(path, values=(4,)), None),
    ):
        with open_pair(*pair, mask=choice) as scene:
            told = [n for n in scene.notices if n.startswith("mask")]
        assert told == ([] if nothing is None else [f"mask {path} excludes nothing: {nothing}"])


def test_a_large_scene_is_not_searched_as_a_whole(tmp_path: Path) -> None:
    scene = GridPair(Grid(40_000, 40_000, MS.transform, MS.crs))
    coarse = Grid(40, 40, MS.transform * Affine.scale(1000), MS.crs)
    path = write_raster(tmp_path / "m.tif", np.ones((1, 40, 40)), coarse, dtype="uint8")
    with open_mask(MaskFile(path, values=(2,)), scene) as mask:
        (told,) = mask.notices()
    seen = int(re.search(r"nothing in the ([\d,]+) pixels looked at", told)[1].replace(",", ""))
    assert 500_000 <= seen < 600_000


def test_negative_values(pair, tmp_path: Path) -> None:
    values = np.zeros((1, 64, 64))
    values[0, 3:6, 7:9], values[0, 20, 20] = -1, -7
    path = write_raster(tmp_path / "m.tif", values, MS, dtype="int16")
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, values=(-1,))), values[0] == -1)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, values=(-7, -1))), values[0] < 0)
    # Two's complement in 16 bits: -7 is 0b1111111111111001.
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, bits=(1,))), values[0] == -1)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, bits=(15,))), values[0] < 0)


@pytest.mark.parametrize("nodata", [None, np.nan])
def test_nan_in_a_mask_excludes_nothing(pair, tmp_path: Path, nodata: float | None) -> None:
    values = np.full((1, 64, 64), np.nan)
    values[0, 5:9, 5:9], values[0, 20:30, 20:30] = 1, 0
    path = write_raster(tmp_path / "m.tif", values, MS, nodata=nodata)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path)), window(5, 5, 9, 9))
    with open_pair(*pair) as scene, open_mask(MaskFile(path), scene.grids) as mask:
        np.testing.assert_array_equal(mask.at_a_glance(scene.grids.ms), window(5, 5, 9, 9))


def test_a_nodata_value_that_is_chosen_by_number(pair, tmp_path: Path) -> None:
    """A user may exclude nodata by its number, for instance 0 in Sentinel-2's SCL."""
    values = np.full((1, 64, 64), 4)
    values[0, 5:9, 5:9], values[0, 20:30, 20:30] = 0, 3
    path = write_raster(tmp_path / "scl.tif", values, MS, dtype="uint8", nodata=0)
    both = window(5, 5, 9, 9) | window(20, 20, 30, 30)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, values=(0, 3))), both)
    np.testing.assert_array_equal(excluded(pair, MaskFile(path, values=(3,))), window(20, 20, 30, 30))
    # Outside the mask there are no values, so nothing is excluded.
    part = write_raster(
        tmp_path / "part.tif",
        values[:, :16, :16],
        Grid(16, 16, MS.transform, MS.crs),
        dtype="uint8",
        nodata=0,
    )
    np.testing.assert_array_equal(excluded(pair, MaskFile(part, values=(0,))), window(5, 5, 9, 9))
