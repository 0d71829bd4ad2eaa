"""Train a model: labels and an image pair in, a model bundle out.

The route: read labels onto the MS grid, drop pixels without valid data, split them by spatial
blocks, train on patches of the training part, choose the epoch by the validation part, measure
once on the test part, write the bundle. The test part takes part in no choice.

While it runs, its state lies in ``<output>.training`` beside the bundle; that folder goes away
when training is complete, and is what ``resume`` continues from.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError

from das2f_map._version import __version__
from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.bundle.card import ModelCard, TrainingRecord, domain_around
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.device import resolve_device
from das2f_map.engines.kernels import say_if_missing
from das2f_map.engines.memory import out_of_memory
from das2f_map.errors import DeviceError, InputError, MissingDependencyError, OutputError
from das2f_map.labels.table import LabelTable, limit_blocks, read_labels, require_trainable
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.outputs.write_errors import disk_is_full
from das2f_map.progress import Progress, silent
from das2f_map.scene.bands import GivenBands, given_bands
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import sample_statistics
from das2f_map.scene.registration import DEFAULT_MAX_SHIFT, CoregisterMode, coregister
from das2f_map.training.dataset import BLOCK, BalancedBatches, PatchDataset, PatchReader
from das2f_map.training.run_files import (
    BEST_NAME,
    begin,
    discard,
    discard_empty,
    named,
    training_output,
    working_path,
    write_bundle,
)
from das2f_map.training.split import split_labels

if TYPE_CHECKING:
    from das2f_map.training.loop import Device

log = logging.getLogger(__name__)

MAX_BLOCKS = 4000
"""Blocks of the scene to cut patches from, about half a megabyte each."""

MAX_TEST_PER_CLASS = 5000
"""More test pixels than these are thinned at random: the figures would not change, the waiting would."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    ``interrupted`` tells that it ended early on request; the bundle then holds the best epoch so far,
    and ``resume`` can continue.
    """

    folder: Path
    bundle: ModelBundle
    test: ConfusionMatrix
    best_epoch: int
    history: list[dict[str, Any]]
    interrupted: bool

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.bundle.card


def train(
    ms: str | Path,
    pan: str | Path,
    labels: str | Path,
    output: str | Path,
    *,
    class_field: str | None = None,
    skip_classes: Sequence[str] = (),
    bands: GivenBands | None = None,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    stages: int = 1,
    epochs: int = 30,
    batch_size: int = 64,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    resume: bool = False,
    samples_per_class: int | None = None,
    learning_rate: float = 5e-4,
    weight_decay: float = 5e-4,
    label_smoothing: float = 0.0,
    name: str | None = None,
    description: str = "",
    data: str | None = None,
    licence: str = "",
    overwrite: bool = False,
    coregistration: CoregisterMode = "auto",
    max_shift: float = DEFAULT_MAX_SHIFT,
    force: bool = False,
    network: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> TrainingResult:
    """Train a DAS²F network on the labelled pixels of one scene and write a model bundle.

    Parameters
    ----------
    ms, pan:
        The image pair.
    labels:
        Polygons, points or a raster of classes; see :func:`das2f_map.labels.table.read_labels`.
    output:
        Bundle folder to make.
    class_field, skip_classes:
        Attribute with the class; classes to leave out.
    bands:
        MS bands to use, in this order: name in the model card → number in the file, from 1, or name there.
        By default all but alpha, under the file's names for them.
    nodata:
        Value of undeclared invalid pixels, of both files; in MS where all bands that are used have it.
    mask:
        Pixels that are not to be learnt from: a vector or raster file, or a :class:`MaskFile`.
    stages:
        Fusion stages, 1 or 2.
    epochs, batch_size, learning_rate, weight_decay, label_smoothing:
        Of the optimisation: AdamW, warm-up, then a cosine down; ``batch_size`` is for each device.
    device, devices:
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; how many GPUs to share the work.
    seed:
        Decides the split, the initial weights and the order of samples. On the CPU two runs with one
        seed give the same weights.
    resume:
        Continue an interrupted training of the same ``output`` and settings.
    samples_per_class:
        Training patches of every class in an epoch; default: the median class's pixels, at least 50 and
        at most 1000 on a GPU, 200 on the CPU.
    name, description, data, licence:
        For the model card; ``name`` defaults to the folder's name, ``data`` to the file names.
    overwrite:
        Replace an existing bundle, or an unfinished training of it.
    force:
        Take image pairs whose pixel size ratio is far from 4.
    coregistration, max_shift:
        What to do about a shift between the contents of the images, and PAN pixels over which they are
        refused; see :func:`das2f_map.scene.registration.coregister`.
    network:
        Fields of :class:`NetworkConfig` to change, for experiments.

    Raises
    ------
    InputError, LabelError
        Images or labels cannot be used.
    OutputError
        The bundle exists, or cannot be written.
    MissingDependencyError
        Lightning is not installed.
    DeviceError
        The device is not there, or ran out of memory.
    ModelError
        The training diverged.
    """
    _require_lightning()
    from das2f_map.training import loop

    # Of several processes on one machine, Lightning starts all but the first by running the program again.
    helper = int(os.environ.get("LOCAL_RANK", "0")) > 0
    folder = named(output)
    chosen = _device(device, devices)
    on_cpu = chosen.accelerator == "cpu"
    work = working_path(folder)
    if helper:
        progress = silent
    patch = PatchGeometry()
    mask_file = MaskFile(mask) if isinstance(mask, (str, Path)) else mask
    with (
        training_output(folder, resume=resume, overwrite=overwrite, helper=helper) as bundle_output,
        open_pair(ms, pan, force=force, nodata=nodata, mask=mask_file) as opened,
    ):
        used = opened
        if bands is not None:
            used = opened.with_bands(given_bands(bands, opened.file_bands, opened.ms_path))
        coregistered = coregister(used, coregistration, max_shift=max_shift)
        coregistered.log()
        pair = coregistered.pair
        log.info("MS bands: %s", ", ".join(map(str, pair.bands)))
        statistics = sample_statistics(pair)
        with PatchReader(ModelInput(pair, statistics, patch)) as reader:
            labelled = _usable_labels(pair, reader, labels, class_field, skip_classes, seed, progress)
            split = split_labels(labelled, pair.grids.ms, gap=reader.reach, seed=seed)
            for part, pixels in split.parts.items():
                log.info("%s: %s", part, ", ".join(f"{n} {k:,}" for n, k in pixels.counts().items()))
            unseen = [n for n, k in split.validation.counts().items() if not k]
            if unseen:
                log.warning(
                    "No validation pixels for %s: the choice of the epoch ignores it", ", ".join(unseen)
                )
            try:
                config = NetworkConfig(
                    **{
                        "classes": len(labelled.legend),
                        "stages": stages,
                        "ms_bands": len(statistics.ms_bands),
                        "patch_size": patch.size,
                        **(network or {}),
                    }
                )
                settings = loop.LoopSettings(
                    epochs=epochs,
                    batch_size=batch_size,
                    samples_per_class=samples_per_class or _default_samples(split.train, on_cpu),
                    learning_rate=learning_rate,
                    weight_decay=weight_decay,
                    label_smoothing=label_smoothing,
                    seed=seed,
                )
            except ValidationError as error:
                first = error.errors()[0]
                name_of_setting = ".".join(map(str, first["loc"])) or "network"
                raise InputError(
                    f"Training cannot run with {name_of_setting} {first.get('input')!r}: {first['msg']}"
                ) from error
            report = pair.report()
            if not helper:
                begin(
                    work,
                    {
                        "network": config.model_dump(),
                        "settings": {
                            **settings.model_dump(),
                            "bands": [b.number for b in pair.bands],
                            "nodata": nodata,
                            "mask": report.mask and report.mask.model_dump(mode="json"),
                            "shift_corrected": report.shift_corrected
                            and report.shift_corrected.model_dump(mode="json"),
                        },
                        "split": split.summary(),
                        "legend": labelled.legend.model_dump(mode="json"),
                    },
                    resume=resume,
                )
            test = _thinned(split.test, MAX_TEST_PER_CLASS, seed)
            validation = _thinned(split.validation, 100 if on_cpu else 500, seed)
            data_of_run = loop.RunData(
                train=PatchDataset(reader, split.train),
                batches=functools.partial(
                    BalancedBatches,
                    split.train,
                    per_class=settings.samples_per_class,
                    batch_size=batch_size,
                    seed=seed,
                ),
                validation=PatchDataset(reader, validation),
            )
            with _explained(work, device, batch_size):
                outcome = loop.run_loop(
                    _new_network(config, seed),
                    data_of_run,
                    settings,
                    labelled.legend,
                    chosen,
                    work,
                    resume=resume,
                    progress=progress,
                )
                if helper:
                    # Lightning started this process by running the caller's program once more.
                    # If this returned, the program would go on, and do all that follows a second time.
                    sys.exit(0)
                net = Das2fNet(config)
                net.load_state_dict(safetensors.torch.load_file(work / BEST_NAME))
                where = torch.device("cpu" if on_cpu else _cuda_name(chosen))
                with progress("Testing", len(test)) as advance:
                    found = loop.predict(net, PatchDataset(reader, test), 2 * batch_size, where, advance)
            ids = np.array(labelled.legend.ids)
            matrix = ConfusionMatrix.from_arrays(test.classes, ids[found], labelled.legend)
            # One layer in place of two says the same in a fortieth of the space.
            net.fold_classifier()
            card = ModelCard(
                name=name or folder.name,
                description=description,
                network=net.config,
                legend=labelled.legend,
                ms_bands=statistics.ms_bands,
                pan_band=statistics.pan_band,
                patch=patch,
                domain=domain_around(pair.ms_gsd_m, pair.ratio),
                training=TrainingRecord(
                    data=data
                    or f"{Path(str(ms)).name} + {Path(str(pan)).name}, labels {Path(str(labels)).name}",
                    split={**split.summary(), "validation_used": len(validation), "test_used": len(test)},
                    settings={
                        **settings.model_dump(),
                        "best_epoch": outcome.best_epoch,
                        "epochs_done": len(outcome.history),
                        "precision": chosen.precision,
                        "device": chosen.accelerator,
                        "devices": devices,
                        "coregistration": coregistered.describe(),
                    },
                    notes="stopped early on request" if outcome.interrupted else "",
                ),
                metrics={"test": matrix.to_dict()},
                software_version=__version__,
                licence=licence,
            )
        write_bundle(bundle_output, card, net, outcome.history, matrix, split, pair.grids.ms)
    if not outcome.interrupted:
        discard(work)
    log.info(
        "test: OA %s, AA %s, kappa %s",
        percent(matrix.overall_accuracy),
        percent(matrix.average_accuracy),
        "–" if matrix.kappa is None else f"{matrix.kappa:.3f}",
    )
    bundle = load_bundle(folder)
    return TrainingResult(folder, bundle, matrix, outcome.best_epoch, outcome.history, outcome.interrupted)


def _require_lightning() -> None:
    try:
        import das2f_map.training.loop  # noqa: F401 - only whether its packages are there
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise MissingDependencyError(
            "training needs the package lightning, which is not installed", "pip install 'das2f-map[train]'"
        ) from error


def _new_network(config: NetworkConfig, seed: int) -> Das2fNet:
    """Fresh weights that depend on the seed; the caller's random state stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Das2fNet(config)


@contextmanager
def _explained(work: Path, device: str, batch_size: int) -> Iterator[None]:
    """Turns what a user can mend into errors that say how; a state without a whole epoch is removed."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, safetensors.SafetensorError) as error:
        if out_of_memory(error):
            raise DeviceError(
                f"{device} ran out of memory with batches of {batch_size}",
                "train with a smaller --batch-size",
            ) from error
        # torch and safetensors report a failed write in their own ways.
        if not disk_is_full(error, work):
            raise
        raise OutputError(f"No space left for the training's state in {work}") from error
    finally:
        discard_empty(work)


def _usable_labels(
    pair: ScenePair,
    reader: PatchReader,
    path: str | Path,
    class_field: str | None,
    skip_classes: Sequence[str],
    seed: int,
    progress: Progress,
) -> LabelTable:
    """Labels on pixels that both sensors see."""
    table = read_labels(
        path, pair.grids.ms, class_field=class_field, skip_classes=skip_classes, progress=progress
    )
    table = limit_blocks(table, BLOCK, MAX_BLOCKS, seed)
    valid = reader.load(table.rows, table.cols, progress)
    if not valid.all():
        log.warning("%d labelled pixels left out: no valid data there", int((~valid).sum()))
        table = table.select(valid)
    require_trainable(table, str(path))
    return table


def _default_samples(train: LabelTable, on_cpu: bool) -> int:
    return int(np.clip(np.median(list(train.counts().values())), 50, 200 if on_cpu else 1000))


def _thinned(table: LabelTable, per_class: int, seed: int) -> LabelTable:
    rng = np.random.default_rng([seed, 1])
    keep = []
    for c in table.legend.each():
        members = np.flatnonzero(table.classes == c.id)
        keep.append(rng.permutation(members)[:per_class])
    return table.select(np.sort(np.concatenate(keep)))


def _device(device: str, devices: int) -> Device:
    from das2f_map.training.loop import Device

    first = resolve_device(device)
    if devices < 1:
        raise DeviceError(f"At least one device is needed, not {devices}")
    strategy = "auto" if devices == 1 else "ddp"
    if first.type == "cpu":
        say_if_missing()
        return Device(accelerator="cpu", devices=devices, strategy=strategy, precision="32-true")
    if devices > torch.cuda.device_count():
        raise DeviceError(f"{devices} GPUs were asked for, PyTorch sees {torch.cuda.device_count()}")
    # float16 would need loss scaling and overflows in the scan; bfloat16 has float32's range.
    precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    chosen: int | list[int] = devices if devices > 1 else [first.index or 0]
    return Device(accelerator="cuda", devices=chosen, strategy=strategy, precision=precision)


def _cuda_name(chosen: Device) -> str:
    return f"cuda:{chosen.devices[0]}" if isinstance(chosen.devices, list) else "cuda:0"
