"""The engine and the precision that compute a map.

``auto`` takes the fastest engine that works for the model and the device. Every engine gives a reason if it
cannot be used, and an error names the engines that can.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.onnx_file import OnnxModel, require_packages
from das2f_map.engines import Engine, onnx, shared_scan
from das2f_map.engines.choice import ENGINES, PRECISIONS, EngineChoice
from das2f_map.engines.device import resolve_device
from das2f_map.engines.kernels import say_if_missing
from das2f_map.engines.onnx import OnnxEngine
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.engines.shared_scan import SharedScanEngine, compiled
from das2f_map.engines.turned import TurnedEngine
from das2f_map.errors import DeviceError, ModelError
from das2f_map.network import NetworkConfig
from das2f_map.network.selective_scan import default_backend
from das2f_map.settings import one_of, settings_of

__all__ = [
    "ENGINES",
    "KINDS",
    "PRECISIONS",
    "EngineChoice",
    "EngineKind",
    "check_choice",
    "choose",
    "make_engine",
]

log = logging.getLogger(__name__)

AUTOMATIC: Final = EngineChoice()

_SPARSE: Final = 4
"""K from which on ``patch`` is faster on the CPU where one pixel of each K × K is computed: the shared scan
computes all rows between, too."""


@dataclass(frozen=True)
class EngineKind:
    """An engine that can be chosen, and the conditions of its use.

    Attributes
    ----------
    name:
        One of :data:`~das2f_map.engines.choice.ENGINES`.
    make:
        Makes the engine from a bundle; keywords ``device``, ``precision`` and ``batch_size``.
    unavailable:
        Gives the reason why the engine cannot be used for a network's sizes, a device and a precision; empty
        if it can.
    by_itself:
        Whether ``auto`` may take it.
    packages:
        Optional packages that it needs.
    """

    name: str
    make: Callable[..., Engine]
    unavailable: Callable[[NetworkConfig, torch.device, str], str]
    by_itself: bool = True
    packages: tuple[str, ...] = ()

    def automatic_precision(self, config: NetworkConfig, device: torch.device) -> str:
        """bf16 for ``shared`` on CUDA where that works, fp32 for everything else."""
        fast = self.name == "shared" and device.type == "cuda"
        return "bf16" if fast and not self.unavailable(config, device, "bf16") else "fp32"


def _make_shared(bundle: ModelBundle, **options: Any) -> Engine:
    return SharedScanEngine(bundle.network(), **options)


def _make_patch(bundle: ModelBundle, **options: Any) -> Engine:
    return PerPatchEngine(bundle.network(), **options)


def _patch_unavailable(config: NetworkConfig, device: torch.device, precision: str) -> str:
    if precision == "fp32":
        return ""
    if device.type == "cpu":
        return "computes in fp32 only on the CPU"
    # bf16 that the card only emulates is slower than fp32.
    if precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has no bf16 arithmetic"
    return ""


def _make_onnx(bundle: ModelBundle, *, precision: str, **options: Any) -> Engine:
    return OnnxEngine.of(bundle, **options)


KINDS: dict[str, EngineKind] = {
    k.name: k
    for k in (
        # Fastest first, as a rule.
        EngineKind("shared", _make_shared, shared_scan.unavailable),
        EngineKind("patch", _make_patch, _patch_unavailable),
        EngineKind("onnx", _make_onnx, onnx.unavailable, by_itself=False, packages=("onnxruntime",)),
    )
}


def check_choice(engine: str, precision: str) -> None:
    """Raise :class:`~das2f_map.errors.DeviceError` for a name that is not in the lists."""
    known = settings_of(EngineChoice)
    for what, name in (("engine", engine), ("precision", precision)):
        if name not in known[what].choices:
            raise DeviceError(f"unknown {what} {name!r}", f"use {one_of(known[what].choices)}")


def choose(
    config: NetworkConfig,
    device: torch.device,
    *,
    engine: str = "auto",
    precision: str = "auto",
    every: int = 1,
) -> tuple[EngineKind, str]:
    """The engine and the precision for a choice that may be ``auto``.

    ``every`` is K where one pixel of each K × K is computed.

    Raises
    ------
    DeviceError
        A name is unknown, or the chosen engine or precision does not work on the device.
    ModelError
        The engine works there, but not for a network of these sizes.
    MissingDependencyError
        The engine needs a package that is not installed.
    """
    check_choice(engine, precision)
    if engine != "auto":
        kind = KINDS[engine]
        require_packages(*kind.packages)
        taken = kind.automatic_precision(config, device) if precision == "auto" else precision
        if reason := kind.unavailable(config, device, taken):
            published = NetworkConfig(classes=config.classes, ms_bands=config.ms_bands)
            error = DeviceError if kind.unavailable(published, device, taken) else ModelError
            raise error(
                f"engine {engine} cannot be used on {device} in {taken}: {reason}", _works(config, device)
            )
        return kind, taken
    kinds = list(KINDS.values())
    if _patches_are_faster(config, device, every):
        kinds.sort(key=lambda k: k.name == "shared")
    for kind in kinds:
        taken = kind.automatic_precision(config, device) if precision == "auto" else precision
        if kind.by_itself and not kind.unavailable(config, device, taken):
            return kind, taken
    raise DeviceError(f"no engine computes in {precision} on {device}", _works(config, device))


def _patches_are_faster(config: NetworkConfig, device: torch.device, every: int) -> bool:
    """Whether ``patch`` is faster than ``shared`` on a device.

    That is so if the selective scan is compiled, and patches have few rows to share: in a sparse draft, or if
    they are small and the shared scan has no kernels. Sharing in PyTorch operations saves less time then than
    the compiled scan. Measured speed of ``shared`` over ``patch``: 0.5 with patches of 8, 1.2 to 1.5 with
    patches of 16.
    """
    if device.type != "cpu":
        return False
    few = config.patch_size < 16 and bool(compiled.unavailable(config, torch.float32))
    if not few and every < _SPARSE:
        return False
    scan = default_backend(device, torch.float32, config.width, config.state_size, gradients=False)
    return scan.name == "compiled"


def make_engine(bundle: ModelBundle, choice: EngineChoice = AUTOMATIC, *, every: int = 1) -> Engine:
    """The chosen engine, made for a model.

    ``every`` is K where one pixel of each K × K is computed. With device ``auto``, an ONNX graph runs on the
    CPU if onnxruntime has no CUDA provider.

    Raises
    ------
    DeviceError, ModelError, MissingDependencyError
        As :func:`choose`.
    """
    engine, precision = choice.engine, choice.precision
    check_choice(engine, precision)
    device = resolve_device(choice.device) if isinstance(choice.device, str) else choice.device
    found, why_cpu = device, ""
    if choice.device == "auto" and (engine == "onnx" or isinstance(bundle, OnnxModel)):
        device, why_cpu = _device_for_onnx(bundle.card.network, device)
    if isinstance(bundle, OnnxModel):
        if engine not in ("auto", "onnx"):
            raise ModelError(
                f"engine {engine} needs a model's weights, {bundle.path} has its ONNX graph alone",
                "use --engine onnx, or the bundle it was exported from",
            )
        try:
            kind, taken = choose(bundle.card.network, device, engine="onnx", precision=precision)
        except DeviceError as error:  # its hint names engines that need weights
            raise DeviceError(
                error.message,
                "an ONNX file runs in fp32, on CUDA with onnxruntime-gpu, else with --device cpu; or use the "
                "bundle it was exported from",
            ) from error
    else:
        kind, taken = choose(bundle.card.network, device, engine=engine, precision=precision, every=every)
    if device.type == "cpu" and kind.name != "onnx":
        say_if_missing()
    made = kind.make(bundle, device=device, precision=taken, batch_size=choice.batch_size)
    turns = bundle.card.turns if choice.turns is None else choice.turns
    if turns > 1:
        made = TurnedEngine(made, bundle.card.patch, turns)
    if why_cpu:  # warn only once the engine is made: it may fail
        log.warning("the ONNX graph runs on the CPU, not on %s: %s", found, why_cpu)
    return made


def _device_for_onnx(config: NetworkConfig, device: torch.device) -> tuple[torch.device, str]:
    """The device to run an ONNX graph on: the given one, or the CPU and the reason for it."""
    cpu = torch.device("cpu")
    reason = onnx.unavailable(config, device, "fp32")
    if device == cpu or not reason or onnx.unavailable(config, cpu, "fp32"):
        return device, ""
    return cpu, reason


def _works(config: NetworkConfig, device: torch.device) -> str:
    """A hint that lists the engines and precisions that work on a device."""
    found = []
    for kind in KINDS.values():
        usable = [p for p in PRECISIONS[1:] if not kind.unavailable(config, device, p)]
        if usable:
            found.append(f"--engine {kind.name} with --precision {' or '.join(usable)}")
    return f"on {device} there is {', '.join(found)}"
