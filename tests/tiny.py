"""A small model with random, trained-looking weights, for tests of everything around the network."""

from __future__ import annotations

from pathlib import Path

import torch

from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.card_parts import Domain
from das2f_map.bundle.files import load_bundle, save_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.legend import Legend
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import BandStatistics

NAMES = ("water", "forest", "bare soil")


def tiny_card(name: str = "tiny", bands: int = 4, stages: int = 1, patch: int = 16) -> ModelCard:
    """A card for the scenes of ``synthetic.make_pair``; a ``patch`` of 8 MS pixels is five times faster."""
    statistics = {"mean": 2500.0, "std": 700.0, "p01": 1000.0, "p99": 4000.0}
    ms = ("blue", "green", "red", "nir", "swir")[:bands]
    return ModelCard(
        name=name,
        network=NetworkConfig(
            classes=len(NAMES),
            ms_bands=bands,
            stages=stages,
            patch_size=patch,
            width=16,
            state_size=4,
            dt_rank=4,
            classifier_hidden=16,
        ),
        legend=Legend.from_names(NAMES, ids=(2, 5, 9)),
        patch=PatchGeometry(size=patch, target_index=patch // 2 - 1),
        ms_bands=tuple(BandStatistics(name=n, **statistics) for n in ms),
        pan_band=BandStatistics(name="pan", **statistics),
        domain=Domain(ms_gsd_m=(6.0, 10.0), ratio=(1.5, 5.0)),
    )


def tiny_network(card: ModelCard, seed: int = 0) -> Das2fNet:
    """Random weights whose classes differ from pixel to pixel."""
    torch.manual_seed(seed)
    network = Das2fNet(card.network).eval()
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.add_(0.1 * torch.randn_like(p))
            if name == "classifier.out.weight":
                p.mul_(30)
    # Without this one class wins everywhere: the bias is taken off on the mean patch.
    g, size = torch.Generator().manual_seed(seed), card.patch.size
    with torch.no_grad():
        logits = network(
            torch.randn(64, card.network.ms_bands, size, size, generator=g),
            torch.randn(64, 1, 4 * size, 4 * size, generator=g),
        )
        network.classifier.out.bias.sub_(logits.mean(dim=0))
    return network


def tiny_bundle(
    folder: Path, name: str = "tiny", bands: int = 4, stages: int = 1, patch: int = 16
) -> ModelBundle:
    """Save such a model as ``folder/name`` and read it back."""
    card = tiny_card(name, bands, stages, patch)
    save_bundle(folder / name, card, tiny_network(card).state_dict())
    return load_bundle(folder / name)
