"""All files of a map in one pass: the same as if made one by one, and the map is read back only once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes, write_map

from das2f_map.products.class_areas import class_areas
from das2f_map.products.map_files import MapContents, MapPaths, MapWriter
from das2f_map.products.polygons import write_polygons
from das2f_map.scene.grid import blocks_of

CLASSES = patchy_classes(UTM.height, UTM.width, AWKWARD_LEGEND.ids)
CONFIDENCE = confidence_of(CLASSES)


def write(folder: Path, *, confidence: bool = False, min_area_m2: float | None = None) -> MapContents:
    folder.mkdir()
    paths = MapPaths(
        folder / "map.tif",
        folder / "map.json",
        folder / "map.gpkg",
        folder / "sure.tif" if confidence else None,
    )
    with MapWriter(paths, UTM, AWKWARD_LEGEND, min_area_m2=min_area_m2) as writer:
        for window in blocks_of(UTM.window, 32):
            writer.write(window, CLASSES[window.slices()], CONFIDENCE[window.slices()])
        return writer.finish()


def features(path: Path) -> geopandas.GeoDataFrame:
    layers = geopandas.list_layers(path)
    names = layers.name[layers.geometry_type.notna()]
    frames = [geopandas.read_file(path, layer=name) for name in names]
    return geopandas.pd.concat(frames, ignore_index=True)


@pytest.mark.slow
def test_the_same_as_one_after_the_other(tmp_path: Path) -> None:
    contents = write(tmp_path / "once")
    raster = write_map(
        tmp_path / "map.tif", CLASSES, confidence_path=tmp_path / "sure.tif", confidence=CONFIDENCE
    )
    areas, nodata = class_areas(raster, AWKWARD_LEGEND, confidence_raster=tmp_path / "sure.tif")
    polygons = write_polygons(
        raster, tmp_path / "map.gpkg", AWKWARD_LEGEND, confidence_raster=tmp_path / "sure.tif"
    )
    assert contents == MapContents(areas, nodata, polygons)
    with rasterio.open(tmp_path / "once" / "map.tif") as found:
        np.testing.assert_array_equal(found.read(1), CLASSES)
    once, one_by_one = features(tmp_path / "once" / "map.gpkg"), features(tmp_path / "map.gpkg")
    assert once.drop(columns="geometry").equals(one_by_one.drop(columns="geometry"))
    assert once.geometry.geom_equals(one_by_one.geometry).all()


@pytest.mark.parametrize("confidence", [True, False])
def test_merged_raster_polygons_and_areas_agree(tmp_path: Path, confidence: bool) -> None:
    """Confidence is that of the pixel, whatever class it has got."""
    contents = write(tmp_path / "once", confidence=confidence, min_area_m2=4000.0)
    with rasterio.open(tmp_path / "once" / "map.tif") as found:
        merged = found.read(1)
    assert contents.merged_pixels == np.count_nonzero(merged != CLASSES) > 500
    polygons = features(tmp_path / "once" / "map.gpkg")
    drawn = rasterio.features.rasterize(
        zip(polygons.geometry, polygons["class_id"], strict=True),
        out_shape=CLASSES.shape,
        transform=UTM.transform,
        dtype="uint8",
    )
    np.testing.assert_array_equal(drawn, merged)
    assert contents.polygons is not None
    for i in AWKWARD_LEGEND.ids:
        assert contents.areas[i].pixels == contents.polygons[i].pixels == np.count_nonzero(merged == i)
        mean = CONFIDENCE[merged == i].mean(dtype=np.float64)
        assert contents.areas[i].mean_confidence == pytest.approx(mean, rel=1e-9)
        assert contents.polygons[i].mean_confidence == pytest.approx(mean, rel=1e-9)
    if confidence:
        with rasterio.open(tmp_path / "once" / "sure.tif") as found:
            np.testing.assert_array_equal(found.read(1), CONFIDENCE)
            mean = np.nanmean(CONFIDENCE, dtype=np.float64)
            assert float(found.tags(1)["STATISTICS_MEAN"]) == pytest.approx(mean, rel=1e-6)
    # The raster as it was, merged on the way to its polygons, has the same ones.
    write_map(tmp_path / "map.tif", CLASSES, confidence_path=tmp_path / "sure.tif", confidence=CONFIDENCE)
    write_polygons(
        tmp_path / "map.tif",
        tmp_path / "map.gpkg",
        AWKWARD_LEGEND,
        confidence_raster=tmp_path / "sure.tif",
        min_area_m2=4000.0,
    )
    again = features(tmp_path / "map.gpkg")
    assert polygons.drop(columns="geometry").equals(again.drop(columns="geometry"))
    assert polygons.geometry.geom_equals(again.geometry).all()


def test_the_map_is_read_once_to_check_it_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = rasterio.open

    def opened(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "r":
            read.append(Path(path).name)
        return original(path, mode, *args, **options)

    monkeypatch.setattr(rasterio, "open", opened)
    write(tmp_path / "map")
    assert len(read) == 1


def test_confidence_is_a_file_only_where_it_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "without")
    write(tmp_path / "merged", min_area_m2=4000.0)
    write(tmp_path / "with", confidence=True)
    common = {"map.tif", "map.tif.aux.xml", "map.qml", "map.gpkg"}
    assert {p.name for p in (tmp_path / "without").iterdir()} == common
    assert {p.name for p in (tmp_path / "merged").iterdir()} == common
    assert {p.name for p in (tmp_path / "with").iterdir()} == common | {"sure.tif"}
    with rasterio.open(tmp_path / "with" / "sure.tif") as found:
        np.testing.assert_array_equal(found.read(1), CONFIDENCE)


def test_values_of_every_class_and_entropy(tmp_path: Path) -> None:
    """A class of rejected pixels has no band; nodata is where the map has it, whatever is written there."""
    legend, unsure = AWKWARD_LEGEND.with_unsure()
    classes = np.where((CLASSES == 5) & (CONFIDENCE < 0.6), np.uint8(unsure), CLASSES)
    random = np.random.default_rng(3)
    every = random.random((len(AWKWARD_LEGEND), *CLASSES.shape), np.float32)
    entropy = random.random(CLASSES.shape, np.float32)
    paths = MapPaths(
        tmp_path / "map.tif",
        tmp_path / "map.json",
        probabilities=tmp_path / "every.tif",
        entropy=tmp_path / "entropy.tif",
    )
    with MapWriter(paths, UTM, legend, unsure=unsure, tags={"model": "made-up"}) as writer:
        for window in blocks_of(UTM.window, 32):
            part = window.slices()
            writer.write(window, classes[part], CONFIDENCE[part], every[(slice(None), *part)], entropy[part])
        contents = writer.finish()
    assert contents.areas[unsure].pixels == int((classes == unsure).sum()) > 0
    with rasterio.open(tmp_path / "every.tif") as found:
        assert found.descriptions == AWKWARD_LEGEND.names
        assert found.tags()["model"] == "made-up"
        np.testing.assert_array_equal(found.read(), np.where(CLASSES == 0, np.float32("nan"), every))
    with rasterio.open(tmp_path / "entropy.tif") as found:
        np.testing.assert_array_equal(found.read(1), np.where(CLASSES == 0, np.float32("nan"), entropy))


def test_values_that_are_promised_have_to_come(tmp_path: Path) -> None:
    paths = MapPaths(tmp_path / "map.tif", tmp_path / "map.json", probabilities=tmp_path / "every.tif")
    window = next(blocks_of(UTM.window, 32))
    part = window.slices()
    with MapWriter(paths, UTM, AWKWARD_LEGEND) as writer:
        with pytest.raises(ValueError, match=r"values of every.tif must have shape \(5, 32, 32\)"):
            writer.write(window, CLASSES[part], CONFIDENCE[part])
        with pytest.raises(ValueError, match=r"must have shape \(5, 32, 32\)"):
            writer.write(window, CLASSES[part], CONFIDENCE[part], CONFIDENCE[part])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_map_leaves_no_complete_file(tmp_path: Path) -> None:
    paths = MapPaths(tmp_path / "map.tif", tmp_path / "map.json", tmp_path / "map.gpkg")
    window = next(blocks_of(UTM.window, 32))

    def fail() -> None:
        with MapWriter(paths, UTM, AWKWARD_LEGEND) as writer:
            writer.write(window, CLASSES[window.slices()], CONFIDENCE[window.slices()])
            raise RuntimeError("the engine")

    with pytest.raises(RuntimeError, match="the engine"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_map_with_missing_blocks_is_refused(tmp_path: Path) -> None:
    paths = MapPaths(tmp_path / "map.tif", tmp_path / "map.json", tmp_path / "map.gpkg")
    *most, _ = blocks_of(UTM.window, 64)
    with MapWriter(paths, UTM, AWKWARD_LEGEND) as writer:
        for window in most:
            writer.write(window, CLASSES[window.slices()], CONFIDENCE[window.slices()])
        with pytest.raises(ValueError, match="blocks are missing"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_map_says_so(tmp_path: Path) -> None:
    paths = MapPaths(tmp_path / "map.tif", tmp_path / "map.json", tmp_path / "map.gpkg")
    with MapWriter(paths, UTM, AWKWARD_LEGEND) as writer:
        for window in blocks_of(UTM.window, 64):
            shape = (window.height, window.width)
            writer.write(window, np.zeros(shape, np.uint8), np.full(shape, np.nan, np.float32))
        contents = writer.finish()
    assert contents.is_empty
    assert contents.nodata_pixels == UTM.height * UTM.width
    assert not (tmp_path / "map.gpkg").exists()
