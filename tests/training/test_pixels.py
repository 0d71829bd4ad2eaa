"""Labelled pixels of several scenes: their order, their legend, their patches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import rasterio
import torch
from small_scene import Scene, make_scene

from das2f_map.errors import LabelError
from das2f_map.labels.labelled_pixels import LabelTable
from das2f_map.legend import MOST_CLASSES, Legend, LegendClass
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import open_pair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import BandStatistics, Normalisation
from das2f_map.scene.turns import turned
from das2f_map.training.dataset import PatchReader
from das2f_map.training.pixels import TrainingPixels, merged_legend

RAW = BandStatistics(name="raw", mean=0.0, std=1.0, p01=0.0, p99=1.0)


def legend(**classes: int) -> Legend:
    """Classes by name with their ids; the colour tells the legend that a class is from."""
    return Legend(
        classes=tuple(
            LegendClass(id=i, name=n, color=f"#{i:02x}{len(classes):02x}00")
            for n, i in sorted(classes.items(), key=lambda item: item[1])
        )
    )


FIRST = legend(water=1, wood=2, rock=7)
SECOND = legend(ice=1, water=2, sand=3)


def tables() -> list[LabelTable]:
    """Five labelled pixels in the first scene, four in the second."""
    rows, cols = np.array([8, 9, 60, 70, 95], np.int32), np.array([3, 90, 64, 7, 95], np.int32)
    return [
        LabelTable(rows, cols, np.array([1, 7, 2, 1, 7], np.uint8), FIRST),
        LabelTable(rows[:4] + 1, cols[:4] + 2, np.array([1, 2, 3, 2], np.uint8), SECOND),
    ]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    return [make_scene(tmp_path_factory.mktemp(f"scene{seed}"), seed) for seed in (1, 2)]


@pytest.fixture
def pixels(scenes: list[Scene]) -> Iterator[TrainingPixels]:
    with ExitStack() as stack:
        readers = []
        for scene in scenes:
            pair = stack.enter_context(open_pair(scene.ms, scene.pan))
            source = ModelInput(pair, Normalisation((RAW,) * 4, RAW), PatchGeometry())
            readers.append(stack.enter_context(PatchReader(source)))
        yield TrainingPixels.of(readers, tables())


def test_legend_is_merged_by_name_and_ids_give_way() -> None:
    merged = merged_legend([FIRST, SECOND])
    # Water is the first legend's; ice wants 1, which water has, and gets the smallest free number.
    # Sand keeps its 3 only if it is free; the smallest free one is 3 when ice comes, so sand gets 4.
    assert {c.name: c.id for c in merged.each()} == {"water": 1, "wood": 2, "rock": 7, "ice": 3, "sand": 4}
    assert merged.ids == tuple(sorted(merged.ids))
    colours = {c.name: c.color for c in merged.each()}
    for one in (FIRST, SECOND):
        for c in one.each():
            if c.name != "water":
                assert colours[c.name] == c.color
    assert colours["water"] == FIRST[1].color


def test_more_classes_than_a_map_holds_are_refused() -> None:
    def legend(first: int) -> Legend:
        return Legend(
            classes=tuple(
                LegendClass(id=k, name=f"{first + k}", color="#102030") for k in range(1, MOST_CLASSES + 1)
            )
        )

    assert len(merged_legend([legend(0), legend(0)])) == 255
    with pytest.raises(LabelError, match="256 classes in all, a map holds 255"):
        merged_legend([legend(0), legend(1)])


def test_one_legend_stays_as_it_is() -> None:
    assert merged_legend([FIRST]) == FIRST
    assert merged_legend([FIRST, FIRST]) == FIRST


def test_pixels_keep_their_class_by_name(pixels: TrainingPixels) -> None:
    names = np.array(pixels.legend.names)[pixels.positions]
    assert names.tolist() == [
        *("water", "rock", "wood", "water", "rock"),
        *("ice", "water", "sand", "water"),
    ]
    assert pixels.scene.tolist() == [0] * 5 + [1] * 4
    assert pixels.rows.tolist() == [8, 9, 60, 70, 95, 9, 10, 61, 71]
    assert pixels.cols.tolist() == [3, 90, 64, 7, 95, 5, 92, 66, 9]
    assert pixels.counts() == {"water": 4, "wood": 1, "ice": 1, "sand": 1, "rock": 2}
    assert len(pixels) == 9


def test_selected_pixels(pixels: TrainingPixels) -> None:
    chosen = pixels.select(np.array([7, 0, 0]))
    assert chosen.rows.tolist() == [61, 8, 8]
    assert chosen.scene.tolist() == [1, 0, 0]
    assert chosen.counts() == {"water": 2, "wood": 0, "ice": 0, "sand": 1, "rock": 0}


def test_without_some_classes(pixels: TrainingPixels) -> None:
    kept = pixels.without({"wood", "ice"})
    assert kept.legend.names == ("water", "sand", "rock")
    assert [c.id for c in kept.legend.each()] == [1, 4, 7], "the others keep their ids"
    names = np.array(kept.legend.names)[kept.positions]
    assert names.tolist() == ["water", "rock", "water", "rock", "water", "sand", "water"]
    assert kept.rows.tolist() == [8, 9, 70, 95, 10, 61, 71]
    assert kept.scene.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_patches_come_in_the_order_that_was_asked_for(pixels: TrainingPixels, scenes: list[Scene]) -> None:
    """Pixels of both scenes, mixed, one of them twice: each patch is a slice of its own scene."""
    images = []
    for scene in scenes:
        with rasterio.open(scene.ms) as ms, rasterio.open(scene.pan) as pan:
            images.append((ms.read().astype(np.float32), pan.read().astype(np.float32)))
    at = np.array([6, 0, 7, 2, 6, 8, 1])
    ms, pan = pixels.patches(at)
    assert ms.shape == (7, 4, 16, 16)
    assert pan.shape == (7, 1, 64, 64)
    for k, position in enumerate(at):
        big, fine = images[pixels.scene[position]]
        big = np.pad(big, ((0, 0), (7, 8), (7, 8)), mode="reflect")
        fine = np.pad(fine, ((0, 0), (28, 32), (28, 32)), mode="reflect")
        r, c = pixels.rows[position], pixels.cols[position]
        assert np.array_equal(ms[k], big[:, r : r + 16, c : c + 16])
        assert np.array_equal(pan[k], fine[:, 4 * r : 4 * r + 64, 4 * c : 4 * c + 64])


def test_each_patch_gets_its_own_turn(pixels: TrainingPixels) -> None:
    at, turns = np.array([7, 2, 5, 3]), np.array([0, 3, 6, 5])
    ms, pan = pixels.patches(at, turns)
    for k in range(4):
        alone = pixels.patches(at[[k]], turns[[k]])
        assert torch.equal(ms[k], alone[0][0])
        assert torch.equal(pan[k], alone[1][0])
    plain, _ = pixels.patches(at)
    # The target keeps its place under any turn; the ground around it does not.
    assert torch.equal(ms[:, :, 7, 7], plain[:, :, 7, 7])
    assert not torch.equal(ms[1], plain[1])
    inner = plain[1].numpy()[:, 1:14, 1:14]
    assert np.array_equal(ms[1].numpy()[:, 1:14, 1:14], turned(inner, 3))


def test_no_pixels_give_no_patches(pixels: TrainingPixels) -> None:
    ms, pan = pixels.patches(np.zeros(0, np.int64))
    assert ms.shape == (0, 4, 16, 16)
    assert pan.shape == (0, 1, 64, 64)
