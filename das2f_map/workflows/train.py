"""Train a model: labels and an image pair in, a model bundle out.

Four steps. :func:`~das2f_map.training.prepare.prepare` reads scene and labels and splits the labelled pixels
by spatial blocks. The loop trains on the training part and chooses the epoch by the validation part. Accuracy
is measured once, on the test part, which takes part in no choice. The bundle is written.

During training, its state lies in the folder ``<output>.training`` next to the bundle. ``resume`` continues
from that folder, and a complete training removes it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from das2f_map._version import __version__
from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.bundle.card import ModelCard, TrainingRecord, domain_around
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.memory import out_of_memory
from das2f_map.errors import DeviceError, MissingDependencyError, OutputError
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.outputs.write_errors import disk_is_full
from das2f_map.progress import Progress, silent
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.registration import DEFAULT_MAX_SHIFT, CoregisterMode
from das2f_map.scene.request import PairRequest
from das2f_map.training.dataset import PatchDataset
from das2f_map.training.hardware import find_hardware
from das2f_map.training.predict import predict
from das2f_map.training.prepare import Prepared, prepare
from das2f_map.training.request import CardTexts, LabelRequest, TrainRequest
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
from das2f_map.training.settings import TrainingSettings

if TYPE_CHECKING:
    from das2f_map.training.loop import LoopOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    ``interrupted`` is true if the user ended it early. The bundle then holds the best epoch so far, and
    ``resume`` can continue.
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
    stages: int = TrainingSettings.stages,
    epochs: int = TrainingSettings.epochs,
    batch_size: int = TrainingSettings.batch_size,
    device: str = TrainingSettings.device,
    devices: int = TrainingSettings.devices,
    seed: int = TrainingSettings.seed,
    resume: bool = False,
    samples_per_class: int | None = TrainingSettings.samples_per_class,
    learning_rate: float = TrainingSettings.learning_rate,
    weight_decay: float = TrainingSettings.weight_decay,
    label_smoothing: float = TrainingSettings.label_smoothing,
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
        Polygons, points or a raster of classes; see :func:`das2f_map.labels.labelled_pixels.read_labels`.
    output:
        Bundle folder to make.
    class_field, skip_classes:
        Attribute with the class; classes to leave out.
    bands:
        MS bands to use, in this order: name in the model card → number in the file, from 1, or name in the
        file. By default all bands except alpha, under their names in the file.
    nodata:
        Nodata value that the files do not declare, for both. An MS pixel is invalid if all bands in use have
        it.
    mask:
        Pixels to leave out: a vector or raster file, or a :class:`MaskFile`.
    stages:
        Fusion stages, 1 or 2.
    epochs, batch_size, learning_rate, weight_decay, label_smoothing:
        Settings of the optimisation: AdamW, a warm-up, then a cosine decay. ``batch_size`` holds for each
        device. The ranges are in :class:`~das2f_map.training.settings.TrainingSettings`.
    device, devices:
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; number of GPUs that share the work.
    seed:
        Decides the split, the initial weights and the order of samples. On the CPU two runs with the same
        seed give the same weights.
    resume:
        Continue an interrupted training of the same ``output`` and settings.
    samples_per_class:
        Training patches of each class in an epoch; by default as many as the median class has pixels, within
        limits that depend on the device.
    name, description, data, licence:
        Texts of the model card; ``name`` defaults to the folder's name, ``data`` to the file names.
    overwrite:
        Replace an existing bundle, or an unfinished training of it.
    force:
        Accept MS : PAN ratios under 1.5 or over 8.
    coregistration, max_shift:
        Treatment of a shift between the contents of the images, and the largest shift that is accepted, in
        PAN pixels; see :func:`das2f_map.scene.registration.coregister`.
    network:
        Fields of :class:`NetworkConfig` to change, for experiments.

    Raises
    ------
    InputError, LabelError
        Images, labels or settings cannot be used.
    OutputError
        The bundle exists, or cannot be written.
    MissingDependencyError
        Lightning is not installed.
    DeviceError
        The device is not there, or ran out of memory.
    ModelError
        The training diverged.
    """
    request = TrainRequest(
        PairRequest.of(
            ms,
            pan,
            bands=bands,
            nodata=nodata,
            mask=mask,
            coregistration=coregistration,
            max_shift=max_shift,
            force=force,
        ),
        LabelRequest(str(labels), class_field, tuple(skip_classes)),
        Path(output),
        TrainingSettings(
            stages=stages,
            epochs=epochs,
            batch_size=batch_size,
            samples_per_class=samples_per_class,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            seed=seed,
            device=device,
            devices=devices,
        ),
        CardTexts(name, description, data, licence),
        network or {},
        resume=resume,
        overwrite=overwrite,
    )
    return run_training(request, progress)


def run_training(request: TrainRequest, progress: Progress = silent) -> TrainingResult:
    """Prepare, fit, assess, write; returns and raises as :func:`train` does."""
    _require_lightning()
    # With several processes, Lightning starts all but the first by running the caller's program again.
    helper = int(os.environ.get("LOCAL_RANK", "0")) > 0
    if helper:
        progress = silent
    folder = named(request.output)
    hardware = find_hardware(request.settings)
    work = working_path(folder)
    with (
        training_output(folder, resume=request.resume, overwrite=request.overwrite, helper=helper) as output,
        prepare(request, hardware, progress) as prepared,
    ):
        if not helper:
            begin(work, prepared.note(), resume=request.resume)
        with _explained(work, request.settings):
            outcome = _fit(prepared, work, progress, resume=request.resume)
            if helper:
                # This process runs the caller's program a second time. If the function returned here, the
                # program would repeat everything that it does after training.
                sys.exit(0)
            net = Das2fNet(prepared.config)
            net.load_state_dict(safetensors.torch.load_file(work / BEST_NAME))
            matrix = _assess(net, prepared, progress)
        # The folded single layer is equivalent to the two layers and takes a fortieth of the space.
        net.fold_classifier()
        card = _card(request, folder, prepared, net.config, outcome, matrix)
        split, grid = prepared.samples.split, prepared.input.pair.grids.ms
        write_bundle(output, card, net, outcome.history, matrix, split, grid)
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


def _fit(prepared: Prepared, work: Path, progress: Progress, *, resume: bool) -> LoopOutcome:
    """Train a new network; afterwards its best weights are in the working folder."""
    from das2f_map.training.loop import LoopRun, run_loop

    run = LoopRun(
        train=PatchDataset(prepared.reader, prepared.samples.train),
        validation=PatchDataset(prepared.reader, prepared.samples.validation),
        settings=prepared.settings,
        hardware=prepared.hardware,
        folder=work,
        resume=resume,
    )
    # Fresh weights depend on the seed alone; the caller's random state stays as it is.
    with torch.random.fork_rng():
        torch.manual_seed(prepared.settings.seed)
        network = Das2fNet(prepared.config)
    return run_loop(network, run, progress)


def _assess(net: Das2fNet, prepared: Prepared, progress: Progress) -> ConfusionMatrix:
    """Accuracy of a network on the test part."""
    test = prepared.samples.test
    batch_size = 2 * prepared.settings.batch_size
    with progress("Testing", len(test)) as advance:
        found = predict(
            net, PatchDataset(prepared.reader, test), batch_size, prepared.hardware.first, advance
        )
    return ConfusionMatrix.from_arrays(test.classes, test.legend.ids_at(found), test.legend)


def _card(
    request: TrainRequest,
    folder: Path,
    prepared: Prepared,
    network: NetworkConfig,
    outcome: LoopOutcome,
    matrix: ConfusionMatrix,
) -> ModelCard:
    source, samples = prepared.input, prepared.samples
    return ModelCard(
        name=request.card.name or folder.name,
        description=request.card.description,
        network=network,
        legend=samples.legend,
        ms_bands=source.normalisation.ms_bands,
        pan_band=source.normalisation.pan_band,
        patch=source.patch,
        domain=domain_around(source.pair.ms_gsd_m, source.pair.ratio),
        training=TrainingRecord(
            data=request.data,
            split={
                **samples.split.summary(),
                "validation_used": len(samples.validation),
                "test_used": len(samples.test),
            },
            settings={
                **prepared.settings.recorded(),
                "best_epoch": outcome.best_epoch,
                "epochs_done": len(outcome.history),
                "precision": prepared.hardware.precision,
                "device": prepared.hardware.accelerator,
                "devices": prepared.settings.devices,
                "coregistration": prepared.coregistration.summary().model_dump(mode="json"),
            },
            notes="stopped early on request" if outcome.interrupted else "",
        ),
        metrics={"test": matrix.to_dict()},
        software_version=__version__,
        licence=request.card.licence,
    )


def _require_lightning() -> None:
    try:
        import das2f_map.training.loop  # noqa: F401 - only to see whether it can be imported
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise MissingDependencyError(
            "training needs the package lightning, which is not installed",
            "pip install '.[train]' in the checkout",
        ) from error


@contextmanager
def _explained(work: Path, settings: TrainingSettings) -> Iterator[None]:
    """Turn a lack of memory or disk space into a clear error; remove a state without a whole epoch."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, safetensors.SafetensorError) as error:
        if out_of_memory(error):
            raise DeviceError(
                f"{settings.device} ran out of memory with batches of {settings.batch_size}",
                "train with a smaller --batch-size",
            ) from error
        # torch and safetensors report a failed write in their own ways.
        if not disk_is_full(error, work):
            raise
        raise OutputError(f"No space left for the training's state in {work}") from error
    finally:
        discard_empty(work)
