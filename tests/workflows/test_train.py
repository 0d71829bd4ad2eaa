"""Training end to end on a made-up scene, with a tiny network."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from rasterio.warp import transform_bounds
from small_scene import NAMES, TINY, Scene, make_scene
from tiny import tiny_bundle

import das2f_map.training.fit
import das2f_map.training.run
import das2f_map.training.scene_pixels
import das2f_map.workflows.train
from das2f_map.assess.calibration import TEMPERATURES
from das2f_map.bundle.files import BundleOutput, load_bundle
from das2f_map.errors import (
    DeviceError,
    InputError,
    LabelError,
    MissingDependencyError,
    ModelError,
    OutputError,
)
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.classifier import PooledClassifier
from das2f_map.progress import silent
from das2f_map.scene.request import PairRequest
from das2f_map.training.assessment import Assessment, assess
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.run_files import read_record, working_path
from das2f_map.training.settings import TrainingSettings
from das2f_map.workflows.train import TrainingResult, run_training, train

ALL = "Training on all labels"
HELD = 40
"""Held-out pixels that a fold checks."""


@pytest.fixture(autouse=True, scope="module")
def _few_pixels() -> Iterator[None]:
    """Checks and shares look at few pixels, which saves most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(das2f_map.training.run, "MOST_HELD_CPU", HELD)
        patch.setattr(das2f_map.training.scene_pixels, "SAMPLED", 80)
        patch.setattr(das2f_map.training.fit, "LEAST_SCENE_PIXELS", 4)
        yield


@pytest.fixture
def no_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No random forest to compare with, which saves time where nobody looks at it."""
    monkeypatch.setattr(das2f_map.training.run, "forest_figures", lambda *given: None)


def request_for(*scenes: Scene, output: Path, **options: Any) -> TrainRequest:
    """A short training; options are fields of the settings or of the request."""
    settings: dict[str, Any] = {
        "assess": "folds",
        "folds": 2,
        "steps": 9,
        "checks": 3,
        "batch_size": 12,
        "device": "cpu",
        "learning_rate": 1e-2,
        "seed": 9,
        # Other classifiers would take most of the time.
        "distillation": 0.0,
    }
    names = {f.name for f in fields(TrainingSettings)}
    settings |= {k: v for k, v in options.items() if k in names}
    asked = tuple(
        SceneRequest(PairRequest.of(s.ms, s.pan, coregistration="off"), LabelRequest(str(s.labels)))
        for s in scenes
    )
    others = {k: v for k, v in options.items() if k not in names}
    return TrainRequest(asked, output, TrainingSettings(**settings), **({"network": TINY} | others))


def run(*scenes: Scene, output: Path, progress: Any = silent, **options: Any) -> TrainingResult:
    return run_training(request_for(*scenes, output=output, **options), progress)


@pytest.fixture(scope="module")
def trained(small_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return run(small_scene, output=tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("statistics", ["both", "scene"])
@pytest.mark.usefixtures("no_forest")
def test_folds_with_too_little_ground_around_have_the_statistics_of_the_labels(
    statistics: str,
    small_scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other fold and the model have those that were asked for."""
    everywhere = das2f_map.training.fit.standardising_pixels
    first: list[bytes] = []

    def lacking_in_one(prepared: Any, train: Any, held: Any) -> Any:
        first.extend([] if first or held is None else [held.tobytes()])
        return everywhere(prepared, train, held) if held is None or held.tobytes() != first[0] else None

    losses = {}
    for name, chosen in (("labels", "labels"), ("asked", statistics)):
        run(small_scene, output=tmp_path / name, statistics=chosen)
        losses[name] = held_out_losses(tmp_path / name)
    monkeypatch.setattr(das2f_map.training.fit, "standardising_pixels", lacking_in_one)
    with caplog.at_level(logging.WARNING):
        card = run(small_scene, output=tmp_path / "model", statistics=statistics).bundle.card
    (said,) = [m for m in caplog.messages if m.startswith("Too little of the scenes lies away from")]
    assert "fold-1:" in said
    assert said.endswith("there")
    assert card.training.settings["statistics"] == statistics
    found = held_out_losses(tmp_path / "model")
    assert found["fold-1"] == losses["labels"]["fold-1"] != losses["asked"]["fold-1"]
    assert found["fold-2"] == losses["asked"]["fold-2"] != losses["labels"]["fold-2"]


def held_out_losses(folder: Path) -> dict[str, list[float]]:
    """Of each fold at every check."""
    checks = record_of(folder)["checks"]
    return {name: [c["held_out_loss"] for c in checks[name]] for name in ("fold-1", "fold-2")}


def fold(number: int) -> str:
    return f"Training without the ground of fold-{number}"


def interrupting(title: str, after: int, seen: list[str] | None = None) -> Callable[[str, int | None], Any]:
    """A progress that presses Ctrl-C after so many steps of a training; ``seen`` lists all trainings."""

    @contextmanager
    def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        steps = 0
        if seen is not None and description.startswith("Training"):
            seen.append(description)

        def advance(n: int) -> None:
            nonlocal steps
            steps += n
            if description == title and steps == after:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance

    return progress


def watching(seen: list[str]) -> Callable[[str, int | None], Any]:
    return interrupting("", 0, seen)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_bundle(folder).state_dict


def differing(one: Path, other: Path) -> list[str]:
    """Names of the weights that are not equal to the last bit."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return [k for k in a if not torch.equal(a[k], b[k])]


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return record


def of_class(scene: Scene, parts: np.ndarray, value: int) -> dict[str, int]:
    """True classes of the pixels of a part of the split."""
    names = np.array(NAMES)[scene.truth - 1]
    return {n: int((names[parts == value] == n).sum()) for n in sorted(NAMES)}


# --- the model and its records ---------------------------------------------------------------------------


def test_learns_three_classes_of_different_brightness(trained: TrainingResult) -> None:
    assert trained.test is not None
    assert trained.test.overall_accuracy is not None
    assert trained.test.overall_accuracy > 0.9


def test_model_itself_maps_the_scene(trained: TrainingResult, small_scene: Scene) -> None:
    """The test cuts patches from the files by the documented convention, without the package's reader."""
    bundle = load_bundle(trained.folder)
    net = bundle.network()
    with rasterio.open(small_scene.ms) as f, rasterio.open(small_scene.pan) as g:
        ms, pan = f.read().astype(float), g.read().astype(float)
    for image, bands in ((ms, bundle.card.ms_bands), (pan, [bundle.card.pan_band])):
        for band, statistics in zip(image, bands, strict=True):
            band[:] = (band - statistics.mean) / statistics.std
    targets = [(r, c) for r in range(18, 84, 12) for c in range(18, 84, 12)]  # the middles of cells
    patches = np.stack([ms[:, r - 7 : r + 9, c - 7 : c + 9] for r, c in targets]).astype(np.float32)
    pans = np.stack([pan[:, 4 * r - 28 : 4 * r + 36, 4 * c - 28 : 4 * c + 36] for r, c in targets])
    with torch.inference_mode():
        best = net(torch.from_numpy(patches), torch.from_numpy(pans.astype(np.float32))).argmax(1)
    found = np.array(bundle.card.legend.names)[best.numpy()]
    truth = np.array([NAMES[small_scene.truth[at] - 1] for at in targets])
    assert (found == truth).mean() > 0.9


def test_bundle_is_complete_and_consistent(trained: TrainingResult) -> None:
    files = {p.name for p in trained.folder.iterdir()}
    assert files == {
        *("model.json", "model.safetensors", "training.json"),
        *("training.png", "reliability.png", "split.tif", "model.html"),
    }
    assert trained.card.verdict is not None
    page = ET.fromstring((trained.folder / "model.html").read_text(encoding="utf-8"))
    assert trained.card.verdict.text in "".join(page.itertext())
    card = load_bundle(trained.folder).card
    assert card.legend.names == tuple(sorted(NAMES))
    assert card.domain is not None
    assert card.domain.ms_gsd_m[0] < 10 < card.domain.ms_gsd_m[1]
    assert card.domain.ratio[0] < 4 < card.domain.ratio[1]
    assert card.network.classifier_hidden is None, "the pooled head is folded into one layer"
    assert card.training is not None
    assert not card.training.notes
    # Nothing else is left behind.
    assert [p.name for p in trained.folder.parent.iterdir()] == [trained.folder.name]


def test_record_of_the_training(trained: TrainingResult) -> None:
    record, card = record_of(trained.folder), trained.card
    assert card.training is not None
    assert list(record["checks"]) == ["fold-1", "fold-2", "final"]
    for name in ("fold-1", "fold-2"):
        assert [c["steps"] for c in record["checks"][name]] == [3, 6, 9]
        assert all("held_out_loss" in c for c in record["checks"][name])
    assert trained.assessment is not None
    final = record["checks"]["final"]
    assert [c["steps"] for c in final] == [3, 6, 9][: trained.assessment.checks]
    assert not any("held_out_loss" in c for c in final), "the model has seen all ground"
    assert record["settings"] == card.training.settings
    assert record["settings"]["steps_done"] == final[-1]["steps"]
    compared = record["split"]["random_split"]
    assert 0.5 < compared["overall_accuracy_on_held_out_ground"] <= 1
    assert compared["pixels"] == record["metrics"]["test"]["pixels"]
    assert record["split"] == card.training.split
    assert record["metrics"] == card.metrics


def test_figures_are_those_of_held_out_pixels(trained: TrainingResult, small_scene: Scene) -> None:
    assert trained.test is not None
    test = trained.card.metrics["test"]
    assert trained.test.total == 2 * HELD
    assert test["overall_accuracy"] == trained.test.overall_accuracy
    assert len(test["overall_accuracy_of_each"]) == 2
    # A fold's matrix is that of the check that the other fold chose.
    assert trained.assessment is not None
    checks = record_of(trained.folder)["checks"]
    for name, chosen, matrix in zip(
        ("fold-1", "fold-2"), trained.assessment.chosen, trained.assessment.each, strict=True
    ):
        assert checks[name][chosen - 1]["held_out_overall_accuracy"] == matrix.overall_accuracy
    # The forest is measured on the same pixels.
    forest = trained.card.metrics["random_forest"]
    reference = np.array(forest["confusion_matrix"]["counts"]).sum(axis=1).tolist()
    assert reference == trained.test.counts.sum(axis=1).tolist()


@pytest.mark.slow
def test_figures_average_the_turns_of_a_map(
    small_scene: Scene, tmp_path: Path, no_forest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that the figures are made of, against the network of the check on patches turned one by one."""
    seen: list[str] = []

    def looked_at(pixels: TrainingPixels, parts: Any, logits: Any, at_check: Any) -> Assessment:
        for part, upright in zip(parts, logits, strict=True):
            record = read_record(working_path(tmp_path / "model"), part.name)
            assert record is not None
            some = part.fold.held[:20]
            for check in (0, 2):
                network = Das2fNet(NetworkConfig(classes=3, ms_bands=4, **TINY))
                network.classifier = PooledClassifier(network.config, 7)
                network.load_state_dict(record.weights[check])
                network.eval()
                with torch.no_grad():
                    turned = [
                        network(*pixels.patches(some, np.full(some.size, turn))).numpy() for turn in range(4)
                    ]
                np.testing.assert_allclose(turned[0], upright[check][:20], atol=1e-4)
                assert abs(turned[1] - turned[0]).max() > 1e-3
                found = at_check(part, check)[:20]
                np.testing.assert_allclose(found, np.mean(turned, axis=0), atol=1e-4)
            seen.append(part.name)
        return assess(pixels, parts, logits, at_check)

    monkeypatch.setattr(das2f_map.training.run, "assess", looked_at)
    made = run(small_scene, output=tmp_path / "model")
    assert seen == ["fold-1", "fold-2"]
    assert made.card.metrics["test"]["turns"] == made.card.turns == 4


@pytest.mark.slow
def test_the_model_has_the_statistics_that_were_asked_for(
    small_scene: Scene, tmp_path: Path, no_forest: None
) -> None:
    """The classifiers of three trainings that differ in nothing else: one is the mean of the others."""
    made = {}
    for statistics in ("both", "scene", "labels"):
        result = run(small_scene, output=tmp_path / statistics, statistics=statistics, assess="none")
        assert result.card.training.settings["statistics"] == statistics
        made[statistics] = result.bundle.state_dict
    weights = {name: state["classifier.weight"].double() for name, state in made.items()}
    assert abs(weights["scene"] - weights["labels"]).max() > 1e-3
    mean = (weights["scene"] + weights["labels"]) / 2
    torch.testing.assert_close(weights["both"], mean, rtol=1e-4, atol=1e-6)


def test_calibration_is_of_the_held_out_logits(trained: TrainingResult) -> None:
    """The card's temperature gives the least cross-entropy of all that may be chosen."""
    calibration, found = trained.card.calibration, trained.assessment
    assert calibration is not None
    assert found is not None
    own = found.logits[np.arange(len(found.logits)), found.positions].astype(float)

    def loss(temperature: float) -> float:
        others = np.log(np.exp(found.logits.astype(float) / temperature).sum(axis=1))
        return float((others - own / temperature).mean())

    allowed = np.geomspace(*TEMPERATURES, 500)
    best = allowed[np.argmin([loss(t) for t in allowed])]
    assert calibration.temperature == pytest.approx(best, rel=0.02)


def test_verdict_and_shares_of_a_good_model(trained: TrainingResult, small_scene: Scene) -> None:
    card = trained.card
    assert card.verdict is not None
    assert card.verdict.usable
    assert card.shares is not None
    cells = [int((small_scene.truth[::12, ::12] == k + 1).sum()) / 64 for k in range(3)]
    assert card.shares.labels == pytest.approx(dict(zip(NAMES, cells, strict=True)), abs=1e-4)
    assert card.shares.scenes.keys() == set(NAMES)
    assert sum(card.shares.scenes.values()) == pytest.approx(1, abs=1e-3)
    assert card.shares.forest.keys() == set(NAMES)
    assert sum(card.shares.forest.values()) == pytest.approx(1, abs=1e-3)


def test_split_raster_shows_the_counted_pixels_with_their_true_labels(
    trained: TrainingResult, small_scene: Scene
) -> None:
    with rasterio.open(trained.folder / "split.tif") as file:
        parts = file.read(1)
        assert file.crs == small_scene.grid.crs
        assert file.transform == small_scene.grid.transform
    assert trained.card.training is not None
    split = trained.card.training.split
    assert split["pixels"] == [int((parts == value).sum()) for value in (1, 2)]
    assert (parts > 0).sum() == 64 * 16
    by_class = [of_class(small_scene, parts, value) for value in (1, 2)]
    assert split["pixels_per_class"] == {n: by_class[0][n] + by_class[1][n] for n in sorted(NAMES)}
    assert min(min(k.values()) for k in by_class) > 0


# --- what the weights depend on --------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_weights(
    trained: TrainingResult, small_scene: Scene, tmp_path: Path, no_forest: None
) -> None:
    torch.rand(3)  # the caller's random numbers have no say
    again = run(small_scene, output=tmp_path / "again")
    assert differing(trained.folder, again.folder) == []
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (trained.folder, again.folder))
    assert one == other
    # Another seed must give other weights, or the comparison would mean nothing.
    other = run(small_scene, output=tmp_path / "other", seed=6, assess="none", checks=1)
    assert "classifier.weight" in differing(trained.folder, other.folder)


@pytest.mark.slow
def test_model_is_trained_on_all_labels(small_scene: Scene, tmp_path: Path, no_forest: None) -> None:
    """Held-out ground has no say in the weights, if it cannot choose the steps."""
    options = {"steps": 3, "checks": 1}
    assessed = run(small_scene, output=tmp_path / "assessed", **options)
    plain = run(small_scene, output=tmp_path / "plain", assess="none", **options)
    assert differing(assessed.folder, plain.folder) == []
    assert plain.assessment is plain.test is None
    assert plain.card.metrics == {}
    assert plain.card.calibration is None
    assert plain.card.verdict is not None
    assert plain.card.verdict.text == "not assessed: no ground was held out"
    assert {p.name for p in plain.folder.iterdir()} == {
        *("model.html", "model.json", "model.safetensors", "training.json", "training.png")
    }
    assert list(record_of(plain.folder)["checks"]) == ["final"]


@pytest.mark.slow
def test_a_resumed_training_learns_the_same_opinions(
    small_scene: Scene, tmp_path: Path, no_forest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other classifiers are asked once, however often a training is ended."""
    pytest.importorskip("sklearn", reason="needs the extra train")
    asked: list[str] = []
    ask = das2f_map.training.fit.answers_for

    def noting(prepared: Any, part: Any, progress: Any) -> Any:
        asked.append(part.title)
        return ask(prepared, part, progress)

    monkeypatch.setattr(das2f_map.training.fit, "answers_for", noting)
    short = {"steps": 4, "checks": 2, "distillation": 1.0}
    whole = run(small_scene, output=tmp_path / "whole", **short)
    assert asked == [fold(1), fold(2), ALL]
    share = whole.card.training.settings["share_of_cnns"]
    assert 0 <= share <= 1
    assert whole.card.training.settings["distillation"] == 1
    asked.clear()
    for title, after in ((fold(1), 3), (ALL, 1)):
        with pytest.raises(KeyboardInterrupt):
            run(
                small_scene,
                output=tmp_path / "model",
                progress=interrupting(title, after),
                resume=title == ALL,
                **short,
            )
    resumed = run(small_scene, output=tmp_path / "model", resume=True, **short)
    assert asked == [fold(1), fold(2), ALL]
    assert differing(resumed.folder, whole.folder) == []
    assert resumed.card.training.settings["share_of_cnns"] == share
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "whole"]


@pytest.mark.slow
def test_without_ground_around_no_opinions_are_learnt_and_it_is_said(
    small_scene: Scene,
    tmp_path: Path,
    no_forest: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(das2f_map.training.fit, "answers_for", lambda *given: None)
    done = run(small_scene, output=tmp_path / "model", steps=2, checks=1, distillation=1.0)
    assert done.card.training.settings["distillation"] == 0
    assert done.card.training.settings["share_of_cnns"] is None
    said = [m for m in caplog.messages if "opinions" in m]
    assert said == [
        "Too little of the scenes lies away from the ground of fold-1, fold-2: no opinions are learnt there",
        "Too little of the scenes can be used: no opinions of other classifiers are learnt",
    ]


@pytest.mark.slow
def test_hold_out_trains_twice(small_scene: Scene, tmp_path: Path, no_forest: None) -> None:
    seen: list[str] = []
    done = run(
        small_scene, output=tmp_path / "m", assess="holdout", steps=4, checks=2, progress=watching(seen)
    )
    assert seen == ["Training without the ground of holdout", ALL]
    assert list(record_of(done.folder)["checks"]) == ["holdout", "final"]
    assert done.test is not None
    # Twice as many pixels are checked as of a fold: some of them choose, the others give the figures.
    assert done.card.calibration is not None
    assert done.card.calibration.pixels == 2 * HELD
    assert 0 < done.test.total < 2 * HELD
    assert done.test.counts.sum(axis=1).min() > 0, "every class is tested"
    with rasterio.open(done.folder / "split.tif") as file:
        assert set(np.unique(file.read(1))) == {0, 1, 2, 3, 4, 5}


# --- Ctrl-C and resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "after"),
    [
        pytest.param(fold(1), 4, id="first step of a check", marks=pytest.mark.slow),
        pytest.param(fold(2), 5, id="inside a check", marks=pytest.mark.slow),
        pytest.param(fold(1), 9, id="last step of a fold", marks=pytest.mark.slow),
        pytest.param(ALL, 1, id="before the first check of the model", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_before_there_is_a_model_keeps_the_state(
    title: str, after: int, trained: TrainingResult, small_scene: Scene, tmp_path: Path, no_forest: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(small_scene, output=tmp_path / "model", progress=interrupting(title, after))
    assert [p.name for p in tmp_path.iterdir()] == ["model.training"]
    seen: list[str] = []
    resumed = run(small_scene, output=tmp_path / "model", resume=True, progress=watching(seen))
    # Trainings that were complete are not repeated.
    whole = [fold(1), fold(2), ALL]
    done = whole.index(title) + (1 if after == 9 else 0)
    assert seen == whole[done:]
    assert differing(resumed.folder, trained.folder) == []
    ours, theirs = (record_of(r.folder)["checks"] for r in (resumed, trained))
    for name in theirs:
        assert [{**c, "seconds": 0} for c in ours[name]] == [{**c, "seconds": 0} for c in theirs[name]]
    assert resumed.card.metrics["test"] == trained.card.metrics["test"]
    assert resumed.card.calibration == trained.card.calibration
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_ctrl_c_in_the_last_training_keeps_its_last_check(
    small_scene: Scene, tmp_path: Path, no_forest: None
) -> None:
    options = {"assess": "none", "steps": 6}
    whole = run(small_scene, output=tmp_path / "whole", **options)
    partial = run(small_scene, output=tmp_path / "model", progress=interrupting(ALL, 3), **options)
    assert partial.interrupted
    assert partial.card.training is not None
    assert partial.card.training.notes == "stopped early on request"
    assert partial.card.training.settings["steps_done"] == 2
    assert (tmp_path / "model.training").is_dir()
    assert "classifier.weight" in differing(partial.folder, whole.folder)
    resumed = run(small_scene, output=tmp_path / "model", resume=True, **options)
    assert not resumed.interrupted
    assert resumed.card.training is not None
    assert not resumed.card.training.notes
    assert [c["steps"] for c in record_of(resumed.folder)["checks"]["final"]] == [2, 4, 6]
    assert differing(resumed.folder, whole.folder) == []
    assert not (tmp_path / "model.training").exists()


@pytest.mark.slow
def test_a_bundle_that_could_not_be_written_is_written_by_resuming(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_forest: None
) -> None:
    options = {"assess": "none", "steps": 4, "checks": 2}
    with monkeypatch.context() as patch:

        def fails(*given: Any) -> None:
            raise OutputError("the disk is gone")

        patch.setattr(das2f_map.workflows.train, "write_bundle", fails)
        with pytest.raises(OutputError, match="the disk is gone"):
            run(small_scene, output=tmp_path / "model", **options)
    resumed = run(small_scene, output=tmp_path / "model", resume=True, **options)
    assert not resumed.interrupted
    whole = run(small_scene, output=tmp_path / "whole", **options)
    assert differing(resumed.folder, whole.folder) == []


def test_ctrl_c_before_the_first_check_leaves_nothing(small_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(small_scene, output=tmp_path / "model", progress=interrupting(fold(1), 1))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def unfinished(small_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was interrupted in its first fold, for copies."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.raises(KeyboardInterrupt):
        run(small_scene, output=folder / "model", progress=interrupting(fold(1), 4))
    return folder


def test_an_interrupted_training_is_not_started_over_by_accident(
    unfinished: Path, small_scene: Scene, tmp_path: Path
) -> None:
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    with pytest.raises(OutputError, match="unfinished training") as caught:
        run(small_scene, output=tmp_path / "model")
    assert "--resume" in str(caught.value)


def test_resuming_with_other_settings_is_refused(
    unfinished: Path, small_scene: Scene, tmp_path: Path
) -> None:
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    with pytest.raises(OutputError, match=r"batch_size \(12 before, 8 now\)"):
        run(small_scene, output=tmp_path / "model", resume=True, batch_size=8)
    tiny_bundle(tmp_path, "start")
    fewer = tmp_path / "fewer.gpkg"
    gpd.read_file(small_scene.labels).iloc[1:].to_file(fewer)
    scene = Scene(small_scene.ms, small_scene.pan, fewer, small_scene.grid, small_scene.truth)
    with pytest.raises(OutputError, match=r"other settings: the labelled pixels \(give"):
        run(scene, output=tmp_path / "model", resume=True)
    with pytest.raises(OutputError, match=r"started_from \(none before, start now\)"):
        run(small_scene, output=tmp_path / "model", resume=True, start=tmp_path / "start")
    assert (tmp_path / "model.training" / "fold-1.ckpt").exists()


@pytest.mark.slow
def test_only_the_state_is_removed_from_the_working_folder(
    unfinished: Path, small_scene: Scene, tmp_path: Path, no_forest: None
) -> None:
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    work = tmp_path / "model.training"
    (work / "notes.txt").write_text("mine")
    run(small_scene, output=tmp_path / "model", resume=True)
    assert [p.name for p in work.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="in the way"):
        run(small_scene, output=tmp_path / "model", overwrite=True)
    assert (work / "notes.txt").read_text() == "mine"


def test_state_is_removed_while_the_place_is_still_held(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_forest: None
) -> None:
    """Another training of the same bundle could begin in that folder as soon as the place is free."""
    held: list[bool] = []
    discard = das2f_map.workflows.train.discard

    def watched(work: Path) -> None:
        try:
            with BundleOutput(tmp_path / "model", overwrite=True):
                held.append(False)
        except OutputError:
            held.append(True)
        discard(work)

    monkeypatch.setattr(das2f_map.workflows.train, "discard", watched)
    run(small_scene, output=tmp_path / "model", assess="none", steps=1)
    assert held == [True]
    assert not (tmp_path / "model.training").exists()


# --- several scenes, other labels, other starts ----------------------------------------------------------


@pytest.mark.slow
def test_two_scenes_make_one_model(small_scene: Scene, tmp_path: Path, no_forest: None) -> None:
    (tmp_path / "other").mkdir()
    other = make_scene(tmp_path / "other", seed=3)
    done = run(small_scene, other, output=tmp_path / "model", steps=4, checks=2)
    assert done.card.training is not None
    split = done.card.training.split
    assert sum(split["pixels"]) == 2 * 64 * 16
    both = []
    for name, scene in (("split.tif", small_scene), ("split-2.tif", other)):
        with rasterio.open(done.folder / name) as file:
            parts = file.read(1)
        assert (parts > 0).sum() == 64 * 16
        both.append([of_class(scene, parts, value) for value in (1, 2)])
    assert split["pixels"] == [sum(sum(scene[k].values()) for scene in both) for k in (0, 1)]
    assert split["pixels_per_class"] == {
        n: sum(part[n] for scene in both for part in scene) for n in sorted(NAMES)
    }
    assert "ms.tif + pan.tif, labels labels.gpkg; ms.tif" in done.card.training.data


def shuffled(scene: Scene, folder: Path) -> Scene:
    """The scene with the classes of its polygons drawn by lot."""
    labels = gpd.read_file(scene.labels)
    labels["class"] = np.random.default_rng(0).permutation(labels["class"].to_numpy())
    labels.to_file(folder / "shuffled.gpkg")
    return Scene(scene.ms, scene.pan, folder / "shuffled.gpkg", scene.grid, scene.truth)


@pytest.mark.slow
def test_a_model_of_labels_without_sense_is_not_to_be_used(
    small_scene: Scene, tmp_path: Path, no_forest: None, caplog: pytest.LogCaptureFixture
) -> None:
    done = run(shuffled(small_scene, tmp_path), output=tmp_path / "model", steps=4, checks=2)
    verdict = done.card.verdict
    assert verdict is not None
    assert not verdict.usable
    assert verdict.text.startswith("do not use this map")
    assert (logging.WARNING, verdict.text) in [(r.levelno, r.getMessage()) for r in caplog.records]


def test_labels_in_too_few_places_make_a_model_without_figures(
    small_scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A polygon for each class: whoever holds one out has a single class to learn."""
    labels = gpd.read_file(small_scene.labels)
    water, forest = (labels[labels["class"] == name].index[0] for name in NAMES[:2])
    labels.loc[[water, forest]].to_file(tmp_path / "two.gpkg")
    two = Scene(small_scene.ms, small_scene.pan, tmp_path / "two.gpkg", small_scene.grid, small_scene.truth)
    done = run(two, output=tmp_path / "model", folds=3, steps=2, checks=2)
    assert "Not assessed: the labels lie in too few places" in caplog.text
    assert done.test is None
    assert done.card.verdict is not None
    assert done.card.verdict.text.startswith("not assessed")
    assert done.card.training is not None
    assert done.card.training.settings["steps_done"] == 2


def test_weights_of_another_model_are_carried_over(
    small_scene: Scene, tmp_path: Path, no_forest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate of nearly nothing, the model keeps the weights that it starts with."""
    start = tiny_bundle(tmp_path, "start")
    options = {"assess": "none", "steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    done = run(small_scene, output=tmp_path / "model", start=tmp_path / "start", **options)
    theirs, ours = start.state_dict, weights(done.folder)
    stem = "ms_stem.embedding.conv.weight"
    shared = {k for k in ours if not k.startswith("classifier.")}
    assert shared == {k for k in theirs if not k.startswith("classifier.")}
    statistics = {
        k for k in shared if k.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
    }
    for key in shared - statistics - {stem}:
        assert torch.allclose(ours[key], theirs[key], atol=1e-9), key
    # Bands of other names start anew.
    assert [b.name for b in done.card.ms_bands] == ["band_1", "band_2", "band_3", "band_4"]
    assert not torch.allclose(ours[stem], theirs[stem], atol=1e-3)
    assert done.card.training is not None
    assert done.card.training.settings["started_from"] == "start"


def test_a_trained_model_knows_its_ground(
    small_scene: Scene, tmp_path: Path, no_forest: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A training that starts from it on the same ground is warned, and so is one after that."""
    run(small_scene, output=tmp_path / "one", assess="none", steps=1)
    (ground,) = load_bundle(tmp_path / "one").card.training.ground
    with rasterio.open(small_scene.ms) as src:
        west, south, east, north = transform_bounds(src.crs, "EPSG:4326", *src.bounds)
    assert (ground.west, ground.south) == pytest.approx((west, south), abs=1e-6)
    assert (ground.east, ground.north) == pytest.approx((east, north), abs=1e-6)
    for name, start in (("two", "one"), ("three", "two")):
        caplog.clear()
        run(small_scene, output=tmp_path / name, start=tmp_path / start, assess="none", steps=1)
        assert f"{start} was trained on this ground" in caplog.text
    assert load_bundle(tmp_path / "three").card.training.ground[1:] == (ground, ground)


def test_bands_are_carried_over_by_name(
    small_scene: Scene, tmp_path: Path, no_forest: None, caplog: pytest.LogCaptureFixture
) -> None:
    start = tiny_bundle(tmp_path, "start")
    caplog.set_level(logging.INFO)
    train(
        small_scene.ms,
        small_scene.pan,
        small_scene.labels,
        tmp_path / "model",
        bands={"nir": 4, "ultraviolet": 1, "green": 2},
        start=tmp_path / "start",
        assess="none",
        steps=1,
        learning_rate=1e-12,
        weight_decay=0.0,
        distillation=0.0,
        device="cpu",
        network=TINY,
    )
    stem = "ms_stem.embedding.conv.weight"
    theirs, ours = start.state_dict[stem], weights(tmp_path / "model")[stem]
    assert ours.shape[1] == 3
    names = [b.name for b in start.card.ms_bands]
    for k, name in ((0, "nir"), (2, "green")):
        assert torch.allclose(ours[:, k], theirs[:, names.index(name)], atol=1e-9)
    assert min((ours[:, 1] - theirs[:, k]).abs().max() for k in range(4)) > 1e-3
    assert "bands that the model lacks start anew: ultraviolet" in caplog.text


# --- refusals --------------------------------------------------------------------------------------------


def test_every_setting_reaches_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function in Python takes them one by one; none may be lost or swapped on the way."""
    values: dict[str, Any] = {
        "stages": 2,
        "head": "published",
        "assess": "holdout",
        "folds": 4,
        "steps": 77,
        "fast": True,
        "batch_size": 9,
        "balance": 0.25,
        "learning_rate": 0.125,
        "weight_decay": 0.0625,
        "label_smoothing": 0.375,
        "dropout": 0.75,
        "statistics": "labels",
        "distillation": 2.5,
        "jitter": 3.0,
        "haze": 0.875,
        "seed": 11,
        "device": "cuda:7",
        "devices": 3,
    }
    asked: list[TrainRequest] = []
    monkeypatch.setattr(das2f_map.workflows.train, "run_training", lambda r, p: asked.append(r))
    train("a", "b", "c", "o", **values, scenes=[("d", "e", "f")], start="s", skip_classes=["x"])
    (found,) = asked
    assert found.settings == TrainingSettings(**values)
    assert [(s.pair.ms, s.pair.pan, s.labels.path) for s in found.scenes] == [
        ("a", "b", "c"),
        ("d", "e", "f"),
    ]
    assert {s.labels.skip_classes for s in found.scenes} == {("x",)}
    assert (found.output, found.start) == (Path("o"), "s")


def test_existing_bundles_and_foreign_folders_are_safe(
    trained: TrainingResult, small_scene: Scene, tmp_path: Path
) -> None:
    before = (trained.folder / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="exists already") as caught:
        run(small_scene, output=trained.folder)
    assert "--overwrite" in str(caught.value)
    assert (trained.folder / "model.safetensors").read_bytes() == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match="not a model bundle"):
        run(small_scene, output=tmp_path / "photos", overwrite=True)
    with pytest.raises(OutputError, match="nothing to resume"):
        run(small_scene, output=trained.folder, resume=True)
    with pytest.raises(OutputError, match="no interrupted training"):
        run(small_scene, output=tmp_path / "fresh", resume=True)
    assert not (tmp_path / "fresh").exists()


def test_a_second_training_of_a_bundle_is_refused(small_scene: Scene, tmp_path: Path) -> None:
    def second(**options: bool) -> None:
        with pytest.raises(OutputError, match="model is being written by another run"):
            run(small_scene, output=tmp_path / "model", **options)

    with pytest.raises(KeyboardInterrupt), BundleOutput(tmp_path / "model", overwrite=False):  # noqa: PT012 - it ends inside
        second()
        second(overwrite=True)
        second(resume=True)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_of_the_state_is_left_alone(small_scene: Scene, tmp_path: Path) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    # Names of other programs' files may well be the same.
    for name in ("thesis.txt", "final.ckpt"):
        (work / name).write_text("precious")
        for options in ({}, {"overwrite": True}):
            with pytest.raises(OutputError, match="in the way"):
                run(small_scene, output=tmp_path / "model", **options)
    assert {p.read_text() for p in work.iterdir()} == {"precious"}
    assert len(list(work.iterdir())) == 2
    (tmp_path / "other.training").write_text("a file")
    with pytest.raises(OutputError, match="in the way"):
        run(small_scene, output=tmp_path / "other")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("damage", [None, "", "{}", '{"network": 1}'])
def test_resuming_without_the_note_of_the_run_says_so(
    damage: str | None, small_scene: Scene, tmp_path: Path
) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    for name in ("fold-1.json", "fold-1.npy", "final.ckpt"):
        (work / name).write_bytes(b"x")
    if damage is not None:
        (work / "run.json").write_text(damage)
    with pytest.raises(OutputError, match=r"run\.json is missing or damaged") as caught:
        run(small_scene, output=tmp_path / "model", resume=True)
    assert "\n" not in caught.value.message


@pytest.mark.slow
def test_output_folder_without_a_name_in_its_path(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    done = run(small_scene, output=Path(), assess="none", steps=1)
    assert done.card.name == "model"
    assert (tmp_path / "model" / "model.json").is_file()
    with pytest.raises(OutputError, match="cannot be written"):
        run(small_scene, output=Path("/"))


def test_bad_labels_leave_nothing_behind(small_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(LabelError):
        train(small_scene.ms, small_scene.pan, tmp_path / "none.gpkg", tmp_path / "model", device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_diverged_training_says_so(small_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged") as caught:
        run(small_scene, output=tmp_path / "model", learning_rate=1e30)
    assert "lower learning rate" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"steps": 0}, "steps 0"),
        ({"stages": 3}, "stages 3"),
        ({"head": "deep"}, "head 'deep'.*auto, pooled or published"),
        ({"assess": "cross"}, "assess 'cross'.*auto, holdout, folds or none"),
    ],
)
def test_impossible_settings_are_named(
    options: dict[str, Any], says: str, small_scene: Scene, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        run(small_scene, output=tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_gpu_and_unknown_device(small_scene: Scene, tmp_path: Path) -> None:
    for device in ("cuda", "tpu", "cuda:x"):
        with pytest.raises(DeviceError, match=device):
            run(small_scene, output=tmp_path / "model", device=device)


def test_without_lightning_the_extra_is_named(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "das2f_map.training.loop", raising=False)
    monkeypatch.delattr("das2f_map.training.loop", raising=False)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(MissingDependencyError, match="lightning") as caught:
        run(small_scene, output=tmp_path / "model")
    assert "[train]" in str(caught.value)


@pytest.mark.slow
def test_two_processes_make_one_bundle(small_scene: Scene, tmp_path: Path) -> None:
    """Two CPU processes stand in for two GPUs."""
    program = tmp_path / "program.py"
    program.write_text(
        "from das2f_map.workflows.train import train\n"
        f"train({str(small_scene.ms)!r}, {str(small_scene.pan)!r}, {str(small_scene.labels)!r}, 'model',\n"
        f" assess='folds', folds=2, steps=2, batch_size=8, device='cpu', devices=2, network={TINY!r})\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "program.py"]
    card = load_bundle(tmp_path / "model").card
    assert card.training.settings["devices"] == 2
    # By default opinions are learnt on one device alone.
    assert card.training.settings["distillation"] == 0
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [c["steps"] for c in record["checks"]["fold-2"]] == [1, 2]


@pytest.mark.slow
def test_training_is_quiet(small_scene: Scene, tmp_path: Path) -> None:
    """No banner, warning or stray folder from the libraries: only what the caller logs."""
    code = (
        # A few steps make no good model, and the caller would be warned.
        "import logging\n"
        "logging.getLogger('das2f_map').setLevel(logging.ERROR)\n"
        "from das2f_map.workflows.train import train\n"
        f"train({str(small_scene.ms)!r}, {str(small_scene.pan)!r}, {str(small_scene.labels)!r}, 'model', "
        f"steps=2, batch_size=16, device='cpu', network={TINY!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
