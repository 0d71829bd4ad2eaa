"""Pairs as they are asked for and as they are read, sent elsewhere by pickle."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from read_view import read_pair, read_view
from synthetic import make_pair, pair_grids, write_raster

from das2f_map.errors import InputError
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import open_pair
from das2f_map.scene.request import PairRequest, PairView


@pytest.fixture
def request_of_all(tmp_path: Path) -> PairRequest:
    """A request with everything: bands in another order, a mask by value, a nodata value that no file has."""
    ms, pan = make_pair(tmp_path, ms_shape=(40, 44), offset=(1.0, 2.0))
    for path, rows, cols in ((ms, slice(4, 9), slice(6, 12)), (pan, slice(100, 110), slice(90, 97))):
        with rasterio.open(path, "r+") as out:
            values = out.read()
            values[:, rows, cols] = 7
            out.write(values)
    clouds = np.zeros((1, 40, 44))
    clouds[0, 20:30, 5:15], clouds[0, 30:35, 20:25] = 1, 2
    mask = write_raster(tmp_path / "clouds.tif", clouds, pair_grids(ms_shape=(40, 44))[0], dtype="uint8")
    return PairRequest.of(
        ms,
        pan,
        bands={"nir": 4, "red": "red", "blue": 1},
        nodata=7,
        mask=MaskFile(mask, values=(1,)),
        coregistration="on",
        max_shift=5.0,
        force=True,
    )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_request_can_be_pickled(request_of_all: PairRequest, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(request_of_all, protocol))
    assert again == request_of_all
    assert hash(again) == hash(request_of_all)
    assert again != PairRequest(again.ms, again.pan)


def test_a_request_opens_its_files_with_its_options(request_of_all: PairRequest) -> None:
    r = request_of_all
    with r.open() as pair, open_pair(r.ms, r.pan, force=True, nodata=7, mask=r.mask) as plain:
        assert pair.bands == plain.bands, "bands are chosen later"
        assert pair.report() == plain.report()
        chosen = r.select(pair)
        assert [(b.role, b.number) for b in chosen.bands] == [("nir", 4), ("red", 3), ("blue", 1)]
        block = chosen.read_block(pair.grids.ms.window, 0, 0)
        np.testing.assert_array_equal(block.ms, plain.read_block(pair.grids.ms.window, 0, 0).ms[[3, 2, 0]])
    assert r.files == (r.ms, r.pan, str(r.mask.path))


def test_bands_that_are_not_named(request_of_all: PairRequest) -> None:
    r = PairRequest.of(request_of_all.ms, request_of_all.pan)
    assert r.given_bands is None
    assert r.files == (r.ms, r.pan)
    with r.open() as pair:
        assert r.select(pair) is pair
        with pytest.raises(InputError, match="no bands are named"):
            PairRequest.of(r.ms, r.pan, bands={}).select(pair)
        with pytest.raises(InputError, match="no band 9"):
            PairRequest.of(r.ms, r.pan, bands={"nir": 9}).select(pair)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"coregistration": "maybe"}, "coregister is one of auto, on, off, not 'maybe'"),
        ({"max_shift": 0.0}, "max_shift must be positive, got 0.0"),
        ({"max_shift": float("nan")}, "max_shift must be positive, got nan"),
    ],
)
def test_options_that_cannot_be(option: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PairRequest.of("ms.tif", "pan.tif", **option)


def test_a_request_corrects_a_shift_as_it_says(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, ms_shape=(16, 16))
    with open_pair(*paths) as pair:
        done = PairRequest.of(*paths, coregistration="off").coregister(pair)
        assert (done.mode, done.report, done.pair) == ("off", None, pair)
        assert PairRequest.of(*paths).coregister(pair).report is not None


def test_a_view_reads_the_same_in_another_process(request_of_all: PairRequest) -> None:
    """All that was decided about the open pair travels: bands, shift, mask and nodata."""
    with request_of_all.open() as pair:
        read = request_of_all.select(pair).shifted(PanShift(0.75, -1.5))
        view = PairView.of(request_of_all, read)
        here = read_pair(read)
        as_delivered = read_pair(pair)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(read_view, (view,))
    assert there.keys() == here.keys()
    for name, value in here.items():
        if isinstance(value, np.ndarray):
            assert there[name].dtype == value.dtype
            np.testing.assert_array_equal(there[name], value, err_msg=name)
        else:
            assert there[name] == value, name
    # Each of them matters here: the pair as delivered reads otherwise.
    assert here["ms"].shape[0] == 3
    assert as_delivered["ms"].shape[0] == 4
    assert not np.array_equal(here["pan"], as_delivered["pan"], equal_nan=True)
    inner = here["invalid"][3:-4, 3:-4]
    assert inner.any(), "the nodata value"
    assert (~here["valid"] & ~inner).any(), "the mask"


def test_a_view_can_be_pickled(request_of_all: PairRequest) -> None:
    with request_of_all.open() as pair:
        view = PairView.of(request_of_all, request_of_all.select(pair))
    assert pickle.loads(pickle.dumps(view)) == view
    assert view.shift is None
    with view.open() as again:
        assert again.bands == view.bands
