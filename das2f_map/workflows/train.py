"""Train a model: labelled scenes in, a model bundle out.

Four steps. :func:`~das2f_map.training.prepare.prepare` reads scenes and labels. Networks are trained with
ground held out: in spatial folds, or once. They give the accuracy, and choose the number of steps and the
temperature of the probabilities. The model is then trained on all labels. The bundle is written.

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
from typing import Any

import safetensors

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.memory import out_of_memory
from das2f_map.errors import DeviceError, MissingDependencyError, OutputError
from das2f_map.installation import install_extra
from das2f_map.network import NetworkConfig
from das2f_map.outputs.write_errors import disk_is_full
from das2f_map.progress import Progress, silent
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.paths import given_path
from das2f_map.scene.registration import DEFAULT_MAX_SHIFT, CoregisterMode
from das2f_map.scene.request import PairRequest
from das2f_map.training.assessment import Assessment
from das2f_map.training.hardware import find_hardware
from das2f_map.training.prepare import prepare
from das2f_map.training.record import class_shares, make_card, training_files
from das2f_map.training.request import CardTexts, LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.run import TrainingRun
from das2f_map.training.run_files import (
    begin,
    discard,
    discard_empty,
    named,
    training_output,
    working_path,
    write_bundle,
)
from das2f_map.training.settings import AUTO, FRESH, TrainingSettings
from das2f_map.training.start import find_start, named_start

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes
    ----------
    folder, bundle:
        The model.
    assessment:
        Figures on held-out ground; ``None`` if none was held out.
    interrupted:
        Whether the user ended the training on all labels early. ``resume`` can continue.
    """

    folder: Path
    bundle: ModelBundle
    assessment: Assessment | None
    interrupted: bool

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.bundle.card

    @property
    def test(self) -> ConfusionMatrix | None:
        """Confusion matrix of the held-out pixels."""
        return None if self.assessment is None else self.assessment.matrix


def train(
    ms: str | Path,
    pan: str | Path | None,
    labels: str | Path,
    output: str | Path,
    *,
    class_field: str | None = None,
    layer: str | None = None,
    skip_classes: Sequence[str] = (),
    bands: GivenBands | None = None,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    reflectance: bool = PairRequest.reflectance,
    stages: int = TrainingSettings.stages,
    head: str = TrainingSettings.head,
    assess: str = TrainingSettings.assess,
    folds: int = TrainingSettings.folds,
    fold_by: str = TrainingSettings.fold_by,
    steps: int | None = TrainingSettings.steps,
    fast: bool = TrainingSettings.fast,
    batch_size: int = TrainingSettings.batch_size,
    device: str = TrainingSettings.device,
    devices: int = TrainingSettings.devices,
    seed: int = TrainingSettings.seed,
    resume: bool = False,
    balance: float = TrainingSettings.balance,
    learning_rate: float = TrainingSettings.learning_rate,
    weight_decay: float = TrainingSettings.weight_decay,
    label_smoothing: float = TrainingSettings.label_smoothing,
    dropout: float = TrainingSettings.dropout,
    statistics: str = TrainingSettings.statistics,
    distillation: float | None = TrainingSettings.distillation,
    jitter: float = TrainingSettings.jitter,
    haze: float = TrainingSettings.haze,
    scenes: Sequence[tuple[str | Path, str | Path | None, str | Path]] = (),
    start: str | Path = AUTO,
    name: str | None = None,
    description: str = "",
    data: str | None = None,
    licence: str = "",
    overwrite: bool = False,
    coregistration: CoregisterMode = PairRequest.coregistration,
    max_shift: float = DEFAULT_MAX_SHIFT,
    force: bool = False,
    network: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> TrainingResult:
    """Train a DAS²F network on the labelled pixels of one or more scenes and write a model bundle.

    Parameters
    ----------
    ms, pan:
        The image pair; or a product as delivered and ``None``, see :mod:`das2f_map.scene.products`.
    labels:
        Polygons, points or a raster of classes; see :func:`das2f_map.labels.labelled_pixels.read_labels`.
    output:
        Bundle folder to make.
    class_field, layer, skip_classes:
        Attribute with the class; layer of the label files, if several fit; classes to leave out.
    bands:
        MS bands to use, in this order: name in the model card → number in the file, from 1, or name in the
        file. By default all bands except alpha, under their names in the file.
    nodata:
        Nodata value that the files do not declare, for both. An MS pixel is invalid if all bands in use have
        it.
    mask:
        Pixels to leave out: a vector or raster file, a :class:`MaskFile`, or ``"clouds"`` for the quality
        band of a product.
    reflectance:
        Read reflectance, by the scale and offset that a product states.
    stages:
        Fusion stages, 1 or 2.
    head:
        ``pooled``: the classifier sees means of windows around the target, and has few weights to learn.
        ``published``: it sees every token of the patch, as in the paper. ``auto`` decides.
    assess, folds, fold_by:
        Ground that is held out for the figures, the number of steps and the temperature: ``folds`` spatial
        folds, a ``holdout``, ``none``, or ``auto`` by the number of labels. ``fold_by="scene"`` holds out
        whole scenes in turn. The model itself is always trained on all labels.
    steps:
        Most steps of a training; held-out ground chooses how many are taken. By default by the number of
        labels.
    fast:
        A first look: few steps and one hold-out.
    batch_size, learning_rate, weight_decay, label_smoothing, dropout, balance:
        Settings of the optimisation: AdamW, a warm-up, then a cosine decay. ``batch_size`` holds for each
        device. The ranges are in :class:`~das2f_map.training.settings.TrainingSettings`.
    statistics:
        Pixels by which the pooled head standardises its features: ``scene`` takes some all over the scenes,
        ``labels`` those of the training batches, ``both`` the mean of the logits by either.
    distillation:
        Weight of the opinions of other classifiers (forests, boosting, small CNNs) on pixels all over the
        scenes, which the network learns beside the labels; 0: none. By default 1 up to 8,000 labelled
        pixels, and 0 with more.
    jitter, haze:
        Strength of random gain, offset and noise; share of the patches with random haze, and with shade.
    scenes:
        Further scenes: MS, PAN (``None`` where MS is a product) and labels of each. Classes are matched by
        name. All scenes are normalised with common statistics, in which each counts alike.
    start:
        Name or path of a model to start from. Its weights are taken over where they fit, bands by name; the
        classifier starts anew. ``auto`` takes a bundled model with the same bands that was trained elsewhere,
        ``none`` fresh weights.
    device, devices:
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; number of GPUs that share the work.
    seed:
        Decides the split, the initial weights and the order of samples. On the CPU two runs with the same
        seed give the same weights.
    resume:
        Continue an interrupted training of the same ``output`` and settings.
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
    triples = [(ms, pan, labels), *scenes]
    request = TrainRequest(
        tuple(
            SceneRequest(
                PairRequest.of(
                    one,
                    other,
                    bands=bands,
                    nodata=nodata,
                    mask=mask,
                    coregistration=coregistration,
                    max_shift=max_shift,
                    force=force,
                    reflectance=reflectance,
                ),
                LabelRequest(given_path(labelled, "labels"), class_field, tuple(skip_classes), layer),
            )
            for one, other, labelled in triples
        ),
        Path(output),
        TrainingSettings(
            stages=stages,
            head=head,
            assess=assess,
            folds=folds,
            fold_by=fold_by,
            steps=steps,
            fast=fast,
            batch_size=batch_size,
            balance=balance,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            dropout=dropout,
            statistics=statistics,
            distillation=distillation,
            jitter=jitter,
            haze=haze,
            seed=seed,
            device=device,
            devices=devices,
        ),
        CardTexts(name, description, data, licence),
        str(start),
        network or {},
        resume=resume,
        overwrite=overwrite,
    )
    return run_training(request, progress)


def run_training(request: TrainRequest, progress: Progress = silent) -> TrainingResult:
    """Prepare, fit on parts of the ground, assess, fit on all labels, write; see :func:`train`."""
    _require_lightning()
    # With several processes, Lightning starts all but the first by running the caller's program again.
    helper = int(os.environ.get("LOCAL_RANK", "0")) > 0
    if helper:
        progress = silent
    folder = named(request.output)
    if request.start not in (AUTO, FRESH):
        _require_start(request)
    hardware = find_hardware(request.settings)
    work = working_path(folder)
    with (
        training_output(folder, resume=request.resume, overwrite=request.overwrite, helper=helper) as output,
        prepare(request, hardware, progress) as prepared,
    ):
        start = find_start(str(request.start), prepared.config, [scene.pair for scene in prepared.scenes])
        if not helper:
            begin(work, prepared.note(start), resume=request.resume)
        run = TrainingRun(prepared, work, start, request.resume, progress)
        with _explained(work, request.settings):
            held = run.held_ground()
            final = run.final(held)
            if helper:
                # This process runs the caller's program a second time. If the function returned here, the
                # program would repeat everything that it does after training.
                sys.exit(0)
            from das2f_map.training.fit import final_network

            net = final_network(prepared, final.weights)
            shares = class_shares(net, prepared, held, hardware.first)
        card = make_card(request, folder, run, net.config, final, held, shares)
        write_bundle(output, card, net, training_files(card, prepared, held, final))
        if final.complete:
            discard(work)
    if card.verdict is not None and not card.verdict.usable:
        log.warning("%s", card.verdict.text)
    return TrainingResult(
        folder, load_bundle(folder), None if held is None else held.assessment, not final.complete
    )


def _require_start(request: TrainRequest) -> None:
    """Refuse a model that the training cannot start from, before the scenes are read."""
    if request.network:
        find_model(request.start)  # sizes of experiments are checked with the scenes
        return
    named_start(request.start, NetworkConfig(classes=2, stages=request.settings.stages))


def _require_lightning() -> None:
    try:
        import das2f_map.training.loop  # noqa: F401 - only to see whether it can be imported
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise MissingDependencyError(
            "training needs the package lightning, which is not installed",
            install_extra("train"),
        ) from error


@contextmanager
def _explained(work: Path, settings: TrainingSettings) -> Iterator[None]:
    """Turn a lack of memory or disk space into a clear error; remove a state without a complete check."""
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
