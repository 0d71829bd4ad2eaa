"""Does the time per pixel, or the memory, grow with the scene?

    python benchmarks/growth.py [--sizes 64 128 256 512 1024]

Made-up scenes of 64² to 1024² MS pixels (GeoTIFF, PAN 4 : 1), each classified in a process of its own as
`das2f-map classify` does it: blocks read from the files, the `shared` engine, classes and confidence. Time
is that of all blocks, after one for warming up; memory is the process's peak. Small sizes are repeated, in
rounds: the machine's drift over the minutes that the large ones take shows in them.

Every measurement is kept in growth.part.json of the output folder until all are there: interrupt it, and
the same command goes on.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import torch
from common import OURS, PLAIN
from matplotlib.figure import Figure

from das2f_map.engines.choose import make_engine
from das2f_map.mapping.blocks import BLOCK_SIZE, classify_blocks
from das2f_map.model import load_bundle
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import open_pair

NAME = "growth"
SIZES = (64, 128, 256, 512, 1024)
REFERENCE = 128
"""Times are relative to this size: blocks are 64 pixels, so that smaller ones are one."""
SEVERAL = 512
"""Larger sizes are measured once, those from half of it on in half of the rounds."""


def child(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Classify one scene; seconds of all its blocks and peak memory."""
    side = task["side"]
    bundle = load_bundle(common.MODEL)
    engine = make_engine(bundle, engine="shared", device=device)
    folder = Path(task["folder"])
    with open_pair(folder / "ms.tif", folder / "pan.tif") as pair:
        whole = pair.grids.ms.window
        first = Window(0, 0, min(BLOCK_SIZE, side), min(BLOCK_SIZE, side))
        for _ in classify_blocks(pair, engine, bundle.card, first):
            pass
        memory = common.PeakMemory(device)
        blocks = []
        begin = last = time.perf_counter()
        for _ in classify_blocks(pair, engine, bundle.card, whole):
            now = time.perf_counter()
            blocks.append(now - last)
            last = now
        seconds = last - begin
    return {
        "seconds": seconds,
        "median_block_seconds": common.median(blocks),
        "scan": engine.scan,
        "precision": engine.precision,
        **memory.record(),
    }


def measure(options: Any, sizes: list[int], machine: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Side → its measurements; those that an interrupted run has left are kept."""
    kept = options.output / f"{NAME}{'-cuda' if options.device == 'cuda' else ''}.part.json"
    options.output.mkdir(parents=True, exist_ok=True)
    same = {k: v for k, v in machine.items() if k != "date"}
    found: dict[str, list[dict[str, Any]]] = {}
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before["machine"] == same:
            found = before["measured"]
            common.say(f"going on after {sum(map(len, found.values()))} measurements")
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds):
            for side in sizes:
                rounds = options.rounds if 2 * side < SEVERAL else (options.rounds + 1) // 2
                rounds = 1 if side > SEVERAL else rounds
                have = found.setdefault(str(side), [])
                if round_ >= rounds or len(have) > round_:
                    continue
                place = Path(folder) / str(side)
                if not place.exists():
                    place.mkdir()
                    common.write_scene(place, side, side)
                one = common.in_own_process(__file__, options, {"side": side, "folder": str(place)})
                have.append(one)
                common.say(
                    f"round {round_ + 1}: {side} × {side}: {one['seconds']:.1f} s, "
                    f"{1e6 * one['seconds'] / side**2:.0f} µs a pixel"
                )
                text = json.dumps({"machine": same, "measured": found})
                common.write_text(kept, text)
    kept.unlink(missing_ok=True)
    return found


def table(record: dict[str, Any]) -> str:
    sizes = record["sizes"]
    reference = next((s for s in sizes if s["side"] == REFERENCE), sizes[0])
    cuda = record["machine"]["device"] == "cuda"
    rows = [
        [
            f"{s['side']}² = {s['side'] ** 2:,}",
            common.number(s["seconds"]),
            common.number(s["microseconds_a_pixel"]),
            f"{100 * (s['microseconds_a_pixel'] / reference['microseconds_a_pixel'] - 1):+.1f} %",
            *common.memory_cells(s),
            str(s["repetitions"]),
        ]
        for s in sizes
    ]
    heads = ["MS pixels", "seconds", "µs a pixel", f"beside {reference['side']}²"]
    return common.markdown([*heads, *common.memory_heads(cuda), "repetitions"], rows) + (
        f"\n\nEngine `shared` in {record['precision']} ({record['scan']}), medians where there are several "
        "repetitions; files are read in blocks of 64 × 64 pixels. Memory “by computing” is what the process "
        "has more than after its first block."
    )


def plot(record: dict[str, Any], figure: Figure) -> None:
    sizes = record["sizes"]
    figure.set_size_inches(7.5, 2.8)
    left, right = figure.subplots(1, 2)
    sides = [s["side"] for s in sizes]
    left.plot(sides, [s["microseconds_a_pixel"] for s in sizes], "o-", color=OURS)
    reference = next((s for s in sizes if s["side"] == REFERENCE), sizes[0])["microseconds_a_pixel"]
    left.axhspan(0.9 * reference, 1.1 * reference, color=OURS, alpha=0.1, lw=0, label="± 10 %")
    left.set_ylabel("µs a pixel")
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
                **{k: v for k, v in largest.items() if k.endswith(("bytes", "before"))},
                "runs": runs,
            }
        )
    common.publish(NAME, record, options.output, table, plot)


if __name__ == "__main__":
    main()
