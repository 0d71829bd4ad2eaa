"""Choosing a compute device by name."""

from __future__ import annotations

import torch

from das2f_map.engines.choice import device_is_known
from das2f_map.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` is the first CUDA device where there is one, else the CPU.

    Raises :class:`~das2f_map.errors.DeviceError` for other names and for devices that are not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    number = name.partition(":")[2]
    if not device_is_known(name):
        raise DeviceError(f"unknown device {name!r}", "use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        built = (
            "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device was found"
        )
        raise DeviceError(f"device {name!r} is not available: {built}", "use --device cpu or --device auto")
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} is not available: there are {torch.cuda.device_count()} CUDA devices",
            f"use cuda:0 to cuda:{torch.cuda.device_count() - 1}",
        )
    return torch.device("cuda", index)
