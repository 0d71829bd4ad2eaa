"""The bundled model on other scenes: normalised with its card or the scene, batch norms measured again.

    python benchmarks/adaptation.py --data SCENES

Labelled pixels of each scene are classified in four ways: values normalised with the statistics of the card
or of the scene, and the running means and variances of the batch normalisations as trained or measured again
on 512 patches of the scene, drawn at random without labels. Classes of the scene that the model knows under
another name are matched by hand. Nothing is trained. SCENES holds a folder with ms.tif and pan.tif for each
scene, as for recipe.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import torch
import tried
from held_ground import counts_of, figures
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.network import Das2fNet
from das2f_map.progress import silent
from das2f_map.scene.radiometry import BandStatistics
from das2f_map.scene.request import PairRequest
from das2f_map.training.hardware import find_hardware
from das2f_map.training.prepare import Prepared, prepare
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.settings import FRESH, TrainingSettings
from das2f_map.types import Int64

NAME: Final = "adaptation"
MOST_PIXELS, PATCHES, BATCH = 800, 512, 64
"""Labelled pixels that are classified; unlabelled patches that batch normalisations are measured on."""


@dataclass(frozen=True)
class Scene:
    """Labels of a scene, and the model's class for each of the scene's classes."""

    labels: str
    classes: Mapping[str, str]


SCENES: Final = {
    "zion": Scene(
        "labels.tif",
        {
            "class 1": "water",
            "class 2": "built_up",
            "class 3": "bare_soil",
            "class 4": "forest",
            "class 5": "low_vegetation",
            "class 6": "low_vegetation",
            "class 7": "low_vegetation",
        },
    ),
    "caldern": Scene("labels.gpkg", {"Urban": "built_up", "Forest": "forest", "Grass": "low_vegetation"}),
}
STATISTICS: Final = ("card", "scene")
NORMS: Final = ("as trained", "measured again")


@dataclass(frozen=True)
class Patches:
    """MS patches ``(n, bands, P, P)`` and PAN patches ``(n, 1, 4P, 4P)``."""

    ms: Tensor
    pan: Tensor

    def rescaled(self, own: tuple[BandStatistics, ...], theirs: tuple[BandStatistics, ...]) -> Patches:
        """Patches normalised with other statistics."""
        factor = torch.tensor([o.std / t.std for o, t in zip(own, theirs, strict=True)])
        offset = torch.tensor([(o.mean - t.mean) / t.std for o, t in zip(own, theirs, strict=True)])
        factor, offset = (v.float()[None, :, None, None] for v in (factor, offset))
        return Patches(self.ms * factor[:, :-1] + offset[:, :-1], self.pan * factor[:, -1:] + offset[:, -1:])

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches, in order."""
        return zip(self.ms.split(BATCH), self.pan.split(BATCH), strict=True)


@contextmanager
def opened(name: str, scene: Scene, data: Path) -> Iterator[Prepared]:
    """A scene and its labels, normalised with the scene's statistics."""
    settings = TrainingSettings(device="cpu", assess="none")
    pair = PairRequest.of(data / name / "ms.tif", data / name / "pan.tif")
    labelled = SceneRequest(pair, LabelRequest(str(data / name / scene.labels)))
    request = TrainRequest((labelled,), Path("unused"), settings, start=FRESH)
    with prepare(request, find_hardware(settings), silent) as prepared:
        yield prepared


def labelled_patches(scene: Scene, prepared: Prepared, bundle: ModelBundle) -> tuple[Patches, Int64]:
    """Patches of labelled pixels, and the positions of their classes in the model's legend."""
    pixels, names = prepared.pixels, list(bundle.card.legend.names)
    wanted = [scene.classes.get(name) for name in pixels.legend.names]
    place = np.array([-1 if name is None else names.index(name) for name in wanted], np.int64)
    at = np.flatnonzero(place[pixels.positions] >= 0)
    if at.size > MOST_PIXELS:
        at = np.sort(np.random.default_rng(0).choice(at, MOST_PIXELS, replace=False))
    return Patches(*pixels.patches(at)), place[pixels.positions[at]]


def network_of(bundle: ModelBundle, patches: Patches | None) -> nn.Module:
    """The model's network; its batch normalisations are measured again on some patches if they are given."""
    network = Das2fNet(bundle.card.network)
    network.load_state_dict(bundle.state_dict)
    network.eval()
    if patches is not None:
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.reset_running_stats()
                layer.momentum = None  # the mean over all batches
                layer.train()
        with torch.no_grad():
            for ms, pan in patches.batches():
                network(ms, pan)
        network.eval()
    return network


def measure(name: str, scene: Scene, data: Path, bundle: ModelBundle) -> dict[str, Any]:
    """Counts of the four ways on a scene."""
    theirs, classes = bundle.card.normalisation.bands, len(bundle.card.legend)
    with opened(name, scene, data) as prepared:
        own = prepared.normalisation.bands
        tested, truth = labelled_patches(scene, prepared, bundle)
        others = tried.unlabelled(prepared)
        drawn = np.random.default_rng(0).permutation(len(others))[:PATCHES]
        unlabelled = Patches(*others.patches(np.sort(drawn)))
    counts = {}
    for statistics, norms in itertools.product(STATISTICS, NORMS):
        same = statistics == "scene"
        mine, seen = (p if same else p.rescaled(own, theirs) for p in (tested, unlabelled))
        network = network_of(bundle, seen if norms == NORMS[1] else None)
        with torch.inference_mode():
            logits = torch.cat([network(ms, pan) for ms, pan in mine.batches()])
        counts[f"{statistics}, {norms}"] = counts_of(truth, logits.argmax(1).numpy(), classes)
        common.say(
            f"{name}: {statistics}, {norms}: OA {figures(counts[f'{statistics}, {norms}']).overall:.3f}"
        )
    return {"pixels": int(truth.size), "counts": counts}


def table(record: dict[str, Any]) -> str:
    heads = ["statistics", "batch normalisations", *(f"{s}: OA / macro-F1, %" for s in record["scenes"])]
    rows = []
    for statistics, norms in itertools.product(STATISTICS, NORMS):
        found = [figures(s["counts"][f"{statistics}, {norms}"], 1) for s in record["scenes"].values()]
        cells = [f"{100 * f.overall:.1f} / {100 * f.mean_f1:.1f}" for f in found]
        rows.append([statistics, norms, *cells])
    tested = ", ".join(f"{name} {s['pixels']}" for name, s in record["scenes"].items())
    return common.markdown(heads, rows, words=2) + f"\n\nTested pixels: {tested}. Model: {record['model']}."


def tables(record: dict[str, Any]) -> dict[str, str]:
    """The table, by the name of its place in the page."""
    if not record:
        return {
            "adaptation": "Not measured yet; `python benchmarks/adaptation.py --data SCENES` measures it."
        }
    return {"adaptation": table(record)}


def plot(record: dict[str, Any], figure: Figure) -> None:
    figure.set_size_inches(6, 2.6)
    axes = figure.subplots()
    for n, (name, scene) in enumerate(record["scenes"].items()):
        ways = list(scene["counts"])
        overall = [100 * figures(scene["counts"][way], 1).overall for way in ways]
        axes.barh([k + 0.4 * n for k in range(len(ways))], overall, height=0.36, label=name)
    axes.set_yticks([k + 0.2 for k in range(len(ways))], ways)
    axes.invert_yaxis()
    axes.set_xlabel("overall accuracy, %")
    axes.legend(frameon=False)
    common.tidy(axes)


def main() -> None:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--data", type=Path, required=True, help="folder of the scenes")
    options = parser.parse_args()
    options.device = "cpu"
    common.start(options)
    bundle = load_bundle(common.MODEL)
    found = {name: measure(name, scene, options.data, bundle) for name, scene in SCENES.items()}
    record = {"machine": common.machine(options), "model": bundle.card.name, "scenes": found}
    common.publish(NAME, record, options, table, plot)


if __name__ == "__main__":
    main()
