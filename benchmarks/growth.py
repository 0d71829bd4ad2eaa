"""Does the time per pixel, or the memory, grow with the scene?

    python benchmarks/growth.py [--sizes 64 128 256 512 1024]

Made-up scenes of 64² to 1024² MS pixels (GeoTIFF, PAN 4 : 1), each classified in a process of its own as
`das2f-map classify` does it: blocks read from the files, the `shared` engine, classes and confidence. Time
is that of all blocks, after one for warming up; memory is the process's peak. Small sizes are repeated, in
rounds.

A machine shared with others drifts by a tenth over the minutes that the large sizes take. So every process
also classifies a 128² scene, block by block in between, and a size is compared with what that took.

Every measurement is kept in growth.part.json of the output folder until all are there: interrupt it, and
the same command goes on.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import common
import torch
from common import OURS, PLAIN
from matplotlib.figure import Figure

from das2f_map.bundle.files import load_bundle
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.engines.memory import BLOCK_SIZE
from das2f_map.running.blocks import BlockClassifier, ClassifiedBlock
from das2f_map.scene.grid import blocks_of
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import open_pair

NAME = "growth"
SIZES = (64, 128, 256, 512, 1024)
REFERENCE = 128
"""Times are relative to this size: blocks are 64 pixels, so that smaller ones are one."""
BETWEEN = 4
"""Blocks of a large scene after which one of the reference is classified."""
SEVERAL = 512
"""Larger sizes are measured once, this one in half of the rounds."""


def child(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Classify one scene; seconds of all its blocks, of the reference's in between, and peak memory."""
    bundle = load_bundle(common.MODEL)
    engine = make_engine(bundle, EngineChoice("shared", device))
    with ExitStack() as stack:

        def blocks(side: int) -> Generator[ClassifiedBlock, None, None]:
            folder = Path(task["folder"]) / str(side)
            with open_pair(folder / "ms.tif", folder / "pan.tif") as pair:
                source = ModelInput(pair, bundle.card.normalisation, bundle.card.patch)
                classifier = BlockClassifier(source, engine, bundle.card.legend)
                windows = list(blocks_of(pair.grids.ms.window, BLOCK_SIZE))
                while True:  # around and around
                    with closing(classifier.classify_all(windows)) as found:
                        yield from found

        def seconds(scene: Iterator[ClassifiedBlock]) -> float:
            begin = time.perf_counter()
            next(scene)
            return time.perf_counter() - begin

        side, reference = task["side"], task["reference"]
        # Closed before the files that they read ahead from.
        scene, beside = (stack.enter_context(closing(blocks(s))) for s in (side, reference))
        count, beside_count = (math.ceil(s / BLOCK_SIZE) ** 2 for s in (side, reference))
        every = max(1, min(BETWEEN, count // beside_count))
        for _ in range(beside_count):
            next(beside)  # to warm up
        memory = common.PeakMemory(device)
        own, others = [], []
        for i in range(count):
            own.append(seconds(scene))
            if (i + 1) % every == 0:
                others.append(seconds(beside))
    return {
        "seconds": sum(own),
        "reference_seconds": beside_count * sum(others) / len(others),
        "median_block_seconds": common.median(own),
        "scan": engine.scan,
        "precision": engine.precision,
        **memory.record(),
    }


def measure(options: Any, sizes: list[int], machine: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Side → its measurements; those that an interrupted run has left are kept."""
    kept = options.output / f"{NAME}{'-cuda' if options.device == 'cuda' else ''}.part.json"
    options.output.mkdir(parents=True, exist_ok=True)
    same = {k: v for k, v in machine.items() if k != "date"}
    reference = reference_of(sizes)
    found: dict[str, list[dict[str, Any]]] = {}
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before["machine"] == same:
            found = before["measured"]
            common.say(f"going on after {sum(map(len, found.values()))} measurements")
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds):
            for side in sizes:
                rounds = options.rounds if side < SEVERAL else (options.rounds + 1) // 2
                rounds = 1 if side > SEVERAL else rounds
                have = found.setdefault(str(side), [])
                if round_ >= rounds or len(have) > round_:
                    continue
                for needed in (side, reference):
                    place = Path(folder) / str(needed)
                    if not place.exists():
                        place.mkdir()
                        common.write_scene(place, needed, needed)
                task = {"side": side, "reference": reference, "folder": folder}
                one = common.in_own_process(__file__, options, task)
                have.append(one)
                more = 100 * growth(one, side, reference)
                common.say(
                    f"round {round_ + 1}: {side} × {side}: {one['seconds']:.1f} s, "
                    f"{1e6 * one['seconds'] / side**2:.0f} µs a pixel, {more:+.1f} %"
                )
                text = json.dumps({"machine": same, "measured": found})
                common.write_text(kept, text)
    kept.unlink(missing_ok=True)
    return found


def reference_of(sizes: list[int]) -> int:
    """Side of the scene that the others are compared with."""
    return REFERENCE if REFERENCE in sizes else sizes[0]


def growth(run: dict[str, Any], side: int, reference: int) -> float:
    """Time a pixel relative to that of the reference's pixels in between, less 1."""
    return float(run["seconds"] / side**2 / (run["reference_seconds"] / reference**2) - 1)


def table(record: dict[str, Any]) -> str:
    sizes = record["sizes"]
    cuda = record["machine"]["device"] == "cuda"
    rows = [
        [
            f"{s['side']}² = {s['side'] ** 2:,}",
            common.number(s["seconds"]),
            common.number(s["microseconds_a_pixel"]),
            f"{100 * s['growth']:+.1f} %",
            *common.memory_cells(s),
            str(s["repetitions"]),
        ]
        for s in sizes
    ]
    heads = ["MS pixels", "seconds", "µs a pixel", f"against {record['reference']}²"]
    return common.markdown([*heads, *common.memory_heads(cuda), "repetitions"], rows) + (
        f"\n\nEngine `shared` in {record['precision']} ({record['scan']}), medians where there are several "
        f"repetitions. Files are read in blocks of {BLOCK_SIZE} × {BLOCK_SIZE} pixels. “Against "
        f"{record['reference']}²” compares with blocks of such a scene that the same process computes in "
        "between: a machine that is slower for some minutes slows both. Memory “by computing” is the growth "
        "of the process after its first blocks."
    )


def plot(record: dict[str, Any], figure: Figure) -> None:
    sizes = record["sizes"]
    figure.set_size_inches(7.5, 2.8)
    left, right = figure.subplots(1, 2)
    sides = [s["side"] for s in sizes]
    left.plot(sides, [1 + s["growth"] for s in sizes], "o-", color=OURS)
    left.axhspan(0.9, 1.1, color=OURS, alpha=0.1, lw=0, label="± 10 %")
    left.set_ylabel(f"time a pixel, {record['reference']}² = 1")
    left.legend(frameon=False, loc="lower right")
    right.plot(sides, [s["peak_bytes"] / common.MIB for s in sizes], "o-", color=PLAIN, label="process")
    if "cuda_peak_bytes" in sizes[0]:
        card = [s["cuda_peak_bytes"] / common.MIB for s in sizes]
        right.plot(sides, card, "o-", color=OURS, label="card")
        right.legend(frameon=False)
    right.set_ylabel("peak memory, MiB")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sides, [str(s) for s in sides])
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        axes.set_xlabel("scene, MS pixels a side")
        common.tidy(axes)


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="MS pixels a side")
    parser.add_argument("--max-size", type=int, help="leave out larger ones")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.rounds = [8, 16], 1
    device = common.start(options)
    if options.child:
        print(json.dumps(child(json.loads(options.child), device)))
        return
    sizes = [s for s in options.sizes if options.max_size is None or s <= options.max_size]
    machine = common.machine(options)
    found = measure(options, sizes, machine)
    first = found[str(sizes[0])][0]
    record = {"machine": machine, "scan": first["scan"], "precision": first["precision"], "sizes": []}
    record["reference"] = reference = reference_of(sizes)
    for side in sizes:
        runs = found[str(side)]
        seconds = common.median([r["seconds"] for r in runs])
        largest = max(runs, key=lambda r: r["peak_bytes"])
        record["sizes"].append(
            {
                "side": side,
                "repetitions": len(runs),
                "seconds": seconds,
                "microseconds_a_pixel": 1e6 * seconds / side**2,
                "growth": common.median([growth(r, side, reference) for r in runs]),
                **{k: v for k, v in largest.items() if k.endswith(("bytes", "before"))},
                "runs": runs,
            }
        )
    common.publish(NAME, record, options, table, plot)


if __name__ == "__main__":
    main()
