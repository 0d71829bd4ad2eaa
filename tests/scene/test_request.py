"""Pair requests and pair views, also after pickling and in another process."""

from __future__ import annotations

import math
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
    """A request with all options: bands in another order, a mask by value, an undeclared nodata value."""
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
        ({"ms": None}, "ms cannot be None: it must be a path or a URL"),
        ({"pan": 3}, "pan cannot be 3: it must be a path or a URL"),
        ({"coregistration": "maybe"}, "coregistration cannot be 'maybe': it must be auto, on or off"),
        ({"coregistration": True}, "coregistration cannot be True: it must be auto, on or off"),
        ({"max_shift": 0.0}, "max_shift cannot be 0.0: it must be a number of PAN pixels, more than 0"),
        ({"max_shift": float("nan")}, "max_shift cannot be nan: it must be"),
        ({"max_shift": float("inf")}, "max_shift cannot be inf: it must be a number .*and finite"),
        ({"max_shift": "8"}, "max_shift cannot be '8': it must be"),
        ({"max_shift": None}, "max_shift cannot be None: it must be"),
        ({"max_shift": True}, "max_shift cannot be True: it must be"),
        ({"nodata": "0"}, "nodata cannot be '0': it must be a number or None"),
        ({"nodata": False}, "nodata cannot be False: it must be"),
        ({"nodata": [0]}, r"nodata cannot be \[0\]: it must be"),
        ({"mask": 1}, "mask cannot be 1: it must be a path, a MaskFile, 'clouds' or None"),
        ({"bands": ["blue", "nir"]}, r"bands cannot be \['blue', 'nir'\]: it must be a mapping such as"),
        ({"bands": "blue=1"}, "bands cannot be 'blue=1': it must be a mapping such as"),
        ({"bands": {"nir": 4.5}}, r"bands\['nir'\] cannot be 4.5: it must be a band's number in the file"),
        ({"bands": {"nir": True}}, r"bands\['nir'\] cannot be True: it must be"),
        ({"bands": {"nir": None}}, r"bands\['nir'\] cannot be None: it must be"),
        ({"bands": {4: "nir"}}, "bands cannot be 4: it must be a text as the name of each band in the model"),
    ],
)
def test_options_that_cannot_be(option: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        PairRequest.of(**({"ms": "ms.tif", "pan": "pan.tif"} | option))
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy() -> None:
    """Their equals in Python are kept: the request is pickled and compared."""
    given = PairRequest.of(
        Path("ms.tif"), "pan.tif", bands={"nir": np.int16(4)}, nodata=np.float32(0), max_shift=np.int64(3)
    )
    assert given == PairRequest.of("ms.tif", "pan.tif", bands={"nir": 4}, nodata=0, max_shift=3)
    assert type(given.given_bands["nir"]) is int
    assert math.isnan(PairRequest.of("a", "b", nodata=float("nan")).nodata or 0)


def test_a_request_corrects_a_shift_as_it_says(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, ms_shape=(16, 16))
    with open_pair(*paths) as pair:
        done = PairRequest.of(*paths, coregistration="off").coregister(pair)
        assert (done.mode, done.report, done.pair) == ("off", None, pair)
        assert PairRequest.of(*paths).coregister(pair).report is not None


def test_a_view_reads_the_same_in_another_process(request_of_all: PairRequest) -> None:
    """A view carries the open pair's bands, shift, mask and nodata value to another process."""
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
    # Each of them changes the values here, so the test fails if one is lost.
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
