"""Other classifiers' opinions: where they are asked, whether they are right, and whether they are learnt."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_scene import NAMES, TINY, Scene, make_scene

from das2f_map.errors import InputError, MissingDependencyError
from das2f_map.progress import silent
from das2f_map.scene.request import PairRequest
from das2f_map.training import run, scene_pixels
from das2f_map.training.fit import Part, answers_for, loop_run, new_network
from das2f_map.training.hardware import find_hardware
from das2f_map.training.loop import run_loop
from das2f_map.training.opinions import NO_OPINION, OFFSETS, Answers, Opinions
from das2f_map.training.prepare import Prepared, prepare
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.settings import TrainingSettings
from das2f_map.types import Int64


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_pixels, "SAMPLED", 200)


@contextmanager
def prepared_for(*scenes: Scene, **settings: Any) -> Iterator[Prepared]:
    asked = tuple(
        SceneRequest(PairRequest.of(s.ms, s.pan, coregistration="off"), LabelRequest(str(s.labels)))
        for s in scenes
    )
    few = {"steps": 20, "checks": 2, "batch_size": 16, "distillation": 1.0}
    chosen = TrainingSettings(device="cpu", **{**few, **settings})
    request = TrainRequest(asked, Path("model"), chosen, network=TINY)
    with prepare(request, find_hardware(chosen), silent) as prepared:
        yield prepared


def everything(prepared: Prepared) -> Int64:
    return np.arange(len(prepared.pixels), dtype=np.int64)


def part_of(train: Int64, held: Int64 | None, folder: Path) -> Part:
    return Part("A training", train, held, stop_after=2, state=folder / "state")


def places(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns ``(n, 3, 3)`` of the pixels that opinions are on."""
    down, right = np.meshgrid(OFFSETS, OFFSETS, indexing="ij")
    rows, cols = answers.pixels.rows.astype(int), answers.pixels.cols.astype(int)
    return rows[:, None, None] + down, cols[:, None, None] + right


# --- what is said, and where ------------------------------------------------------------------------------


def test_answers_are_probabilities_and_right_about_a_simple_scene(small_scene: Scene, tmp_path: Path) -> None:
    with prepared_for(small_scene) as prepared:
        found = answers_for(prepared, part_of(everything(prepared), None, tmp_path), silent)
        place = np.array([prepared.pixels.legend.names.index(name) for name in NAMES])
    assert found is not None
    assert found.truth.size == 0
    rows, cols = places(found)
    height, width = small_scene.truth.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    assert not inside.all()
    truth = place[small_scene.truth[rows[inside], cols[inside]] - 1]
    for table in (*found.tables, found.weighted(0.3, None).table):
        np.testing.assert_array_equal(table[..., 0] != NO_OPINION, inside)
        assert table[inside].min() >= 0
        np.testing.assert_allclose(table[inside].sum(axis=1), 1, atol=1e-5)
    assert (found.weighted(0.5, None).table[inside].argmax(axis=1) == truth).mean() > 0.95
    expected = 0.3 * found.tables[0] + 0.7 * found.tables[1]
    np.testing.assert_allclose(found.weighted(0.3, None).table[inside], expected[inside], atol=1e-6)


def test_answers_keep_away_from_held_out_ground(small_scene: Scene, tmp_path: Path) -> None:
    with prepared_for(small_scene, steps=2) as prepared:
        rows = prepared.pixels.rows
        train, held = np.flatnonzero(rows >= 47), np.flatnonzero(rows < 30)
        found = answers_for(prepared, part_of(train, held, tmp_path), silent)
        assert found is not None
        assert len(found.pixels) < len(prepared.scattered_pixels)
        ground, reach = prepared.pixels.select(held), prepared.reach
        # Of the held-out pixels those count whose class was learnt.
        few = np.flatnonzero((rows >= 47) & (prepared.pixels.positions != 0))
        fewer = answers_for(prepared, part_of(few, held, tmp_path), silent)
    assert fewer is not None
    np.testing.assert_array_equal(found.truth, ground.positions)
    assert found.held.shape == (2, held.size, 3)
    np.testing.assert_array_equal(fewer.truth, ground.positions[ground.positions != 0])
    own_rows, own_cols = (place.reshape(-1, 1) for place in places(found))
    apart = np.maximum(abs(own_rows - ground.rows), abs(own_cols - ground.cols))
    assert apart.min() >= reach


def test_labels_of_held_out_ground_have_no_say(small_scene: Scene, tmp_path: Path) -> None:
    """With other classes there, every opinion is the same to the bit."""
    tables = []
    for shifted in (False, True):
        with prepared_for(small_scene, steps=2) as prepared:
            rows, positions = prepared.pixels.rows, prepared.pixels.positions
            train, held = np.flatnonzero(rows >= 47), np.flatnonzero(rows < 30)
            if shifted:
                positions[held] = (positions[held] + 1) % 3
            found = answers_for(prepared, part_of(train, held, tmp_path), silent)
            assert found is not None
            np.testing.assert_array_equal(found.truth, positions[held])
            tables.append((found.tables, found.held))
    for first, second in zip(*tables, strict=True):
        np.testing.assert_array_equal(first, second)


def test_there_are_none_where_all_ground_is_held_out(small_scene: Scene, tmp_path: Path) -> None:
    with prepared_for(small_scene) as prepared:
        everywhere = everything(prepared)
        assert answers_for(prepared, part_of(everywhere, everywhere, tmp_path), silent) is None


def test_answers_are_on_the_scenes_that_are_learnt(small_scene: Scene, tmp_path: Path) -> None:
    with prepared_for(small_scene, make_scene(tmp_path, seed=4), steps=2) as prepared:
        first = np.flatnonzero(prepared.pixels.scene == 0)
        found = answers_for(prepared, part_of(first, None, tmp_path), silent)
        assert set(prepared.scattered_pixels.scene.tolist()) == {0, 1}
    assert found is not None
    assert not found.pixels.scene.any()


@pytest.mark.slow
def test_the_seed_decides_all_answers(small_scene: Scene, tmp_path: Path) -> None:
    tables = []
    for seed in (5, 5, 6):
        with prepared_for(small_scene, steps=2, seed=seed) as prepared:
            found = answers_for(prepared, part_of(everything(prepared), None, tmp_path), silent)
            assert found is not None
            tables.append(found.tables)
    np.testing.assert_array_equal(tables[0], tables[1])
    assert tables[0].shape != tables[2].shape or (tables[0] != tables[2]).any()


def test_ctrl_c_ends_the_first_classifier(small_scene: Scene, tmp_path: Path) -> None:
    @contextmanager
    def stopping(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        yield lambda n: os.kill(os.getpid(), signal.SIGINT)

    with prepared_for(small_scene) as prepared, pytest.raises(KeyboardInterrupt):
        answers_for(prepared, part_of(everything(prepared), None, tmp_path), stopping)


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "published"}, "pooled head"),
        ({"mixup": 0.2}, "mixup"),
        ({"neighbours": 0}, "neighbours"),
        ({"devices": 2}, "one device"),
    ],
)
def test_settings_that_do_not_go_with_opinions(
    small_scene: Scene, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught, prepared_for(small_scene, **settings):
        pass
    assert message in str(caught.value)


def test_without_scikit_learn_there_is_nobody_to_ask(
    small_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match="scikit-learn"), prepared_for(small_scene):
        pass


# --- learning ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_learns_opinions(small_scene: Scene, tmp_path: Path) -> None:
    """They say water everywhere, and weigh more than the labels: so does the network, where it did not."""
    shares = []
    settings = {"steps": 60, "learning_rate": 0.02, "statistics": "labels"}
    for weight in (0.0, 30.0):
        with prepared_for(small_scene, distillation=weight, **settings) as prepared:
            loop = loop_run(prepared, part_of(everything(prepared), None, tmp_path))
            water = prepared.pixels.legend.names.index("water")
            pixels = prepared.scattered_pixels
            table = np.zeros((len(pixels), 3, 3, len(prepared.pixels.legend)), np.float32)
            table[..., water] = 1
            if weight:
                loop = replace(loop, opinions=Opinions(pixels, table, None, 0.5))
            network = new_network(prepared)
            network.load_state_dict(run_loop(network, loop, silent).weights)
            with torch.inference_mode():
                found = network.eval()(*pixels.patches(np.arange(len(pixels)))).argmax(dim=1)
        shares.append(float((found == water).float().mean()))
    assert shares[0] < 0.6
    assert shares[1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("assess", "parts"), [("folds", 2), ("holdout", 1)])
def test_other_folds_weigh_the_teachers(
    assess: str, parts: int, small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of a fold's ground has no say in its own teachers' weights; the final model takes all."""
    seen: list[list[tuple[int, ...]]] = []

    def recorded(found: list[Answers]) -> float:
        seen.append([tuple(a.pixels.rows.tolist()) for a in found])
        return 0.5

    monkeypatch.setattr(run, "share_of_cnns", recorded)
    monkeypatch.setattr(scene_pixels, "SAMPLED", 400)
    with prepared_for(small_scene, steps=2, folds=2, assess=assess) as prepared:
        training = run.TrainingRun(prepared, tmp_path, None, False, silent)
        held = training.held_ground()
        assert held is not None
        assert len(held.parts) == parts
        every = [
            answers_for(prepared, part_of(p.fold.train, p.fold.held, tmp_path), silent) for p in held.parts
        ]
    own = [tuple(a.pixels.rows.tolist()) for a in every if a is not None]
    # The final model's weight is asked for last.
    *of_parts, final = seen
    assert len(set(own)) == parts
    assert final == own
    assert of_parts == [[o for k, o in enumerate(own) if k != number] for number in range(parts)]
