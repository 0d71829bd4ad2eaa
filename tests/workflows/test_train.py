"""Training end to end on a made-up scene, with a tiny network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from small_scene import NAMES, TINY, Scene

from das2f_map.bundle.files import BundleOutput, load_bundle
from das2f_map.errors import (
    DeviceError,
    InputError,
    LabelError,
    MissingDependencyError,
    ModelError,
    OutputError,
)
from das2f_map.workflows.train import TrainingResult, train


def run(small_scene: Scene, output: Path, **options: Any) -> TrainingResult:
    settings: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 12,
        "samples_per_class": 16,
        "device": "cpu",
        "learning_rate": 3e-3,
        "network": TINY,
        "seed": 5,
    }
    return train(small_scene.ms, small_scene.pan, small_scene.labels, output, **(settings | options))


@pytest.fixture(scope="module")
def trained(small_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return run(small_scene, tmp_path_factory.mktemp("models") / "tiny")


def interrupting(after: int) -> Callable[[str, int | None], Any]:
    """A progress that presses Ctrl-C after so many training steps."""

    @contextmanager
    def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        steps = 0

        def advance(n: int) -> None:
            nonlocal steps
            steps += n
            if description == "Training" and steps == after:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance

    return progress


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_bundle(folder).state_dict


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def test_learns_three_classes_of_different_brightness(trained: TrainingResult) -> None:
    assert trained.test.overall_accuracy is not None
    assert trained.test.overall_accuracy > 0.9


def test_bundle_is_complete_and_consistent(trained: TrainingResult, small_scene: Scene) -> None:
    files = {p.name for p in trained.folder.iterdir()}
    assert files == {"model.json", "model.safetensors", "training.json", "training.png", "split.tif"}
    card = load_bundle(trained.folder).card
    assert card.legend.names == tuple(sorted(NAMES))
    assert card.domain is not None
    assert card.domain.ms_gsd_m[0] < 10 < card.domain.ms_gsd_m[1]
    assert card.domain.ratio[0] < 4 < card.domain.ratio[1]
    record = json.loads((trained.folder / "training.json").read_text())
    assert [e["epoch"] for e in record["epochs"]] == [1, 2, 3]
    assert record["test"] == card.metrics["test"]
    assert card.metrics["test"]["overall_accuracy"] == trained.test.overall_accuracy
    # Nothing else is left behind.
    assert [p.name for p in trained.folder.parent.iterdir()] == [trained.folder.name]


def test_split_raster_shows_the_counted_pixels_with_their_true_labels(
    trained: TrainingResult, small_scene: Scene
) -> None:
    with rasterio.open(trained.folder / "split.tif") as file:
        parts = file.read(1)
    names = np.array(NAMES)[small_scene.truth - 1]
    pixels = trained.card.training.split["pixels_per_class"]
    for value, part in enumerate(("train", "validation", "test"), start=1):
        assert pixels[part] == {n: int((names[parts == value] == n).sum()) for n in sorted(NAMES)}


def test_test_matrix_is_what_the_saved_network_says(trained: TrainingResult, small_scene: Scene) -> None:
    """The test cuts patches from the files by the documented convention, without the package's reader."""
    bundle = load_bundle(trained.folder)
    net = bundle.network()
    with rasterio.open(small_scene.ms) as f, rasterio.open(small_scene.pan) as g:
        ms, pan = f.read().astype(float), g.read().astype(float)
    for image, bands in ((ms, bundle.card.ms_bands), (pan, [bundle.card.pan_band])):
        for band, statistics in zip(image, bands, strict=True):
            band[:] = (band - statistics.mean) / statistics.std
    ms = np.pad(ms, ((0, 0), (7, 8), (7, 8)), mode="reflect")
    pan = np.pad(pan, ((0, 0), (28, 32), (28, 32)), mode="reflect")
    with rasterio.open(trained.folder / "split.tif") as file:
        targets = np.argwhere(file.read(1) == 3)
    patches = np.stack([ms[:, r : r + 16, c : c + 16] for r, c in targets]).astype(np.float32)
    pans = np.stack([pan[:, 4 * r : 4 * r + 64, 4 * c : 4 * c + 64] for r, c in targets]).astype(np.float32)
    with torch.inference_mode():
        got = net(torch.from_numpy(patches), torch.from_numpy(pans)).argmax(1).numpy()
    names = np.array(NAMES)[small_scene.truth[tuple(targets.T)] - 1]
    truth = np.searchsorted(np.array(sorted(NAMES)), names)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (truth, got), 1)
    assert trained.test.counts.tolist() == expected.tolist()


@pytest.mark.slow
def test_same_seed_same_weights(trained: TrainingResult, small_scene: Scene, tmp_path: Path) -> None:
    again = run(small_scene, tmp_path / "again")
    assert_same_weights(trained.folder, again.folder)
    # Another seed must give other weights, or the comparison would mean nothing.
    other = run(small_scene, tmp_path / "other", seed=6, epochs=1)
    key = "classifier.weight"
    assert not torch.equal(weights(trained.folder)[key], weights(other.folder)[key])


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(5, id="first step", marks=pytest.mark.slow),
        pytest.param(7, id="inside"),
        pytest.param(8, id="last step", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_keeps_the_best_and_resuming_gives_the_same_model(
    after: int, trained: TrainingResult, small_scene: Scene, tmp_path: Path
) -> None:
    # 48 samples make 4 batches of 12 an epoch: all these lie in epoch 2 of 3.
    partial = run(small_scene, tmp_path / "model", progress=interrupting(after))
    assert partial.interrupted
    assert len(partial.history) == (2 if after == 8 else 1)
    assert load_bundle(tmp_path / "model").card.training.notes
    resumed = run(small_scene, tmp_path / "model", resume=True)
    assert not resumed.interrupted
    assert [h["epoch"] for h in resumed.history] == [1, 2, 3]
    for ours, theirs in zip(resumed.history, trained.history, strict=True):
        assert ours["loss"] == theirs["loss"]
        assert ours["validation_loss"] == theirs["validation_loss"]
    assert_same_weights(tmp_path / "model", trained.folder)
    assert not (tmp_path / "model.training").exists()


@pytest.mark.slow
def test_an_interrupted_training_is_not_started_over_by_accident(small_scene: Scene, tmp_path: Path) -> None:
    run(small_scene, tmp_path / "model", progress=interrupting(5))
    shutil.rmtree(tmp_path / "model")  # as after a crash: the state is there, the bundle is not
    with pytest.raises(OutputError, match="unfinished training") as caught:
        run(small_scene, tmp_path / "model")
    assert "--resume" in str(caught.value)


def test_ctrl_c_before_the_first_epoch_leaves_no_bundle(small_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(small_scene, tmp_path / "model", progress=interrupting(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_resuming_with_other_settings_is_refused(small_scene: Scene, tmp_path: Path) -> None:
    run(small_scene, tmp_path / "model", progress=interrupting(5))
    with pytest.raises(OutputError, match="batch_size"):
        run(small_scene, tmp_path / "model", resume=True, batch_size=8)


def test_existing_bundles_and_foreign_folders_are_safe(
    trained: TrainingResult, small_scene: Scene, tmp_path: Path
) -> None:
    before = (trained.folder / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="exists already") as caught:
        run(small_scene, trained.folder)
    assert "--overwrite" in str(caught.value)
    assert (trained.folder / "model.safetensors").read_bytes() == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match="not a model bundle"):
        run(small_scene, tmp_path / "photos", overwrite=True)
    with pytest.raises(OutputError, match="nothing to resume"):
        run(small_scene, trained.folder, resume=True)
    with pytest.raises(OutputError, match="no interrupted training"):
        run(small_scene, tmp_path / "fresh", resume=True)
    assert not (tmp_path / "fresh").exists()


def test_a_second_training_of_a_bundle_is_refused(small_scene: Scene, tmp_path: Path) -> None:
    def second(**options: bool) -> None:
        with pytest.raises(OutputError, match="model is being written by another run"):
            run(small_scene, tmp_path / "model", **options)

    with pytest.raises(KeyboardInterrupt), BundleOutput(tmp_path / "model", overwrite=False):  # noqa: PT012
        second()
        second(overwrite=True)
        second(resume=True)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_of_the_state_is_left_alone(small_scene: Scene, tmp_path: Path) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    # Names of other programs' files may well be the same.
    for name in ("thesis.txt", "last.ckpt"):
        (work / name).write_text("precious")
        for options in ({}, {"overwrite": True}):
            with pytest.raises(OutputError, match="in the way"):
                run(small_scene, tmp_path / "model", **options)
    assert {p.read_text() for p in work.iterdir()} == {"precious"}
    assert len(list(work.iterdir())) == 2
    (tmp_path / "other.training").write_text("a file")
    with pytest.raises(OutputError, match="in the way"):
        run(small_scene, tmp_path / "other")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_only_the_state_is_removed_from_the_working_folder(small_scene: Scene, tmp_path: Path) -> None:
    run(small_scene, tmp_path / "model", progress=interrupting(5))
    work = tmp_path / "model.training"
    (work / "notes.txt").write_text("mine")
    run(small_scene, tmp_path / "model", resume=True)
    assert [p.name for p in work.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="in the way"):
        run(small_scene, tmp_path / "model", overwrite=True)
    assert (work / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", [None, "", "{}", '{"network": 1}'])
def test_resuming_without_the_note_of_the_run_says_so(
    damage: str | None, small_scene: Scene, tmp_path: Path
) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    for name in ("last.ckpt", "best.safetensors"):
        (work / name).write_bytes(b"x")
    if damage is not None:
        (work / "run.json").write_text(damage)
    with pytest.raises(OutputError, match=r"run\.json is missing or damaged") as caught:
        run(small_scene, tmp_path / "model", resume=True)
    assert "\n" not in caught.value.message


@pytest.mark.slow
def test_output_folder_without_a_name_in_its_path(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    done = run(small_scene, Path(), epochs=1)
    assert done.card.name == "model"
    assert (tmp_path / "model" / "model.json").is_file()
    with pytest.raises(OutputError, match="cannot be written"):
        run(small_scene, Path("/"))


def test_bad_labels_leave_nothing_behind(small_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(LabelError):
        train(small_scene.ms, small_scene.pan, tmp_path / "none.gpkg", tmp_path / "model", device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_diverged_training_says_so(small_scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged") as caught:
        run(small_scene, tmp_path / "model", learning_rate=1e30)
    assert "lower learning rate" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [({"learning_rate": 0.0}, "learning_rate"), ({"epochs": 0}, "epochs"), ({"stages": 3}, "stages")],
)
def test_impossible_settings_are_named(
    options: dict[str, Any], says: str, small_scene: Scene, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        run(small_scene, tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_gpu_and_unknown_device(small_scene: Scene, tmp_path: Path) -> None:
    for device in ("cuda", "tpu", "cuda:x"):
        with pytest.raises(DeviceError, match=device):
            run(small_scene, tmp_path / "model", device=device)


def test_without_lightning_the_extra_is_named(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "das2f_map.training.loop", raising=False)
    monkeypatch.delattr("das2f_map.training.loop", raising=False)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(MissingDependencyError, match="lightning") as caught:
        run(small_scene, tmp_path / "model")
    assert "pip install '.[train]' in the checkout" in str(caught.value)


@pytest.mark.slow
def test_two_processes_make_one_bundle(small_scene: Scene, tmp_path: Path) -> None:
    """Two CPU processes stand in for two GPUs."""
    program = tmp_path / "program.py"
    program.write_text(
        "from das2f_map.workflows.train import train\n"
        f"train({str(small_scene.ms)!r}, {str(small_scene.pan)!r}, {str(small_scene.labels)!r}, 'model',\n"
        f" epochs=2,"
        f"      batch_size=8, samples_per_class=16, device='cpu', devices=2, network={TINY!r})\n"
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
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [e["epoch"] for e in record["epochs"]] == [1, 2]


@pytest.mark.slow
def test_training_is_quiet(small_scene: Scene, tmp_path: Path) -> None:
    """No banner, warning or stray folder from the libraries: only what the caller logs."""
    code = (
        "from das2f_map.workflows.train import train\n"
        f"train({str(small_scene.ms)!r}, {str(small_scene.pan)!r}, {str(small_scene.labels)!r}, 'model', "
        f"epochs=1,"
        f" batch_size=16, samples_per_class=16, device='cpu', network={TINY!r})\n"
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
