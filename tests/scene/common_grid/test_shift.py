"""A known shift of the contents, corrected while reading, against footprint averages of a known field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from synthetic import make_pair, pair_grids, scene_field, write_raster

from das2f_map.errors import InputError
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import open_pair
from das2f_map.scene.report import ShiftCorrection
from das2f_map.scene.source import RasterSource

SHIFT = PanShift(0.7, -1.3)

GEOMETRIES = {
    "nested": ({}, "pan-to-quarter-ms"),
    "not nested": ({"offset": (0.5, -0.5)}, "ms-to-pan-grid"),
    "ratio 2": ({"ratio": 2, "offset": (-0.5, 0.5)}, "pan-to-quarter-ms"),
    "ratio 3, rotated": ({"ratio": 3, "rotation": 25}, "pan-to-quarter-ms"),
    "other CRS": ({}, "pan-to-quarter-ms"),
}


def mislabelled_pair(folder: Path, shift: PanShift, geometry: dict[str, object]) -> tuple[Path, Path]:
    """A pair whose PAN content lies ``shift`` further on than that of MS, by the georeferencing."""
    ratio = float(geometry.get("ratio", 4))
    if not geometry:
        # To be nested by the labels, and off by the content, PAN is rendered off and labelled anew.
        paths = make_pair(folder, dtype="float32", smooth=True, offset=(-shift.rows, -shift.cols))
        with rasterio.open(paths[1], "r+") as ds:
            ds.transform = pair_grids()[1].transform
        return paths
    paths = make_pair(folder, dtype="float32", smooth=True, **geometry)
    with rasterio.open(paths[0], "r+") as ds:
        # Labelled too far up and left, so that PAN lies further down and right.
        ds.transform = ds.transform * Affine.translation(-shift.cols / ratio, -shift.rows / ratio)
    return paths


@pytest.mark.parametrize("name", [n for n in GEOMETRIES if n != "other CRS"])
def test_a_known_shift_is_taken_out(tmp_path: Path, name: str) -> None:
    geometry, strategy = GEOMETRIES[name]
    paths = mislabelled_pair(tmp_path, SHIFT, geometry)
    ms_grid, _ = pair_grids(**{k: v for k, v in geometry.items() if k in ("ratio", "rotation", "offset")})
    field = scene_field(ms_grid, smooth=True)
    with open_pair(*paths, shift=SHIFT) as pair:
        assert pair.strategy == strategy
        assert "in one resampling" in pair.notices[-1]
        block = pair.read_block(pair.grids.ms.window, 0, 0)
        # What is read as it is says where the map lies; MS is labelled wrong, but for the nested pair.
        rows, cols = (s / pair.ratio for s in (SHIFT.rows, SHIFT.cols))
        right = name == "nested" or strategy == "ms-to-pan-grid"
        truth = pair.grids.ms if right else pair.grids.ms.moved(rows, cols)
    assert block.valid.all()
    inner = (slice(None), slice(3, -3), slice(3, -3))
    fine = (slice(None), slice(12, -12), slice(12, -12))
    expected = field.render(truth)
    assert np.abs(block.ms - expected)[inner].max() < 0.01 * expected.std()
    expected = field.panchromatic().render(truth.refined(4))
    assert np.abs(block.pan - expected)[fine].max() < 0.01 * expected.std()


@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_the_common_grid_stays_in_place(tmp_path: Path, name: str) -> None:
    """With and without the shift a map has the same pixels, but for a few at the border."""
    if name == "other CRS":
        paths = other_crs_pair(tmp_path, PanShift(0, 0))
    else:
        paths = mislabelled_pair(tmp_path, SHIFT, GEOMETRIES[name][0])
    with open_pair(*paths) as pair:
        before = pair.grids.ms
        moved = pair.shifted(SHIFT)
        assert pair.shift is None
        assert moved.shift == SHIFT
        assert moved.report().shift_corrected == ShiftCorrection(rows_pan_px=0.7, cols_pan_px=-1.3)
        row, col = before.map_to_pixel(*moved.grids.ms.pixel_to_map(0, 0))
        assert row == pytest.approx(round(row), abs=1e-6)
        assert col == pytest.approx(round(col), abs=1e-6)
        assert abs(moved.grids.ms.height - before.height) <= 1
        assert abs(moved.grids.ms.width - before.width) <= 1
        back = moved.shifted(None)
        assert back.grids.ms == before
        window = Window(10, 10, 5, 5)
        np.testing.assert_array_equal(
            back.read_block(window, 0, 0).pan, pair.read_block(window, 0, 0).pan, strict=True
        )


def other_crs_pair(folder: Path, shift: PanShift) -> tuple[Path, Path]:
    """MS of 64 × 64 in UTM 32, its georeferencing off by the shift, and PAN of 2 m in UTM 33."""
    from pyproj import Transformer

    ms, _ = pair_grids()
    target = CRS.from_user_input("EPSG:32633")
    to = Transformer.from_crs(ms.crs.to_wkt(), target.to_wkt(), always_xy=True)
    x, y = to.transform(*ms.pixel_to_map(32, 32))
    pan = Grid(180, 180, Affine(2, 0, x - 180, 0, -2, y + 180), target)
    paths = make_pair(folder, dtype="float32", smooth=True, pan_grid=pan)
    with rasterio.open(paths[0], "r+") as ds:
        ds.transform = ds.transform * Affine.translation(-shift.cols / 4, -shift.rows / 4)
    return paths


def test_a_shift_against_another_crs(tmp_path: Path) -> None:
    paths = other_crs_pair(tmp_path, SHIFT)
    field = scene_field(pair_grids()[0], smooth=True)
    with open_pair(*paths, shift=SHIFT) as pair:
        block = pair.read_block(pair.grids.ms.window, 0, 0)
        moved = [s / r for s, r in zip((SHIFT.rows, SHIFT.cols), pair.axis_ratios, strict=True)]
        expected = field.panchromatic().render(pair.grids.ms.moved(*moved).refined(4))
    wrong = np.abs(block.pan - expected)[np.isfinite(block.pan)]
    assert wrong.size > 20_000
    assert np.percentile(wrong, 98) < 0.01 * expected.std()


def test_one_resampling_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is read once for a block, shifted or not: there is nothing in between."""
    read: list[str] = []
    original = RasterSource.read

    def spy(self: RasterSource, window: Window) -> np.ndarray:
        read.append(self.role)
        return original(self, window)

    monkeypatch.setattr(RasterSource, "read", spy)
    with open_pair(*make_pair(tmp_path, ratio=2), shift=SHIFT) as pair:
        pair.read_block(Window(20, 20, 8, 8), 3, 3)
    assert sorted(read) == ["MS", "PAN"]


def test_whole_pixels_are_not_resampled(tmp_path: Path) -> None:
    paths = make_pair(tmp_path)
    with rasterio.open(paths[1]) as ds, open_pair(*paths, shift=PanShift(3, -1)) as pair:
        assert pair.strategy == "native"
        window = Window(10, 10, 4, 4)
        place = pair.grids.ms.cropped(window)
        row, col = pair_grids()[1].map_to_pixel(*place.pixel_to_map(0, 0))
        row, col = round(row) + 3, round(col) - 1
        expected = ds.read()[:, row : row + 16, col : col + 16]
        np.testing.assert_array_equal(pair.read_block(window, 0, 0).pan, expected)


def test_a_mask_stays_where_it_is(tmp_path: Path) -> None:
    """On the ground of the common grid, though that loses a row and a column."""
    paths = make_pair(tmp_path)
    ms, _ = pair_grids()
    excluded = np.zeros((1, 64, 64))
    excluded[0, 20:30, 5:9] = 1
    mask = write_raster(tmp_path / "mask.tif", excluded, ms, dtype="uint8")
    with open_pair(*paths, mask=MaskFile(mask)) as pair:
        moved = pair.shifted(PanShift(-1.4, -0.6))
        assert moved.grids.ms.height == 63
        valid = moved.read_block(moved.grids.ms.window, 0, 0).valid
        row, col = ms.map_to_pixel(*moved.grids.ms.pixel_to_map(0, 0))
        outside = excluded[0, round(row) :, round(col) :] == 0
        np.testing.assert_array_equal(valid, outside[:63, :63])


def test_shifted_off_the_scene(tmp_path: Path) -> None:
    with (
        open_pair(*make_pair(tmp_path, ms_shape=(12, 12))) as pair,
        pytest.raises(InputError, match="do not overlap"),
    ):
        pair.shifted(PanShift(50, 0))


def test_a_shift_is_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        PanShift(float("nan"), 0.0)
