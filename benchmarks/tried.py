"""Parts of a training recipe that `das2f-map train` does not have, for the ablation.

Other benchmarks import this module; it runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from ablated import PlainSum
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.network import Das2fNet
from das2f_map.network.aalf import Aalf
from das2f_map.network.classifier import PooledClassifier
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.scene.turns import TURNS
from das2f_map.training.batches import PatchBatch, PatchDataset
from das2f_map.training.jitter import Jitter
from das2f_map.training.learner import Batch, Learner
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.prepare import Prepared
from das2f_map.types import Int64

MOST_SHIFT: Final = 1.0
"""PAN pixels."""

CONSISTENCY: Final = 1.0
"""Weight of the disagreement between two views of an unlabelled patch beside the loss of the labels."""

UNLABELLED: Final = 4000
"""Pixels of the scene, drawn at random, that are used without labels."""

PRETEXT_STEPS: Final = 150
HIDDEN: Final = 3
"""MS pixels a side of the hidden square around the target."""


PASTED: Final = 0.5
"""Share of the patches whose context is another patch's."""

WINDOWS: Final = (3, 5, 7, 9)
"""MS pixels a side of the window around the target that such a patch keeps."""


@dataclass(frozen=True)
class Variant:
    """A recipe that differs from the default one.

    Attributes
    ----------
    changes:
        Settings. ``steps`` is a factor of the default number.
    fresh:
        Whether training starts from fresh weights.
    shifts:
        Whether MS and PAN of a training patch are shifted against each other at random.
    learner:
        Makes the learner, from the prepared training; the default one with ``None``.
    start:
        Changes a new network before its training.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False
    shifts: bool = False
    learner: Callable[[Prepared], Callable[..., Learner]] | None = None
    start: Callable[[Das2fNet, Prepared], None] | None = None


# --- shifts between the images ----------------------------------------------------------------------------


class ShiftedPatches(PatchDataset):
    """Training patches whose PAN is shifted against MS by up to :data:`MOST_SHIFT` PAN pixels."""

    @classmethod
    def like(cls, other: PatchDataset) -> ShiftedPatches:
        """The patches of another dataset."""
        return cls(other.pixels, other.jitter, other.neighbours)

    def __getitem__(self, batch: PatchBatch) -> tuple[Tensor, Tensor, Tensor]:
        ms, pan, target = super().__getitem__(batch)
        if batch.jitter_seed is not None:
            rng = np.random.default_rng([*batch.jitter_seed, 21])
            pan = shifted(pan, rng.uniform(-MOST_SHIFT, MOST_SHIFT, (len(pan), 2)))
        return ms, pan, target


def shifted(image: Tensor, by: Any) -> Tensor:
    """Images ``(n, 1, h, w)`` shifted by up to a pixel down and right ``(n, 2)``, linearly interpolated.

    At the edges the outermost pixels are repeated.
    """
    by = torch.as_tensor(by, dtype=image.dtype)
    for axis, amount in ((2, by[:, 0]), (3, by[:, 1])):
        amount = amount[:, None, None, None]
        n = image.shape[axis]
        first, last = image.narrow(axis, 0, 1), image.narrow(axis, n - 1, 1)
        before = torch.cat([first, image.narrow(axis, 0, n - 1)], axis)
        after = torch.cat([image.narrow(axis, 1, n - 1), last], axis)
        image = (1 - amount.abs()) * image + amount.clamp(min=0) * before + (-amount).clamp(min=0) * after
    return image


# --- other optimisers --------------------------------------------------------------------------------------


class WithMomentum(Learner):
    """Trains by stochastic gradient descent with momentum."""

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        groups = [
            {"params": g["params"], "weight_decay": g["weight_decay"]} for g in made["optimizer"].param_groups
        ]
        optimizer = torch.optim.SGD(groups, lr=self.settings.learning_rate, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def momentum(prepared: Prepared) -> Callable[..., Learner]:
    """Makes the learner of :class:`WithMomentum`."""
    return WithMomentum


class QuickHead(Learner):
    """The classifier learns ten times as fast as the trunk."""

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        head = {id(p) for p in self.network.classifier.parameters()}
        groups: list[dict[str, Any]] = []
        for group in made["optimizer"].param_groups:
            for mine, factor in ((True, 10.0), (False, 1.0)):
                params = [p for p in group["params"] if (id(p) in head) == mine]
                rate = factor * self.settings.learning_rate
                groups.append({"params": params, "weight_decay": group["weight_decay"], "lr": rate})
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def quick_head(prepared: Prepared) -> Callable[..., Learner]:
    """Makes the learner of :class:`QuickHead`."""
    return QuickHead


# --- weights of the classes ---------------------------------------------------------------------------------


class Weighted(Learner):
    """Classes weigh in the loss by one over the square root of their number of labelled pixels."""

    def __init__(self, *given: Any, counts: Int64) -> None:
        super().__init__(*given)
        weights = 1.0 / np.sqrt(np.maximum(1, counts))
        # A pixel drawn at random weighs 1 on average.
        weights *= counts.sum() / (weights * counts).sum()
        self.register_buffer("weights_of_classes", torch.from_numpy(weights.astype(np.float32)))

    def _loss_around(self, ms: Tensor, pan: Tensor, labels: Tensor) -> Tensor:
        wanted = labels >= 0
        assert isinstance(self.network, Das2fNet)
        logits = self.network.logits_at(ms, pan, wanted).float()
        weights = self.get_buffer("weights_of_classes")
        each = F.cross_entropy(logits, labels[wanted], weight=weights, reduction="none")
        of_patch = wanted.sum(dim=(1, 2), keepdim=True).expand_as(wanted)[wanted]
        return (each / of_patch).sum() / len(labels)


def weighted(prepared: Prepared) -> Callable[..., Learner]:
    """Makes the learner of :class:`Weighted`."""
    pixels = prepared.pixels
    counts = np.bincount(pixels.positions, minlength=len(pixels.legend)).astype(np.int64)
    return lambda *given: Weighted(*given, counts=counts)


# --- pixels without labels --------------------------------------------------------------------------------


def unlabelled(prepared: Prepared) -> TrainingPixels:
    """Pixels of the scene drawn at random, all of them with the first class of the legend."""
    scene, reader = prepared.scenes[0], prepared.pixels.readers[0]
    grid = scene.pair.grids.ms
    rng = np.random.default_rng([prepared.settings.seed, 22])
    drawn = np.sort(
        rng.choice(grid.height * grid.width, min(UNLABELLED, grid.height * grid.width), replace=False)
    )
    rows, cols = (drawn // grid.width).astype(np.int32), (drawn % grid.width).astype(np.int32)
    valid = reader.load(rows, cols)
    n = int(valid.sum())
    zeros: Int64 = np.zeros(n, np.int64)
    return replace(
        prepared.pixels, readers=(reader,), scene=zeros, rows=rows[valid], cols=cols[valid], positions=zeros
    )


class Views:
    """Batches of unlabelled patches, turned and changed in radiometry at random."""

    def __init__(self, prepared: Prepared) -> None:
        settings = prepared.settings
        self._pixels = unlabelled(prepared)
        self._jitter = Jitter(prepared.normalisation, settings.jitter, settings.haze)

    def draw(self, seed: list[int], n: int) -> tuple[Int64, np.random.Generator]:
        """Positions of n pixels, and random numbers for their views."""
        rng = np.random.default_rng(seed)
        return rng.integers(0, len(self._pixels), n), rng

    def of(self, at: Int64, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A view: MS patches ``(n, bands, P, P)`` and PAN patches ``(n, 1, 4P, 4P)``."""
        ms, pan = self._pixels.patches(at, rng.integers(0, TURNS, at.size))
        one, other = self._jitter(ms.numpy(), pan.numpy(), rng)
        return torch.from_numpy(one), torch.from_numpy(other)


class Consistent(Learner):
    """Unlabelled patches too: the network agrees with its running mean on another view of the same patch."""

    def __init__(self, *given: Any, views: Views) -> None:
        super().__init__(*given)
        self._views = views

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = super().training_step(batch, index)
        seed = [self.settings.seed, self.current_epoch, index, 23]
        at, rng = self._views.draw(seed, self.settings.batch_size // 2)
        ms, pan = self._views.of(at, rng)
        self.averaged.eval()
        with torch.no_grad():
            wanted = self.kept(*self._views.of(at, rng)).float().softmax(1)
        found = self.network(ms, pan).float().log_softmax(1)
        return loss + CONSISTENCY * F.kl_div(found, wanted, reduction="batchmean")


def consistent(prepared: Prepared) -> Callable[..., Learner]:
    """Makes the learner of :class:`Consistent`."""
    views = Views(prepared)
    return lambda *given: Consistent(*given, views=views)


def self_supervised(network: Das2fNet, prepared: Prepared) -> None:
    """Train the trunk to tell the hidden middle of unlabelled patches from what is around it.

    The target and its neighbours are hidden in both images. From the tokens around the middle a linear layer
    gives the values of the target: those of the MS bands and of its 16 PAN pixels. Trained for
    :data:`PRETEXT_STEPS` steps with the settings of the training.
    """
    settings, views = prepared.settings, Views(prepared)
    target, half = prepared.patch.target_index, HIDDEN // 2
    near = slice(target - half, target + half + 1)
    near_pan = slice(PAN_PER_MS * near.start, PAN_PER_MS * near.stop)
    own = slice(PAN_PER_MS * target, PAN_PER_MS * (target + 1))
    config = prepared.config
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        answers = config.ms_bands + PAN_PER_MS**2
        head = nn.Sequential(nn.BatchNorm1d(config.width), nn.Linear(config.width, answers))
        network.train()
        trained = [*network.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for step in range(PRETEXT_STEPS):
            at, rng = views.draw([settings.seed, step, 24], settings.batch_size)
            ms, pan = views.of(at, rng)
            truth = torch.cat([ms[:, :, target, target], pan[:, 0, own, own].flatten(1)], 1)
            ms, pan = ms.clone(), pan.clone()
            ms[:, :, near, near] = 0
            pan[:, :, near_pan, near_pan] = 0
            tokens = network.features(ms, pan).reshape(len(ms), -1, config.width)
            loss = F.mse_loss(head(tokens.mean(dim=1)), truth)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, settings.gradient_clip)
            optimizer.step()


# --- other first weights, another head --------------------------------------------------------------------


def positive_means(network: Das2fNet, prepared: Prepared) -> None:
    """Gives AALF's norms a bias of 1, so that its gated means start well above zero."""
    for fusion in network.fusions:
        assert isinstance(fusion, Aalf)
        nn.init.ones_(fusion.norm.bias)


def without_aalf(network: Das2fNet, prepared: Prepared) -> None:
    """Puts a plain sum in the place of AALF."""
    network.fusions = nn.ModuleList(PlainSum() for _ in network.fusions)


def bright_stems(network: Das2fNet, prepared: Prepared) -> None:
    """Draws the biases of the stems' convolutions from N(0, 1).

    A stem normalises each token, so with small biases little is left of a token's brightness but its sign.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(prepared.settings.seed)
        for stem in (network.ms_stem, network.pan_stem):
            bias = stem.embedding.conv.bias
            assert bias is not None
            bias.normal_()


def target_and_patch(network: Das2fNet, prepared: Prepared) -> None:
    """Gives the pooled head two windows: the target and the whole patch."""
    with torch.random.fork_rng():
        torch.manual_seed(prepared.settings.seed)
        network.classifier = PooledClassifier(
            prepared.config, prepared.patch.target_index, (1, 0), prepared.settings.dropout
        )


# --- context of other patches -----------------------------------------------------------------------------


class OtherContext(Learner):
    """Half of the patches keep a window around the target; around it lies another patch of the batch.

    CutMix (Yun et al. 2019) with the target's window kept, and labels pixel by pixel.
    """

    def __init__(self, *given: Any, target: int) -> None:
        super().__init__(*given)
        self._target = target

    def training_step(self, batch: Batch, index: int) -> Tensor:
        ms, pan, labels = batch
        rng = np.random.default_rng([self.settings.seed, self.current_epoch, index, 25])
        n, side = len(ms), ms.shape[-1]
        other = (torch.arange(n) + int(rng.integers(1, n))) % n
        pasted = rng.random(n) < PASTED
        reach = rng.choice(WINDOWS, n) // 2
        inside = np.abs(np.arange(side) - self._target)[None] <= reach[:, None]
        keep = torch.from_numpy((inside[:, :, None] & inside[:, None, :]) | ~pasted[:, None, None])
        keep_pan = keep.repeat_interleave(PAN_PER_MS, 1).repeat_interleave(PAN_PER_MS, 2)
        ms = torch.where(keep[:, None], ms, ms[other])
        pan = torch.where(keep_pan[:, None], pan, pan[other])
        if labels.ndim == 3:
            labels = torch.where(keep, labels, labels[other])
        return super().training_step((ms, pan, labels), index)


def other_context(prepared: Prepared) -> Callable[..., Learner]:
    """Makes the learner of :class:`OtherContext`."""
    return lambda *given: OtherContext(*given, target=prepared.patch.target_index)
