"""The training loop, run by Lightning. This module and :mod:`.learner` alone import it.

Lightning brings device and precision handling, several GPUs, gradient clipping and exact resuming;
its banners, loggers, progress bars and checkpoint folders stay off.
"""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from das2f_map.legend import Legend
from das2f_map.outputs.whole_files import written_whole
from das2f_map.progress import Progress
from das2f_map.training.batches import DrawnBatches, PatchDataset, PlainBatches
from das2f_map.training.hardware import Hardware
from das2f_map.training.learner import Batch, Learner, state_of
from das2f_map.training.opinions import Opinions
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.training.settings import TrainingSettings
from das2f_map.types import Float32

log = logging.getLogger(__name__)

_TERMINATED = 128 + signal.SIGTERM
"""Exit status that the command line gives a run that was told to end."""


@dataclass(frozen=True)
class LoopRun:
    """A run of the loop: the patches to learn from, the patches to check on, and the place of its state.

    Attributes
    ----------
    title:
        Of the progress bar.
    train:
        Labelled patches to learn from.
    held:
        Labelled patches that accuracy is measured on at every check; ``None`` for no checks.
    settings:
        Of the optimisation; ``steps`` has to be a number.
    hardware:
        Where to train.
    state:
        File of the last state; it goes when the run is complete.
    stop_after:
        Checks after which the run ends, though the learning rate's schedule would go on.
    resume:
        Go on from the state, if it is there.
    learner:
        Makes the learner from network, settings, legend and steps.
    keep_weights:
        Whether the weights of every check are of use afterwards.
    scene_pixels:
        Pixels without labels by which a pooled head standardises its features; ``None``: by those of the
        training batches.
    opinions:
        Opinions of other classifiers, which are learnt beside the labels.
    says_checks:
        Whether a line says what a check has found.
    """

    title: str
    train: PatchDataset
    held: PatchDataset | None
    settings: TrainingSettings
    hardware: Hardware
    state: Path
    stop_after: int
    resume: bool = False
    learner: Callable[[nn.Module, TrainingSettings, Legend, int], Learner] = Learner
    keep_weights: bool = False
    scene_pixels: ScenePixels | None = None
    opinions: Opinions | None = None
    says_checks: bool = True

    @property
    def steps_a_check(self) -> int:
        """Steps between two checks."""
        assert self.settings.steps is not None, "the default depends on the labels"
        return max(1, self.settings.steps // self.settings.checks)

    def batches(self, rank: int, world_size: int) -> DrawnBatches:
        """The training batches of one of several processes."""
        return DrawnBatches(
            self.train.pixels.positions,
            steps=self.steps_a_check,
            batch_size=self.settings.batch_size,
            balance=self.settings.balance,
            seed=self.settings.seed,
            rank=rank,
            world_size=world_size,
        )


@dataclass(frozen=True, eq=False)
class LoopOutcome:
    """The record of a run.

    Attributes
    ----------
    history:
        Steps, losses, accuracies and learning rate at every check.
    logits:
        Of the held-out pixels, float32 (checks, n, C).
    weights:
        State dict of the network that is kept.
    each:
        State dicts at every check, if they were to be kept.
    complete:
        Whether all checks were done.
    interrupted:
        Whether the user asked to stop, be it during the last step.
    share_of_cnns:
        Weight of the small CNNs in other classifiers' opinions; ``None`` if none were learnt.
    """

    history: list[dict[str, Any]]
    logits: Float32
    weights: dict[str, Tensor]
    each: list[dict[str, Tensor]]
    complete: bool
    interrupted: bool
    share_of_cnns: float | None


class _Keeper(pl.Callback):
    """Keeps the last state, moves the progress bar, obeys Ctrl-C."""

    def __init__(self, state: Path, advance: Callable[[int], None], stop: threading.Event) -> None:
        self._state, self._advance, self._stop = state, advance, stop
        self.stopped = False

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._advance(1)
        # Several processes have to agree, or one would wait for the others for ever.
        if trainer.strategy.reduce_boolean_decision(self._stop.is_set(), all=False):
            self.stopped = trainer.should_stop = True
            # The steps since the last check must not pass for all up to the next one.
            module.cut_short = index + 1 < trainer.num_training_batches

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if module.cut_short:
            return
        module.record_check()
        with written_whole(self._state, by_me=trainer.is_global_zero) as partial:
            # Every process has to call this; one of them writes.
            trainer.save_checkpoint(partial)


def run_loop(network: nn.Module, run: LoopRun, progress: Progress) -> LoopOutcome:
    """Train a network in place. The caller's random state stays as it is.

    Raises
    ------
    ModelError
        The loss stopped being finite, or the checkpoint cannot be read.
    KeyboardInterrupt
        Interrupted before the first check was complete, or a second time.
    """
    stop = threading.Event()
    steps = run.settings.checks * run.steps_a_check
    learner = run.learner(network, run.settings, run.train.pixels.legend, steps)
    learner.keeps_weights, learner.scene_pixels = run.keep_weights, run.scene_pixels
    learner.opinions, learner.says_checks = run.opinions, run.says_checks
    state = run.state if run.resume and run.state.exists() else None
    total = run.stop_after * run.steps_a_check
    with _quiet(), _graceful(stop), _own_random(run.hardware), progress(run.title, total) as advance:
        keeper = _Keeper(run.state, advance, stop)
        trainer = _trainer(run, keeper)
        try:
            # weights_only: a checkpoint is data, never code to run.
            trainer.fit(learner, datamodule=_Loaders(run), ckpt_path=state, weights_only=True)
        except SystemExit as end:
            if end.code == _TERMINATED:
                raise
            # Lightning turns KeyboardInterrupt into this.
            raise KeyboardInterrupt from None
    if not learner.history:
        raise KeyboardInterrupt
    complete = len(learner.history) >= run.stop_after
    return LoopOutcome(
        learner.history,
        _stacked(learner.logits),
        state_of(learner.kept),
        learner.weights,
        complete,
        keeper.stopped or stop.is_set(),
        None if run.opinions is None else run.opinions.share,
    )


def _stacked(logits: list[Tensor]) -> Float32:
    return torch.stack(logits).numpy() if logits else np.zeros((0, 0, 0), np.float32)


def _trainer(run: LoopRun, keeper: _Keeper) -> pl.Trainer:
    """Lightning's trainer, with nothing that would print, log or keep files of its own."""
    hardware = run.hardware
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy=hardware.strategy,
        precision=hardware.precision,  # type: ignore[arg-type]  # a str; Lightning lists all literally
        max_epochs=run.stop_after,
        gradient_clip_val=run.settings.gradient_clip,
        sync_batchnorm=hardware.processes > 1 and not hardware.on_cpu,
        callbacks=[keeper],
        default_root_dir=run.state.parent,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if run.held is not None else 0,
        use_distributed_sampler=False,
    )


class _Loaders(pl.LightningDataModule):
    """Loaders, made when rank and world size are known."""

    def __init__(self, run: LoopRun) -> None:
        super().__init__()
        self._run = run

    def _place(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def train_dataloader(self) -> DataLoader[Batch]:
        return _loader(self._run.train, self._run.batches(**self._place()))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self._run.held is None:
            return []
        # Every process checks all held-out pixels: they are few, and all have to come to the same result.
        dataset = self._run.held
        return _loader(dataset, PlainBatches(len(dataset), 2 * self._run.settings.batch_size))


def _loader(dataset: PatchDataset, batches: Any) -> DataLoader[Batch]:
    # batch_size=None: the sampler yields whole batches and the dataset cuts them at once.
    return DataLoader(dataset, batch_size=None, sampler=batches, num_workers=0, pin_memory=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's messages and warnings are for people who write loops, not for those who train a map."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    loggers = [logging.getLogger(n) for n in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Advice on data loaders and schedulers, which a user of `train` has no say in.
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", module=r"torch\..*")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextmanager
def _own_random(hardware: Hardware) -> Iterator[None]:
    """The loop seeds torch's random numbers; the caller's stay as they are."""
    with torch.random.fork_rng(devices=() if hardware.on_cpu else range(torch.cuda.device_count())):
        yield


@contextmanager
def _graceful(stop: threading.Event) -> Iterator[None]:
    """First Ctrl-C: finish with what there is. Second: stop at once."""
    if threading.current_thread() is not threading.main_thread():
        # Signals belong to the main thread; there Ctrl-C does what its owner wants.
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        log.warning("Stopping after this step (Ctrl-C again: stop at once)")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
