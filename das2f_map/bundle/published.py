"""Checkpoints of the authors' published network, turned into model bundles."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from das2f_map.bundle.model import state_dict_problems
from das2f_map.errors import ModelError
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.published import published_names

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file that ``torch.save`` wrote; nothing in the file is executed.

    Raises :class:`~das2f_map.errors.ModelError` if the file is missing, damaged or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"checkpoint not found: {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
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


def convert(given: Mapping[str, Tensor], source: str) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """Network sizes and our state dict, converted from a published state dict.

    Raises :class:`~das2f_map.errors.ModelError`, which names the tensors that are missing or do not fit.
    """
    hint = "`das2f-map models import` takes the state dict of the published one- or two-stage network"
    stages = 2 if any(n.startswith(("mamba_ms_2.", "cromamba_2.", "FusionBlock2.")) for n in given) else 1
    names = published_names(stages)
    config = _sizes(given, stages, source, hint)
    with torch.device("meta"):
        expected = Das2fNet(config).state_dict()
    shapes = {theirs: expected[ours] for theirs, ours in names.items()}
    counters = {n for n in names if n.endswith("num_batches_tracked")}
    # Step counters of the batch norms play no part at inference; older checkpoints lack them.
    complete = {**{n: torch.zeros((), dtype=torch.int64) for n in counters}, **given}
    flattened = {
        # The published network stores directions and channels of A and D on one axis, ours on two.
        n: t.reshape(shapes[n].shape) if _same_numbers(n, t, shapes) else t
        for n, t in complete.items()
    }
    if problems := state_dict_problems(shapes, flattened):
        raise ModelError(f"{source} is not a checkpoint of the {stages}-stage network: {problems}", hint)
    return config, {ours: flattened[theirs].to(expected[ours].dtype) for theirs, ours in names.items()}


def _same_numbers(name: str, tensor: Tensor, shapes: Mapping[str, Tensor]) -> bool:
    merged = name.rsplit(".", 1)[-1].removesuffix("_pan") in ("A_logs", "Ds")
    return merged and name in shapes and tensor.shape[0] == shapes[name].shape[:2].numel()


def _sizes(given: Mapping[str, Tensor], stages: int, source: str, hint: str) -> NetworkConfig:
    """Network sizes: read off the tensors where possible, else as published."""

    def size(name: str, axis: int, default: int) -> int:
        tensor = given.get(name)
        return default if tensor is None or tensor.ndim <= axis else int(tensor.shape[axis])

    if "classifier.classifier_2.weight" not in given:
        raise ModelError(
            f"{source} is not a checkpoint of the published network: it lacks classifier.classifier_2.weight "
            f"(it has {len(given)} tensors: {', '.join(list(given)[:3])}…)",
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
