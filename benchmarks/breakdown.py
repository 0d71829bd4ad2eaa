"""Time of each stage of the shared scan, compared with the least time that the stage can take.

    python benchmarks/breakdown.py

The floor of a stage is the longer of two times: its arithmetic at the speed of a large matrix product, and
its bytes at the speed of a large sum of vectors. Both speeds are measured in the same run. Arithmetic counts
the operations that the method needs, however a stage does them. Exponentials and error functions are counted
apart and are in no floor. Bytes are a block's maps and the scanned tokens, each written and read once;
weights and everything else that fits into a cache are free.

Stages: *maps* (stem, gates, convolution, projections of every token class), *scan* (segments, border rows,
what is left per patch), *tail* (projection and MLP of every patch), *fusion, classifier*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from common import BASELINE, MIB, OURS, PLAIN
from matplotlib.figure import Figure

from das2f_map.bundle.files import load_bundle
from das2f_map.engines.shared_scan import SharedScanEngine, compiled, cuda, unavailable
from das2f_map.engines.shared_scan.compiled import CompiledKernels
from das2f_map.engines.shared_scan.maps import MS_EDGE, PAN_EDGE, BlockRuns
from das2f_map.network import NetworkConfig
from das2f_map.network.das2f import StageOutput
from das2f_map.network.scan_order import DIRECTIONS
from das2f_map.network.stem import PIXELS_PER_TOKEN

NAME = "breakdown"
MAPS, SCAN, TAIL, END = "maps", "scan", "tail", "fusion, classifier"
TOGETHER = f"{TAIL}, {END}"
WHOLE = "whole engine"


@dataclass(frozen=True)
class Cost:
    """The work of a stage for one pixel.

    Attributes
    ----------
    flop, half_flop:
        Float32 operations (a multiply-add is two), and those in half precision where there is one.
    functions:
        Exponentials and error functions.
    bytes:
        Bytes that pass memory.
    """

    flop: float
    half_flop: float
    functions: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        mine, its = (vars(c).values() for c in (self, other))
        return Cost(*(a + b for a, b in zip(mine, its, strict=True)))

    def floor(self, peaks: dict[str, float]) -> tuple[float, float]:
        """Least seconds for the arithmetic, and for the memory."""
        half = peaks.get("half_flop_per_second", peaks["flop_per_second"])
        arithmetic = self.flop / peaks["flop_per_second"] + self.half_flop / half
        return arithmetic, self.bytes / peaks["bytes_per_second"]


def costs(config: NetworkConfig, side: int, *, half: bool, half_scan: bool) -> dict[str, Cost]:
    """Costs of a pixel in a block of ``side`` x ``side`` outputs, by stage.

    ``half`` and ``half_scan`` tell whether the products of the tail and of the scan are in half precision.
    """
    d, n, p, s = config.width, config.state_size, config.patch_size, PIXELS_PER_TOKEN
    pixels, states, wide = side**2, DIRECTIONS * d * n, d + DIRECTIONS * (d + 2 * n)
    token, scan = {}, {}  # entries of the maps for each output: MS, PAN
    for modality, edge in (("ms", MS_EDGE), ("pan", PAN_EDGE)):
        runs = BlockRuns.of(side, side, p, edge)
        token[modality] = runs.rows.entries * runs.cols.entries / pixels
        scan[modality] = runs.wider.rows.entries * runs.wider.cols.entries / pixels
    # Sources of the scanned x and of its parameters: SPVM of MS and PAN, then CMDA of MS and PAN.
    branches = (("ms", "ms"), ("pan", "pan"), ("ms", "pan"), ("pan", "ms"))
    edges = {"ms": MS_EDGE + 1, "pan": PAN_EDGE + 1}

    stem = token["ms"] * s * s * config.ms_bands * d
    stem += token["pan"] * s * s * config.pan_channels * (1 + d)
    mixers = sum(2 * (token[m] * d * d + scan[m] * (9 * d + d * wide)) for m in token)
    map_bytes = 4 * sum(2 * scan[m] * wide + 3 * token[m] * d for m in token)
    functions = sum(2 * d * (token[m] + scan[m]) for m in token)
    maps = Cost(2 * (stem + mixers), 0, functions, map_bytes)

    direct = segments = products = exponentials = 0.0
    for source, parameters in branches:
        e = max(edges[source], edges[parameters])
        # Operations of one step and state. Direct: h = P h + (dt x) B, y += C h; segments need P and C P too.
        direct += 2 * e * p * states * 5
        segments += (side + p - 1 - 2 * e) / side * p * states * 7
        products += (p - 2 * e) * (p + 1) * states * 2
        exponentials += scan[parameters] * states
    y_bytes = (2.0 if half else 4.0) * len(branches) * p * p * d
    map_reads = 4 * sum(2 * scan[m] * wide for m in scan)
    own = Cost(direct + segments, 0, exponentials, map_reads + y_bytes)
    tokens = len(branches) * p * p
    multiply_adds = tokens * (d * d + 2 * d * config.mlp_ratio * d)
    tail_reads = y_bytes + 4 * sum(3 * token[m] * d for m in token)

    def matrix(flop: float, in_half: bool, functions: float = 0, bytes_: float = 0) -> Cost:
        return Cost(0 if in_half else flop, flop if in_half else 0, functions, bytes_)

    c = config.fusion_channels
    sub_tokens = 4 * p * p
    end = sub_tokens * 2 * (2 * c * c + 3 * c) + config.classes * config.flat_features
    return {
        MAPS: maps,
        SCAN: own + matrix(products, half_scan),
        TAIL: matrix(2 * multiply_adds, half, tokens * config.mlp_ratio * d, tail_reads),
        END: Cost(2 * end, 0, sub_tokens * 2 * c, 0),
    }


def peaks(device: torch.device, half: bool, quick: bool) -> dict[str, float]:
    """Highest measured speeds of a matrix product (float32, bfloat16) and of memory."""
    size = 256 if quick else 8192 if device.type == "cuda" else 2048
    found = {}
    kinds = [("flop_per_second", torch.float32)]
    if half:
        kinds.append(("half_flop_per_second", torch.bfloat16))
    for name, dtype in kinds:
        a, b, out = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(3))
        found[name] = 2 * size**3 / _best(partial(torch.mm, a, b, out=out), device)
    count = (1 if quick else 1024 if device.type == "cuda" else 64) * MIB
    x, y, z = (torch.ones(count, device=device) for _ in range(3))
    found["bytes_per_second"] = 3 * 4 * count / _best(partial(torch.add, x, y, out=z), device)
    return found


def _best(work: Callable[[], object], device: torch.device) -> float:
    return min(common.timed(work, device) for _ in range(9))


Clock = Callable[[str, Callable[[], Any]], Any]


def one_pass(engine: SharedScanEngine, ms: torch.Tensor, pan: torch.Tensor, side: int, clock: Clock) -> None:
    """Run a block through the stages of an engine; the clock counts each under its name."""
    first, kernels = engine._first, engine._kernels
    rows, cols = (i.ravel() for i in np.mgrid[:side, :side])
    with torch.inference_mode(), engine._exact_convolutions():
        tokens, maps = clock(MAPS, lambda: first.maps(ms, pan))
        if kernels is None:
            y = clock(SCAN, lambda: first.scans(maps))
            for i in range(0, len(rows), engine.batch_size):
                some = slice(i, i + engine.batch_size)
                out = clock(TAIL, partial(first.output, y, tokens, maps, rows[some], cols[some]))
                clock(END, partial(_fuse, engine, out))
            return
        scanned = clock(SCAN, lambda: kernels.scan(tokens, maps))
        if isinstance(kernels, CompiledKernels):
            # The compiled tail with nowhere to write to stops before the fusion.
            block = scanned.block
            wanted = torch.from_numpy(rows * side + cols).to(torch.int32)
            block.patches, block.wanted, block.logits = len(rows), wanted.data_ptr(), None
            clock(TAIL, lambda: kernels._call("das2f_shared_tail", block, kernels._packed))
        clock(TOGETHER, lambda: kernels.finish(scanned, rows, cols))


def _fuse(engine: SharedScanEngine, output: StageOutput) -> torch.Tensor:
    logits: torch.Tensor = engine._network.classifier(engine._network.features_after(output))
    return logits


def measure(options: Any, device: torch.device, half: bool) -> list[dict[str, Any]]:
    """Median seconds of each stage for each kind of engine; the kinds take turns."""
    network = load_bundle(common.MODEL).network()
    config = network.config
    if device.type == "cuda":
        kernels = not cuda.unavailable(config, device)
    else:
        kernels = not compiled.unavailable(config, torch.float32)
    kinds: dict[str, SharedScanEngine] = {}
    if kernels:
        kinds["fp32"] = SharedScanEngine(network, device=device)
    if kernels and half:
        kinds["bf16"] = SharedScanEngine(network, device=device, precision="bf16")
    kinds["PyTorch operations"] = SharedScanEngine(network, device=device, kernels=False)
    side = options.side or (4 if options.quick else min(e.block_size for e in kinds.values()))
    ms_values, pan_values = common.example_block(side, side)
    ms, pan = (torch.from_numpy(v).to(device) for v in (ms_values, pan_values))
    targets = np.ones((side, side), np.bool_)
    seconds: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
    for n in range(options.rounds + 1):  # the first one warms up
        for kind, engine in kinds.items():
            once: dict[str, float] = {}

            def clock(stage: str, work: Callable[[], Any], once: dict[str, float] = once) -> Any:
                result: list[Any] = []
                took = common.timed(lambda: result.append(work()), device)
                once[stage] = once.get(stage, 0.0) + took
                return result[0]

            one_pass(engine, ms, pan, side, clock)
            if TOGETHER in once and TAIL in once:
                once[END] = once.pop(TOGETHER) - once[TAIL]
            clock(WHOLE, partial(engine.logits, ms_values, pan_values, targets))
            common.say(f"round {n}, {kind}: " + ", ".join(f"{k} {v:.3g} s" for k, v in once.items()))
            for stage, took in once.items() if n else ():
                seconds[kind].setdefault(stage, []).append(took)
    found = []
    for kind, stages in seconds.items():
        bf16 = kind == "bf16"
        need = costs(config, side, half=bf16, half_scan=bf16 and device.type == "cuda")
        need[TOGETHER] = need[TAIL] + need[END]
        need[WHOLE] = need[MAPS] + need[SCAN] + need[TOGETHER]
        found.append(
            {
                "kind": kind,
                "scan": kinds[kind].scan,
                "side": side,
                "stages": [
                    {
                        "stage": stage,
                        "seconds_a_pixel": common.median(took) / side**2,
                        **vars(need[stage]),
                        "seconds": took,
                    }
                    for stage, took in stages.items()
                ],
            }
        )
    return found


# --- results ---------------------------------------------------------------------------------------------


def floors(record: dict[str, Any], kind: dict[str, Any]) -> dict[str, float]:
    """Least seconds a pixel by stage; the whole engine's are their sum."""
    found = {}
    for stage in kind["stages"]:
        cost = Cost(*(stage[k] for k in ("flop", "half_flop", "functions", "bytes")))
        found[stage["stage"]] = max(cost.floor(record["peaks"]))
    found[WHOLE] = sum(v for k, v in found.items() if k != WHOLE)
    return found


def table(record: dict[str, Any]) -> str:
    rows = []
    for kind in record["kinds"]:
        least = floors(record, kind)
        for stage in kind["stages"]:
            cost = Cost(*(stage[k] for k in ("flop", "half_flop", "functions", "bytes")))
            arithmetic, memory = (1e6 * v for v in cost.floor(record["peaks"]))
            took, floor = 1e6 * stage["seconds_a_pixel"], 1e6 * least[stage["stage"]]
            bound = "arithmetic" if arithmetic >= memory else "memory"
            rows.append(
                [
                    kind["kind"],
                    stage["stage"],
                    common.number(took),
                    f"{(cost.flop + cost.half_flop) / 1e6:.2f}",
                    common.number(cost.functions / 1e3),
                    common.number(cost.bytes / 1024),
                    f"{common.number(floor)}" + ("" if stage["stage"] == WHOLE else f" ({bound})"),
                    f"{took / floor:.1f}",
                ]
            )
    p = record["peaks"]
    half = f", bfloat16 {p['half_flop_per_second'] / 1e9:,.0f}" if "half_flop_per_second" in p else ""
    heads = ["engine", "stage", "µs a pixel", "MFLOP", "10³ functions", "KiB", "floor, µs", "× floor"]
    return common.markdown(heads, rows, words=2) + (
        f"\n\nA block of {record['kinds'][0]['side']}² outputs, medians of {record['rounds']} rounds. "
        f"Measured in this run: matrix product {p['flop_per_second'] / 1e9:,.0f} GFLOP/s in float32{half}; "
        f"memory {p['bytes_per_second'] / 1e9:,.1f} GB/s. The whole is more than its stages where a block is "
        "cut out, converted and brought back."
    )


def plot(record: dict[str, Any], figure: Figure) -> None:
    kinds = [k for k in record["kinds"] if k["scan"] != "torch"] or record["kinds"]
    figure.set_size_inches(8, 1.2 + 1.5 * len(kinds))
    for axes, kind in zip(
        figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0], kinds, strict=True
    ):
        stages = [s for s in kind["stages"] if s["stage"] != WHOLE]
        least = floors(record, kind)
        place = np.arange(len(stages))
        took = [1e6 * s["seconds_a_pixel"] for s in stages]
        colour = OURS if kind["scan"] != "torch" else PLAIN
        axes.barh(place - 0.2, took, 0.4, color=colour, label="measured")
        axes.barh(place + 0.2, [1e6 * least[s["stage"]] for s in stages], 0.4, color=BASELINE, label="floor")
        axes.set_yticks(place, [s["stage"] for s in stages])
        axes.invert_yaxis()
        axes.set_title(f"{kind['kind']} ({kind['scan']})", loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=8)
        common.tidy(axes)
    axes.set_xlabel("µs a pixel")


def main() -> None:
    parser = common.parser(__doc__, rounds=7)
    parser.add_argument("--side", type=int, help="outputs a side of the block [as the engine takes them]")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    device = common.start(options)
    config = load_bundle(common.MODEL).card.network
    half = not unavailable(config, device, "bf16")
    record = {
        "machine": common.machine(options),
        "rounds": options.rounds,
        "peaks": peaks(device, half, options.quick),
        "kinds": measure(options, device, half),
    }
    common.publish(NAME, record, options, table, plot)


if __name__ == "__main__":
    main()
