"""Tests of measured shifts that are kept in the user's cache folder."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from synthetic import pair_grids, write_raster

from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.registration import ShiftReport, measure_shift
from das2f_map.scene.registration.kept import kept_shift

YEAR_NS = 1_600_000_000_000_000_000


class Measured:
    """Measures once with the real function, and counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0
        self.report: ShiftReport | None = None

    def __call__(self, pair: ScenePair) -> ShiftReport:
        self.times += 1
        if self.report is None:
            self.report = measure_shift(pair)
        return self.report


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scene")
    ms_grid, pan_grid = pair_grids(ms_shape=(40, 40))
    ground = gaussian_filter(np.random.default_rng(0).normal(size=(160, 160)), 3)
    ground = 2000 + 300 * ground / ground.std()
    ms = ground.reshape(40, 4, 40, 4).mean(axis=(1, 3))[None].repeat(4, axis=0)
    return (
        write_raster(folder / "ms.tif", ms, ms_grid, dtype="uint16", nodata=0),
        write_raster(folder / "pan.tif", ground[None], pan_grid, dtype="uint16", nodata=0),
    )


@pytest.fixture
def measured() -> Measured:
    return Measured()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the files of the pair are old."""
    for path in pair:
        os.utime(path, ns=(YEAR_NS, YEAR_NS))
    monkeypatch.setenv("DAS2F_MAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shift_of(pair: tuple[Path, Path], measure: Measured, *, bands: int = 4) -> ShiftReport:
    with open_pair(*pair) as opened:
        return kept_shift(opened.with_bands(opened.bands[:bands]), measure)


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_kept_shift_is_the_measured_one(pair: tuple[Path, Path], cache: Path, measured: Measured) -> None:
    first = shift_of(pair, measured)
    assert shift_of(pair, measured) == first == measured.report
    assert measured.times == 1
    assert len(entries(cache)) == 1


def test_infinity_is_kept(pair: tuple[Path, Path], measured: Measured) -> None:
    shift_of(pair, measured)
    assert measured.report is not None
    endless = measured.report.model_copy(update={"sigma_rows": math.inf, "uncertainty": math.inf})
    measured.report = endless
    assert shift_of(pair, measured, bands=3) == endless
    assert shift_of(pair, measured, bands=3) == endless
    assert measured.times == 2


@pytest.mark.parametrize("number", [0, 1])
def test_changed_files_and_other_bands_are_measured(
    pair: tuple[Path, Path], measured: Measured, number: int
) -> None:
    shift_of(pair, measured)
    shift_of(pair, measured, bands=3)
    assert measured.times == 2
    os.utime(pair[number], ns=(YEAR_NS, YEAR_NS + 1))
    shift_of(pair, measured)
    assert measured.times == 3


def test_a_side_file_counts(pair: tuple[Path, Path], measured: Measured) -> None:
    shift_of(pair, measured)
    side = pair[0].with_name("ms.tif.aux.xml")
    side.write_text("<PAMDataset></PAMDataset>")
    os.utime(side, ns=(YEAR_NS, YEAR_NS))
    try:
        shift_of(pair, measured)
    finally:
        side.unlink()
    assert measured.times == 2


def test_files_that_have_just_changed_are_not_kept(
    pair: tuple[Path, Path], cache: Path, measured: Measured
) -> None:
    os.utime(pair[0])
    shift_of(pair, measured)
    assert entries(cache) == []


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"key": 1, "shift": 2}', "[" * 100_000])
def test_damaged_entries_are_ignored_and_replaced(
    pair: tuple[Path, Path], cache: Path, measured: Measured, damage: str
) -> None:
    shift_of(pair, measured)
    (entry,) = entries(cache)
    entry.write_text(damage)
    assert shift_of(pair, measured) == measured.report
    assert measured.times == 2
    assert json.loads(entry.read_text())["shift"]["windows_tried"]


def test_an_entry_of_another_key_is_ignored(pair: tuple[Path, Path], cache: Path, measured: Measured) -> None:
    shift_of(pair, measured)
    (entry,) = entries(cache)
    document = json.loads(entry.read_text())
    document["key"]["versions"][0] = "0"
    entry.write_text(json.dumps(document))
    shift_of(pair, measured)
    assert measured.times == 2


def test_the_oldest_entries_go(pair: tuple[Path, Path], cache: Path, measured: Measured) -> None:
    shift_of(pair, measured)
    (entry,) = entries(cache)
    for number in range(300):
        old = entry.with_name(f"{number}.json")
        old.write_text("{}")
        os.utime(old, ns=(YEAR_NS, YEAR_NS))
    shift_of(pair, measured, bands=3)
    assert len(entries(cache)) == 256
    shift_of(pair, measured)
    assert measured.times == 2  # the new ones stayed


@pytest.mark.parametrize("word", ["off", "OFF", "0", "no", "false"])
def test_switched_off(
    pair: tuple[Path, Path], cache: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("DAS2F_MAP_CACHE", word)
    monkeypatch.chdir(cache.parent)
    shift_of(pair, measured)
    shift_of(pair, measured)
    assert measured.times == 2
    assert not (cache.parent / word).exists()


def test_a_folder_that_cannot_be_written_is_no_fault(
    pair: tuple[Path, Path], cache: Path, measured: Measured
) -> None:
    cache.write_text("a file")
    assert shift_of(pair, measured) == measured.report
    assert measured.times == 1
