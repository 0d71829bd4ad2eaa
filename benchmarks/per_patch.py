"""The per-patch engine beside a plain sequential-scan version of the same network, in one run.

    python benchmarks/per_patch.py -o docs/benchmarks/per_patch

Baseline: every patch is cut out, the selective scan steps through its tokens one by one in torch, the
classifier has its two layers; batches of 16 and 64, the better of which counts. Rounds take turns, so that
a machine whose speed drifts drifts for all; medians are reported.

Writes OUTPUT.json, OUTPUT.md and OUTPUT.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.model import load_bundle
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.selective_scan import BACKENDS, use_backend
from das2f_map.network.selective_scan.compiled import instruction_set


def published_style(network: Das2fNet, batch: int) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """A loop that cuts patches in batches and runs the network as published, scan and classifier included."""

    def run(ms: np.ndarray, pan: np.ndarray, side: int) -> np.ndarray:
        places = [(r, c) for r in range(side) for c in range(side)]
        out = []
        for i in range(0, len(places), batch):
            part = places[i : i + batch]
            a = torch.from_numpy(np.stack([ms[:, r : r + 16, c : c + 16] for r, c in part]))
            b = torch.from_numpy(np.stack([pan[:, 4 * r : 4 * r + 64, 4 * c : 4 * c + 64] for r, c in part]))
            with torch.inference_mode(), use_backend("sequential"):
                out.append(network(a, b).numpy())
        return np.concatenate(out)

    return run


def with_engine(network: Das2fNet, backend: str) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    engine = PerPatchEngine(network)

    def run(ms: np.ndarray, pan: np.ndarray, side: int) -> np.ndarray:
        with use_backend(backend):
            return engine.logits(ms, pan, np.ones((side, side), bool))

    return run


def on_level(
    level: int, run: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
) -> Callable[..., np.ndarray]:
    """With the compiled code of a lesser instruction set."""

    def limited(ms: np.ndarray, pan: np.ndarray, side: int) -> np.ndarray:
        before = os.environ.get("DAS2F_MAP_SIMD_LEVEL")
        os.environ["DAS2F_MAP_SIMD_LEVEL"] = str(level)
        try:
            return run(ms, pan, side)
        finally:
            if before is None:
                del os.environ["DAS2F_MAP_SIMD_LEVEL"]
            else:
                os.environ["DAS2F_MAP_SIMD_LEVEL"] = before

    return limited


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="bundle; by default random weights of the published sizes")
    parser.add_argument("--side", type=int, default=16, help="output pixels a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = (
        load_bundle(arguments.model).network() if arguments.model else Das2fNet(NetworkConfig(classes=7))
    )
    network = network.eval()
    side = arguments.side
    rng = np.random.default_rng(0)
    ms = rng.standard_normal((4, side + 15, side + 15)).astype(np.float32)
    pan = rng.standard_normal((1, 4 * (side + 15), 4 * (side + 15))).astype(np.float32)

    ways: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
        "sequential scan, batch 16": published_style(network, 16),
        "sequential scan, batch 64": published_style(network, 64),
        "per-patch engine, chunked scan": with_engine(network, "chunked"),
    }
    if not BACKENDS["compiled"].unavailable(torch.device("cpu"), torch.float32):
        compiled = with_engine(network, "compiled")
        if instruction_set() == "AVX-512":
            ways["per-patch engine, compiled scan (AVX2)"] = on_level(1, compiled)
        ways[f"per-patch engine, compiled scan ({instruction_set()})"] = compiled
    truth = None
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name, run in ways.items():  # warm up, and make sure that all compute the same
        logits = run(ms, pan, side)
        truth = logits if truth is None else truth
        error = float(np.abs(logits - truth).max() / np.abs(truth).max())
        assert error < 1e-4, f"{name} is off by {error:.1e} of the largest logit"
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run(ms, pan, side)
            seconds[name].append(time.perf_counter() - start)

    rates = {name: side * side / statistics.median(times) for name, times in seconds.items()}
    baseline = max(rate for name, rate in rates.items() if name.startswith("sequential"))
    result = {
        "pixels": side * side,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "pixels_per_second": rates,
        "ratio_to_better_sequential": {n: r / baseline for n, r in rates.items()},
        "seconds": seconds,
    }
    out = arguments.output
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        f"{arguments.threads} CPU threads, {side} × {side} pixels, float32, "
        f"median of {arguments.rounds} rounds.",
        "",
        "| way | pixels/s | ms a pixel | ratio to the better sequential one |",
        "|---|---:|---:|---:|",
        *(f"| {n} | {r:.0f} | {1000 / r:.1f} | {r / baseline:.2f} |" for n, r in rates.items()),
    ]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh(
        list(rates),
        list(rates.values()),
        color=["#9aa5b1"] * 2 + ["#4c78a8"] * (len(rates) - 3) + ["#1f6b34"],
    )
    axes.invert_yaxis()
    axes.set_xlabel("pixels per second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
