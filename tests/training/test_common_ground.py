"""Scenes of the same ground: no pixel of it is learnt from one scene and tested in another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid
from das2f_map.training.common_ground import away_from, common_places
from das2f_map.training.folds import Folds, spatial_folds
from das2f_map.training.pixels import TrainingPixels

REACH = 17
UTM, WEB = CRS.from_epsg(32633), CRS.from_epsg(32634)


def reader(size: float, left: float, top: float, side: int = 120, crs: CRS = UTM) -> Any:
    """A scene of ``side`` × ``side`` MS pixels of ``size`` metres."""
    grid = Grid(side, side, Affine(size, 0, left, 0, -size, top), crs)
    pair = SimpleNamespace(grids=SimpleNamespace(ms=grid), ms_gsd_m=size)
    return SimpleNamespace(source=SimpleNamespace(pair=pair))


def labelled(*readers: Any, seed: int = 0) -> TrainingPixels:
    """Some hundred pixels of two classes all over each scene."""
    rng = np.random.default_rng(seed)
    n = 300
    sides = [r.source.pair.grids.ms.height for r in readers]
    return TrainingPixels(
        cast("Any", tuple(readers)),
        np.repeat(np.arange(len(readers)), n),
        np.concatenate([rng.integers(0, s, n) for s in sides]).astype(np.int32),
        np.concatenate([rng.integers(0, s, n) for s in sides]).astype(np.int32),
        Legend.from_names(["a", "b"]),
        rng.integers(0, 2, n * len(readers)),
    )


def metres(pixels: TrainingPixels) -> np.ndarray:
    """Map positions of the pixels' centres, by each scene's own transform, (n, 2)."""
    found = []
    for scene, row, col in zip(pixels.scene, pixels.rows, pixels.cols, strict=True):
        found.append(pixels.readers[scene].source.pair.grids.ms.transform * (col + 0.5, row + 0.5))
    return np.array(found)


def least_distance(pixels: TrainingPixels, folds: Folds) -> float:
    """Least Chebyshev distance in metres between held-out and training pixels, by looking at all pairs."""
    at = metres(pixels)
    return min(
        float(np.abs(at[part.held][:, None] - at[part.train][None]).max(axis=2).min())
        for part in folds.each()
    )


SHIFTS = [(203, -203), (-203, 203), (-203, -203), (203, 203)]
"""Metres by which a second scene lies further east and north."""


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("size", [10.0, 8.0])
def test_the_gap_holds_between_scenes(size: float, shift: tuple[int, int]) -> None:
    """Two dates of one place, whose grids have other origins, and perhaps other pixel sizes."""
    east, north = shift
    pixels = labelled(reader(10, 500_000, 5_000_000), reader(size, 500_000 + east, 5_000_000 + north))
    apart = spatial_folds(pixels, 3, gap=REACH, seed=0)
    assert least_distance(pixels, apart) < REACH * 8
    places = common_places(pixels)
    assert places.shared
    together = spatial_folds(pixels, 3, gap=REACH, seed=0, places=places)
    assert together.gap == together.reach == REACH + 1
    assert least_distance(pixels, together) >= REACH * 10
    assert sorted(np.concatenate([p.held for p in together.each()])) == list(range(len(pixels)))


def test_scenes_that_touch_nothing_stay_apart() -> None:
    pixels = labelled(reader(10, 500_000, 5_000_000), reader(10, 700_000, 5_000_000))
    places = common_places(pixels)
    assert not places.shared
    for given in (None, places):
        folds = spatial_folds(pixels, 3, gap=REACH, seed=0, places=given)
        assert folds.of_pixel.tolist() == spatial_folds(pixels, 3, gap=REACH, seed=0).of_pixel.tolist()


def test_scenes_of_two_zones_meet_in_the_frame() -> None:
    """The eastern edge of one UTM zone, seen from the next one too."""
    from pyproj import Transformer

    x, y = Transformer.from_crs(32633, 32634, always_xy=True).transform(715_000, 5_000_000)
    pixels = labelled(reader(30, 715_000, 5_000_000), reader(10, x, y, crs=WEB, side=30))
    places = common_places(pixels)
    assert set(places.part) == {0}
    second = np.flatnonzero(pixels.scene == 1)
    # The second scene is 300 m wide, turned by the zones' convergence of about two degrees.
    assert places.rows[second].min() >= -2
    assert places.rows[second].max() <= 12
    assert places.cols[second].max() <= 12
    frame_x, frame_y = Transformer.from_crs(32634, 32633, always_xy=True).transform(*metres(pixels)[second].T)
    assert np.abs((frame_x - 715_000) / 30 - places.cols[second] - 0.5).max() <= 0.5 + 1e-6
    assert np.abs((5_000_000 - frame_y) / 30 - places.rows[second] - 0.5).max() <= 0.5 + 1e-6


def test_whole_scenes_of_one_place_are_held_out_with_what_is_left() -> None:
    """Neighbouring tiles lose their seam. Of two dates of one place nothing would be left."""
    tiles = labelled(reader(10, 500_000, 5_000_000), reader(10, 501_100, 5_000_000))
    folds = spatial_folds(tiles, 3, gap=REACH, seed=0, by_scene=True, places=common_places(tiles))
    assert folds.count == 2
    assert least_distance(tiles, folds) >= REACH * 10
    dates = labelled(reader(10, 500_000, 5_000_000), reader(10, 500_000, 5_000_000))
    folds = spatial_folds(dates, 3, gap=REACH, seed=0, by_scene=True, places=common_places(dates))
    assert folds.gap == 0
    assert folds.leak(folds.fold(0)).share > 0.9


def test_many_scenes_share_folds() -> None:
    pixels = labelled(*(reader(10, 100_000 + 5_000 * k, 5_000_000, side=20) for k in range(45)))
    folds = spatial_folds(pixels, 3, gap=REACH, seed=0, by_scene=True)
    assert folds.count == 20
    for scene in range(45):
        assert np.unique(folds.of_pixel[pixels.scene == scene]).size == 1
    assert np.bincount(folds.of_pixel, minlength=20).min() > 0


def test_pixels_away_from_others() -> None:
    """Against all distances, in three scenes that lie apart."""
    readers = [reader(10, 500_000 + 9_000 * k, 5_000_000) for k in range(3)]
    mine, theirs = labelled(*readers), labelled(*readers, seed=1)
    theirs = theirs.select(np.flatnonzero(theirs.scene != 1)[::50])
    found = away_from(mine, theirs, 9)
    rows, cols = (np.abs(a[:, None] - b) for a, b in ((mine.rows, theirs.rows), (mine.cols, theirs.cols)))
    far = ((np.maximum(rows, cols) >= 9) | (mine.scene[:, None] != theirs.scene)).all(axis=1)
    assert 0 < far.sum() < len(mine)
    # Scene 1 has no others, so that all its pixels stay.
    assert far[mine.scene == 1].all()
    for name in ("scene", "rows", "cols"):
        np.testing.assert_array_equal(getattr(found, name), getattr(mine, name)[far])


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("size", [10.0, 8.0])
def test_pixels_away_from_others_that_another_date_shows(size: float, shift: tuple[int, int]) -> None:
    readers = reader(10, 500_000, 5_000_000), reader(size, 500_000 + shift[0], 5_000_000 + shift[1])
    mine, theirs = labelled(*readers), labelled(*readers, seed=1)
    # Pixels of the first date count for the second one, too.
    theirs = theirs.select(np.flatnonzero(theirs.scene == 0)[:4])
    found = away_from(mine, theirs, REACH)
    assert np.bincount(found.scene).min() > 0
    apart = np.abs(metres(found)[:, None] - metres(theirs)[None]).max(axis=2)
    assert apart.min() >= REACH * 10
    assert len(found) < len(mine)
    missing = np.abs(metres(mine)[:, None] - metres(theirs)[None]).max(axis=2).min(axis=1)
    # A pixel of the frame and its rounding are all that is left out beyond.
    assert len(found) >= (missing >= (REACH + 2) * 10).sum()
