"""A model in memory: its card and the weights of its network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from das2f_map.bundle.card import ModelCard
from das2f_map.errors import ModelError
from das2f_map.network import Das2fNet


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
        with torch.device("meta"):
            network = Das2fNet(self.card.network)
        if problems := state_dict_problems(network.state_dict(), self.state_dict):
            where = f" in {self.path}" if self.path else ""
            raise ModelError(
                f"the weights{where} do not fit the card's network: {problems}",
                "the bundle is damaged; import or train it again",
            )
        kinds = network.state_dict()
        network.load_state_dict({n: t.to(kinds[n].dtype) for n, t in self.state_dict.items()}, assign=True)
        return network.eval()


def state_dict_problems(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], limit: int = 6) -> str:
    """Tensors of ``given`` that are missing, unexpected, of another shape or not finite, in words.

    The text is empty when all fits; it lists at most ``limit`` tensors of each kind.
    """
    shapes = {
        name: f"{name} is {_shape(given[name])}, should be {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    }
    bad = [n for n, t in given.items() if n in expected and t.is_floating_point() and not t.isfinite().all()]
    parts = []
    for label, names in (
        ("missing", [n for n in expected if n not in given]),
        ("unexpected", [n for n in given if n not in expected]),
        ("of another shape", list(shapes.values())),
        ("not finite", bad),
    ):
        if names:
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            parts.append(f"{len(names)} {label} ({', '.join(names[:limit])}{more})")
    return "; ".join(parts)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
