"""The mean over turns of the images is the network's mean over turned patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import make_pair
from tiny import tiny_bundle

from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.errors import InputError
from das2f_map.running.blocks import BlockClassifier
from das2f_map.scene.grid import Window, blocks_of
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import open_pair
from das2f_map.training.dataset import PatchReader

SHAPE = (19, 26)
HOLES = {
    "nodata": 0,
    "ms_invalid": [(slice(3, 6), slice(9, 12))],
    "pan_invalid": [(slice(40, 44), slice(60, 70))],
}
VIEWS = {1: [0], 2: [0, 2], 4: [0, 1, 2, 3], 8: list(range(8))}
"""Two views are upright and upside down, four all quarter turns."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("models"), patch=8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("scene"), ms_shape=SHAPE, **HOLES)


def choice(turns: int | None, engine: str = "auto") -> EngineChoice:
    return EngineChoice(engine, torch.device("cpu"), "fp32", turns=turns)


@pytest.mark.parametrize("engine", ["shared", "patch"])
@pytest.mark.parametrize(
    "turns",
    [
        1,
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.slow),
        pytest.param(8, marks=pytest.mark.slow),
    ],
)
def test_logits_are_the_mean_over_turned_patches(
    bundle: ModelBundle, pair: tuple[Path, Path], turns: int, engine: str
) -> None:
    card = bundle.card
    network = bundle.network().double()
    with open_pair(*pair) as opened:
        source = ModelInput(opened, card.normalisation, card.patch)
        window = Window(2, 3, 13, 20)
        made = make_engine(bundle, choice(turns, engine))
        block = source.read(window, all_turns=made.all_turns)
        assert block is not None
        found = made.logits(block.ms, block.pan, block.usable)
        rows, cols = (a + first for a, first in zip(np.nonzero(block.usable), (2, 3), strict=True))
        assert rows.size < window.height * window.width
        reader = PatchReader(source)
        reader.load(rows, cols)
        expected = np.zeros((rows.size, len(card.legend)))
        for turn in VIEWS[turns]:
            ms, pan = reader.patches(rows, cols, np.full(rows.size, turn))
            with torch.inference_mode():
                expected += network(ms.double(), pan.double()).numpy() / len(VIEWS[turns])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_turns_change_the_map_and_blocks_do_not(bundle: ModelBundle, pair: tuple[Path, Path]) -> None:
    card = bundle.card

    def classes(turns: int | None, size: int) -> np.ndarray:
        out = np.zeros(SHAPE, np.uint8)
        with open_pair(*pair) as opened:
            source = ModelInput(opened, card.normalisation, card.patch)
            classifier = BlockClassifier(source, make_engine(bundle, choice(turns)), card.legend)
            for block in classifier.classify_all(blocks_of(opened.grids.ms.window, size)):
                out[block.window.slices()] = block.classes
        return out

    plain, averaged = classes(1, 26), classes(8, 26)
    np.testing.assert_array_equal(plain == 0, averaged == 0)
    assert (plain != averaged).any()
    np.testing.assert_array_equal(averaged, classes(8, 7))
    # The card decides where the user does not.
    np.testing.assert_array_equal(plain, classes(None, 26))
    bundle.card.turns = 8
    try:
        np.testing.assert_array_equal(averaged, classes(None, 26))
        np.testing.assert_array_equal(plain, classes(1, 26))
    finally:
        bundle.card.turns = 1


@pytest.mark.parametrize("turns", [0, 3, 16, -1])
def test_other_numbers_are_refused(turns: int) -> None:
    with pytest.raises(InputError, match=rf"turns {turns}: Input should be 1, 2, 4 or 8"):
        choice(turns)
