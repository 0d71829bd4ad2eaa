"""Reads the parity vectors: a published network's weights, inputs and what it made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from das2f_map.network import Das2fNet
from das2f_map.network.published import published_names

DATA = Path(__file__).parent / "data"

# The classifier's tensors are left out of the files. Element i is ((i + salt) * 2654435761 mod 2^32) / 2^32,
# moved to [-0.5, 0.5) and multiplied by the scale.
_CLASSIFIER = {
    "classifier.classifier_1.weight": (1, 2.0**-4),
    "classifier.classifier_1.bias": (2, 0.1),
    "classifier.classifier_2.weight": (3, 0.5),
    "classifier.classifier_2.bias": (4, 0.1),
}


def _formula(shape: tuple[int, ...], salt: int, scale: float) -> np.ndarray:
    i = np.arange(np.prod(shape), dtype=np.uint64)
    unit = ((i + np.uint64(salt)) * np.uint64(2654435761) % np.uint64(2**32)) / 2.0**32
    return ((unit - 0.5) * scale).reshape(shape)


def published_shapes(stages: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of the published state dict."""
    lines = (DATA / f"state_dict_{stages}stage.tsv").read_text().splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return {name: () if s == "scalar" else tuple(map(int, s.split("x"))) for name, s, _ in rows}


def published_state_dict(stages: int) -> dict[str, torch.Tensor]:
    """The state dict of the parity vectors, float64, under the published names."""
    vectors = np.load(DATA / f"parity_{stages}stage.npz")
    out = {}
    for name, shape in published_shapes(stages).items():
        if name in _CLASSIFIER:
            value = _formula(shape, *_CLASSIFIER[name])
        elif name.endswith("num_batches_tracked"):
            value = np.array(0)
        else:
            value = vectors[f"weights/{name}"]
        out[name] = torch.as_tensor(value).reshape(shape)
        if out[name].is_floating_point():
            out[name] = out[name].double()
    return out


def load_parity(network: Das2fNet, stages: int) -> None:
    """Give a network the weights of the parity vectors."""
    theirs = published_state_dict(stages)
    shapes = {n: t.shape for n, t in network.state_dict().items()}
    network.load_state_dict({o: theirs[t].reshape(shapes[o]) for t, o in published_names(stages).items()})
