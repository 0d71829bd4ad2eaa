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

from das2f_map.errors import MissingDependencyError
from das2f_map.progress import Progress, silent
from das2f_map.scene.request import PairRequest
from das2f_map.training import scene_pixels, teachers
from das2f_map.training.fit import Part, loop_run, new_network, opinions_for, teachers_of
from das2f_map.training.hardware import find_hardware
from das2f_map.training.loop import run_loop
from das2f_map.training.opinions import NO_OPINION, OFFSETS, Opinions
from das2f_map.training.prepare import Prepared, decided, prepare
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.run import TrainingRun
from das2f_map.training.settings import FOLDS_UP_TO, TrainingSettings
from das2f_map.training.teachers import EQUAL, share_of_cnn


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_pixels, "SAMPLED", 200)


@contextmanager
def prepared_for(*scenes: Scene, **settings: Any) -> Iterator[Prepared]:
    asked = tuple(
        SceneRequest(PairRequest.of(s.ms, s.pan, coregistration="off"), LabelRequest(str(s.labels)))
        for s in scenes
    )
    chosen = TrainingSettings(device="cpu", **{"steps": 20, "checks": 2, "batch_size": 16, **settings})
    request = TrainRequest(asked, Path("model"), chosen, network=TINY)
    with prepare(request, find_hardware(chosen), silent) as prepared:
        yield prepared


def part_of(prepared: Prepared, folder: Path, held_above: int = 0) -> Part:
    """Learn from labelled pixels of the lower rows, hold out those above."""
    rows = prepared.pixels.rows
    held = np.flatnonzero(rows < held_above) if held_above else None
    train = np.flatnonzero(rows >= held_above + 17) if held_above else np.arange(rows.size)
    return Part("A training", train, held, stop_after=2, state=folder / "state")


def opinions_of(prepared: Prepared, part: Part, progress: Progress = silent) -> Opinions | None:
    return opinions_for(prepared, part, teachers_of(prepared, part, progress), EQUAL, silent)


def places(opinions: Opinions) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns ``(n, 3, 3)`` of the pixels that opinions are on."""
    down, right = np.meshgrid(OFFSETS, OFFSETS, indexing="ij")
    rows, cols = opinions.pixels.rows.astype(int), opinions.pixels.cols.astype(int)
    return rows[:, None, None] + down, cols[:, None, None] + right


def test_opinions_are_probabilities_and_right_about_a_simple_scene(
    small_scene: Scene, tmp_path: Path
) -> None:
    with prepared_for(small_scene) as prepared:
        found = opinions_of(prepared, part_of(prepared, tmp_path))
        names = prepared.pixels.legend.names
    assert found is not None
    rows, cols = places(found)
    height, width = small_scene.truth.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    has_one = found.table[..., 0] != NO_OPINION
    np.testing.assert_array_equal(has_one, inside)
    assert not inside.all()
    np.testing.assert_allclose(found.table[has_one].sum(axis=1), 1, atol=1e-5)
    assert found.table[has_one].min() >= 0
    place = np.array([names.index(name) for name in NAMES])
    truth = place[small_scene.truth[rows[inside], cols[inside]] - 1]
    assert (found.table[has_one].argmax(axis=1) == truth).mean() > 0.95


def test_opinions_keep_away_from_held_out_ground(small_scene: Scene, tmp_path: Path) -> None:
    with prepared_for(small_scene, steps=2) as prepared:
        part = part_of(prepared, tmp_path, held_above=30)
        found = opinions_of(prepared, part)
        assert found is not None
        assert part.held is not None
        held, reach = prepared.pixels.select(part.held), prepared.reach
        assert len(found.pixels) < len(prepared.unlabelled)
    rows, cols = (place.reshape(-1, 1) for place in places(found))
    apart = np.maximum(abs(rows - held.rows), abs(cols - held.cols))
    assert apart.min() >= reach


def test_opinions_are_on_the_scenes_that_are_learnt(small_scene: Scene, tmp_path: Path) -> None:
    with prepared_for(small_scene, make_scene(tmp_path, seed=4), steps=2) as prepared:
        first = np.flatnonzero(prepared.pixels.scene == 0)
        found = opinions_of(prepared, Part("", first, None, stop_after=2, state=tmp_path / "state"))
        assert set(prepared.unlabelled.scene.tolist()) == {0, 1}
    assert found is not None
    assert not found.pixels.scene.any()


@pytest.mark.slow
def test_the_seed_decides_all_opinions(small_scene: Scene, tmp_path: Path) -> None:
    tables = []
    for seed in (5, 5, 6):
        with prepared_for(small_scene, steps=2, seed=seed) as prepared:
            found = opinions_of(prepared, part_of(prepared, tmp_path))
            assert found is not None
            tables.append(found.table)
    np.testing.assert_array_equal(tables[0], tables[1])
    assert tables[0].shape != tables[2].shape or (tables[0] != tables[2]).any()


@pytest.mark.parametrize("settings", [{"head": "published"}, {"distillation": 0.0}, {"fast": True}])
def test_some_trainings_want_none(small_scene: Scene, tmp_path: Path, settings: dict[str, Any]) -> None:
    with prepared_for(small_scene, **settings) as prepared:
        assert opinions_of(prepared, part_of(prepared, tmp_path)) is None


def test_there_are_none_where_all_ground_is_held_out(small_scene: Scene, tmp_path: Path) -> None:
    with prepared_for(small_scene) as prepared:
        everything = np.arange(len(prepared.pixels))
        part = Part("", everything, everything, stop_after=2, state=tmp_path / "state")
        assert opinions_of(prepared, part) is None


def test_few_labels_are_learnt_with_opinions() -> None:
    settings = TrainingSettings()
    few = decided(settings, FOLDS_UP_TO, on_cpu=True)
    many = decided(settings, FOLDS_UP_TO + 1, on_cpu=True)
    assert (few.distillation, many.distillation) == (1.0, 0.0)
    asked = decided(replace(settings, distillation=0.5), 10**6, on_cpu=True)
    assert asked.distillation == 0.5


def test_without_scikit_learn_there_is_nobody_to_ask(
    small_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert decided(TrainingSettings(), 100, on_cpu=True).distillation == 0
    with (
        pytest.raises(MissingDependencyError, match="scikit-learn"),
        prepared_for(small_scene, distillation=1.0),
    ):
        pass


def test_ctrl_c_ends_the_first_classifier(small_scene: Scene, tmp_path: Path) -> None:
    @contextmanager
    def stopping(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        yield lambda n: os.kill(os.getpid(), signal.SIGINT)

    with prepared_for(small_scene) as prepared, pytest.raises(KeyboardInterrupt):
        opinions_of(prepared, part_of(prepared, tmp_path), stopping)


@pytest.mark.slow
def test_a_network_learns_opinions(small_scene: Scene, tmp_path: Path) -> None:
    """They say water everywhere, and weigh more than the labels: so does the network, where it did not."""
    shares = []
    settings = {"steps": 30, "learning_rate": 0.02, "statistics": "labels"}
    for weight in (0.0, 30.0):
        with prepared_for(small_scene, distillation=weight, **settings) as prepared:
            run = loop_run(prepared, part_of(prepared, tmp_path))
            water = prepared.pixels.legend.names.index("water")
            pixels = prepared.unlabelled
            table = np.zeros((len(pixels), 3, 3, len(prepared.pixels.legend)), np.float32)
            table[..., water] = 1
            if weight:
                run = replace(run, opinions=Opinions(pixels, table, None))
            network = new_network(prepared)
            network.load_state_dict(run_loop(network, run, silent).weights)
            with torch.inference_mode():
                found = network.eval()(*pixels.patches(np.arange(len(pixels)))).argmax(dim=1)
        shares.append(float((found == water).float().mean()))
    assert shares[0] < 0.6
    assert shares[1] > 0.9


# --- weights of the teachers ------------------------------------------------------------------------------


def answers(cnn: list[float], others: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that both give the true one of two classes, and the classes."""
    right = np.array([cnn, others], np.float32)
    truth = np.arange(len(cnn), dtype=np.int64) % 2
    of_first = np.where(truth == 0, right, 1 - right)
    return np.stack([of_first, 1 - of_first], axis=2).astype(np.float32), truth


def test_who_is_right_on_unseen_ground_has_the_say() -> None:
    assert share_of_cnn([answers([0.9, 0.8, 0.95], [0.2, 0.1, 0.3])]) == 1
    assert share_of_cnn([answers([0.1, 0.2, 0.1], [0.8, 0.7, 0.9])]) == 0
    # Where each is right half of the time, their mean is never quite wrong.
    assert share_of_cnn([answers([0.95, 0.05], [0.05, 0.95])]) == 0.5
    # All ground counts together.
    assert share_of_cnn([answers([0.9] * 3, [0.4] * 3), answers([0.1] * 30, [0.9] * 30)]) < 0.3


def test_nobody_knows_without_unseen_ground() -> None:
    assert share_of_cnn([]) == share_of_cnn([answers([], [])]) == EQUAL


@pytest.mark.slow
def test_other_folds_choose_the_weights(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pixel that gives a fold's figures has a say in its teachers' weights; the final model takes all."""
    seen: list[list[int]] = []

    def recorded(found: Any) -> float:
        seen.append([truth.size for _, truth in found])
        return 0.5

    monkeypatch.setattr(teachers, "share_of_cnn", recorded)
    with prepared_for(small_scene, steps=2, folds=2) as prepared:
        held = TrainingRun(prepared, tmp_path, None, False, silent).held_ground()
    assert held is not None
    first, second = (int(part.fold.held.size) for part in held.parts)
    assert seen == [[second], [first], [first, second]]
