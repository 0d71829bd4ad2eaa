"""Mosaics of made-up maps, against NumPy on whole arrays and GDAL's own nearest-neighbour warp."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes, write_map
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject

import das2f_map
from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend, LegendClass
from das2f_map.products import mosaic_parts
from das2f_map.products.mosaic_maps import MapToJoin, join_legends
from das2f_map.scene.grid import Grid
from das2f_map.workflows import mosaic

ALL = patchy_classes(60, 80, AWKWARD_LEGEND.ids, seed=3)
PLACES = {"a": (0, 0, 40, 50), "b": (10, 30, 50, 50), "c": (35, 5, 25, 40)}
"""Row, column, height and width of three maps on a common grid, which overlap in pairs and all three."""


def moved(grid: Grid, rows: float, cols: float) -> Grid:
    return Grid(grid.height, grid.width, grid.transform * Affine.translation(cols, rows), grid.crs)


def values(path: Path, band: int = 1) -> np.ndarray:
    with rasterio.open(path) as src:
        return src.read(band)


def three_maps(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Maps `a.tif` to `c.tif` with confidences; their classes and confidences."""
    found = {}
    for seed, (name, (row, col, h, w)) in enumerate(PLACES.items()):
        own = patchy_classes(h, w, AWKWARD_LEGEND.ids, seed=10 + seed)
        same = np.random.default_rng(seed).random((h, w)) < 0.6
        own = np.where(same, ALL[row : row + h, col : col + w], own)
        sure = np.round(confidence_of(own, seed), 1).astype(np.float32)  # so that some are equal
        write_map(
            folder / f"{name}.tif",
            own,
            grid=moved(UTM, row, col),
            confidence_path=folder / f"{name}_sure.tif",
            confidence=sure,
        )
        found[name] = own, sure
    return found


def expected(found: dict[str, Any], *, by_confidence: bool) -> tuple[np.ndarray, np.ndarray]:
    """The mosaic pixel by pixel."""
    classes, best = np.zeros((60, 80), np.uint8), np.full((60, 80), np.nan, np.float32)
    for r, c in np.ndindex(60, 80):
        for name, (own, sure) in found.items():
            row, col, h, w = PLACES[name]
            if not (row <= r < row + h and col <= c < col + w) or own[r - row, c - col] == 0:
                continue
            here = sure[r - row, c - col]
            if classes[r, c] == 0 or (by_confidence and here > best[r, c]):
                classes[r, c], best[r, c] = own[r - row, c - col], here
    return classes, best


def test_the_most_confident_decides_and_seams_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic, "BLOCK", 16)
    monkeypatch.setattr(mosaic_parts, "MOST_OPEN", 2)
    found = three_maps(tmp_path)
    report = das2f_map.mosaic(
        [tmp_path / f"{n}.tif" for n in PLACES],
        tmp_path / "m.tif",
        confidence=[tmp_path / f"{n}_sure.tif" for n in PLACES],
        confidence_output=tmp_path / "m_sure.tif",
        vectors=tmp_path / "m.gpkg",
    )
    classes, best = expected(found, by_confidence=True)
    np.testing.assert_array_equal(values(tmp_path / "m.tif"), classes)
    np.testing.assert_array_equal(values(tmp_path / "m_sure.tif"), best)
    with rasterio.open(tmp_path / "m.tif") as src:
        assert (src.crs, src.transform, src.shape) == (UTM.crs, UTM.transform, (60, 80))
        assert src.colormap(1)[3] == (0x8C, 0x8C, 0x94, 255)
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert report.rule == "confidence"
    assert [m.placement for m in report.maps] == ["copied"] * 3
    assert report.warnings == []
    placed = {}
    for name, (row, col, h, w) in PLACES.items():
        placed[name] = np.zeros((60, 80), np.uint8)
        placed[name][row : row + h, col : col + w] = found[name][0]
    for seam, (i, j) in zip(report.seams, ("ab", "ac", "bc"), strict=True):
        both = (placed[i] > 0) & (placed[j] > 0)
        assert seam.pixels == both.sum()
        assert seam.differing == (both & (placed[i] != placed[j])).sum()
        assert seam.share == seam.differing / seam.pixels
        assert 0 < seam.share < 1
    assert report.overlap_pixels == (sum((p > 0).astype(int) for p in placed.values()) > 1).sum()
    assert [m.pixels for m in report.maps] == [(p > 0).sum() for p in placed.values()]
    assert sum(m.taken for m in report.maps) == (classes > 0).sum()
    for c in report.classes:
        assert c.pixels == (classes == c.id).sum()
        assert c.area_m2 == pytest.approx(c.pixels * 900, rel=2e-3)
    layers = [n for n, kind in pyogrio.list_layers(tmp_path / "m.gpkg") if kind]
    area = sum(pyogrio.read_dataframe(tmp_path / "m.gpkg", layer=n).area.sum() for n in layers)
    assert area == pytest.approx((classes > 0).sum() * 900)
    assert json.loads((tmp_path / "m.json").read_text()) == report.model_dump(mode="json")
    assert (tmp_path / "m.qml").is_file()


def test_without_confidence_the_first_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = three_maps(tmp_path)
    maps = [tmp_path / f"{n}.tif" for n in PLACES]
    report = das2f_map.mosaic(maps, tmp_path / "m.tif")
    np.testing.assert_array_equal(values(tmp_path / "m.tif"), expected(found, by_confidence=False)[0])
    assert report.rule == "order"
    assert report.warnings == [
        f"no raster of confidence is found for {maps[0]} and 2 more: "
        "where maps overlap, the first one decides"
    ]
    assert report.warnings[0] in caplog.text
    with pytest.raises(OutputError, match="exists already"):
        das2f_map.mosaic(maps, tmp_path / "m.tif")
    # The reports of maps name their confidence; of a mosaic, too.
    das2f_map.mosaic(
        maps[:2],
        tmp_path / "two.tif",
        confidence=[tmp_path / "a_sure.tif", tmp_path / "b_sure.tif"],
        confidence_output=tmp_path / "two_sure.tif",
    )
    (tmp_path / "c.json").write_text((tmp_path / "two.json").read_text().replace("two_sure", "c_sure"))
    whole = das2f_map.mosaic([tmp_path / "two.tif", maps[2]], tmp_path / "whole.tif")
    assert whole.rule == "confidence"
    np.testing.assert_array_equal(values(tmp_path / "whole.tif"), expected(found, by_confidence=True)[0])


@pytest.mark.parametrize(("rows", "cols"), [(0.3, -0.4), (0.5, 0.0), (-0.75, 7.005)])
def test_between_pixels_takes_the_nearest(rows: float, cols: float, tmp_path: Path) -> None:
    one = np.zeros((50, 60), np.uint8)
    one[0, 0] = one[-1, -1] = 9
    other = patchy_classes(20, 30, AWKWARD_LEGEND.ids, seed=5)
    grid = Grid(20, 30, moved(UTM, 10 + rows, 12 + cols).transform, UTM.crs)
    write_map(tmp_path / "a.tif", one)
    write_map(tmp_path / "b.tif", other, grid=grid)
    report = das2f_map.mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "m.tif")
    warped = np.zeros((50, 60), np.uint8)
    reproject(
        other,
        warped,
        src_transform=grid.transform,
        src_crs=grid.crs,
        dst_transform=UTM.transform,
        dst_crs=UTM.crs,
        resampling=Resampling.nearest,
        tolerance=0,
    )
    np.testing.assert_array_equal(values(tmp_path / "m.tif"), np.where(one > 0, one, warped))
    joined = report.maps[1]
    assert joined.placement == "moved"
    assert np.abs(joined.moved_px).max() <= 0.5 + 1e-6
    # Moved back, it is a whole number of pixels away.
    whole = np.array([rows, cols]) + joined.moved_px
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-6)
    assert joined.moved == pytest.approx(30 * np.hypot(*joined.moved_px))
    assert "lies between the pixels" in report.warnings[1]


@pytest.mark.parametrize("kind", ["crs", "finer", "turned"])
def test_other_grids_are_warped_as_gdal_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic_parts, "MOST_READ", 300)
    one = np.zeros((50, 60), np.uint8)
    one[3:6, 3:6] = 9
    other = patchy_classes(45, 70, AWKWARD_LEGEND.ids, seed=6)
    if kind == "crs":
        target = CRS.from_epsg(4326)
        transform, width, height = calculate_default_transform(
            UTM.crs, target, 70, 45, *rasterio.transform.array_bounds(45, 70, moved(UTM, 20, 25).transform)
        )
        other = patchy_classes(height, width, AWKWARD_LEGEND.ids, seed=6)
        grid = Grid(height, width, transform, target)
    elif kind == "finer":
        grid = Grid(45, 70, moved(UTM, 20, 25).transform * Affine.scale(0.37), UTM.crs)
    else:
        grid = Grid(45, 70, moved(UTM, 20, 25).transform * Affine.rotation(31), UTM.crs)
    write_map(tmp_path / "a.tif", one)
    write_map(tmp_path / "b.tif", other, grid=grid)
    report = das2f_map.mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as src:
        made, on = src.read(1), src.transform
    warped = np.zeros(made.shape, np.uint8)
    reproject(
        other,
        warped,
        src_transform=grid.transform,
        src_crs=grid.crs,
        dst_transform=on,
        dst_crs=UTM.crs,
        resampling=Resampling.nearest,
        tolerance=0,
    )
    top, left = (round(v) for v in reversed(~on * (UTM.transform.c, UTM.transform.f)))
    first = np.zeros(made.shape, np.uint8)
    first[top : top + 50, left : left + 60] = one
    truth = np.where(first > 0, first, warped)
    # GDAL approximates the way between CRSs a little; a pixel on a border may differ.
    assert (made != truth).mean() <= (2e-3 if kind == "crs" else 0)
    assert (made > 0).sum() > 300
    assert report.maps[1].placement == "warped"
    assert "takes the nearest one" in report.warnings[1]


def renumbered(legend: Legend, ids: list[int]) -> Legend:
    return Legend(
        classes=tuple(
            LegendClass(id=i, name=c.name, color="#123456") for i, c in zip(ids, legend.each(), strict=True)
        )
    )


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    ids = [40, 30, 20, 10, 7]
    other = renumbered(AWKWARD_LEGEND, ids)
    way = np.zeros(256, np.uint8)
    way[list(AWKWARD_LEGEND.ids)] = ids
    write_map(tmp_path / "a.tif", ALL[:30])
    write_map(tmp_path / "b.tif", way[ALL[30:]], grid=moved(UTM, 30, 0), legend=other)
    report = das2f_map.mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "m.tif")
    np.testing.assert_array_equal(values(tmp_path / "m.tif"), ALL)
    assert report.seams == []
    assert f"{tmp_path}/b.tif numbers its classes otherwise" in report.warnings[1]
    assert [c.color for c in report.classes] == [c.color for c in AWKWARD_LEGEND.each()]


def test_unsure_pixels_and_maps_without_names() -> None:
    own = Legend(classes=AWKWARD_LEGEND.classes[:2])
    with_unsure, unsure = own.with_unsure()

    def one(path: str, legend: Legend, *, named: bool = True, unsure: int | None = None) -> MapToJoin:
        return MapToJoin(path, None, UTM, legend, {i: i for i in legend.ids}, named, unsure)

    joined = join_legends([one("a", own), one("b", with_unsure, unsure=unsure)])
    assert (joined.legend, joined.unsure, joined.notices) == (with_unsure, unsure, ())
    assert joined.ids == ({1: 1, 2: 2}, {1: 1, 2: 2, unsure: unsure})
    numbers = Legend.from_names(["class 3", "class 7"], [3, 7])
    joined = join_legends([one("a", numbers, named=False), one("b", numbers.without(3), named=False)])
    assert joined.ids == ({3: 3, 7: 7}, {7: 7})
    assert joined.legend.names == ("class 3", "class 7")
    with pytest.raises(InputError, match="do not have the same classes"):
        join_legends([one("a", own), one("b", numbers, named=False)])


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    write_map(tmp_path / "a.tif", ALL[:30])
    fewer = Legend(classes=AWKWARD_LEGEND.classes[:4])
    write_map(tmp_path / "b.tif", np.minimum(ALL[:30], 3), legend=fewer)
    a, b, m = (tmp_path / f"{n}.tif" for n in "abm")
    with pytest.raises(InputError, match="do not have the same classes: only one has wald"):
        das2f_map.mosaic([a, b], m)
    for wrong in ([a], [a, tmp_path / "x" / ".." / "a.tif"]):
        with pytest.raises(InputError, match="two maps or more"):
            das2f_map.mosaic(wrong, m)
    with pytest.raises(InputError, match="2 maps and 1 rasters"):
        das2f_map.mosaic([a, b], m, confidence=[a])
    write_map(tmp_path / "c.tif", ALL[:20])
    with pytest.raises(InputError, match="is not on the grid"):
        das2f_map.mosaic([a, tmp_path / "c.tif"], m, confidence=[a, a])
    with pytest.raises(OutputError, match="is not a GeoTIFF"):
        das2f_map.mosaic([a, b], tmp_path / "m.png")
    assert not m.exists()


def test_report_has_checksums_and_old_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_map(tmp_path / "a.tif", ALL[:, :50])
    write_map(tmp_path / "b.tif", ALL[:, 50:], grid=moved(UTM, 0, 50))
    maps, m = [tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "m.tif"
    report = das2f_map.mosaic(maps, m, vectors=tmp_path / "m.gpkg")
    for kind in ("raster", "vectors"):
        own = Path(report.outputs[kind]).read_bytes()
        assert report.checksums[kind] == hashlib.sha256(own).hexdigest()
    caplog.clear()
    again = das2f_map.mosaic(maps, m, overwrite=True)
    assert f"{tmp_path}/m.gpkg: of the map that is replaced" in caplog.text
    assert {*again.checksums} == {"raster"}


def test_files_of_its_maps_are_not_replaced(tmp_path: Path) -> None:
    for name, part in (("a", ALL[:20]), ("b", ALL[20:40]), ("c", ALL[40:])):
        write_map(tmp_path / f"{name}.tif", part, grid=moved(UTM, {"a": 0, "b": 20, "c": 40}[name], 0))
    two = tmp_path / "two.tif"
    das2f_map.mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], two, vectors=tmp_path / "two.gpkg")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=r"output .*two\.gpkg belongs to the map .*two\.tif"):
        das2f_map.mosaic(
            [two, tmp_path / "c.tif"], tmp_path / "m.tif", vectors=tmp_path / "two.gpkg", overwrite=True
        )
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_maps_far_apart(tmp_path: Path) -> None:
    """Those that nearly all of the mosaic lies between are refused with its size, others are joined."""
    write_map(tmp_path / "a.tif", ALL)
    write_map(tmp_path / "b.tif", ALL, grid=moved(UTM, 900, -1000))
    write_map(tmp_path / "c.tif", ALL, grid=moved(UTM, 40_000, 40_000))
    a, b, c, m = (tmp_path / f"{name}.tif" for name in "abcm")
    with pytest.raises(InputError, match="would have 40,080 × 40,060 pixels, 9,600 of them") as caught:
        das2f_map.mosaic([a, c], m)
    assert f"{c} lies far from {a}" in caught.value.message
    assert "\n" not in caught.value.message
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".tif"] * 3 + [".xml"] * 3
    das2f_map.mosaic([a, b], m)
    made = values(m)
    assert made.shape == (960, 1080)
    np.testing.assert_array_equal(made[:60, 1000:], ALL)
    np.testing.assert_array_equal(made[900:, :80], ALL)
    assert np.count_nonzero(made) == 2 * np.count_nonzero(ALL)


def geographic(lon: float, lat: float, crs: str = "EPSG:4326") -> Grid:
    """A grid of 60 × 80 pixels of about a kilometre whose upper left corner is a place."""
    if crs == "EPSG:4326":
        return Grid(60, 80, Affine(0.01, 0, lon, 0, -0.01, lat), CRS.from_string(crs))
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    return Grid(60, 80, Affine(1000.0, 0, x, 0, -1000.0, y), CRS.from_string(crs))


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("turns", [-1, 1])
def test_one_map_that_the_180th_meridian_cuts(crs: str, turns: int, tmp_path: Path) -> None:
    """Its two halves, one of which counts on from -180 degrees, are the whole again, in any order."""
    around = 360.0 if crs == "EPSG:4326" else 2 * np.pi * 6_378_137.0
    whole = geographic(179.7, -16.0, crs)
    write_map(tmp_path / "west.tif", ALL[:, :50], grid=whole)
    east = Affine.translation(-around, 0) * moved(whole, 0, 30).transform
    write_map(tmp_path / "east.tif", ALL[:, 30:], grid=Grid(60, 50, east, whole.crs))
    maps = [tmp_path / "west.tif", tmp_path / "east.tif"][::turns]
    report = das2f_map.mosaic(maps, tmp_path / "m.tif")
    np.testing.assert_array_equal(values(tmp_path / "m.tif"), ALL)
    assert [one.placement for one in report.maps] == ["copied", "copied"]
    assert report.seams[0].differing == 0
    assert report.overlap_pixels == np.count_nonzero(ALL[:, 30:50])


PAIRS = {
    "UTM 1 on degrees": (geographic(179.4, -16.0), geographic(-179.9, -16.1, "EPSG:32701")),
    "UTM 60 over the meridian on degrees below -180": (
        geographic(-180.5, -16.0),
        geographic(179.7, -16.1, "EPSG:32760"),
    ),
    "degrees from -180 on UTM 60": (geographic(179.4, -16.0, "EPSG:32760"), geographic(-179.9, -16.1)),
    "degrees over 180 on UTM 1": (geographic(-179.9, -16.0, "EPSG:32701"), geographic(179.6, -16.2)),
    "degrees before -180 on Mercator": (geographic(179.3, -16.0, "EPSG:3857"), geographic(-180.4, -16.2)),
    "UTM 1 on UTM 60": (
        geographic(179.4, -16.0, "EPSG:32760"),
        geographic(-179.8, -16.1, "EPSG:32701"),
    ),
}


@pytest.mark.parametrize("name", [*PAIRS])
def test_other_grids_across_the_180th_meridian(name: str, tmp_path: Path) -> None:
    first, second = PAIRS[name]
    write_map(tmp_path / "a.tif", ALL, grid=first)
    write_map(tmp_path / "b.tif", ALL[::-1], grid=second)
    das2f_map.mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as src:
        made, on = src.read(1), src.transform
    assert max(made.shape) < 300
    row, col = np.indices(made.shape) + 0.5
    x, y = on * (col, row)
    lon, lat = Transformer.from_crs(first.crs, "EPSG:4326", always_xy=True).transform(x, y)
    own_x, own_y = Transformer.from_crs("EPSG:4326", second.crs, always_xy=True).transform(lon, lat)
    found = np.zeros(made.shape, np.uint8)
    for turn in (-360, 0, 360) if second.crs.is_geographic else (0,):
        c, r = ~second.transform * (own_x + turn, own_y)
        c, r = np.floor(c).astype(int), np.floor(r).astype(int)
        inside = (r >= 0) & (r < 60) & (c >= 0) & (c < 80)
        found[inside] = ALL[::-1][r[inside], c[inside]]
    top, left = (round(v) for v in reversed(~on * (first.transform.c, first.transform.f)))
    if not (0 <= left <= made.shape[1] - 80):  # the first map, whole turns away
        raise AssertionError(f"the first map begins at column {left}")
    part = found[top : top + 60, left : left + 80]
    part[ALL > 0] = ALL[ALL > 0]
    assert (found != made).mean() < 1e-3  # pixels on a border
    assert np.count_nonzero(made) > 1.2 * np.count_nonzero(ALL)
