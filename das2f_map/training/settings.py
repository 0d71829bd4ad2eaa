"""The settings of a training. Light to import: the command line reads its options here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from das2f_map.engines.choice import DEVICES, EngineChoice
from das2f_map.errors import DeviceError
from das2f_map.settings import check_settings, setting

AUTO, FRESH = "auto", "none"
"""Start from a bundled model that fits; from fresh weights."""

HEADS = ("auto", "pooled", "published")
ASSESSMENTS = ("auto", "holdout", "folds", "none")

FOLDS_UP_TO = 20_000
"""Labelled pixels up to which folds are the default; with more, one hold-out says enough."""

TAUGHT_UP_TO = 8_000
"""Labelled pixels up to which the network also learns other classifiers' opinions by default."""

FEW_LABELS_TURNS: Literal[4] = 4
"""Turns that a map averages with a model of at most :data:`FOLDS_UP_TO` labelled pixels."""

FAST_STEPS, FAST_CHECKS = 108, 3
"""Most steps on the CPU, and checks, of a first look."""

_NOT_RECORDED = ("stages", "device", "devices", "fast")
"""The card lists the stages with the network, the device that was used, and what ``fast`` decided."""


@dataclass(frozen=True)
class TrainingSettings:
    """All numbers that decide how a network is trained and assessed, and where.

    Raises
    ------
    InputError, DeviceError
        A value is outside its range.
    """

    stages: int = setting(1, ge=1, le=2, help="Fusion stages of the network.")
    head: str = setting(
        "auto",
        choices=HEADS,
        help="Classifier: pooled (window means, few weights), published (every token its own weights), auto.",
    )
    assess: str = setting(
        "auto",
        choices=ASSESSMENTS,
        help="Ground held out for accuracy and the number of steps: holdout, folds, none, or auto: "
        f"folds up to {FOLDS_UP_TO:,} labelled pixels. The model is then trained on all labels.",
    )
    folds: int = setting(3, ge=2, le=20, help="Spatial folds of `folds`.")
    fold_by: str = setting(
        "ground", choices=("ground", "scene"), help="Cut the ground of each scene, or hold out whole scenes."
    )
    steps: int | None = setting(
        None,
        kind=int,
        ge=1,
        help="Most steps of a training, a multiple of its 6 checks; held-out ground chooses how many of them "
        "are taken. By default by the number of labels.",
    )
    checks: int = setting(6, ge=1, le=1000, help="How often a training is measured on held-out ground.")
    batch_size: int = setting(32, ge=2, help="Patches a step, on each device.")
    balance: float = setting(
        0.5, ge=0.0, le=1.0, help="Draws of the classes: 0 as often as labelled, 1 equally often."
    )
    learning_rate: float = setting(1e-3, gt=0.0, help="Highest learning rate.")
    weight_decay: float = setting(5e-4, ge=0.0, help="Weight decay of the optimiser.")
    label_smoothing: float = setting(
        0.0, ge=0.0, le=0.5, help="Share of the target that is spread evenly over the classes."
    )
    neighbours: int = setting(
        4,
        ge=0,
        le=7,
        help="Labelled pixels up to so many MS pixels around a patch's centre are learnt with it; 0: none.",
    )
    dropout: float = setting(
        0.3, ge=0.0, lt=1.0, help="Share of the pooled head's features that a step leaves out."
    )
    statistics: str = setting(
        "both",
        choices=("both", "scene", "labels"),
        help="Pixels that the pooled head is standardised by: scene (some all over it), "
        "labels (the training batches), or both: the mean of the logits by either.",
    )
    distillation: float | None = setting(
        None,
        kind=float,
        ge=0.0,
        le=100.0,
        help="Weight of other classifiers' opinions on pixels all over the scene, learnt beside the labels; "
        f"0: none. By default 1 up to {TAUGHT_UP_TO:,} labelled pixels, else 0.",
    )
    jitter: float = setting(
        1.0,
        ge=0.0,
        le=10.0,
        help="Strength of random gain, offset and noise of the training patches; 0: none.",
    )
    haze: float = setting(
        0.2, ge=0.0, le=1.0, help="Share of the training patches that get haze, and as many shade."
    )
    mixup: float = setting(0.0, ge=0.0, le=10.0, help="Mixup's alpha; 0: patches are not mixed.")
    ema: float = setting(
        0.99,
        ge=0.0,
        lt=1.0,
        help="Decay of the running mean of the weights, which is kept; 0: the last ones.",
    )
    warmup: float = setting(0.05, ge=0.0, lt=1.0, help="Share of all steps in which the rate rises.")
    final_rate: float = setting(0.01, ge=0.0, le=1.0, help="Last learning rate over the highest.")
    gradient_clip: float = setting(1.0, gt=0.0, help="Largest norm of the gradients.")
    optimizer: str = setting("AdamW", choices=("AdamW",), help="Optimiser.")
    seed: int = setting(0, ge=0, le=2**32 - 1, help="Fixes folds, weights and order.")
    device: str = setting(str(EngineChoice.device), help=DEVICES)
    devices: int = setting(1, ge=1, help="CUDA devices that share the work.")
    fast: bool = setting(
        False, help="A first look in minutes: few steps, and a hold-out where `--assess` is not given."
    )

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise DeviceError(f"At least one device is needed, not {self.devices}")
        check_settings(self, "Training cannot run with")

    def recorded(self) -> dict[str, Any]:
        """The settings that the model card and the note of a training list, in their order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_RECORDED}


def map_turns(labelled: int, *, fast: bool = False) -> Literal[1, 4]:
    """Turns that a map averages with a model of so many labelled pixels; 1 for a first look."""
    return FEW_LABELS_TURNS if labelled <= FOLDS_UP_TO and not fast else 1


def default_steps(labelled: int, *, on_cpu: bool, fast: bool = False, taught: bool = False) -> int:
    """Most steps of a training on so many labelled pixels.

    They grow with the square root of the labels: few labels are soon learnt by heart. With other classifiers'
    opinions (``taught``) a step has half as many patches more, and there are a quarter fewer steps. The
    limits keep a training on two CPU cores, folds and final fit included, within the times that the guide
    names.
    """
    if fast:
        return FAST_STEPS if on_cpu else 4 * FAST_STEPS
    steps: int = round((150 if taught else 200) * (max(1, labelled) / 1500) ** 0.45)
    return min(max(steps, 150), 1500) if on_cpu else min(max(2 * steps, 400), 12_000)
