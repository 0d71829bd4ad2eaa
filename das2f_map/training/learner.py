"""The Lightning module of a training: network, loss, optimiser and the record of every epoch."""

from __future__ import annotations

import logging
import math
import time
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.errors import ModelError
from das2f_map.legend import Legend
from das2f_map.network import Das2fNet
from das2f_map.network.classifier import PooledClassifier
from das2f_map.training.batches import PlainBatches
from das2f_map.training.opinions import NO_OPINION, Opinions
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.training.settings import TrainingSettings

log = logging.getLogger(__name__)

OPINIONS_A_LABEL = 0.5
"""Patches of a step with opinions of other classifiers, for each patch with labels."""

Batch = tuple[Tensor, Tensor, Tensor]
"""MS patches, PAN patches, class positions."""


class Learner(pl.LightningModule):
    """Network, loss, optimiser and the record of every check.

    Between two checks lies one epoch of Lightning's. The running mean of the weights is what is checked and
    kept, since the weights of single steps scatter.

    Parameters
    ----------
    network:
        Trained in place.
    settings:
        Settings of the optimisation.
    legend:
        Classes in the order of the logits.
    steps:
        Steps that the learning rate's schedule is made for; a run may end earlier.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings, legend: Legend, steps: int) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.legend = legend
        self._steps = steps
        self.averaged = AveragedModel(network, avg_fn=partial(_averaged, settings.ema), use_buffers=True)
        self.averaged.requires_grad_(False)
        self._loss_sum = torch.zeros(())
        self._loss_n = 0
        self._found: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._started = 0.0
        self.history: list[dict[str, Any]] = []
        self.logits: list[Tensor] = []
        """Of the held-out pixels at every check, float32 ``(n, C)``."""
        self.weights: list[dict[str, Tensor]] = []
        """State dicts of the kept network at every check, if they are to be kept."""
        self.keeps_weights = False
        self.scene_pixels: ScenePixels | None = None
        """Pixels of the scenes by which the kept network's pooled head standardises its features."""
        self.opinions: Opinions | None = None
        """Of other classifiers on pixels without labels; the network learns them beside the labels."""
        self.says_checks = True
        """Whether a line says what a check has found."""
        self.cut_short = False
        """Whether training was stopped between two checks."""

    @property
    def kept(self) -> nn.Module:
        """The network with the weights that are checked and kept."""
        kept: nn.Module = self.averaged.module
        return kept

    # Lightning passes a batch index to each step.

    def on_train_epoch_start(self) -> None:
        if (head := self._pooled_head) is not None:
            # The running mean goes on with the statistics of the training batches.
            head.standardise_by_labels()
        self._loss_sum = torch.zeros((), device=self.device)
        self._loss_n = 0
        self._started = time.monotonic()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        # Dropout draws from torch's own numbers. They follow from the step, so that a resumed training draws
        # the same ones as an uninterrupted training.
        place = [self.settings.seed, self.current_epoch, index, self.global_rank, 8]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        ms, pan, target = batch
        loss = self._loss_around(ms, pan, target) if target.ndim == 3 else self._loss(ms, pan, target, index)
        self._loss_sum += loss.detach()
        self._loss_n += 1
        # Reading the loss makes the CPU wait for the GPU, so it is read every 20 steps only.
        if index % 20 == 0:
            self._require_finite(self._loss_sum)
        if self.opinions is not None and self.settings.distillation:
            loss = loss + self.settings.distillation * self._distance_to(self.opinions, index)
        return loss

    def _loss(self, ms: Tensor, pan: Tensor, target: Tensor, index: int) -> Tensor:
        """Cross-entropy of the targets."""
        truth = F.one_hot(target, len(self.legend)).float()
        if self.settings.mixup > 0:
            ms, pan, truth = self._mixed(ms, pan, truth, index)
        logits = self.network(ms, pan).float()
        return F.cross_entropy(logits, truth, label_smoothing=self.settings.label_smoothing)

    def _loss_around(self, ms: Tensor, pan: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the targets and of the labelled pixels around them; every patch counts alike."""
        wanted = labels >= 0
        assert isinstance(self.network, Das2fNet)
        logits = self.network.logits_at(ms, pan, wanted).float()
        each = F.cross_entropy(
            logits, labels[wanted], reduction="none", label_smoothing=self.settings.label_smoothing
        )
        of_patch = wanted.sum(dim=(1, 2), keepdim=True).expand_as(wanted)[wanted]
        return (each / of_patch).sum() / len(labels)

    def _distance_to(self, opinions: Opinions, index: int) -> Tensor:
        """Kullback-Leibler divergence of the network's probabilities from the opinions on some patches.

        They pass the network by themselves: its batch norms then see ground all over the scenes alone.
        """
        seed = [self.settings.seed, self.current_epoch, index, self.global_rank, 18]
        # Batch norms need two patches.
        n = max(2, int(OPINIONS_A_LABEL * self.settings.batch_size))
        ms, pan, wanted = (t.to(self.device) for t in opinions.batch(n, seed))
        asked = wanted[..., 0] != NO_OPINION
        assert isinstance(self.network, Das2fNet)
        found = self.network.logits_at(ms, pan, asked).float().log_softmax(dim=1)
        return F.kl_div(found, wanted[asked], reduction="batchmean")

    def _mixed(self, ms: Tensor, pan: Tensor, truth: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Each patch mixed with another one of the batch, and their classes too (Zhang et al. 2018)."""
        rng = np.random.default_rng([self.settings.seed, self.current_epoch, index, 7])
        share = float(rng.beta(self.settings.mixup, self.settings.mixup))
        other = torch.from_numpy(rng.permutation(len(ms))).to(ms.device)
        ms, pan, truth = (share * t + (1 - share) * t[other] for t in (ms, pan, truth))
        return ms, pan, truth

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        self.averaged.update_parameters(self.network)
        if index + 1 == self.trainer.num_training_batches:
            self._standardise_by_scene()

    def on_train_end(self) -> None:
        if self.cut_short:
            # These weights may be written, too.
            self._standardise_by_scene()

    def _standardise_by_scene(self) -> None:
        """Give the pooled head of the kept network the statistics of the scene's features.

        The statistics of training batches are mostly those of labelled pixels, drawn class by class. In a
        scene classes are rarer or commoner, and a class near the labels' mean would take ground of others.
        """
        kept, pixels, head = self.kept, self.scene_pixels, self._pooled_head
        if head is None:
            return
        if pixels is None:
            head.keep_label_statistics()
            return
        assert isinstance(kept, Das2fNet)
        kept.eval()
        means = []
        with torch.no_grad():
            for batch in PlainBatches(len(pixels), 2 * self.settings.batch_size):
                ms, pan = (t.to(self.device) for t in pixels.patches(batch.positions))
                means.append(head.pooled(kept.features(ms, pan)))
            head.standardise_by(torch.cat(means), alone=self.settings.statistics == "scene")

    @property
    def _pooled_head(self) -> PooledClassifier | None:
        """The kept network's head, if it is a pooled one."""
        head = self.kept.classifier if isinstance(self.kept, Das2fNet) else None
        return head if isinstance(head, PooledClassifier) else None

    def _require_finite(self, loss: Tensor | float) -> None:
        if not math.isfinite(float(loss)):
            raise ModelError(
                f"training diverged: the loss is no longer a number after {self.global_step:,} steps",
                f"train with a lower learning rate than {self.settings.learning_rate:g}",
            )

    def record_check(self) -> None:
        """Note the figures of a check; the loop calls it when all steps up to the check are done."""
        self._require_finite(self._loss_sum)
        record = {
            "steps": self.global_step,
            "loss": float(self.trainer.strategy.reduce(self._loss_sum, reduce_op="mean"))
            / max(1, self._loss_n),
            "learning_rate": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": round(time.monotonic() - self._started, 3),
        }
        self.history.append(record | self._checked())
        if self.keeps_weights:
            self.weights.append(state_of(self.kept))
        if self.says_checks and self.trainer.is_global_zero:
            log.info("%s", _line(self.history[-1]))

    def on_validation_epoch_start(self) -> None:
        self.averaged.eval()
        self._found, self._targets = [], []

    def validation_step(self, batch: Batch, index: int) -> None:
        if self.cut_short:
            return
        ms, pan, target = batch
        self._targets.append(target.cpu())
        self._found.append(self.kept(ms, pan).float().cpu())

    def _checked(self) -> dict[str, Any]:
        """Figures on held-out ground; the logits are kept."""
        if not self._found:
            return {}
        target, logits = torch.cat(self._targets), torch.cat(self._found)
        found = self._figures(logits, target)
        self.logits.append(logits)
        self._found, self._targets = [], []
        return found

    def _figures(self, logits: Tensor, target: Tensor) -> dict[str, Any]:
        """Loss and accuracies of held-out logits ``(n, C)`` with the positions ``(n,)`` of their classes."""
        loss = float(F.cross_entropy(logits, target))
        self._require_finite(loss)
        n = len(self.legend)
        counts = torch.bincount(target * n + logits.argmax(1), minlength=n * n).numpy().reshape(n, n)
        matrix = ConfusionMatrix(self.legend, counts.astype(np.int64))
        return {
            "held_out_loss": loss,
            "held_out_overall_accuracy": matrix.overall_accuracy,
            "held_out_average_accuracy": matrix.average_accuracy,
            "held_out_kappa": matrix.kappa,
        }

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
            "logits": self.logits,
            "weights": self.weights,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        record = checkpoint["das2f"]
        self.history, self.logits = list(record["history"]), list(record["logits"])
        self.weights = list(record["weights"])


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's state dict on the CPU."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}


def _averaged(decay: float, mean: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
    """The running mean after another step; the first steps, far from the goal, are soon forgotten."""
    if not mean.is_floating_point():
        return new
    now = min(decay, (1.0 + float(updates)) / (10.0 + float(updates)))
    return mean * now + new.to(mean.device) * (1.0 - now)


def _line(record: dict[str, Any]) -> str:
    """A check in one line."""
    line = f"step {record['steps']:,}: loss {record['loss']:.4f}"
    if "held_out_loss" in record:
        accuracies = [percent(record[f"held_out_{which}_accuracy"]) for which in ("overall", "average")]
        line += f"; held out: loss {record['held_out_loss']:.4f}, OA {accuracies[0]}, AA {accuracies[1]}"
    return f"{line} ({record['seconds']:.0f} s)"
