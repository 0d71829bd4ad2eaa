"""A user's choice of engine, device and precision.

The command line reads its options here, so nothing heavy is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from das2f_map.errors import InputError
from das2f_map.settings import one_of, setting, settings_of

if TYPE_CHECKING:
    import torch

ENGINES: Final = ("auto", "shared", "patch", "onnx")
PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")

TURNS: Final = (1, 2, 4, 8)
"""Numbers of views of a pixel that can be averaged."""

DEFAULT_DEVICE: Final = "auto"

DEVICES: Final = "auto, cpu, cuda or cuda:N."
"""The names of devices, in words."""


def device_is_known(name: str) -> bool:
    """Whether a text names a device, present or not: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    return re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name) is not None


@dataclass(frozen=True)
class EngineChoice:
    """Engine, device, precision and batch size, as a user asks for them.

    Attributes
    ----------
    engine:
        One of :data:`ENGINES`.
    device:
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a PyTorch device.
    precision:
        One of :data:`PRECISIONS`.
    batch_size:
        Patches at a time; ``None`` for the engine's own default.
    turns:
        Flips and quarter turns of a pixel's patch whose logits are averaged; ``None`` for those of the card.

    Raises
    ------
    InputError
        ``batch_size`` or ``turns`` is no such number. Names are checked by
        :func:`~das2f_map.engines.choose.check_choice`.
    """

    engine: str = setting(
        "auto", choices=ENGINES, help=f"{one_of(ENGINES)}; auto takes the fastest that works."
    )
    device: str | torch.device = setting(DEFAULT_DEVICE, help=DEVICES)  # noqa: RUF009 - a field
    precision: str = setting(
        "auto",
        choices=PRECISIONS,
        help=f"{one_of(PRECISIONS)}; auto is bf16 for shared on CUDA, else fp32.",
    )
    batch_size: int | None = setting(
        None, kind=int, ge=1, help="Patches at a time; by default what suits the engine."
    )
    turns: int | None = setting(
        None,
        kind=int,
        choices=TURNS,
        help=f"Flips and quarter turns of the images that are averaged: {one_of(TURNS)}, as many times the "
        "work; by default those of the model's card.",
    )

    def __post_init__(self) -> None:
        known = settings_of(EngineChoice)
        for name, value in (("batch_size", self.batch_size), ("turns", self.turns)):
            if reason := known[name].refusal(value):
                raise InputError(f"No engine can compute with {name} {value!r}: {reason}")
