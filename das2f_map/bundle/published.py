"""Checkpoints of the authors' published network, turned into model bundles."""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from torch import Tensor

from das2f_map.bundle.model import MOST_WEIGHTS, empty_network, oddity, state_dict_problems
from das2f_map.bundle.untrusted import open_plain, open_zip
from das2f_map.errors import ModelError
from das2f_map.network import NetworkConfig
from das2f_map.network.published import published_names

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")

CHECKPOINT_LIMIT: Final = 2 * 4 * MOST_WEIGHTS
"""Most bytes of a checkpoint: the largest network in float32, and as much again of an optimiser's state."""

_PICKLE_LIMIT: Final = 16 << 20
"""Most bytes of the pickle stream in a zip: the names and sizes of tensors, without their values."""

_LEGACY_STREAMS: Final = 5
"""Pickle streams at the start of a file of torch before 1.6: number, version, system, tensors, storages."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file that ``torch.save`` wrote; nothing in the file is executed.

    Tensors of a zip, which torch has written since version 1.6, stay in the file until they are used.

    Raises :class:`~das2f_map.errors.ModelError` if the file is missing, damaged, too large or holds no state
    dict.
    """
    path = Path(path)
    try:
        with open_plain(path):
            pass
        size = path.stat().st_size
        if size > CHECKPOINT_LIMIT:
            raise ModelError(
                f"{path} has {size:,} bytes, more than the {CHECKPOINT_LIMIT:,} of any checkpoint"
            )
        content = _load(path)
    except FileNotFoundError as error:
        raise ModelError(f"checkpoint not found: {path}") from error
    except ModelError:
        raise
    except (
        Exception
    ) as error:  # torch's reader of pickles raises whatever a broken stream makes it stumble over
        raise ModelError(
            f"{path} is not a checkpoint that can be read safely: damaged, or more in it than weights",
            "save the weights alone: torch.save(network.state_dict(), path)",
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{path} holds no state dict (names of tensors)")
    # Networks trained on several GPUs are saved with this prefix.
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def _load(path: Path) -> Any:
    """The content of a checkpoint. Any error at all means that it is damaged or not safe to read."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on old kinds of tensors, and on odd escapes in a stream
        in_zip = file.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(path)
        if in_zip:
            _require_safe_zip(path)
        else:
            file.seek(0)
            for _ in range(_LEGACY_STREAMS):
                _require_no_memory_asked(file)
        # Mapped, a tensor that claims to be larger than its part of the file cannot reach beyond the file.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=in_zip)


def _require_safe_zip(path: Path) -> None:
    with open_zip(path) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise ValueError("torch writes its zips without compression")
        for member in members:
            if not member.filename.endswith("/data.pkl"):
                continue
            if member.file_size > _PICKLE_LIMIT:
                raise ValueError(f"a pickle stream of {member.file_size} bytes")
            with archive.open(member) as stream:
                _require_no_memory_asked(stream)


def _require_no_memory_asked(stream: Any) -> None:
    """Raise ValueError for a pickle stream that may ask for any amount of memory by a number."""
    for _, argument, _ in pickletools.genops(stream):
        # torch allows the call of bytearray, which makes as many bytes as it is given.
        if isinstance(argument, str) and argument.endswith("bytearray"):
            raise ValueError("bytes besides tensors")


def convert(given: Mapping[str, Tensor], source: str) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """Network sizes and our state dict, converted from a published state dict.

    Raises :class:`~das2f_map.errors.ModelError`, which names the tensors that are missing or do not fit.
    """
    hint = "`das2f-map models import` takes the state dict of the published one- or two-stage network"
    stages = 2 if any(n.startswith(("mamba_ms_2.", "cromamba_2.", "FusionBlock2.")) for n in given) else 1
    names = published_names(stages)
    config = _sizes(given, stages, source, hint)
    expected = empty_network(config).state_dict()
    shapes = {theirs: expected[ours] for theirs, ours in names.items()}
    counters = {n for n in names if n.endswith("num_batches_tracked")}
    # Step counters of the batch norms play no part at inference; older checkpoints lack them.
    complete = {**{n: torch.zeros((), dtype=torch.int64) for n in counters}, **given}
    flattened = {
        # The published network stores directions and channels of A and D on one axis, ours on two.
        n: t.reshape(shapes[n].shape) if not oddity(t) and _same_numbers(n, t, shapes) else t
        for n, t in complete.items()
    }
    if problems := state_dict_problems(shapes, flattened):
        raise ModelError(f"{source} is not a checkpoint of the {stages}-stage network: {problems}", hint)
    return config, {ours: flattened[theirs].to(expected[ours].dtype) for theirs, ours in names.items()}


def _same_numbers(name: str, tensor: Tensor, shapes: Mapping[str, Tensor]) -> bool:
    merged = name.rsplit(".", 1)[-1].removesuffix("_pan") in ("A_logs", "Ds")
    if not merged or name not in shapes or not tensor.ndim:
        return False
    wanted = shapes[name].shape
    return tensor.shape[0] == wanted[:2].numel() and tensor.numel() == wanted.numel()


def _sizes(given: Mapping[str, Tensor], stages: int, source: str, hint: str) -> NetworkConfig:
    """Network sizes: read off the tensors where possible, else as published."""

    def size(name: str, axis: int, default: int) -> int:
        tensor = given.get(name)
        return default if tensor is None or tensor.ndim <= axis else int(tensor.shape[axis])

    if "classifier.classifier_2.weight" not in given:
        raise ModelError(
            f"{source} is not a checkpoint of the published network: it lacks classifier.classifier_2.weight "
            f"(it has {len(given)} tensors: {', '.join(n[:80] for n in list(given)[:3])}…)",
            hint,
        )
    width = size("scan_161664_ms.0.weight", 0, 64)
    features = size("classifier.classifier_1.weight", 1, 16384)
    try:
        return NetworkConfig(
            classes=size("classifier.classifier_2.weight", 0, 1),
            stages=stages,
            ms_bands=size("scan_161664_ms.0.weight", 1, 4),
            pan_channels=size("R1.conv.weight", 0, 4),
            patch_size=max(2, round((features / max(width, 1)) ** 0.5)),
            width=width,
            state_size=size("mamba_ms_1.mamba.A_logs", 1, 24),
            dt_rank=size("mamba_ms_1.mamba.dt_projs_weight", 2, 24),
            mlp_ratio=max(1, size("mamba_ms_1.mlp.0.weight", 0, 256) // max(width, 1)),
            classifier_hidden=size("classifier.classifier_1.weight", 0, 1024),
        )
    except ValidationError as error:
        raise ModelError(f"{source} has tensors of odd sizes: {error.errors()[0]['msg']}", hint) from error
