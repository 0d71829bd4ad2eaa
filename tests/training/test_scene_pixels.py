"""Pixels all over the scenes: which ones a training takes, and the statistics that its head gets."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_scene import TINY, Scene, make_scene
from torch import Tensor

from das2f_map.network.classifier import PooledClassifier
from das2f_map.progress import silent
from das2f_map.scene.request import PairRequest
from das2f_map.training.fit import LEAST_SCENE_PIXELS, Part, final_network, loop_run, new_network
from das2f_map.training.hardware import find_hardware
from das2f_map.training.loop import run_loop
from das2f_map.training.prepare import Prepared, prepare
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.scene_pixels import SAMPLED, ScenePixels
from das2f_map.training.settings import TrainingSettings


def request_for(*scenes: Scene, **settings: Any) -> TrainRequest:
    asked = tuple(
        SceneRequest(PairRequest.of(s.ms, s.pan, coregistration="off"), LabelRequest(str(s.labels)))
        for s in scenes
    )
    few: dict[str, Any] = {"steps": 4, "checks": 2, "batch_size": 8, "statistics": "scene"}
    chosen = TrainingSettings(device="cpu", **(few | settings))
    return TrainRequest(asked, Path("model"), chosen, network=TINY)


def parts(prepared: Prepared, tmp_path: Path, held_above: int) -> Part:
    """Learn from labelled pixels of the lower rows, hold out those above."""
    rows = prepared.pixels.rows
    train, held = np.flatnonzero(rows >= held_above + 17), np.flatnonzero(rows < held_above)
    return Part("", train, held, stop_after=2, state=tmp_path / "state", keep_weights=True)


# --- which pixels -----------------------------------------------------------------------------------------


def test_a_training_takes_pixels_of_its_own_scenes(small_scene: Scene, tmp_path: Path) -> None:
    request = request_for(small_scene, make_scene(tmp_path, seed=4))
    with prepare(request, find_hardware(request.settings), silent) as prepared:
        everywhere = prepared.scene_pixels
        assert SAMPLED / 3 * 0.8 < len(everywhere) <= SAMPLED / 3 + 1
        both = loop_run(prepared, Part("", np.arange(len(prepared.pixels)), None, 2, tmp_path / "state"))
        first = np.flatnonzero(prepared.pixels.scene == 0)
        one = loop_run(prepared, Part("", first, None, 2, tmp_path / "state"))
    assert both.scene_pixels is not None
    assert np.bincount(both.scene_pixels.scene).min() > 0.4 * len(everywhere)
    assert one.scene_pixels is not None
    assert not one.scene_pixels.scene.any()


def test_every_scene_has_some_even_where_there_are_more_scenes_than_pixels(
    small_scene: Scene, tmp_path: Path
) -> None:
    request = request_for(small_scene, make_scene(tmp_path, seed=4))
    with prepare(request, find_hardware(request.settings), silent) as prepared:
        found = ScenePixels.sampled(prepared.pixels.readers, 0, most=1, cluster=1)
    assert np.bincount(found.scene).tolist() == [1, 1]


def test_pixels_near_held_out_ground_are_left_out(small_scene: Scene, tmp_path: Path) -> None:
    request = request_for(small_scene)
    with prepare(request, find_hardware(request.settings), silent) as prepared:
        part = parts(prepared, tmp_path, held_above=30)
        found, held = loop_run(prepared, part).scene_pixels, prepared.pixels.select(part.held)
        assert found is not None
        rows, cols = found.rows.astype(int)[:, None], found.cols.astype(int)[:, None]
        apart = np.maximum(abs(rows - held.rows), abs(cols - held.cols))
        assert apart.min() >= prepared.reach
        assert len(found) < len(prepared.scene_pixels)
        # Where next to nothing is left, there are none.
        everything = np.arange(len(prepared.pixels))
        assert loop_run(prepared, Part("", part.train, everything, 2, tmp_path / "s")).scene_pixels is None


@pytest.mark.parametrize("settings", [{"head": "published"}, {"statistics": "labels"}])
def test_some_trainings_take_none(small_scene: Scene, tmp_path: Path, settings: dict[str, str]) -> None:
    request = request_for(small_scene, **settings)
    with prepare(request, find_hardware(request.settings), silent) as prepared:
        part = Part("", np.arange(len(prepared.pixels)), None, 2, tmp_path / "state")
        assert loop_run(prepared, part).scene_pixels is None


# --- statistics -------------------------------------------------------------------------------------------


def scene_statistics(prepared: Prepared, weights: dict[str, Tensor], pixels: ScenePixels) -> tuple[Any, Any]:
    """Mean and variance of the features of a network's head, in float64."""
    network = new_network(prepared).double().eval()
    network.load_state_dict(weights)
    head = network.classifier
    assert isinstance(head, PooledClassifier)
    ms, pan = pixels.patches(np.arange(len(pixels)))
    with torch.no_grad():
        means = head.pooled(network.features(ms.double(), pan.double())).numpy()
    return means.mean(axis=0), means.var(axis=0, ddof=1)


def assert_by_scene(prepared: Prepared, weights: dict[str, Tensor], pixels: ScenePixels) -> None:
    mean, var = scene_statistics(prepared, weights, pixels)
    np.testing.assert_allclose(weights["classifier.norm.running_mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights["classifier.norm.running_var"], var, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("held_out", [True, False])
def test_kept_networks_standardise_by_the_scene(small_scene: Scene, tmp_path: Path, held_out: bool) -> None:
    """At every check and at the end."""
    request = request_for(small_scene)
    with prepare(request, find_hardware(request.settings), silent) as prepared:
        part = parts(prepared, tmp_path, held_above=30)
        if not held_out:
            part = replace(part, held=None)
        run = loop_run(prepared, part)
        assert run.scene_pixels is not None
        assert len(run.scene_pixels) >= LEAST_SCENE_PIXELS
        outcome = run_loop(new_network(prepared), run, silent)
        assert len(outcome.each) == 2
        for weights in (*outcome.each, outcome.weights):
            assert_by_scene(prepared, weights, run.scene_pixels)


def test_so_do_networks_that_are_stopped_between_checks(small_scene: Scene, tmp_path: Path) -> None:
    @contextmanager
    def stopping(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Presses Ctrl-C at the third of four steps, after the first of two checks."""
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            if done == 3:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance

    request = request_for(small_scene)
    with prepare(request, find_hardware(request.settings), silent) as prepared:
        part = replace(parts(prepared, tmp_path, held_above=30), held=None)
        run = loop_run(prepared, part)
        assert run.scene_pixels is not None
        outcome = run_loop(new_network(prepared), run, stopping)
        assert (outcome.interrupted, outcome.complete, len(outcome.history)) == (True, False, 1)
        assert_by_scene(prepared, outcome.weights, run.scene_pixels)


def test_by_both_statistics_logits_are_the_mean_of_those_by_either(
    small_scene: Scene, tmp_path: Path
) -> None:
    """Three trainings that differ in nothing else; the map's network gives the same logits."""
    found = {}
    for statistics in ("both", "scene", "labels"):
        request = request_for(small_scene, statistics=statistics)
        with prepare(request, find_hardware(request.settings), silent) as prepared:
            part = parts(prepared, tmp_path, held_above=30)
            outcome = run_loop(new_network(prepared), loop_run(prepared, part), silent)
            found[statistics] = outcome.logits
            ms, pan = prepared.pixels.select(part.held).patches(np.arange(9))
            network = final_network(prepared, outcome.each[0]).eval()
            with torch.no_grad():
                folded = network(ms, pan).numpy()
            np.testing.assert_allclose(outcome.logits[0][:9], folded, rtol=1e-3, atol=1e-3)
    assert not np.allclose(found["scene"], found["labels"], atol=1e-2)
    mean = (found["scene"] + found["labels"]) / 2
    np.testing.assert_allclose(found["both"], mean, rtol=1e-4, atol=1e-4)
