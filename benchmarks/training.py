"""Training samples per second by selective-scan backend.

    python benchmarks/training.py

A sample's time covers the forward and backward pass of the one-stage network with the published sizes
(classifier in two layers) and cross-entropy, without data loading and optimiser. Backends take turns in one
process; the memory of each is measured in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import common
import torch
from common import OURS, PLAIN
from matplotlib.figure import Figure
from torch.nn import functional as F

from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.selective_scan import BACKENDS, default_backend, use_backend

NAME = "training"
CLASSES = 6


def ways_on(device: torch.device) -> list[tuple[str, str]]:
    """Backends that can be used on a device, each with its precision; fastest first."""
    names = [
        b.name
        for b in BACKENDS.values()
        # Triton on the CPU is an interpreter, for tests.
        if not b.unavailable(device, torch.float32) and (device.type == "cuda" or b.name != "triton")
    ]
    precisions = ["fp32"]
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        precisions.append("bf16")
    return [(name, precision) for name in names for precision in precisions]


def step(backend: str, precision: str, batch: int, device: torch.device) -> Callable[[], None]:
    """A forward and backward pass of a batch."""
    torch.manual_seed(0)
    network = Das2fNet(NetworkConfig(classes=CLASSES)).to(device).train()
    ms = torch.randn(batch, 4, 16, 16, device=device)
    pan = torch.randn(batch, 1, 64, 64, device=device)
    target = torch.arange(batch, device=device) % CLASSES

    def run() -> None:
        network.zero_grad(set_to_none=True)
        mixed = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        with use_backend(backend), mixed:
            logits = network(ms, pan)
        torch.autograd.backward(F.cross_entropy(logits.float(), target))

    return run


def child(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    work = step(task["backend"], task["precision"], task["batch"], device)
    memory = common.PeakMemory(device)
    work()
    return memory.record()


def measure(options: Any, device: torch.device) -> list[dict[str, Any]]:
    ways = ways_on(device)[-1:] if options.quick else ways_on(device)
    tasks = {f"{b} {p}": step(b, p, options.batch, device) for b, p in ways}
    for name, work in tasks.items():
        common.say(f"warming up: {name}: {common.timed(work, device):.3g} s")
    seconds = common.in_turns(tasks, options.rounds, device)
    found = []
    for backend, precision in ways:
        common.say(f"memory of {backend} {precision}")
        own = seconds[f"{backend} {precision}"]
        task = {"backend": backend, "precision": precision, "batch": options.batch}
        found.append(
            {
                "backend": backend,
                "precision": precision,
                "samples_per_second": options.batch / common.median(own),
                "seconds": own,
                **common.in_own_process(__file__, options, task),
            }
        )
    return found


def table(record: dict[str, Any]) -> str:
    slowest = min(w["samples_per_second"] for w in record["ways"])
    rows = [
        [
            f"`{w['backend']}`{' (default)' if w['backend'] == record['default'] else ''}",
            w["precision"],
            f"{w['samples_per_second']:.1f}",
            f"{w['samples_per_second'] / slowest:.1f}",
            *common.memory_cells(w),
        ]
        for w in record["ways"]
    ]
    memory = common.memory_heads(record["machine"]["device"] == "cuda")
    heads = ["scan", "precision", "samples/s", "× slowest", *memory]
    return common.markdown(heads, rows, words=2) + (
        f"\n\nForward and backward, one stage, batches of {record['batch']}, medians of {record['rounds']} "
        "rounds in which the backends take turns."
    )


def plot(record: dict[str, Any], figure: Figure) -> None:
    ways = record["ways"]
    figure.set_size_inches(7, 0.9 + 0.35 * len(ways))
    axes = figure.subplots()
    names = [f"{w['backend']}, {w['precision']}" for w in ways]
    rates = [w["samples_per_second"] for w in ways]
    axes.barh(names, rates, color=[OURS if w["backend"] == record["default"] else PLAIN for w in ways])
    for n, rate in enumerate(rates):
        axes.annotate(f"{rate:.1f}", (rate, n), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("training samples per second, forward and backward")
    common.tidy(axes)


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, help="samples at a time [16, CUDA 256]")
    options = parser.parse_args()
    device = common.start(options)
    options.batch = options.batch or (256 if device.type == "cuda" else 16)
    if options.quick:
        options.rounds, options.batch = 1, 2
    if options.child:
        print(json.dumps(child(json.loads(options.child), device)))
        return
    record = {
        "machine": common.machine(options),
        "rounds": options.rounds,
        "batch": options.batch,
        "default": default_backend(device, torch.float32).name,
        "ways": measure(options, device),
    }
    common.publish(NAME, record, options, table, plot)


if __name__ == "__main__":
    main()
