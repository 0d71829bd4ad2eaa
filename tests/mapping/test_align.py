"""`align`: what is told, and the pair that is written, against a field that is known."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from synthetic import Field, pair_grids, write_raster

from das2f_map.errors import InputError
from das2f_map.mapping.align import align
from das2f_map.scene.pair import open_pair
from das2f_map.scene.registration import measure_shift

MS, PAN = pair_grids(ms_shape=(72, 80))
SHIFT = (1.4, -0.7)


def field() -> Field:
    """Edges are in the same place in every band."""
    ground = Field.random(4, (4 * 8.0, 30 * 8.0), MS.pixel_to_map(0, 0), MS.crs, 3, waves=40)
    own = np.random.default_rng(4).uniform(0.85, 1.15, ground.amplitude.shape)
    return dataclasses.replace(
        ground,
        phase=np.broadcast_to(ground.phase[:1], ground.phase.shape).copy(),
        amplitude=ground.amplitude[:1] * own,
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """PAN's content lies 1.4 pixels down and 0.7 left; a corner is nodata in MS."""
    ms = field().render(MS)
    ms[:, :6, :9] = 0
    pan = field().panchromatic().render(PAN.moved(-SHIFT[0], -SHIFT[1]))
    names = ("blue", "green", "red", "nir")
    return (
        write_raster(tmp_path / "ms.tif", ms, MS, dtype="uint16", nodata=0, names=names),
        write_raster(tmp_path / "pan.tif", pan, PAN, dtype="uint16", nodata=0, names=["pan"]),
    )


def test_written_pair(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = align(*pair, tmp_path / "out")
    assert found.corrected
    assert found.classify == "corrected in the one resampling"
    with rasterio.open(pair[0]) as before, rasterio.open(tmp_path / "out" / "ms.tif") as after:
        # MS is not resampled: the same numbers in the same places.
        left, top = ~before.transform * (after.transform.c, after.transform.f)
        r, c = round(top), round(left)
        part = before.read()[:, r : r + after.height, c : c + after.width]
        np.testing.assert_array_equal(after.read(), part)
        assert (after.dtypes, after.nodata) == (before.dtypes, before.nodata)
        assert after.descriptions == before.descriptions
        ms_grid = after.transform
    with rasterio.open(tmp_path / "out" / "pan.tif") as out:
        assert out.transform.almost_equals(ms_grid @ ms_grid.scale(0.25), precision=1e-6)
        values = out.read(1)[8:-8, 8:-8]
        shape = (out.height, out.width)
    truth = field().panchromatic().render(MS.refined(4))[0]
    truth = truth[4 * r : 4 * r + shape[0], 4 * c : 4 * c + shape[1]][8:-8, 8:-8]
    assert np.isfinite(values).all()
    assert np.sqrt(np.mean((values - truth) ** 2)) < 0.02 * truth.std()
    with open_pair(tmp_path / "out" / "ms.tif", tmp_path / "out" / "pan.tif") as again:
        assert again.strategy == "native"
        length = measure_shift(again).length
    assert length is not None
    assert length < 0.05
    report = json.loads((tmp_path / "out" / "align.json").read_text())
    assert report["shift"]["rows"] == pytest.approx(SHIFT[0], abs=0.05)
    assert (tmp_path / "out" / "align.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_written_of_what_cannot_be_measured(pair: tuple[Path, Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(1, 4000, (1, PAN.height, PAN.width))
    pan = write_raster(tmp_path / "noise.tif", noise, PAN, dtype="uint16")
    with pytest.raises(InputError, match=r"cannot be measured|not relied on"):
        align(pair[0], pan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert align(pair[0], pan).classify == "the pair is left as it is"


def test_screen_and_json(tmp_path: Path) -> None:
    """Few windows: that a change could not be looked for is told, though they agree."""
    grids = pair_grids(ms_shape=(28, 28))
    ms = write_raster(tmp_path / "ms.tif", field().render(grids[0]), grids[0])
    pan = write_raster(tmp_path / "pan.tif", field().panchromatic().render(grids[1]), grids[1])
    command = [sys.executable, "-m", "das2f_map.cli", "-q", "align", str(ms), str(pan)]
    screen = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "too few windows to tell" in screen.stdout
    assert "the windows agree" in screen.stdout
    assert "left as it is" in screen.stdout
    assert screen.stderr == ""
    printed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    shift = json.loads(printed.stdout)["shift"]
    assert (shift["verdict"], shift["varies"], shift["variation"]) == ("agree", None, None)
    assert 3 <= shift["windows_matched"] < 8
