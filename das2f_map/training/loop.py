"""The training loop, run by Lightning. The only module that imports it.

Lightning brings device and precision handling, several GPUs, gradient clipping and exact resuming;
its banners, loggers, progress bars and checkpoint folders stay off.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.errors import ModelError
from das2f_map.legend import Legend
from das2f_map.outputs.whole_files import written_whole
from das2f_map.progress import Progress
from das2f_map.training.dataset import BalancedBatches, PatchDataset, PlainBatches
from das2f_map.training.run_files import BEST_NAME, LAST_NAME
from das2f_map.types import Int64

log = logging.getLogger(__name__)

_TERMINATED = 128 + signal.SIGTERM
"""Exit status that the command line gives a run that was told to end."""

Batch = tuple[Tensor, Tensor, Tensor]
"""MS patches, PAN patches, class positions."""


class LoopSettings(BaseModel):
    """What the loop can be told; goes into the model card as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    samples_per_class: int = Field(ge=1, description="training patches of each class in an epoch")
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of all steps with a rising rate")
    final_rate: float = Field(default=0.01, ge=0, le=1, description="last rate over the peak rate")
    gradient_clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    optimizer: str = "AdamW"
    seed: int


class Device(BaseModel):
    """Where to train, in Lightning's words."""

    model_config = ConfigDict(frozen=True)

    accelerator: str
    devices: int | list[int]
    strategy: str
    precision: str


class LoopOutcome(BaseModel):
    """What a run of the loop leaves beside the files in its folder."""

    history: list[dict[str, Any]]
    best_epoch: int
    interrupted: bool


@dataclass(frozen=True)
class RunData:
    """What is trained and chosen on."""

    train: PatchDataset
    batches: Callable[..., BalancedBatches]
    """``batches(rank=…, world_size=…)`` makes the training sampler of one process."""
    validation: PatchDataset


class _Learner(pl.LightningModule):
    """Network, loss, optimiser and the record of every epoch."""

    def __init__(self, network: nn.Module, settings: LoopSettings, legend: Legend, steps: int) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.legend = legend
        self._steps = steps
        self._loss_sum = torch.zeros(())
        self._loss_n = 0
        self._validation_loss = torch.zeros(())
        self._counts = torch.zeros(0)
        self._started = 0.0
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, float] = (-1.0, -math.inf)
        self.best_epoch = 0
        self.cut_short = False
        """Whether training was stopped inside the current epoch."""

    # Lightning passes a batch index to each step; nothing here depends on it.

    def on_train_epoch_start(self) -> None:
        self._loss_sum = torch.zeros((), device=self.device)
        self._loss_n = 0
        self._started = time.monotonic()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        ms, pan, target = batch
        logits = self.network(ms, pan)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=self.settings.label_smoothing)
        self._loss_sum += loss.detach()
        self._loss_n += 1
        # Looking at the loss makes the CPU wait for the GPU: not after every step.
        if index % 20 == 0:
            self._require_finite(self._loss_sum)
        return loss

    def _require_finite(self, loss: Tensor | float) -> None:
        if not math.isfinite(float(loss)):
            raise ModelError(
                f"training diverged: the loss is no longer a number in epoch {self.current_epoch + 1}",
                f"train with a lower learning rate than {self.settings.learning_rate:g}",
            )

    def on_validation_epoch_start(self) -> None:
        n = len(self.legend)
        self._counts = torch.zeros(n * n, dtype=torch.int64, device=self.device)
        self._validation_loss = torch.zeros((), device=self.device)

    def validation_step(self, batch: Batch, index: int) -> None:
        if self.cut_short:
            return
        ms, pan, target = batch
        logits = self.network(ms, pan).float()
        self._validation_loss += F.cross_entropy(logits, target, reduction="sum")
        n = len(self.legend)
        self._counts += torch.bincount(target * n + logits.argmax(1), minlength=n * n)

    def on_validation_epoch_end(self) -> None:
        if self.cut_short:
            return
        self._require_finite(self._loss_sum)
        strategy = self.trainer.strategy
        n = len(self.legend)
        counts = strategy.reduce(self._counts, reduce_op="sum").cpu().numpy().reshape(n, n)
        loss = float(strategy.reduce(self._validation_loss, reduce_op="sum")) / max(1, int(counts.sum()))
        self._require_finite(loss)
        matrix = ConfusionMatrix(self.legend, counts.astype(np.int64))
        train_loss = float(strategy.reduce(self._loss_sum, reduce_op="mean")) / max(1, self._loss_n)
        quality = (matrix.average_accuracy or 0.0, -loss)
        improved = quality > self.best
        if improved:
            self.best, self.best_epoch = quality, self.current_epoch + 1
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "loss": train_loss,
                "validation_loss": loss,
                "validation_overall_accuracy": matrix.overall_accuracy,
                "validation_average_accuracy": matrix.average_accuracy,
                "validation_kappa": matrix.kappa,
                "learning_rate": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
                "seconds": round(time.monotonic() - self._started, 3),
                "best": improved,
            }
        )
        if self.trainer.is_global_zero:
            log.info(
                "epoch %d/%d: loss %.4f, validation loss %.4f, OA %s, AA %s%s (%.0f s)",
                self.current_epoch + 1,
                self.settings.epochs,
                train_loss,
                loss,
                percent(matrix.overall_accuracy),
                percent(matrix.average_accuracy),
                ", the best so far" if improved else "",
                time.monotonic() - self._started,
            )

    def configure_optimizers(self) -> Any:
        decayed: list[Tensor] = []
        free: list[Tensor] = []
        for name, parameter in self.network.named_parameters():
            # Norms, biases and the scan's own A and D are scales, not weights of a sum.
            scale = parameter.ndim < 2 or name.rsplit(".", 1)[-1].lower().startswith(
                ("a_log", "d_skip", "ds")
            )
            (free if scale else decayed).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.settings.weight_decay},
            {"params": free},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to ``final_rate``; relative to the peak."""
        rising = max(1, round(self.settings.warmup * self._steps))
        if step < rising:
            return (step + 1) / rising
        along = min(1.0, (step - rising) / max(1, self._steps - rising))
        low = self.settings.final_rate
        return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * along))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["das2f"] = {
            "history": self.history,
            "best": list(self.best),
            "best_epoch": self.best_epoch,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        record = checkpoint["das2f"]
        self.history = list(record["history"])
        self.best = (float(record["best"][0]), float(record["best"][1]))
        self.best_epoch = int(record["best_epoch"])


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


def run_loop(
    network: nn.Module,
    data: RunData,
    settings: LoopSettings,
    legend: Legend,
    device: Device,
    folder: Path,
    *,
    resume: bool,
    progress: Progress,
) -> LoopOutcome:
    """Train ``network`` in place; the best weights lie in ``folder / BEST_NAME`` afterwards.

    Parameters
    ----------
    folder:
        Working folder for the last state and the best weights.
    resume:
        Continue from ``folder / LAST_NAME``.

    Raises
    ------
    ModelError
        The loss stopped being finite, or the checkpoint cannot be read.
    KeyboardInterrupt
        Interrupted before the first epoch was complete, or a second time.
    """
    stop = threading.Event()
    processes = device.devices if isinstance(device.devices, int) else len(device.devices)
    steps = settings.epochs * len(data.batches(rank=0, world_size=processes))
    learner = _Learner(network, settings, legend, steps)
    with _quiet(), _graceful(stop), progress("Training", steps) as advance:
        trainer = pl.Trainer(
            accelerator=device.accelerator,
            devices=device.devices,
            strategy=device.strategy,
            precision=device.precision,  # type: ignore[arg-type]  # a str; Lightning lists all literally
            max_epochs=settings.epochs,
            gradient_clip_val=settings.gradient_clip,
            sync_batchnorm=processes > 1 and device.accelerator == "cuda",
            callbacks=[_Keeper(folder, advance, stop)],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            # weights_only: a checkpoint is data, never code to run.
            trainer.fit(
                learner,
                datamodule=_Data(data, settings.batch_size),
                ckpt_path=folder / LAST_NAME if resume else None,
                weights_only=True,
            )
        except SystemExit as end:
            if end.code == _TERMINATED:
                raise
            # Lightning turns KeyboardInterrupt into this.
            raise KeyboardInterrupt from None
    interrupted = stop.is_set() and len(learner.history) < settings.epochs
    if not learner.history:
        raise KeyboardInterrupt
    return LoopOutcome(history=learner.history, best_epoch=learner.best_epoch, interrupted=interrupted)


class _Data(pl.LightningDataModule):
    """Loaders, made when rank and world size are known."""

    def __init__(self, data: RunData, batch_size: int) -> None:
        super().__init__()
        self._run = data
        self._batch_size = batch_size

    def _place(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def train_dataloader(self) -> DataLoader[Batch]:
        return _loader(self._run.train, self._run.batches(**self._place()))

    def val_dataloader(self) -> DataLoader[Batch]:
        dataset = self._run.validation
        return _loader(dataset, PlainBatches(len(dataset), 2 * self._batch_size, **self._place()))


def _loader(dataset: PatchDataset, batches: Any) -> DataLoader[Batch]:
    # batch_size=None: the sampler yields whole batches and the dataset cuts them at once.
    return DataLoader(dataset, batch_size=None, sampler=batches, num_workers=0, pin_memory=False)


def predict(
    network: nn.Module,
    dataset: PatchDataset,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> Int64:
    """Position of the winning class for every patch of a dataset, int64 ``(n,)``."""
    network = network.to(device).eval()
    found = []
    with torch.inference_mode():
        for batch in PlainBatches(len(dataset), batch_size):
            ms, pan, _ = dataset[batch]
            found.append(network(ms.to(device), pan.to(device)).argmax(1).cpu().numpy())
            advance(batch.positions.size)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


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
