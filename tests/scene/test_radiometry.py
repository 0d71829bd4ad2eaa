"""Statistics of a scene against NumPy on the whole files, and normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from synthetic import make_pair, pair_grids, write_raster

from das2f_map.errors import InputError
from das2f_map.scene.block import SceneBlock
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.radiometry import BandStatistics, Normalisation, SceneSample, sample_statistics
from das2f_map.scene.spread import spread_blocks


def test_small_scene_is_exact_over_valid_pixels(tmp_path: Path) -> None:
    hole = (slice(10, 20), slice(30, 50))
    paths = make_pair(tmp_path, ms_shape=(150, 140), nodata=0, ms_invalid=[hole])
    with open_pair(*paths) as pair:
        found = sample_statistics(pair)
    with rasterio.open(paths[0]) as ds:
        ms_values, names = ds.read().astype(float), ds.descriptions
    with rasterio.open(paths[1]) as ds:
        pan_values = ds.read(1).astype(float)
    valid = ms_values[0] != 0
    expected = [(n, v[valid]) for n, v in zip(names, ms_values, strict=True)]
    expected.append(("pan", pan_values[np.kron(valid, np.ones((4, 4), bool))]))
    for band, (name, values) in zip(found.bands, expected, strict=True):
        assert band.name == name
        assert band.mean == pytest.approx(values.mean(), rel=1e-6)
        assert band.std == pytest.approx(values.std(), rel=1e-6)
        assert (band.p01, band.p99) == pytest.approx(np.percentile(values, (1, 99)), rel=1e-6)


@pytest.mark.slow
def test_large_scene_is_a_repeatable_spread_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Window] = []
    original = ScenePair.read_block

    def spy(self: ScenePair, window: Window, before: int, after: int) -> SceneBlock:
        read.append(window)
        return original(self, window, before, after)

    paths = make_pair(tmp_path, ms_shape=(520, 520), bands=1)
    monkeypatch.setattr(ScenePair, "read_block", spy)
    with open_pair(*paths) as pair:
        first = sample_statistics(pair, max_pixels=60_000)
        # Four blocks of 128 × 128 hold 60 000 pixels, or five with one at the edge; the scene has 25.
        assert 4 <= len(read) <= 8
        quarters = {(w.row >= 256, w.col >= 256) for w in read}
        assert len(quarters) == 4
        assert sample_statistics(pair, max_pixels=60_000) == first
        assert sample_statistics(pair, max_pixels=60_000, seed=1) != first
        whole = sample_statistics(pair, max_pixels=520 * 520)
    ms, truth = first.ms_bands[0], whole.ms_bands[0]
    assert ms.mean == pytest.approx(truth.mean, abs=0.2 * truth.std)
    assert first.pan_band.std == pytest.approx(whole.pan_band.std, rel=0.2)


@pytest.mark.slow
def test_sample_goes_on_where_there_is_nodata(tmp_path: Path) -> None:
    """If only one corner is valid, all of a small sample comes from there, whatever the order of blocks."""
    outside = [(slice(0, 260), slice(None)), (slice(None), slice(0, 260))]
    paths = make_pair(tmp_path, ms_shape=(384, 384), bands=1, nodata=0, ms_invalid=outside)
    with rasterio.open(paths[0]) as ds:
        corner = ds.read(1)[260:, 260:].astype(float)
    with open_pair(*paths) as pair:
        found = sample_statistics(pair, max_pixels=20_000)
    assert found.ms_bands[0].mean == pytest.approx(corner.mean(), rel=1e-6)


def test_constant_band(tmp_path: Path) -> None:
    grid, _ = pair_grids(ms_shape=(16, 16))
    _, pan_path = make_pair(tmp_path, ms_shape=(16, 16))
    values = np.stack(
        [np.full((16, 16), 0.1), np.full((16, 16), 7.0), np.random.default_rng(0).random((16, 16))]
    )
    ms_path = write_raster(tmp_path / "ms.tif", values, grid)
    with open_pair(ms_path, pan_path) as pair:
        found = sample_statistics(pair)
        *bands, pan = found.bands
        assert [b.std for b in bands[:2]] == [1.0, 1.0]
        assert bands[1].mean == 7.0
        assert [b.spread for b in bands[:2]] == [0.0, 0.0]
        assert (bands[2].spread, pan.spread) == (bands[2].std, pan.std)
        ms, _ = found.apply(pair.read_block(pair.grids.ms.window, 7, 8))
    assert np.abs(ms[:2]).max() < 1e-6
    assert ms[2].std() > 0.5


def test_all_nodata(tmp_path: Path) -> None:
    everywhere = [(slice(None), slice(None))]
    with (
        open_pair(*make_pair(tmp_path, nodata=0, ms_invalid=everywhere)) as pair,
        pytest.raises(InputError, match="all nodata"),
    ):
        sample_statistics(pair)


def test_normalise(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, bands=2, nodata=0, ms_invalid=[(slice(5, 6), slice(6, 7))])
    statistics = tuple(
        BandStatistics(name=n, mean=m, std=s, p01=0, p99=1) for n, m, s in (("a", 2000, 50), ("b", 9, 2))
    )
    pan_band = BandStatistics(name="pan", mean=2100, std=400, p01=0, p99=1)
    with open_pair(*paths) as pair:
        block = pair.read_block(Window(4, 4, 6, 6), 2, 3)
        ms, pan = Normalisation(statistics, pan_band).apply(block)
        assert ms.dtype == pan.dtype == np.float32
        assert (ms[:, 3, 4] == 0).all()
        np.testing.assert_allclose(ms[0, 0], (block.ms[0, 0] - 2000) / 50, rtol=1e-5)
        np.testing.assert_allclose(ms[1, 0], (block.ms[1, 0] - 9) / 2, rtol=1e-5)
        np.testing.assert_allclose(pan, (block.pan - 2100) / 400, rtol=1e-4, atol=1e-6)
        assert np.isnan(block.ms[0, 3, 4])
        with pytest.raises(ValueError, match="1 band statistics"):
            Normalisation(statistics[:1], pan_band).apply(block)


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (300, 5), (130, 70)])
@pytest.mark.parametrize("strata", [1, 4, 30])
def test_spread_blocks_cover_everything_once(shape: tuple[int, int], strata: int) -> None:
    seen = np.zeros(shape, int)
    blocks = list(spread_blocks(Window(3, 4, *shape), 16, strata=strata, seed=0))
    for w in blocks:
        seen[w.row - 3 : w.row_stop - 3, w.col - 4 : w.col_stop - 4] += 1
    assert (seen == 1).all()
    assert blocks == list(spread_blocks(Window(3, 4, *shape), 16, strata=strata, seed=0))


def test_spread() -> None:
    """The spread is 0 only for a constant band, also for one of zeros or equal but for the last digit."""
    last_digit = np.where(np.arange(1000) % 2, np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1)))
    for values, spread in (
        (np.zeros(1000), 0.0),
        (np.full(1000, -3e4), 0.0),
        (last_digit, 0.0),
        (np.arange(1000) % 2 * 2.0, 1.0),
        (np.where(np.arange(1000) == 5, 1e3, 0.0), np.sqrt(1e3 - 1)),
    ):
        sample = SceneSample(("a",), values[None].astype(np.float32), values.astype(np.float32))
        band, pan = sample.statistics().bands
        assert band.std > 0
        assert band.spread == pytest.approx(spread)
        assert pan.spread == band.spread
