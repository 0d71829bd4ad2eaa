"""What a training leaves on disk: its state while it runs, the bundle at the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioError

from das2f_map.accuracy import ConfusionMatrix
from das2f_map.errors import OutputError
from das2f_map.model import ModelCard, require_replaceable, save_bundle
from das2f_map.network import Das2fNet
from das2f_map.scene.grid import Grid
from das2f_map.training.report import draw_training
from das2f_map.training.split import Split

TRAINING_NAME = "training.json"
CURVES_NAME = "training.png"
SPLIT_NAME = "split.tif"
LAST_NAME = "last.ckpt"
BEST_NAME = "best.safetensors"
_RUN_NAME = "run.json"


def working_path(folder: Path) -> Path:
    """Where the state of a training lies while it runs."""
    return folder.with_name(folder.name + ".training")


def discard_empty(work: Path) -> None:
    """Remove a working folder that holds no complete epoch."""
    if not (work / LAST_NAME).exists():
        shutil.rmtree(work, ignore_errors=True)


def working_folder(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    """Where the training's state goes, if ``output`` may be written; nothing is touched yet."""
    if folder.suffix == ".zip":
        raise OutputError(
            f"{folder} is a zip file's name; training writes a folder", f"-o {folder.with_suffix('')}"
        )
    work = working_path(folder)
    require_replaceable(folder, overwrite=resume or overwrite)
    if resume and folder.exists() and not work.exists():
        raise OutputError(
            f"the training of {folder} is complete; there is nothing to resume", "--overwrite trains anew"
        )
    if resume:
        if not (work / LAST_NAME).exists():
            raise OutputError(f"there is no interrupted training of {folder} to resume", "leave out --resume")
        return work
    if (work / LAST_NAME).exists() and not overwrite:
        raise OutputError(
            f"{work} holds an unfinished training", "--resume continues it, --overwrite starts anew"
        )
    return work


def begin(work: Path, run: dict[str, Any], *, resume: bool) -> None:
    """Note what is trained, or check that a resumed training is the same."""
    text = json.dumps(run, indent=1)
    if not resume:
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            (work / _RUN_NAME).write_text(text)
        except OSError as error:
            raise OutputError(f"{work} cannot be written: {error.strerror}") from error
        return
    before = json.loads((work / _RUN_NAME).read_text())
    changed = sorted(
        f"{key} ({before[part].get(key)} before, {value} now)" if part != "legend" else "the classes"
        for part in run
        for key, value in json.loads(text)[part].items()
        if before[part].get(key) != value
    )
    if changed:
        raise OutputError(
            f"the training in {work} cannot be resumed with other settings: {', '.join(changed)}",
            "give the settings it was started with, or start anew with --overwrite",
        )


def write_bundle(
    folder: Path,
    card: ModelCard,
    net: Das2fNet,
    history: list[dict[str, Any]],
    matrix: ConfusionMatrix,
    split: Split,
    grid: Grid,
) -> None:
    """The bundle with what is told about its training."""

    def add_files(partial: Path) -> None:
        record = {
            "epochs": history,
            "best_epoch": card.training.settings["best_epoch"],
            "settings": card.training.settings,
            "split": card.training.split,
            "test": matrix.to_dict(),
        }
        (partial / TRAINING_NAME).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        draw_training(partial / CURVES_NAME, history, matrix, split, title=card.name)
        split.write_raster(partial / SPLIT_NAME, grid)

    try:
        save_bundle(folder, card, net.state_dict(), add_files=add_files)
    except RasterioError as error:
        raise OutputError(f"cannot write the model bundle {folder}: {error}") from error
