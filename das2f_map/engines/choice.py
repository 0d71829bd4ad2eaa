"""A user's choice of engine, device and precision.

The command line reads its options here, so nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from das2f_map.errors import InputError
from das2f_map.settings import one_of, setting, settings_of

if TYPE_CHECKING:
    import torch

ENGINES: Final = ("auto", "shared", "patch", "onnx")
PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")

DEFAULT_DEVICE: Final = "auto"

DEVICES: Final = "auto, cpu, cuda or cuda:N."
"""The names of devices, in words."""


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

    Raises
    ------
    InputError
        ``batch_size`` is not a positive number. Names are checked by
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

    def __post_init__(self) -> None:
        if reason := settings_of(EngineChoice)["batch_size"].refusal(self.batch_size):
            raise InputError(f"No engine can compute with batch_size {self.batch_size!r}: {reason}")
