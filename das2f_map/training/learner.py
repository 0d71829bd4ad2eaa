"""The Lightning module of a training: network, loss, optimiser and the record of every epoch."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.errors import ModelError
from das2f_map.legend import Legend
from das2f_map.training.settings import TrainingSettings

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]
"""MS patches, PAN patches, class positions."""


class Learner(pl.LightningModule):
    """Network, loss, optimiser and the record of every epoch.

    Parameters
    ----------
    network:
        Trained in place.
    settings:
        Settings of the optimisation.
    legend:
        Classes in the order of the logits.
    steps:
        Number of steps of the whole training.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings, legend: Legend, steps: int) -> None:
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
        # Reading the loss makes the CPU wait for the GPU, so it is read every 20 steps only.
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
            # Norms, biases and the scan's A and D are scales, not weights of a sum: no weight decay.
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
        """Learning rate of a step over the highest: linear warm-up, half a cosine down to ``final_rate``."""
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
