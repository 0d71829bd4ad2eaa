"""The settings of a training. Light to import: the command line reads its options here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from das2f_map.engines.choice import DEVICES, EngineChoice
from das2f_map.errors import DeviceError
from das2f_map.settings import check_settings, setting

LEAST_SAMPLES, MOST_SAMPLES_CPU, MOST_SAMPLES_GPU = 50, 200, 1000
"""Limits of the default number of patches that an epoch draws of each class."""

_NOT_RECORDED = ("stages", "device", "devices")
"""The card lists the stages with the network, and the device that was used, not the one asked for."""


@dataclass(frozen=True)
class TrainingSettings:
    """All numbers that decide how a network is trained, and where.

    Raises
    ------
    InputError, DeviceError
        A value is outside its range.
    """

    stages: int = setting(1, ge=1, le=2, help="Fusion stages of the network.")
    epochs: int = setting(30, ge=1, help="Passes over the samples.")
    batch_size: int = setting(64, ge=1, help="Patches a step, on each device.")
    samples_per_class: int | None = setting(
        None,
        kind=int,
        ge=1,
        help="Patches of each class in an epoch; by default as many as the median class has pixels, "
        f"at least {LEAST_SAMPLES}, at most {MOST_SAMPLES_GPU} on a GPU and {MOST_SAMPLES_CPU} on the CPU.",
    )
    learning_rate: float = setting(5e-4, gt=0.0, help="Highest learning rate.")
    weight_decay: float = setting(5e-4, ge=0.0, help="Weight decay of the optimiser.")
    label_smoothing: float = setting(
        0.0, ge=0.0, le=0.5, help="Share of the target that is spread evenly over the classes."
    )
    warmup: float = setting(0.05, ge=0.0, lt=1.0, help="Share of all steps in which the rate rises.")
    final_rate: float = setting(0.01, ge=0.0, le=1.0, help="Last learning rate over the highest.")
    gradient_clip: float = setting(1.0, gt=0.0, help="Largest norm of the gradients.")
    optimizer: str = setting("AdamW", choices=("AdamW",), help="Optimiser.")
    seed: int = setting(0, help="Fixes split, weights and order.")
    device: str = setting(str(EngineChoice.device), help=DEVICES)
    devices: int = setting(1, ge=1, help="CUDA devices that share the work.")

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise DeviceError(f"At least one device is needed, not {self.devices}")
        check_settings(self, "Training cannot run with")

    def recorded(self) -> dict[str, Any]:
        """The settings that the model card and the note of a training list, in their order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_RECORDED}
