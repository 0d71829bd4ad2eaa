"""Batches of training patches by the number of labels: seconds of a batch, seconds of its step, memory.

    python benchmarks/loader.py

The scene is made up from the example (2048 x 2048 MS pixels, PAN 4 : 1 finer). Labels are whole blocks of
16 x 16 pixels spread evenly over it, so that 100,000 labels lie all over the scene. A batch is drawn, turned,
changed in radiometry and given the labels around its targets, as in a training. A step is a batch, the
forward and backward pass of the network, and its update. Each number of labels has a process of its own.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import rasterio
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from das2f_map.progress import silent
from das2f_map.scene.request import PairRequest
from das2f_map.training.batches import DrawnBatches, PatchBatch, PatchDataset
from das2f_map.training.fit import neighbours, new_network
from das2f_map.training.hardware import find_hardware
from das2f_map.training.jitter import Jitter
from das2f_map.training.prepare import Prepared, prepare
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.settings import FRESH, TrainingSettings

NAME: Final = "loader"
LABELS: Final = (1_500, 10_000, 100_000)
SIDE: Final = 2048
PATCH: Final = 16
"""MS pixels a side of a labelled block."""

CLASSES: Final = 6


def write_labels(ms: Path, path: Path, wanted: int) -> None:
    """Write classes 1 to 6 on the MS grid: at least ``wanted`` labelled pixels, in spread blocks."""
    with rasterio.open(ms) as file:
        profile, side = file.profile, file.height
    classes = np.zeros((side, side), np.uint8)
    blocks = -(-wanted // PATCH**2)
    along = int(np.ceil(np.sqrt(blocks)))
    starts = np.linspace(PATCH, side - 2 * PATCH, along).astype(int)
    for n in range(blocks):
        row, col = starts[n // along], starts[n % along]
        classes[row : row + PATCH, col : col + PATCH] = 1 + n % CLASSES
    profile.update(count=1, dtype="uint8", nodata=0)
    with rasterio.open(path, "w", **profile) as file:
        file.write(classes, 1)


def patches_of(prepared: Prepared) -> PatchDataset:
    """The training patches, as a training makes them."""
    settings = prepared.settings
    jitter = Jitter(prepared.normalisation, settings.jitter, settings.haze)
    return PatchDataset(prepared.pixels, jitter, neighbours(settings))


def batches_of(prepared: Prepared, steps: int) -> list[PatchBatch]:
    """Batches as a training draws them."""
    settings, positions = prepared.settings, prepared.pixels.positions
    drawn = DrawnBatches(
        positions, steps=steps, batch_size=settings.batch_size, balance=settings.balance, seed=0
    )
    return list(islice(drawn, steps))


def child(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Seconds of batches and steps on one number of labels, and the memory of the process."""
    settings = TrainingSettings(device=device.type, head="pooled", assess="none")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ms, pan = common.write_scene(folder, task["side"], task["side"])
        write_labels(ms, folder / "labels.tif", task["labels"])
        pair = PairRequest.of(ms, pan, coregistration="off")
        scene = SceneRequest(pair, LabelRequest(str(folder / "labels.tif")))
        request = TrainRequest((scene,), folder / "unused", settings, start=FRESH)
        memory = common.PeakMemory(device)
        with prepare(request, find_hardware(settings), silent) as prepared:
            dataset, batches = patches_of(prepared), batches_of(prepared, task["rounds"] + 1)
            network = new_network(prepared).to(device).train()
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

            def step(n: int) -> None:
                ms, pan, labels = (t.to(device) for t in dataset[batches[n]])
                optimizer.zero_grad()
                wanted = labels >= 0
                torch.autograd.backward(
                    F.cross_entropy(network.logits_at(ms, pan, wanted).float(), labels[wanted])
                )
                optimizer.step()

            step(0)
            loading = [
                common.timed(partial(dataset.__getitem__, batches[n]), device) for n in range(1, len(batches))
            ]
            whole = [common.timed(partial(step, n), device) for n in range(1, len(batches))]
            return {
                "labels": len(prepared.pixels),
                "batch_seconds": loading,
                "step_seconds": whole,
                "batch": prepared.settings.batch_size,
                **memory.record(),
            }


def measure(options: Any) -> list[dict[str, Any]]:
    found = []
    for labels in LABELS[:1] if options.quick else LABELS:
        common.say(f"{labels:,} labels")
        side = 128 if options.quick else SIDE
        task = {"labels": labels if not options.quick else 512, "side": side, "rounds": options.rounds}
        found.append(common.in_own_process(__file__, options, task))
    return found


def table(record: dict[str, Any]) -> str:
    rows = []
    for each in record["sizes"]:
        batch, step = (common.median(each[key]) for key in ("batch_seconds", "step_seconds"))
        rows.append(
            [
                f"{each['labels']:,}",
                f"{1e3 * batch:,.1f}",
                f"{1e3 * step:,.0f}",
                f"{100 * batch / step:.1f} %",
                *common.memory_cells(each),
            ]
        )
    heads = [
        "labelled pixels",
        "batch, ms",
        "step, ms",
        "share",
        *common.memory_heads(record["machine"]["device"] == "cuda"),
    ]
    return common.markdown(heads, rows) + (
        f"\n\nBatches of {record['sizes'][0]['batch']} patches, medians of {record['rounds']} rounds. A step "
        "includes its batch."
    )


def plot(record: dict[str, Any], figure: Figure) -> None:
    figure.set_size_inches(6, 2.6)
    axes = figure.subplots()
    labels = [s["labels"] for s in record["sizes"]]
    for key, title, colour in (
        ("batch_seconds", "its batch", common.OURS),
        ("step_seconds", "a step", common.PLAIN),
    ):
        axes.plot(
            labels, [1e3 * common.median(s[key]) for s in record["sizes"]], "o-", label=title, color=colour
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("labelled pixels")
    axes.set_ylabel("milliseconds")
    axes.legend(frameon=False)
    common.tidy(axes)


def tables(record: dict[str, Any]) -> dict[str, str]:
    """The table, by the name of its place in the guide."""
    if not record:
        return {"loader": "Not measured yet; `python benchmarks/loader.py` measures it."}
    return {"loader": f"{table(record)}\n\n{common.machine_text(record['machine'])}."}


def main() -> None:
    options = common.parser(__doc__, rounds=20).parse_args()
    device = common.start(options)
    if options.quick:
        options.rounds = 1
    if options.child:
        print(json.dumps(child(json.loads(options.child), device)))
        return
    record = {"machine": common.machine(options), "rounds": options.rounds, "sizes": measure(options)}
    common.publish(NAME, record, options, table, plot)


if __name__ == "__main__":
    main()
