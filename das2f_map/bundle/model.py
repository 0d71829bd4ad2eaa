"""A model in memory: its card and the weights of its network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor

from das2f_map.bundle.card import ModelCard
from das2f_map.errors import ModelError
from das2f_map.network import Das2fNet, NetworkConfig

MOST_WEIGHTS: Final = 1 << 27
"""Most numbers that a network may have; the published ones have 17 and 18 million."""

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

_WIDEST_BYTES: Final = 8
"""Bytes of a number in float64, the widest type that weights may have."""

_HEADER_BYTES: Final = 1 << 20
"""Room for the header of a safetensors file, and for tensors that do not belong to the network."""


class ModelBundle:
    """A card and the network's weights; :meth:`network` builds the torch module from them."""

    def __init__(self, card: ModelCard, state_dict: Mapping[str, Tensor], path: Path | None = None) -> None:
        self.card = card
        self.state_dict = dict(state_dict)
        self.path = path

    def digest(self) -> str:
        """SHA-256 of the weights, hexadecimal."""
        tensors = {name: t.contiguous() for name, t in sorted(self.state_dict.items())}
        return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()

    def network(self) -> Das2fNet:
        """The network in evaluation mode, float32 on the CPU, with this bundle's weights.

        Raises :class:`~das2f_map.errors.ModelError` when the weights do not fit the card.
        """
        network = empty_network(self.card.network)
        if problems := state_dict_problems(network.state_dict(), self.state_dict):
            where = f" in {self.path}" if self.path else ""
            raise ModelError(
                f"the weights{where} do not fit the card's network: {problems}",
                "the bundle is damaged; import or train it again",
            )
        kinds = network.state_dict()
        network.load_state_dict({n: t.to(kinds[n].dtype) for n, t in self.state_dict.items()}, assign=True)
        return network.eval()


def empty_network(config: NetworkConfig) -> Das2fNet:
    """A network of these sizes whose tensors have shapes and types, but no values and no memory."""
    with torch.device("meta"):
        return Das2fNet(config)


def weights_limit(card: ModelCard, path: Path) -> int:
    """Most bytes that a file with the weights of a card's network may have.

    Raises :class:`~das2f_map.errors.ModelError` when the card asks for more weights than any network has.
    """
    numbers: int = sum(tensor.numel() for tensor in empty_network(card.network).state_dict().values())
    if numbers > MOST_WEIGHTS:
        raise ModelError(
            f"{path} is for a network of {numbers:,} weights, das2f-map takes up to {MOST_WEIGHTS:,}",
            "ask for the bundle again where it comes from",
        )
    return numbers * _WIDEST_BYTES + _HEADER_BYTES


def oddity(tensor: Tensor) -> str:
    """The reason why a tensor cannot hold weights, whatever its shape; empty if it can.

    Files may hold tensors of any kind that torch knows; few operations work for all of them.
    """
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "sparse or nested"
    if tensor.is_quantized:
        return "quantised"
    if tensor.device.type != "cpu":
        return "without values"
    if tensor.dtype not in (*_FLOATS, *_INTEGERS):
        return str(tensor.dtype).removeprefix("torch.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "of repeated values"  # a few bytes in the file that could fill any memory
    return ""


def state_dict_problems(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], limit: int = 6) -> str:
    """Tensors of ``given`` that are missing, unexpected, of another shape or kind, or not finite, in words.

    The text is empty when all fits; it lists at most ``limit`` tensors of each kind.
    """
    shapes = {
        name: f"{name} is {_shape(given[name])}, should be {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    }
    odd = {n: oddity(t) or _other_kind(expected[n], t) for n, t in given.items() if n in expected}
    fitting = [n for n in odd if not odd[n] and n not in shapes]
    bad = [n for n in fitting if given[n].is_floating_point() and not given[n].isfinite().all()]
    parts = []
    for label, names in (
        ("missing", [n for n in expected if n not in given]),
        ("unexpected", [n for n in given if n not in expected]),
        ("of another shape", list(shapes.values())),
        ("of another kind", [f"{name} is {why}" for name, why in odd.items() if why]),
        ("not finite", bad),
    ):
        if names:
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            parts.append(f"{len(names)} {label} ({', '.join(n[:120] for n in names[:limit])}{more})")
    return "; ".join(parts)


def _other_kind(expected: Tensor, given: Tensor) -> str:
    kinds = _FLOATS if expected.is_floating_point() else _INTEGERS
    return "" if given.dtype in kinds else str(given.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
