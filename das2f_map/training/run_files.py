"""What a training leaves on disk: its state while it runs, the bundle at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioError

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.files import BundleOutput
from das2f_map.errors import OutputError
from das2f_map.network import Das2fNet
from das2f_map.outputs.work_files import StateFolder
from das2f_map.scene.grid import Grid
from das2f_map.training.report import draw_training
from das2f_map.training.split import Split

TRAINING_NAME = "training.json"
CURVES_NAME = "training.png"
SPLIT_NAME = "split.tif"
LAST_NAME = "last.ckpt"
BEST_NAME = "best.safetensors"
_RUN_NAME = "run.json"
_RUN_PARTS = ("network", "settings", "split", "legend")


def working_path(folder: Path) -> Path:
    """Where the state of a training lies while it runs."""
    return folder.with_name(folder.name + ".training")


def _state(work: Path) -> StateFolder:
    return StateFolder(work, (_RUN_NAME, LAST_NAME, BEST_NAME), lambda: _read_run(work) is not None)


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
    """Remove a training's state without a complete epoch."""
    if not (work / LAST_NAME).exists():
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
    if resume and folder.exists() and not work.exists():
        raise OutputError(
            f"the training of {folder} is complete; there is nothing to resume", "--overwrite trains anew"
        )
    if resume:
        if not (work / LAST_NAME).exists():
            raise OutputError(f"there is no interrupted training of {folder} to resume", "leave out --resume")
        if _read_run(work) is None or not (work / BEST_NAME).exists():
            raise OutputError(
                f"the training in {work} cannot be resumed: "
                f"its {_RUN_NAME if (work / BEST_NAME).exists() else BEST_NAME} is missing or damaged",
                "remove that folder and train anew",
            )
        return
    _require_free(work)
    if (work / LAST_NAME).exists() and not overwrite:
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


def write_bundle(
    output: BundleOutput,
    card: ModelCard,
    net: Das2fNet,
    history: list[dict[str, Any]],
    matrix: ConfusionMatrix,
    split: Split,
    grid: Grid,
) -> None:
    """Write the bundle, and the record, the curves and the split of its training."""

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
        output.write(card, net.state_dict(), add_files=add_files)
    except RasterioError as error:
        raise OutputError(f"cannot write the model bundle {output.path}: {error}") from error
