"""Devices and precision that a network is trained with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from das2f_map.engines.device import resolve_device
from das2f_map.engines.kernels import say_if_missing
from das2f_map.errors import DeviceError
from das2f_map.training.settings import TrainingSettings


@dataclass(frozen=True)
class Hardware:
    """Devices and precision of a training, in Lightning's words.

    Attributes
    ----------
    accelerator:
        ``cpu`` or ``cuda``.
    devices:
        Number of processes, or the numbers of the GPUs, one GPU for each process.
    strategy:
        ``auto`` for one process, ``ddp`` for several.
    precision:
        ``32-true`` or ``bf16-mixed``.
    """

    accelerator: str
    devices: int | list[int]
    strategy: str
    precision: str

    @property
    def on_cpu(self) -> bool:
        return self.accelerator == "cpu"

    @property
    def processes(self) -> int:
        """How many processes share the work."""
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    @property
    def first(self) -> torch.device:
        """The device of the first process."""
        if self.on_cpu:
            return torch.device("cpu")
        return torch.device("cuda", self.devices[0] if isinstance(self.devices, list) else 0)


def find_hardware(settings: TrainingSettings) -> Hardware:
    """The devices that the settings ask for.

    Raises
    ------
    DeviceError
        A name is unknown, or there are too few devices.
    """
    first, devices = resolve_device(settings.device), settings.devices
    strategy = "auto" if devices == 1 else "ddp"
    if first.type == "cpu":
        say_if_missing()
        return Hardware("cpu", devices, strategy, "32-true")
    if devices > torch.cuda.device_count():
        raise DeviceError(f"{devices} GPUs were asked for, PyTorch sees {torch.cuda.device_count()}")
    # float16 would need loss scaling and overflows in the scan; bfloat16 has float32's range.
    precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    chosen: int | list[int] = devices if devices > 1 else [first.index or 0]
    return Hardware("cuda", chosen, strategy, precision)
