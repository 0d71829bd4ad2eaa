"""The model that a training starts from."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import rasterio
from small_scene import Scene
from tiny import tiny_bundle

import das2f_map.training.start
from das2f_map.bundle.card import Ground
from das2f_map.bundle.catalogue import bundled_models
from das2f_map.bundle.files import load_bundle, save_bundle
from das2f_map.errors import ModelError
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.training.fit import carry_over
from das2f_map.training.ground import ground_of
from das2f_map.training.settings import AUTO, FRESH
from das2f_map.training.start import find_start

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gulf"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((10, 50, 11, 51), (10.5, 50.5, 12, 52), True),
        ((10, 50, 11, 51), (11, 50, 12, 51), False),  # side by side
        ((10, 50, 11, 51), (10, 51, 11, 52), False),
        ((179, 0, -179, 1), (-179.5, 0, -178, 1), True),  # both across or next to 180 degrees
        ((179, 0, -179, 1), (177, 0, 178, 1), False),
        ((-180, -90, 180, 90), (5, 5, 6, 6), True),
        ((10, 50, 11, 51), (10.2, 50.2, 10.4, 50.4), True),  # one inside the other
    ],
)
def test_ground_that_two_rectangles_share(
    one: tuple[float, ...], other: tuple[float, ...], expected: bool
) -> None:
    a, b = (Ground(west=w, south=s, east=e, north=n) for w, s, e, n in (one, other))
    assert a.overlaps(b) is expected
    assert b.overlaps(a) is expected


def example(pair: ScenePair) -> NetworkConfig:
    return NetworkConfig(classes=3, ms_bands=len(pair.bands))


def test_the_bundled_model_is_not_the_start_on_its_own_ground(small_scene: Scene) -> None:
    with open_pair(EXAMPLE / "ms.tif", EXAMPLE / "pan.tif") as pair:
        (model,) = bundled_models().values()
        assert any(ground.overlaps(ground_of(pair)) for ground in load_bundle(model).card.training.ground)
        assert find_start(AUTO, example(pair), [pair]) is None


def test_a_scene_elsewhere_with_the_same_bands_starts_from_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = Ground(west=5, south=50, east=6, north=51)
    monkeypatch.setattr(das2f_map.training.start, "ground_of", lambda pair: elsewhere)
    with open_pair(EXAMPLE / "ms.tif", EXAMPLE / "pan.tif") as pair:
        with caplog.at_level(logging.INFO):
            found = find_start(AUTO, example(pair), [pair])
        assert found is not None
        assert found.card.name in bundled_models()
        assert "--from none" in caplog.text
        assert find_start(FRESH, example(pair), [pair]) is None
        two = NetworkConfig(classes=3, ms_bands=4, stages=2)
        assert find_start(AUTO, two, [pair]) is None


def test_other_bands_start_afresh(small_scene: Scene) -> None:
    with open_pair(small_scene.ms, small_scene.pan) as pair:
        assert find_start(AUTO, example(pair), [pair]) is None


def test_a_named_model_of_the_same_ground_is_used_with_a_warning(
    small_scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tiny_bundle(tmp_path, "start")
    with open_pair(small_scene.ms, small_scene.pan) as pair:
        record = bundle.card.training.model_copy(update={"ground": (ground_of(pair),)})
        card = bundle.card.model_copy(update={"training": record})
        save_bundle(tmp_path / "same", card, bundle.state_dict)
        found = find_start(str(tmp_path / "same"), card.network, [pair])
        assert found is not None
        assert "trained on this ground" in caplog.text


@pytest.mark.parametrize(
    ("stages", "bands", "says"),
    [
        ((1, 2), (4, 4), "the second stage starts anew"),
        ((2, 1), (4, 4), "its second stage is dropped"),
        ((1, 1), (4, 3), "its other bands are dropped: "),
        ((1, 1), (3, 4), "bands that the model lacks start anew: "),
        ((1, 1), (4, 4), ""),
    ],
)
def test_what_cannot_be_carried_over_is_told(
    stages: tuple[int, int],
    bands: tuple[int, int],
    says: str,
    small_scene: Scene,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All weights that both networks have are the old model's, but for the classifier."""
    bundle = tiny_bundle(tmp_path, "start", bands=bands[0], stages=stages[0])
    config = bundle.card.network.model_copy(update={"stages": stages[1], "ms_bands": bands[1]})
    names = ["blue", "green", "red", "nir"][: bands[1]]
    pair = cast("ScenePair", SimpleNamespace(ms_band_names=names, bands=names, grids=None))
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(das2f_map.training.start, "ground_of", lambda pair: None)
        found = find_start(str(tmp_path / "start"), config, [pair])
    assert found is not None
    assert caplog.messages[-1].count(";") == bool(says)
    assert says in caplog.messages[-1]
    network = Das2fNet(config)
    carry_over(found, network, names)
    theirs, ours = found.state_dict, network.state_dict()
    same = [k for k in ours.keys() & theirs.keys() if ours[k].shape == theirs[k].shape]
    trunk = [k for k in same if not k.startswith("classifier.")]
    assert any(k.startswith("stages.0.") for k in trunk)
    assert all(ours[k].equal(theirs[k]) for k in trunk)


def test_ground_is_not_known_in_a_local_crs(small_scene: Scene, tmp_path: Path) -> None:
    local = rasterio.crs.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    paths = []
    for path in (small_scene.ms, small_scene.pan):
        paths.append(Path(shutil.copy(path, tmp_path)))
        with rasterio.open(paths[-1], "r+") as file:
            file.crs = local
    with open_pair(*paths) as pair:
        assert ground_of(pair) is None
        assert find_start(AUTO, example(pair), [pair]) is None


def test_ground_is_that_of_the_corners(small_scene: Scene) -> None:
    """The scene lies on the central meridian of its UTM zone, 3° east, with its west edge on it."""
    with open_pair(small_scene.ms, small_scene.pan) as pair:
        found = ground_of(pair)
    assert found is not None
    assert found.west == pytest.approx(3.0, abs=1e-6)
    metres = 96 * 10
    assert found.north - found.south == pytest.approx(metres / 111_250, rel=0.01)
    assert found.east - found.west == pytest.approx(metres / (111_320 * np.cos(np.radians(50.5))), rel=0.01)


def test_a_model_of_another_size_is_refused(small_scene: Scene, tmp_path: Path) -> None:
    tiny_bundle(tmp_path, "start")
    with (
        open_pair(small_scene.ms, small_scene.pan) as pair,
        pytest.raises(ModelError, match=r"other sizes.*width 16 and 64"),
    ):
        find_start(str(tmp_path / "start"), NetworkConfig(classes=3), [pair])
