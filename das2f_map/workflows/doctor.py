"""The devices, packages and kernels of this machine, and which of them das2f-map will use."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from das2f_map._version import __version__
from das2f_map.engines.choose import KINDS, PRECISIONS, EngineKind, choose
from das2f_map.engines.shared_scan import compiled as shared_kernels
from das2f_map.installation import install_extra
from das2f_map.network import NetworkConfig
from das2f_map.network.selective_scan import BACKENDS, default_backend
from das2f_map.network.selective_scan import compiled as scan_kernels
from das2f_map.scene.proj_gdal_data import gdal_data, proj_data

EXTRAS: Final = {
    "train": ("lightning", "scikit-learn"),
    "onnx": ("onnx", "onnxruntime"),
    "parquet": ("pyarrow",),
    "cluster": ("dask", "distributed"),
    "stac": ("pystac",),
    "cuda": ("mamba-ssm", "onnxruntime-gpu"),
}
"""Extra → the packages that make it up."""
_GPU_RUNTIME: Final = "onnxruntime-gpu"
_MODULES: Final = {"scikit-learn": "sklearn"}
"""Modules that have another name than their package."""


@dataclass(frozen=True)
class Availability:
    """Whether a selective-scan backend or an engine can be used on a device.

    Attributes
    ----------
    name:
        Of the backend or engine.
    device, precision:
        The device, and the precision there.
    unavailable:
        Why it cannot be used; empty if it can.
    """

    name: str
    device: str
    precision: str
    unavailable: str


@dataclass(frozen=True)
class Use:
    """The defaults on a device, for the published network."""

    device: str
    classify_one_stage: str
    classify_two_stages: str
    train: str


@dataclass(frozen=True)
class Extra:
    """An optional part: the packages it lacks, and how to get them."""

    name: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class DataFolder:
    """A folder that a package takes the data of PROJ or GDAL from.

    Attributes
    ----------
    name, package:
        ``PROJ`` or ``GDAL``, and the package that contains it.
    folder:
        The folder, or folders with the system's separator between them.
    variable:
        The environment variable that names it; ``None`` for the package's own data.
    trouble:
        Why it cannot serve the package; empty if it can.
    """

    name: str
    package: str
    folder: str
    variable: str | None
    trouble: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `das2f-map doctor` shows.

    Attributes
    ----------
    versions:
        Package → version, or the error that its import raises; ``None`` where it is not installed.
    data:
        The data of PROJ and GDAL that each package uses.
    cpu:
        Cores, threads and instruction sets.
    cuda_devices:
        The devices that PyTorch finds; sizes in bytes.
    cuda_missing:
        Why there is no CUDA device; empty if there is one.
    scans, engines:
        All of them on each device (and for engines in each precision).
    uses:
        The defaults on each device.
    extras:
        The optional parts of the package.
    """

    versions: dict[str, str | None]
    data: tuple[DataFolder, ...]
    cpu: dict[str, Any]
    cuda_devices: tuple[dict[str, Any], ...]
    cuda_missing: str
    scans: tuple[Availability, ...]
    engines: tuple[Availability, ...]
    uses: tuple[Use, ...]
    extras: tuple[Extra, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """The findings on this machine. Missing or broken parts raise no error: they are findings, too."""
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(_cuda_count()))]
    published = _published(1)
    float32 = torch.float32
    return Diagnosis(
        versions=_versions(),
        data=_data_folders(),
        cpu=_cpu(),
        cuda_devices=tuple(_cuda_device(d) for d in devices[1:]),
        cuda_missing="" if len(devices) > 1 else _why_no_cuda(),
        scans=tuple(
            Availability(b.name, str(d), "fp32", _reason(partial(b.unavailable, d, float32)))
            for d in devices
            for b in BACKENDS.values()
        ),
        engines=tuple(
            Availability(k.name, str(d), p, _reason(partial(_engine_unavailable, k, published, d, p)))
            for d in devices
            for k in KINDS.values()
            for p in PRECISIONS[1:]
        ),
        uses=tuple(_use(d) for d in devices),
        extras=tuple(_extra(name, modules) for name, modules in EXTRAS.items()),
    )


def _data_folders() -> tuple[DataFolder, ...]:
    return tuple(
        DataFolder(name, package, folder, data.variable, data.unusable)
        for name, data in (("PROJ", proj_data()), ("GDAL", gdal_data()))
        for package, folder in data.in_use.items()
    )


def _published(stages: int) -> NetworkConfig:
    return NetworkConfig(classes=10, stages=stages)


def _reason(unavailable: Callable[[], str]) -> str:
    try:
        return unavailable()
    except Exception as error:  # a broken driver or package is a finding
        return f"{type(error).__name__}: {error}"


def _use(device: torch.device) -> Use:
    def engine(stages: int) -> str:
        kind, precision = choose(_published(stages), device)
        return f"engine {kind.name} in {precision}"

    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    scan = default_backend(device, torch.float32, gradients=True).name
    return Use(str(device), engine(1), engine(2), f"scan {scan}, {'bf16' if half else 'fp32'}")


def _cuda_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return "PyTorch finds no CUDA device"


def _cuda_device(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    try:
        free = torch.cuda.mem_get_info(device)[0]
    except RuntimeError:  # another process has the card for its exclusive use
        free = None
    return {
        "device": str(device),
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "free_bytes": free,
        "bf16": properties.major >= 8,
    }


def _cpu() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    config = _published(1)
    no_bf16 = _reason(partial(shared_kernels.unavailable, config, torch.float32, "bf16"))
    return {
        "name": _cpu_name(),
        "machine": platform.machine(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "scan_kernel": scan_kernels.instruction_set() or _missing(scan_kernels.unavailable(*_CPU_FLOAT)),
        "shared_scan_kernels": shared_kernels.instruction_set()
        or _missing(shared_kernels.unavailable(config, torch.float32)),
        "bf16": not no_bf16,
    }


_CPU_FLOAT = (torch.device("cpu"), torch.float32)


def _missing(reason: str) -> str:
    return f"PyTorch operations instead: {reason}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _versions() -> dict[str, str | None]:
    return {
        "das2f-map": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch's CUDA": torch.version.cuda or "none",
        "rasterio": _version("rasterio"),
        "GDAL": _gdal_version(),
        "geopandas": _version("geopandas"),
        "lightning": _version("lightning"),
        "onnx": _version("onnx"),
        "onnxruntime": _onnxruntime(),
        "triton": _version("triton"),
        "mamba-ssm": _version("mamba-ssm"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _onnxruntime() -> str | None:
    """The versions of both packages, where both are installed; one then hides the other's module."""
    plain, gpu = _version("onnxruntime"), _version(_GPU_RUNTIME)
    return " and ".join([*([plain] if plain else []), *([f"{gpu} (GPU)"] if gpu else [])]) or None


def _gdal_version() -> str | None:
    try:
        import rasterio
    except ImportError as error:  # its libraries may be missing or of another version
        return f"rasterio cannot be imported: {error}"
    return str(rasterio.__gdal_version__)


def _engine_unavailable(kind: EngineKind, config: NetworkConfig, device: torch.device, precision: str) -> str:
    reason = kind.unavailable(config, device, precision)
    if not reason and kind.name == "onnx" and importlib.util.find_spec("onnx") is None:
        return "onnx is not installed: runs ONNX files only"
    return reason


def _extra(name: str, packages: tuple[str, ...]) -> Extra:
    missing = tuple(p for p in packages if _is_missing(p))
    if not missing:
        return Extra(name, missing, "")
    hint = f"{_cuda_steps(missing)}, see docs/building.md" if name == "cuda" else install_extra(name)
    return Extra(name, missing, hint)


def _cuda_steps(missing: tuple[str, ...]) -> str:
    """The commands that install the missing packages of the extra for CUDA."""
    if missing == (_GPU_RUNTIME,):
        steps = f"pip install {_GPU_RUNTIME}"
    else:
        # mamba-ssm has to be built with the PyTorch that it will run with.
        steps = install_extra("cuda").replace("install", "install --no-build-isolation", 1)
    if _GPU_RUNTIME in missing and _version("onnxruntime") is not None:
        # Both bring the same module: one would hide the other.
        return f"pip uninstall onnxruntime, then {steps}"
    return steps


def _is_missing(package: str) -> bool:
    if package == _GPU_RUNTIME:  # its module has the name of onnxruntime's
        return _version(package) is None
    return importlib.util.find_spec(_MODULES.get(package, package.replace("-", "_"))) is None
