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
import safetensors.torch
from torch import nn
from torch.utils.data import DataLoader

from das2f_map.outputs.whole_files import written_whole
from das2f_map.progress import Progress
from das2f_map.training.dataset import BalancedBatches, PatchDataset, PlainBatches
from das2f_map.training.hardware import Hardware
from das2f_map.training.learner import Batch, Learner
from das2f_map.training.run_files import BEST_NAME, LAST_NAME
from das2f_map.training.settings import TrainingSettings

log = logging.getLogger(__name__)

_TERMINATED = 128 + signal.SIGTERM
"""Exit status that the command line gives a run that was told to end."""


@dataclass(frozen=True)
class LoopRun:
    """What a run of the loop works on.

    Attributes
    ----------
    train, validation:
        Labelled patches to learn from, and to choose the epoch by.
    settings:
        Of the optimisation; ``samples_per_class`` has to be a number.
    hardware:
        Where to train.
    folder:
        Working folder for the last state and the best weights.
    resume:
        Go on from the last state in the folder.
    """

    train: PatchDataset
    validation: PatchDataset
    settings: TrainingSettings
    hardware: Hardware
    folder: Path
    resume: bool = False

    def batches(self, rank: int, world_size: int) -> BalancedBatches:
        """The training batches of one of several processes."""
        per_class = self.settings.samples_per_class
        assert per_class is not None, "the default depends on the labels"
        return BalancedBatches(
            self.train.table,
            per_class=per_class,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            rank=rank,
            world_size=world_size,
        )


@dataclass(frozen=True)
class LoopOutcome:
    """The record of a run; its weights lie in its folder.

    Attributes
    ----------
    history:
        Losses, accuracies and learning rate of every epoch.
    best_epoch:
        Number of the epoch whose weights were kept, from 1.
    interrupted:
        Whether the run ended early on request.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    interrupted: bool


class _Keeper(pl.Callback):
    """Keeps the best weights and the last state, moves the progress bar, obeys Ctrl-C."""

    def __init__(self, folder: Path, advance: Callable[[int], None], stop: threading.Event) -> None:
        self._folder, self._advance, self._stop = folder, advance, stop

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._advance(1)
        # Several processes have to agree, or one would wait for the others for ever.
        if trainer.strategy.reduce_boolean_decision(self._stop.is_set(), all=False):
            trainer.should_stop = True
            # What is left of the epoch must not pass for a complete one.
            module.cut_short = index + 1 < trainer.num_training_batches

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if module.cut_short:
            return
        if trainer.is_global_zero and module.best_epoch == trainer.current_epoch + 1:
            state = {k: v.detach().cpu().contiguous() for k, v in module.network.state_dict().items()}
            with written_whole(self._folder / BEST_NAME) as partial:
                safetensors.torch.save_file(state, partial)
        with written_whole(self._folder / LAST_NAME, by_me=trainer.is_global_zero) as partial:
            # Every process has to call this; one of them writes.
            trainer.save_checkpoint(partial)


def run_loop(network: nn.Module, run: LoopRun, progress: Progress) -> LoopOutcome:
    """Train ``network`` in place; the best weights lie in ``run.folder / BEST_NAME`` afterwards.

    Raises
    ------
    ModelError
        The loss stopped being finite, or the checkpoint cannot be read.
    KeyboardInterrupt
        Interrupted before the first epoch was complete, or a second time.
    """
    stop = threading.Event()
    epochs = run.settings.epochs
    steps = epochs * len(run.batches(rank=0, world_size=run.hardware.processes))
    learner = Learner(network, run.settings, run.train.table.legend, steps)
    with _quiet(), _graceful(stop), progress("Training", steps) as advance:
        trainer = _trainer(run, _Keeper(run.folder, advance, stop))
        try:
            # weights_only: a checkpoint is data, never code to run.
            trainer.fit(
                learner,
                datamodule=_Loaders(run),
                ckpt_path=run.folder / LAST_NAME if run.resume else None,
                weights_only=True,
            )
        except SystemExit as end:
            if end.code == _TERMINATED:
                raise
            # Lightning turns KeyboardInterrupt into this.
            raise KeyboardInterrupt from None
    if not learner.history:
        raise KeyboardInterrupt
    interrupted = stop.is_set() and len(learner.history) < epochs
    return LoopOutcome(learner.history, learner.best_epoch, interrupted)


def _trainer(run: LoopRun, keeper: _Keeper) -> pl.Trainer:
    """Lightning's trainer, with nothing that would print, log or keep files of its own."""
    hardware = run.hardware
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy=hardware.strategy,
        precision=hardware.precision,  # type: ignore[arg-type]  # a str; Lightning lists all literally
        max_epochs=run.settings.epochs,
        gradient_clip_val=run.settings.gradient_clip,
        sync_batchnorm=hardware.processes > 1 and not hardware.on_cpu,
        callbacks=[keeper],
        default_root_dir=run.folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
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

    def val_dataloader(self) -> DataLoader[Batch]:
        dataset = self._run.validation
        batch_size = 2 * self._run.settings.batch_size
        return _loader(dataset, PlainBatches(len(dataset), batch_size, **self._place()))


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
        log.warning("Stopping after this step; the best epoch so far is kept (Ctrl-C again: stop at once)")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
