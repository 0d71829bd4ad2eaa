"""The inputs of a training: which classes are learnt, common statistics, scenes that do not fit."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from small_scene import NAMES, TINY, Scene, make_scene

from das2f_map.errors import InputError, LabelError
from das2f_map.progress import silent
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.request import PairRequest
from das2f_map.training.decided import decided
from das2f_map.training.hardware import find_hardware
from das2f_map.training.prepare import LEAST_PIXELS, Prepared, prepare, shared_out
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.settings import FOLDS_UP_TO, TrainingSettings, map_turns


def asked(*scenes: Scene, bands: GivenBands | None = None, **settings: Any) -> TrainRequest:
    return TrainRequest(
        tuple(
            SceneRequest(
                PairRequest.of(s.ms, s.pan, bands=bands, coregistration="off"), LabelRequest(str(s.labels))
            )
            for s in scenes
        ),
        Path("model"),
        TrainingSettings(device="cpu", **settings),
        network=TINY,
    )


def prepared(request: TrainRequest) -> Prepared:
    """What a training gets; the files are closed again."""
    with prepare(request, find_hardware(request.settings), silent) as found:
        return found


def with_more(scene: Scene, folder: Path, extra: dict[str, int]) -> Scene:
    """The scene with strips of so many pixels of further classes, along its first rows."""
    labels = gpd.read_file(scene.labels)
    boxes = []
    for k, (name, n) in enumerate(extra.items()):
        x, y = scene.grid.pixel_to_map(2 * k, 20)
        boxes.append({"class": name, "geometry": shapely.box(x, y - 10, x + 10 * n, y)})
    path = folder / "more.gpkg"
    pd.concat([labels, gpd.GeoDataFrame(boxes, crs=labels.crs)]).to_file(path)
    return Scene(scene.ms, scene.pan, path, scene.grid, scene.truth)


def two_with_more(
    scene: Scene, folder: Path, first: dict[str, int], second: dict[str, int]
) -> tuple[Scene, Scene]:
    """The scene and another one, each with strips of further classes."""
    (folder / "other").mkdir()
    other = make_scene(folder / "other", seed=3)
    return with_more(scene, folder, first), with_more(other, folder / "other", second)


def only(scene: Scene, folder: Path, names: list[str]) -> Scene:
    labels = gpd.read_file(scene.labels)
    path = folder / "only.gpkg"
    labels[labels["class"].isin(names)].to_file(path)
    return Scene(scene.ms, scene.pan, path, scene.grid, scene.truth)


def test_classes_with_too_few_pixels_are_left_out(
    small_scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = with_more(small_scene, tmp_path, {"snow": LEAST_PIXELS - 1, "rock": LEAST_PIXELS})
    found = prepared(asked(scene))
    assert found.left_out == {"snow": 4}
    assert "Left out, with fewer than 5 labelled pixels: snow (4)" in caplog.text
    assert found.pixels.legend.names == tuple(sorted([*NAMES, "rock"]))
    assert found.config.classes == 4
    assert found.pixels.counts()["rock"] == 5
    # The other classes keep all their pixels: 16 of every cell.
    cells = {n: int((small_scene.truth[::12, ::12] == k).sum()) for k, n in enumerate(NAMES, start=1)}
    assert {n: k for n, k in found.pixels.counts().items() if n in NAMES} == {
        n: 16 * k for n, k in cells.items()
    }


def test_pixels_of_all_scenes_count_for_a_class(small_scene: Scene, tmp_path: Path) -> None:
    found = prepared(asked(*two_with_more(small_scene, tmp_path, {"snow": 3}, {"snow": 2})))
    assert found.left_out == {}
    assert found.pixels.counts()["snow"] == 5
    assert found.note()["labels"]["scenes"] == [64 * 16 + 3, 64 * 16 + 2]


def test_names_that_differ_in_case_alone_are_told(
    small_scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Classes of several scenes are matched by name, so that one letter makes two classes."""
    one, two = two_with_more(small_scene, tmp_path, {"Snow": 6}, {"snow": 6})
    found = prepared(asked(one, two))
    assert {"Snow", "snow"} <= set(found.pixels.legend.names)
    assert "'Snow' and 'snow' are different classes" in caplog.text
    caplog.clear()
    prepared(asked(one))
    assert "different classes" not in caplog.text


def test_a_class_to_skip_has_to_be_in_some_scene(small_scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_scene(tmp_path / "other", seed=3)
    one = with_more(small_scene, tmp_path, {"snow": 8})

    def skipping(name: str) -> TrainRequest:
        request = asked(one, other)
        scenes = [replace(s, labels=replace(s.labels, skip_classes=(name,))) for s in request.scenes]
        return replace(request, scenes=tuple(scenes))

    assert prepared(skipping("snow")).pixels.legend.names == tuple(sorted(NAMES))
    with pytest.raises(LabelError, match=r"more\.gpkg, .* have no class 'sonw' to skip") as caught:
        prepared(skipping("sonw"))
    assert "snow" in str(caught.value.hint)


def test_two_classes_are_needed(small_scene: Scene, tmp_path: Path) -> None:
    single = only(small_scene, tmp_path, ["water"])
    with pytest.raises(LabelError) as caught:
        prepared(asked(single))
    assert "only.gpkg: a classifier needs two classes of at least 5 labelled pixels" in caught.value.message
    assert caught.value.message.endswith("there is 'water'")
    assert caught.value.hint == "label more, or merge classes"
    rare = with_more(single, tmp_path, {"snow": 3, "ice": 1})
    with pytest.raises(LabelError, match="there is 'water', and 'ice' with 1, and 'snow' with 3"):
        prepared(asked(rare))
    rare = with_more(single, tmp_path, {"snow": 5})
    assert prepared(asked(rare)).pixels.legend.names == ("snow", "water")


def test_common_statistics_are_those_of_all_pixels(small_scene: Scene, tmp_path: Path) -> None:
    other = make_scene(tmp_path, seed=3)
    with rasterio.open(other.ms, "r+") as file:  # a brighter day
        file.write((1.5 * file.read().astype(float)).astype(np.uint16))
    with rasterio.open(other.pan, "r+") as file:
        file.write((1.2 * file.read().astype(float)).astype(np.uint16))
    found = prepared(asked(small_scene, other))
    images = []
    for scene in (small_scene, other):
        with rasterio.open(scene.ms) as ms, rasterio.open(scene.pan) as pan:
            images.append([*ms.read().astype(float), pan.read(1).astype(float)])
    for k, band in enumerate((*found.normalisation.ms_bands, found.normalisation.pan_band)):
        values = np.concatenate([image[k].ravel() for image in images])
        assert band.mean == pytest.approx(values.mean(), rel=1e-4)
        assert band.std == pytest.approx(values.std(), rel=1e-4)
        assert (band.p01, band.p99) == pytest.approx(np.percentile(values, [1, 99]), rel=1e-3)
    assert found.inputs[0].normalisation == found.inputs[1].normalisation


def test_scenes_need_the_same_number_of_bands(small_scene: Scene, tmp_path: Path) -> None:
    other = make_scene(tmp_path, seed=3)
    with rasterio.open(other.ms) as file:
        values, profile = file.read(), file.profile
    profile["count"] = 3
    with rasterio.open(tmp_path / "three.tif", "w", **profile) as file:
        file.write(values[:3])
    three = Scene(tmp_path / "three.tif", other.pan, other.labels, other.grid, other.truth)
    with pytest.raises(InputError, match=r"three\.tif has 3 MS bands, .*ms\.tif has 4") as caught:
        prepared(asked(small_scene, three))
    assert caught.value.hint is not None
    assert "--bands" in caught.value.hint
    chosen = prepared(asked(small_scene, three, bands={"green": 2, "red": 3}))
    assert [b.name for b in chosen.normalisation.ms_bands] == ["green", "red"]
    assert chosen.config.ms_bands == 2


def test_bands_in_another_order_are_refused(small_scene: Scene, tmp_path: Path) -> None:
    scenes = []
    for folder, names in (("one", ["blue", "green", "red", "nir"]), ("two", ["nir", "red", "green", "blue"])):
        (tmp_path / folder).mkdir()
        scene = make_scene(tmp_path / folder, seed=3)
        with rasterio.open(scene.ms, "r+") as file:
            for k, name in enumerate(names, start=1):
                file.set_band_description(k, name)
        scenes.append(scene)
    with pytest.raises(InputError, match="the same ones in another order") as caught:
        prepared(asked(*scenes))
    assert str(caught.value.hint).endswith("--bands blue=blue,green=green,red=red,nir=nir")
    named: GivenBands = {n: n for n in ("blue", "green", "red", "nir")}
    assert [b.name for b in prepared(asked(*scenes, bands=named)).normalisation.ms_bands] == list(named)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (["green", "red", "nir", "swir_1"], "others"),
        (["blue", "green", "red", "swir_1"], "others"),
        ([None, None, None, None], "band_1 as blue, band_2 as green"),
        (["blue", None, "red", "nir"], "band_2 as green"),
    ],
)
def test_other_bands_are_refused_and_nameless_ones_told(
    second: list[str | None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenes = []
    for folder, names in (("one", ["blue", "green", "red", "nir"]), ("two", second)):
        (tmp_path / folder).mkdir()
        scenes.append(make_scene(tmp_path / folder, seed=3))
        with rasterio.open(scenes[-1].ms, "r+") as file:
            for k, name in enumerate(names, start=1):
                file.set_band_description(k, name or "")
    if said == "others":
        with pytest.raises(InputError, match=r"swir_1, .*ms\.tif has blue, green, red, nir: others"):
            prepared(asked(*scenes))
    else:
        with caplog.at_level(logging.INFO):
            prepared(asked(*scenes))
        assert f"are taken in their order: {said}" in caplog.text


def test_reach_is_the_largest_of_the_scenes(small_scene: Scene) -> None:
    found = prepared(asked(small_scene))
    assert found.reach == 17
    assert found.patch.size == 16


def test_network_fields_out_of_range_are_named(small_scene: Scene) -> None:
    request = asked(small_scene)
    broken = TrainRequest(request.scenes, request.output, request.settings, network={"width": -1})
    with pytest.raises(InputError, match="Training cannot run with width -1"):
        prepared(broken)


def test_whole_scenes_are_held_out_only_of_several(small_scene: Scene) -> None:
    with pytest.raises(InputError, match="this one has one"):
        prepared(asked(small_scene, fold_by="scene"))
    with pytest.raises(InputError, match="A hold-out is cut"):
        prepared(asked(small_scene, small_scene, fold_by="scene", assess="holdout"))
    found = decided(TrainingSettings(fold_by="scene"), 10 * FOLDS_UP_TO, on_cpu=True)
    assert found.assess == "folds"


def test_blocks_are_shared_out_by_need() -> None:
    assert shared_out([10, 2, 3], 100) == [10, 2, 3]
    assert shared_out([100, 2, 50], 42) == [20, 2, 20]
    assert shared_out([7], 4) == [4]


def test_a_training_notes_what_it_learns_from(small_scene: Scene) -> None:
    """Labels or values that differ make another note, though classes and numbers of pixels stay."""
    first, again = prepared(asked(small_scene)), prepared(asked(small_scene))
    assert first.note() == again.note()
    moved = replace(first, pixels=replace(first.pixels, rows=first.pixels.rows[::-1]))
    assert moved.note()["labels"] == first.note()["labels"]
    assert moved.note()["contents"] != first.note()["contents"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"folds": 5, "assess": "none"}, "--folds has no effect"),
        ({"folds": 5, "fast": True}, "--folds has no effect"),
        ({"head": "published", "dropout": 0.1}, "--dropout has no effect"),
        ({"head": "published", "statistics": "labels"}, "--statistics has no effect"),
        ({"head": "published"}, ""),
        ({"folds": 5}, ""),
        ({"folds": 5, "fast": True, "assess": "folds"}, ""),
        ({"steps": 11, "checks": 6}, "--steps 11: 6 are taken"),
    ],
)
def test_settings_without_effect_are_named(
    settings: dict[str, Any], says: str, small_scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prepared(asked(small_scene, **settings))
    warned = [m for m in caplog.messages if m.startswith("--")]
    assert len(warned) == bool(says)
    assert not says or warned[0].startswith(says)


def test_folds_without_effect_for_many_labels_are_named(
    small_scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("das2f_map.training.decided.FOLDS_UP_TO", 10)
    with caplog.at_level(logging.WARNING):
        prepared(asked(small_scene, folds=5))
    (warned,) = [m for m in caplog.messages if m.startswith("--folds")]
    assert warned.endswith("--assess holdout, the default for over 10 labelled pixels")


def test_maps_of_a_first_look_or_of_many_labels_have_one_turn() -> None:
    assert (map_turns(FOLDS_UP_TO), map_turns(FOLDS_UP_TO + 1), map_turns(100, fast=True)) == (4, 1, 1)
