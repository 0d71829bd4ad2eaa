"""Held-out accuracy of a trained model and of a random forest, on the same split and the same pixels.

    python benchmarks/gulf_accuracy.py MS PAN LABELS MODEL -o docs/benchmarks/gulf_accuracy.json

For each MS pixel, the random forest sees its MS bands and its 16 PAN pixels. It learns from the model's
training pixels and is tested on the model's test pixels (``split.tif`` of the bundle). It sees no patch. A
second forest therefore adds the mean and the standard deviation of every band over the network's patch of
16 × 16 pixels, so that forest and network see the same ground.

Needs scikit-learn (in the ``dev`` extra).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.labels.labelled_pixels import LabelTable, read_labels
from das2f_map.scene.grid import Grid
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import open_pair
from das2f_map.training.dataset import PatchDataset, PatchReader
from das2f_map.training.predict import predict
from das2f_map.training.run_files import SPLIT_NAME

TRAIN, TEST = 1, 3
"""Values of ``split.tif``."""


def parts_of(model: Path, grid: Grid, labels: LabelTable) -> NDArray[np.uint8]:
    """Part of every labelled pixel, read from the file that the training wrote."""
    with rasterio.open(model / SPLIT_NAME) as file:
        if (file.height, file.width) != (grid.height, grid.width) or file.transform != grid.transform:
            raise SystemExit(f"{model / SPLIT_NAME} is not on the grid of this scene")
        return file.read(1)[labels.rows, labels.cols]


def features(reader: PatchReader, table: LabelTable, context: bool) -> NDArray[np.float32]:
    """MS bands and 16 PAN pixels of each pixel; with ``context`` also mean and deviation over its patch."""
    found = []
    for start in range(0, len(table), 512):
        part = table.select(np.arange(start, min(start + 512, len(table))))
        ms, pan = (t.numpy() for t in reader.patches(part.rows, part.cols))
        own = [ms[:, :, 7, 7], pan[:, 0, 28:32, 28:32].reshape(len(part), 16)]
        if context:
            own += [ms.mean((2, 3)), ms.std((2, 3)), pan.mean((2, 3)), pan.std((2, 3))]
        found.append(np.concatenate(own, axis=1))
    return np.concatenate(found)


def random_forest_baseline(
    reader: PatchReader, train: LabelTable, test: LabelTable, *, context: bool = False, seed: int = 0
) -> ConfusionMatrix:
    """A random forest of 500 trees with balanced class weights, tested on ``test``."""
    forest = RandomForestClassifier(500, class_weight="balanced_subsample", random_state=seed, n_jobs=-1)
    forest.fit(features(reader, train, context), train.classes)
    return ConfusionMatrix.from_arrays(
        test.classes, forest.predict(features(reader, test, context)), test.legend
    )


def network_accuracy(
    bundle: ModelBundle, reader: PatchReader, test: LabelTable, device: torch.device
) -> ConfusionMatrix:
    """The bundle's network on the same pixels."""
    found = predict(bundle.network(), PatchDataset(reader, test), 128, device, lambda n: None)
    return ConfusionMatrix.from_arrays(test.classes, test.legend.ids_at(found), test.legend)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ms", type=Path)
    parser.add_argument("pan", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("model", type=Path, help="bundle folder made by das2f-map train on these files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON to write")
    parser.add_argument("--class-field")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    bundle = load_bundle(options.model)
    card = bundle.card
    with open_pair(options.ms, options.pan) as pair:
        labels = read_labels(options.labels, pair.grids.ms, class_field=options.class_field)
        if labels.legend.names != card.legend.names:
            raise SystemExit(f"labels have {labels.legend.names}, the model {card.legend.names}")
        parts = parts_of(options.model, pair.grids.ms, labels)
        train, test = labels.select(parts == TRAIN), labels.select(parts == TEST)
        reader = PatchReader(ModelInput(pair, card.normalisation, card.patch))
        results: dict[str, Any] = {}
        methods = {
            "DAS2F network": lambda: network_accuracy(bundle, reader, test, torch.device(options.device)),
            "random forest, MS + PAN pixels": lambda: random_forest_baseline(reader, train, test),
            "random forest, MS + PAN pixels and patch statistics": lambda: random_forest_baseline(
                reader, train, test, context=True
            ),
        }
        print(f"{'':55}{'OA':>9}{'AA':>9}{'kappa':>8}{'seconds':>9}")
        for name, method in methods.items():
            started = time.monotonic()
            matrix = method()
            seconds = time.monotonic() - started
            results[name] = {**matrix.to_dict(), "seconds": round(seconds, 1)}
            oa, aa = percent(matrix.overall_accuracy), percent(matrix.average_accuracy)
            print(f"{name:55}{oa:>9}{aa:>9}{matrix.kappa or 0:8.3f}{seconds:9.1f}", flush=True)
    record = {
        "model": card.name,
        "training_pixels": train.counts(),
        "test_pixels": test.counts(),
        "network_training_patches_per_epoch": card.training.settings.get("samples_per_class", 0)
        * len(card.legend),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
