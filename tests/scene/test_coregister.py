"""Tests of the action on a measured shift, and of the bands that it is measured with."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from scipy.ndimage import gaussian_filter
from synthetic import pair_grids, write_raster
from tiny import tiny_bundle

import das2f_map
from das2f_map.errors import InputError
from das2f_map.scene.pair import open_pair
from das2f_map.scene.registration import Coregistration, coregister, correct, measure, measure_shift
from das2f_map.workflows.train import train

BANDS = {"blue": 1, "green": 2, "red": 3, "nir": 4}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pair whose PAN lies 2 pixels further down and 1 to the right; MS band 5 has no valid pixel."""
    folder = tmp_path_factory.mktemp("scene")
    ms_grid, pan_grid = pair_grids(ms_shape=(96, 96))
    ground = gaussian_filter(np.random.default_rng(0).normal(size=(400, 400)), 3)
    ground = 2000 + 300 * ground / ground.std()
    pan = ground[8 - 2 : 392 - 2, 8 - 1 : 392 - 1]
    means = ground[8:392, 8:392].reshape(96, 4, 96, 4).mean(axis=(1, 3))
    ms = np.stack([*(means * weight for weight in (0.8, 0.9, 1.0, 1.1)), np.zeros_like(means)])
    names = (*BANDS, "qa")
    return (
        write_raster(folder / "ms.tif", ms, ms_grid, dtype="uint16", nodata=0, names=names),
        write_raster(folder / "pan.tif", pan[None], pan_grid, dtype="uint16", nodata=0),
    )


class Done(Exception):
    """Raised to end a run after the tested step."""


@pytest.mark.parametrize("command", ["classify", "train"])
def test_measured_by_the_bands_that_are_used(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    found: list[Coregistration] = []

    def noted(self: Coregistration) -> None:
        found.append(self)
        raise Done

    monkeypatch.setattr(Coregistration, "log", noted)
    if command == "classify":
        bundle = tiny_bundle(tmp_path / "m", patch=8)
        with pytest.raises(Done):
            das2f_map.classify(*pair, tmp_path / "map.tif", model=bundle)
    else:
        square = shapely.box(0, 0, 1, 1)
        gpd.GeoDataFrame({"class": ["a"]}, geometry=[square], crs=4326).to_file(tmp_path / "labels.gpkg")
        with pytest.raises(Done):
            train(*pair, tmp_path / "labels.gpkg", tmp_path / "model", bands=BANDS)
    (one,) = found
    assert one.corrected
    assert one.pair.shift is not None
    assert (one.pair.shift.rows, one.pair.shift.cols) == pytest.approx((2, 1), abs=0.2)
    assert one.pair.ms_band_names == tuple(BANDS)


def test_the_applied_shift_is_rounded(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements that differ in their last digits, as between platforms, give the same shift."""
    with open_pair(*pair) as opened:
        used = opened.with_bands(opened.bands[:4])
        report = measure_shift(used)
        shifts = []
        for noise in (-1e-9, 1e-9):
            noisy = report.model_copy(update={"rows": 1.2341 + noise, "cols": -0.5672 + noise})
            monkeypatch.setattr(correct, "measure_shift", lambda _, noisy=noisy: noisy)
            shifts.append(coregister(used).pair.shift)
        assert [(s.rows, s.cols) for s in shifts if s] == [(1.234, -0.567)] * 2


def test_nothing_classified_names_what_may_be_the_cause(pair: tuple[Path, Path], tmp_path: Path) -> None:
    grid = pair_grids(ms_shape=(96, 96))[0]
    bundle = tiny_bundle(tmp_path / "m", patch=8)
    # A single valid pixel has too much nodata around it.
    hole = np.zeros((4, 96, 96))
    hole[:, 30, 30] = 2000
    ms = write_raster(tmp_path / "hole.tif", hole, grid, dtype="uint16", nodata=0, names=tuple(BANDS))
    with pytest.raises(InputError) as caught:
        das2f_map.classify(ms, pair[1], tmp_path / "map.tif", model=bundle, coregistration="off")
    assert "all nodata or with too much nodata around" in str(caught.value)
    assert "mask" not in str(caught.value)
    masked = write_raster(tmp_path / "clouds.tif", np.ones((1, 96, 96)), grid, dtype="uint8")
    with pytest.raises(InputError) as caught:
        das2f_map.classify(
            *pair, tmp_path / "map.tif", model=bundle, mask=masked, coregistration="off", bands=BANDS
        )
    assert f"all nodata or left out by mask {masked}" in str(caught.value)
    assert not list(tmp_path.glob("map*"))


def test_a_shift_that_the_fit_does_not_see_is_uncertain(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pair(*pair) as opened:
        used = opened.with_bands(opened.bands[:4])
        sure = measure_shift(used)

        def worse_with_the_shift(_window: object, rows: float, cols: float) -> tuple[float, float, int]:
            return (0.07 if (rows, cols) == (0, 0) else 0.08), 1.0, 100  # residual, total, pixels

        monkeypatch.setattr(measure, "fit_at", worse_with_the_shift)
        doubted = measure_shift(used)
    assert (doubted.fit_before, doubted.fit_after) == pytest.approx((0.93, 0.92))
    assert sure.uncertainty < 0.2 * sure.length
    assert doubted.length == sure.length
    assert doubted.uncertainty >= 0.5 * doubted.length
