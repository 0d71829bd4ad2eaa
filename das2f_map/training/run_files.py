"""What a training leaves on disk: its state while it runs, the bundle at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from rasterio.errors import RasterioError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.files import BundleOutput
from das2f_map.errors import OutputError
from das2f_map.network import Das2fNet
from das2f_map.outputs.work_files import StateFolder
from das2f_map.scene.paths import exists
from das2f_map.training.dataset import PatchReader
from das2f_map.training.fold_raster import write_fold_rasters
from das2f_map.training.folds import MOST_FOLDS, Folds
from das2f_map.training.opinions import Answers
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.types import Float32

TRAINING_NAME = "training.json"
CURVES_NAME = "training.png"
RELIABILITY_NAME = "reliability.png"
PAGE_NAME = "model.html"
SPLIT_NAME = "split.tif"
_RUN_NAME = "run.json"
_RUN_PARTS = ("network", "settings", "contents", "labels", "legend")
_PARTS = ("holdout", *(f"fold-{k}" for k in range(1, MOST_FOLDS + 1)), "final")
"""Trainings whose states may lie in the folder: those that assess the model, and that of the model."""


def working_path(folder: Path) -> Path:
    """Where the state of a training lies while it runs."""
    return folder.with_name(folder.name + ".training")


def state_path(work: Path, part: str) -> Path:
    """File of the last state of a training that goes on."""
    return work / f"{part}.ckpt"


def _answers_path(work: Path, part: str) -> Path:
    """File of what other classifiers say to a training."""
    return work / f"{part}.npz"


def _record_names(part: str) -> tuple[str, str, str]:
    """Files of the checks, of the weights, and of the logits, whose file comes last."""
    return f"{part}.json", f"{part}.safetensors", f"{part}.npy"


def _state(work: Path) -> StateFolder:
    names = [_RUN_NAME]
    for part in _PARTS:
        names += [state_path(work, part).name, _answers_path(work, part).name, *_record_names(part)]
    return StateFolder(work, names, lambda: _read_run(work) is not None)


def _begun(work: Path) -> bool:
    """Whether a training has come far enough to be resumed."""
    ends = ((f"{part}.ckpt", _record_names(part)[-1]) for part in _PARTS)
    return any((work / name).exists() for names in ends for name in names)


@dataclass(frozen=True, eq=False)
class PartRecord:
    """The checks of a complete training.

    Attributes
    ----------
    history:
        Figures of every check.
    logits:
        Of the held-out pixels at every check, float32 (checks, n, C).
    weights:
        State dicts at every check; empty where they are of no use.
    """

    history: list[dict[str, Any]]
    logits: Float32
    weights: list[dict[str, Tensor]]


def keep_record(work: Path, part: str, record: PartRecord) -> None:
    """Note the checks of a training that is complete, and remove its state."""
    state, (text, weights, array) = _state(work), _record_names(part)
    with state.written(text) as partial:
        partial.write_text(json.dumps(record.history))
    with state.written(weights) as partial:
        save_file({f"{k} {n}": t for k, each in enumerate(record.weights) for n, t in each.items()}, partial)
    with state.written(array) as partial, partial.open("wb") as file:
        np.save(file, record.logits)
    state_path(work, part).unlink(missing_ok=True)


def read_record(work: Path, part: str) -> PartRecord | None:
    """The checks of a complete training, or ``None``."""
    text, stored, array = (work / name for name in _record_names(part))
    if not array.exists():
        return None
    try:
        weights: dict[int, dict[str, Tensor]] = {}
        for key, tensor in load_file(stored).items():
            number, _, name = key.partition(" ")
            weights.setdefault(int(number), {})[name] = tensor
        history, logits = json.loads(text.read_text()), np.load(array, allow_pickle=False)
        return PartRecord(history, logits, [weights[k] for k in sorted(weights)])
    except (OSError, EOFError, ValueError, SafetensorError) as error:
        raise OutputError(
            f"the training in {work} cannot be resumed: {error}", "remove that folder and train anew"
        ) from error


def keep_answers(work: Path, part: str, answers: Answers) -> None:
    """Note what other classifiers say to a training, so that a resumed one learns the same."""
    path, pixels = _answers_path(work, part), answers.pixels
    with _state(work).written(path.name) as partial, partial.open("wb") as file:
        np.savez(
            file,
            scene=pixels.scene,
            rows=pixels.rows,
            cols=pixels.cols,
            tables=answers.tables,
            held=answers.held,
            truth=answers.truth,
        )


def read_answers(work: Path, part: str, readers: Sequence[PatchReader]) -> Answers | None:
    """What other classifiers said to a training before, on scenes that these read; ``None`` if nothing."""
    path = _answers_path(work, part)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            pixels = ScenePixels(tuple(readers), found["scene"], found["rows"], found["cols"])
            return Answers(pixels, found["tables"], found["held"], found["truth"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise OutputError(
            f"the training in {work} cannot be resumed: {error}", "remove that folder and train anew"
        ) from error


def named(output: str | Path) -> Path:
    """The output folder by a path that ends in its name, which ``.`` and ``..`` do not."""
    folder = Path(output)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not folder.name:
        raise OutputError(f"a model bundle cannot be written to {folder}", "choose another folder with -o")
    return folder


def discard(work: Path) -> None:
    """Remove the training's state, and its folder if there is nothing else in it."""
    _state(work).discard()


def discard_empty(work: Path) -> None:
    """Remove a training's state without a complete check."""
    if not _begun(work):
        # It runs while another error is on its way to the user: that one counts.
        with suppress(OSError):
            discard(work)


@contextmanager
def training_output(folder: Path, *, resume: bool, overwrite: bool, helper: bool) -> Iterator[BundleOutput]:
    """The bundle's place, held until the ``with`` block ends, if a training may be written there.

    Parameters
    ----------
    folder:
        Of the bundle.
    resume, overwrite:
        Continue an interrupted training; start anew.
    helper:
        Whether another process of the same training holds the place.

    Raises
    ------
    OutputError
        The place is taken, or the training's state is missing, damaged or in the way; nothing is touched.
    """
    if folder.suffix == ".zip":
        raise OutputError(
            f"{folder} is a zip file's name; training writes a folder", f"-o {folder.with_suffix('')}"
        )
    output = BundleOutput(folder, overwrite=resume or overwrite)
    if helper:
        yield output
        return
    with output:
        _require_state(folder, resume=resume, overwrite=overwrite)
        yield output


def _require_state(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise :class:`OutputError` unless the training's state is there to resume, or can go there."""
    work = working_path(folder)
    if resume and exists(folder) and not work.exists():
        raise OutputError(
            f"the training of {folder} is complete; there is nothing to resume", "--overwrite trains anew"
        )
    if resume:
        if not _begun(work):
            raise OutputError(f"there is no interrupted training of {folder} to resume", "leave out --resume")
        if _read_run(work) is None:
            raise OutputError(
                f"the training in {work} cannot be resumed: its {_RUN_NAME} is missing or damaged",
                "remove that folder and train anew",
            )
        return
    _require_free(work)
    if _begun(work) and not overwrite:
        raise OutputError(
            f"{work} holds an unfinished training", "--resume continues it, --overwrite starts anew"
        )


def begin(work: Path, run: dict[str, Any], *, resume: bool) -> None:
    """Note what is trained, or check that a resumed training is the same."""
    text = json.dumps(run, indent=1)
    if not resume:
        _require_free(work)
        try:
            discard(work)
            work.mkdir(parents=True, exist_ok=True)
            with _state(work).written(_RUN_NAME) as partial:
                partial.write_text(text)
        except OSError as error:
            raise OutputError(f"{work} cannot be written: {error.strerror}") from error
        return
    before = _read_run(work)
    if before is None:
        raise OutputError(f"the training in {work} cannot be resumed: its {_RUN_NAME} is missing or damaged")
    changed = sorted(
        {
            _change(part, key, before[part].get(key), value)
            for part in run
            for key, value in json.loads(text)[part].items()
            if before[part].get(key) != value
        }
    )
    if changed:
        raise OutputError(
            f"the training in {work} cannot be resumed with other settings: {', '.join(changed)}",
            "give the settings it was started with, or start anew with --overwrite",
        )


def _change(part: str, key: str, before: Any, now: Any) -> str:
    """What differs, in words: of classes and of contents that are noted by a checksum, that they do."""
    if part == "legend":
        return "the classes"
    if part == "labels":
        return "the labelled pixels"
    return key if part == "contents" else f"{key} ({before} before, {now} now)"


def _read_run(work: Path) -> dict[str, dict[str, Any]] | None:
    """What is trained in a working folder; ``None`` if that is not told, or not by this package."""
    try:
        run = json.loads((work / _RUN_NAME).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(run, dict) and all(isinstance(run.get(part), dict) for part in _RUN_PARTS)
    return run if ours else None


def _require_free(work: Path) -> None:
    """Raise :class:`OutputError` if something else than a training's state lies where it has to go."""
    if not _state(work).is_free():
        raise OutputError(
            f"{work} is in the way: the training's state has to go there, and it holds something else",
            "move it, or choose another name with -o",
        )


@dataclass(frozen=True, eq=False)
class TrainingFiles:
    """Records that a bundle holds about its training.

    Attributes
    ----------
    record:
        Content of ``training.json``.
    pictures:
        Files by name, and functions that draw them at a path.
    folds:
        Number of the fold of every labelled pixel, for ``split.tif``; ``None`` without held-out ground.
    pixels:
        The labelled pixels.
    """

    record: dict[str, Any]
    pictures: dict[str, Callable[[Path], None]]
    folds: Folds | None
    pixels: TrainingPixels


def write_bundle(output: BundleOutput, card: ModelCard, net: Das2fNet, files: TrainingFiles) -> None:
    """Write the bundle, and the records of its training."""

    def add_files(partial: Path) -> None:
        text = json.dumps(files.record, indent=1, allow_nan=False)
        (partial / TRAINING_NAME).write_text(text + "\n")
        for name, draw in files.pictures.items():
            draw(partial / name)
        if files.folds is not None:
            write_fold_rasters(partial / SPLIT_NAME, files.folds)

    try:
        output.write(card, net.state_dict(), add_files=add_files)
    except RasterioError as error:
        raise OutputError(f"cannot write the model bundle {output.path}: {error}") from error
