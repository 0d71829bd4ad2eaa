"""Speed and memory of the engines and of plain loops, and the agreement of their results.

    python benchmarks/engines.py
    python benchmarks/engines.py --stages 2

With ``--stages 2`` the network has two stages, the second with random weights, and `shared` with the
one-stage network takes its turns, too. On CUDA, `shared` is also measured with Triton kernels for the first
stage and PyTorch operations for the second.

Speed: all ways in one process, taking turns, on real image values with the bundled model's weights and the
two-layer classifier of the published network (the engines fold it). The baselines are plain loops that cut
every patch and run the network as published, with torch's operations, in batches of 16 and 64:

- *step by step*: the loop computes the values of each step when it reaches it, so it touches little memory;
- *reference scan*: the loop first computes exp(dt A) and dt B x of all steps. The reference in mamba-ssm does
  the same, and the published network uses it without a GPU;
- on CUDA, *mamba-ssm*: its fused kernel, where the package is installed.

Memory: each way in a process of its own, which loads the model and computes the same pixels once.

Agreement: the bundled model over the example's map window, each engine compared with `patch`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import common
import numpy as np
import torch
from common import BASELINE, OURS, PLAIN, Float32
from matplotlib.figure import Figure
from torch import Tensor

from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import Engine, onnx
from das2f_map.engines.onnx import OnnxEngine
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.engines.shared_scan import SharedScanEngine, compiled, unavailable
from das2f_map.engines.shared_scan.cuda import TritonKernels
from das2f_map.engines.shared_scan.cuda import unavailable as unavailable_on_cuda
from das2f_map.engines.shared_scan.first_stage import FirstStage
from das2f_map.engines.shared_scan.triton_calls import TailInput
from das2f_map.engines.shared_scan.triton_later_calls import COMMON_FIRST
from das2f_map.labels.labelled_pixels import read_labels
from das2f_map.network.das2f import StageOutput
from das2f_map.network.selective_scan import BACKENDS, Backend, default_backend, use_backend
from das2f_map.network.selective_scan.reference import to_steps, to_tokens
from das2f_map.scene.area import Area
from das2f_map.scene.grid import blocks_of
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import open_pair

NAME, TWO_STAGES = "engines", "two_stages"
STEP, REFERENCE, MAMBA, ENGINE = "step by step", "reference scan", "mamba-ssm", "engine"
"""Families of ways. Ratios refer to the faster batch size of a family of loops."""
COMPARED = 64
"""Pixels a side of blocks in the comparison, as in `classify`."""

Run = Callable[[Float32, Float32, int], Float32]


# --- the baselines ---------------------------------------------------------------------------------------


def reference_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, order: Tensor
) -> Tensor:
    """Selective scan that first forms the decays and inputs of all steps, ``(B, K, L, D, N)``.

    It takes the same arguments as the package's scan."""
    k = dt.shape[1]
    x = to_steps(x[:, None].expand(-1, k, -1, -1), order)
    dt, B, C = (to_steps(v, order) for v in (dt, B, C))
    decay = torch.exp(dt[..., None] * A[:, None])
    drive = (dt * x)[..., None] * B[:, :, :, None, :]
    h = torch.zeros_like(decay[:, :, 0])
    y = []
    for t in range(x.shape[2]):
        h = decay[:, :, t] * h + drive[:, :, t]
        y.append(torch.einsum("bkdn,bkn->bkd", h, C[:, :, t]))
    return to_tokens(torch.stack(y, dim=2) + D[:, None] * x, order)


def plain_loop(bundle: ModelBundle, batch: int, backend: str, device: torch.device) -> Run:
    """Cut every patch out of the block, stack a batch of them, run the network as it was trained."""
    network = bundle.network().to(device)
    p = bundle.card.patch.size

    def run(ms: Float32, pan: Float32, side: int) -> Float32:
        places = [(r, c) for r in range(side) for c in range(side)]
        logits = []
        for i in range(0, len(places), batch):
            part = places[i : i + batch]
            ms_patches = np.stack([ms[:, r : r + p, c : c + p] for r, c in part])
            pan_patches = np.stack([pan[:, 4 * r : 4 * (r + p), 4 * c : 4 * (c + p)] for r, c in part])
            with torch.inference_mode(), use_backend(backend):
                found = network(
                    torch.from_numpy(ms_patches).to(device), torch.from_numpy(pan_patches).to(device)
                )
            logits.append(found.cpu().numpy())
        return np.concatenate(logits)

    return run


def of_engine(engine: Engine) -> Run:
    """Run an engine on all pixels of a block."""
    return lambda ms, pan, side: engine.logits(ms, pan, np.ones((side, side), np.bool_))


@contextmanager
def simd_level(level: int) -> Iterator[None]:
    """Inside the ``with`` block, kernels use the instructions of an older processor."""
    before = os.environ.get("DAS2F_MAP_SIMD_LEVEL")
    os.environ["DAS2F_MAP_SIMD_LEVEL"] = str(level)
    try:
        yield
    finally:
        del os.environ["DAS2F_MAP_SIMD_LEVEL"]
        if before is not None:
            os.environ["DAS2F_MAP_SIMD_LEVEL"] = before


# --- the ways --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way to get the logits of a block.

    ``make`` takes a bundle and gives an engine, or for a loop the function to run. ``side`` is the smallest
    block, in pixels a side, on which the way reaches its speed.
    """

    name: str
    family: str
    make: Callable[[ModelBundle], Any]
    side: int = 8
    grows: bool = True

    def run(self, bundle: ModelBundle) -> Run:
        made = self.make(bundle)
        run: Run = of_engine(made) if self.family == ENGINE else made
        return run


def _lesser(level: int, device: torch.device, precision: str = "fp32") -> Callable[[ModelBundle], Engine]:
    def make(bundle: ModelBundle) -> Engine:
        with simd_level(level):
            return SharedScanEngine(bundle.network(), device=device, precision=precision)

    return make


def _shared(device: torch.device, precision: str, **options: Any) -> Callable[[ModelBundle], Engine]:
    return lambda b: SharedScanEngine(b.network(), device=device, precision=precision, **options)


def torch_second_stage(device: torch.device, precision: str) -> Callable[[ModelBundle], Engine]:
    """`shared` on CUDA with Triton kernels for the first stage alone."""

    def make(bundle: ModelBundle) -> Engine:
        engine = SharedScanEngine(bundle.network(), device=device, precision=precision)
        engine._kernels = TorchAfterFirstStage(engine._first, precision, engine.batch_size)
        return engine

    return make


class TorchAfterFirstStage(TritonKernels):
    """Triton kernels for the first stage, PyTorch operations after it."""

    def __init__(self, first: FirstStage, precision: str, patches: int) -> None:
        super().__init__(first, precision, patches)
        self._network, self._half = first.network, None if precision == "fp32" else self._dtype

    def _finish(self, scanned: list[TailInput], patches: Tensor) -> Tensor:
        side = scanned[0].runs.rows.patch
        parts = torch.empty(4, patches.shape[1], side * side, len(self._order), device=patches.device)
        branches = ((i, scanned[i]) for i in COMMON_FIRST)
        self._stage(self._tails[0], branches, patches, parts[:2], parts[2:])
        stage = StageOutput(*parts[..., torch.argsort(self._order)].unflatten(2, (side, side)))
        with torch.autocast(patches.device.type, self._half, enabled=self._half is not None):
            features = self._network.features_after(stage)
        logits: Tensor = self._network.classifier(features.float())
        return logits


def one_stage(device: torch.device) -> Way:
    """The engine with a network of one stage, beside those that are measured with two."""
    return Way(
        "`shared`, one stage",
        ENGINE,
        lambda _bundle: SharedScanEngine(common.published_bundle().network(), device=device),
        side=128 if device.type == "cuda" else 32,
    )


def ways_on(device: torch.device, bundle: ModelBundle) -> list[Way]:
    """All ways that can be used on a device."""
    config, cuda = bundle.card.network, device.type == "cuda"
    BACKENDS[REFERENCE] = Backend(REFERENCE, reference_scan, lambda *kind: "")

    def loop(family: str, backend: str, batch: int) -> Way:
        return Way(
            f"loop, {family}, batch {batch}",
            family,
            lambda b: plain_loop(b, batch, backend, device),
            side=max(8, int(batch**0.5)),
            grows=family == MAMBA,
        )

    found = [loop(STEP, "sequential", 16), loop(STEP, "sequential", 64)]
    found += [loop(REFERENCE, REFERENCE, 16), loop(REFERENCE, REFERENCE, 64)]
    if cuda and not BACKENDS["mamba-ssm"].unavailable(device, torch.float32):
        found += [loop(MAMBA, "mamba-ssm", batch) for batch in (16, 64, 512)]
    scan = default_backend(device, torch.float32, gradients=False).name
    found.append(
        Way(f"`patch`, {scan} scan", ENGINE, lambda b: PerPatchEngine(b.network(), device=device), side=16)
    )
    if cuda:
        found.append(
            Way(
                f"`patch`, {scan} scan, bf16",
                ENGINE,
                lambda b: PerPatchEngine(b.network(), device=device, precision="bf16"),
                side=16,
            )
        )
    if not onnx.unavailable(config, device, "fp32"):
        found.append(Way("`onnx`", ENGINE, lambda b: OnnxEngine.of(b, device=device), side=16))
    found.append(Way("`shared`, PyTorch operations", ENGINE, _shared(device, "fp32", kernels=False), side=32))
    if cuda:
        precisions = [p for p in ("fp32", "bf16") if not unavailable_on_cuda(config, device, p)]
        if config.stages > 1:
            found += [
                Way(
                    f"`shared`, Triton, {p}, second stage in PyTorch operations",
                    ENGINE,
                    torch_second_stage(device, p),
                    side=128,
                )
                for p in precisions
            ]
        found += [Way(f"`shared`, Triton, {p}", ENGINE, _shared(device, p), side=128) for p in precisions]
    elif not compiled.unavailable(config, torch.float32):
        level = compiled.LEVELS.index(compiled.instruction_set() or "portable")
        avx2, avx512, half, amx = (
            compiled.LEVELS.index(n) for n in ("AVX2", "AVX-512", "AVX-512 with bfloat16", "AVX-512 with AMX")
        )

        def for_(lesser: int, name: str, precision: str = "fp32") -> Way:
            return Way(f"`shared`, compiled for {name}", ENGINE, _lesser(lesser, device, precision), side=32)

        if level >= avx512:
            found.append(for_(avx2, "AVX2"))
        if level >= amx:
            found.append(for_(avx512, "AVX-512"))
        found.append(Way("`shared`, compiled", ENGINE, _shared(device, "fp32"), side=32))
        if level >= amx:
            found.append(for_(half, "AVX-512, bf16", "bf16"))
        if not unavailable(config, device, "bf16"):
            found.append(Way("`shared`, compiled, bf16", ENGINE, _shared(device, "bf16"), side=32))
    return found


def measure(options: Any, device: torch.device, ways: list[Way], bundle: ModelBundle) -> list[dict[str, Any]]:
    """Speeds of the ways, measured in turns, and the memory of each."""
    # On the CPU all engines compute blocks of one size: their ratios are what the tables are read for.
    most = options.most or (512 if device.type == "cuda" else 32)
    ms, pan = common.example_block(most, most)
    p = bundle.card.patch.size

    def work(way: Way, run: Run, side: int) -> Callable[[], Float32]:
        own = (
            np.ascontiguousarray(ms[:, : side + p - 1, : side + p - 1]),
            np.ascontiguousarray(pan[:, : 4 * (side + p - 1), : 4 * (side + p - 1)]),
        )
        return lambda: run(*own, side)

    tasks, sides = {}, {}
    for way in ways:
        run, side = way.run(bundle), min(way.side, most)
        while True:
            warm = work(way, run, side)
            warm()
            seconds = common.timed(warm, device)
            common.say(f"{way.name}: {side} × {side} pixels in {seconds:.3g} s")
            if not way.grows or seconds > options.seconds / 2 or 2 * side > most:
                break
            side *= 2
        tasks[way.name], sides[way.name] = warm, side
    seconds_of = common.in_turns(tasks, options.rounds, device)
    rates = {n: sides[n] ** 2 / common.median(s) for n, s in seconds_of.items()}
    best = {f: max(rates[w.name] for w in ways if w.family == f) for f in {w.family for w in ways} - {ENGINE}}
    found = []
    for way in ways:
        common.say(f"memory of {way.name}")
        task = {"way": way.name, "side": sides[way.name], "stages": options.stages}
        found.append(
            {
                "name": way.name,
                "family": way.family,
                "side": sides[way.name],
                "pixels_per_second": rates[way.name],
                "seconds": seconds_of[way.name],
                "ratios": {f: rates[way.name] / rate for f, rate in best.items()},
                **common.in_own_process(__file__, options, task),
            }
        )
    return found


def child(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Peak memory of one way."""
    bundle = common.published_bundle(task["stages"])
    (way,) = (w for w in [*ways_on(device, bundle), one_stage(device)] if w.name == task["way"])
    ms, pan = common.example_block(task["side"], task["side"])
    run = way.run(bundle)
    memory = common.PeakMemory(device)
    run(ms, pan, task["side"])
    return memory.record()


# --- agreement -------------------------------------------------------------------------------------------


def agreement(ways: list[Way], bundle: ModelBundle, most: int | None) -> dict[str, Any]:
    """Every engine compared with `patch` over the example, or over its first ``most`` labelled pixels."""
    card = bundle.card
    folder = common.EXAMPLE
    with open_pair(folder / "ms.tif", folder / "pan.tif") as pair:
        grid = pair.grids.ms
        area = Area.from_file(folder / "window.geojson", grid)
        labels = read_labels(folder / "labels.gpkg", grid)
        wanted = np.zeros((grid.height, grid.width), np.bool_)
        wanted[area.window.slices()] = True
        truth = np.zeros(wanted.shape, np.uint8)
        # The legends have the same names but may have other ids.
        ids = {labels.legend.names[k]: labels.legend.ids[k] for k in range(len(labels.legend))}
        for name, given in zip(card.legend.names, card.legend.ids, strict=True):
            at = labels.classes == ids.get(name, -1)
            truth[labels.rows[at], labels.cols[at]] = given
        if most is not None:
            rows, cols = np.nonzero(wanted & (truth > 0))
            wanted[:] = False
            wanted[rows[:most], cols[:most]] = True
        source = ModelInput(pair, card.normalisation, card.patch)
        read = [source.read(w, wanted[w.slices()]) for w in blocks_of(area.window, COMPARED)]
        blocks = [block for block in read if block is not None]
    labelled = np.concatenate([truth[b.window.slices()][b.usable] for b in blocks])
    class_ids = np.array(card.legend.ids)

    found: dict[str, Any] = {"pixels": len(labelled), "labelled": int((labelled > 0).sum()), "engines": []}
    reference: Float32 | None = None
    for way in ways:
        common.say(f"agreement of {way.name}")
        engine = way.make(bundle)
        logits = np.concatenate([engine.logits(b.ms, b.pan, b.usable) for b in blocks])
        reference = logits if reference is None else reference
        classes = class_ids[logits.argmax(axis=1)]
        found["engines"].append(
            {
                "name": way.name,
                "largest_error": float(np.abs(logits - reference).max() / np.abs(reference).max()),
                "same_class": float((logits.argmax(1) == reference.argmax(1)).mean()),
                "accuracy": float((classes == labelled)[labelled > 0].mean()),
            }
        )
    return found


# --- results ---------------------------------------------------------------------------------------------


def table(record: dict[str, Any]) -> str:
    ways, compared = record["ways"], record["agreement"]
    # The second of two stages has random weights.
    trained = record.get("stages", 1) == 1
    families = [f for f in (STEP, REFERENCE, MAMBA) if f in ways[0]["ratios"]]
    memory = common.memory_heads(record["machine"]["device"] == "cuda")
    rows = [
        [
            w["name"],
            f"{w['pixels_per_second']:,.0f}",
            common.number(1e6 / w["pixels_per_second"]),
            *(f"{w['ratios'][f]:.1f}" for f in families),
            *common.memory_cells(w),
        ]
        for w in ways
    ]
    text = common.markdown(
        ["way", "pixels/s", "µs a pixel", *(f"× loop, {f}" for f in families), *memory],
        rows,
    )
    text += (
        f"\n\nMedians of {record['rounds']} rounds in which all ways take turns. “× loop” compares with the "
        "loop of this name at its better batch size. Each way's memory is measured in a separate process and "
        "includes libraries and model.\n\n"
    )
    text += common.markdown(
        [
            "engine",
            "largest error / largest logit",
            "same class as `patch`",
            *(["right on labels"] if trained else []),
        ],
        [
            [
                e["name"],
                f"{e['largest_error']:.1e}" if e["largest_error"] else "–",
                f"{100 * e['same_class']:.3f} %",
                *([f"{100 * e['accuracy']:.2f} %"] if trained else []),
            ]
            for e in compared["engines"]
        ],
    )
    if not trained:
        return (
            text
            + f"\n\nOn {compared['pixels']:,} pixels of the example. The second stage has random weights."
        )
    return text + (
        f"\n\nThe bundled model on {compared['pixels']:,} pixels of the example, {compared['labelled']:,} of "
        "them labelled. It was trained on most of these: compare the rows, the last column is no accuracy."
    )


def plot(record: dict[str, Any], figure: Figure) -> None:
    ways = record["ways"]
    figure.set_size_inches(8, 0.8 + 0.32 * len(ways))
    speed, memory = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = [w["name"].replace("`", "") for w in ways]
    colours = [OURS if "shared" in w["name"] else PLAIN if w["family"] == ENGINE else BASELINE for w in ways]
    rates = [w["pixels_per_second"] for w in ways]
    speed.barh(names, rates, color=colours)
    for n, rate in enumerate(rates):
        speed.annotate(f"{rate:,.0f}", (rate, n), (3, 0), textcoords="offset points", va="center", fontsize=8)
    speed.set_xscale("log")
    speed.set_xlim(min(rates) / 2, max(rates) * 3)
    speed.set_xlabel("pixels per second")
    on_card = "cuda_peak_bytes" in ways[0]
    sizes = [w["cuda_peak_bytes" if on_card else "peak_bytes"] / common.MIB for w in ways]
    memory.barh(names, sizes, color=colours)
    memory.set_xlabel("peak memory on the card, MiB" if on_card else "peak memory, MiB")
    speed.invert_yaxis()
    for axes in (speed, memory):
        common.tidy(axes)


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a turn lasts [2]")
    parser.add_argument(
        "--stages",
        type=int,
        choices=(1, 2),
        default=1,
        help="stages of the network, the second with random weights [1]",
    )
    parser.add_argument("--most", type=int, help="pixels a side of the largest block [64, CUDA 512]")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.most = 1, 0.0, 2
    device = common.start(options)
    if options.child:
        print(json.dumps(child(json.loads(options.child), device)))
        return
    bundle = common.published_bundle(options.stages)
    ways = ways_on(device, bundle)
    compared = load_bundle(common.MODEL) if options.stages == 1 else bundle
    most = 2 if options.quick else None if options.stages == 1 else 500
    if options.quick:
        ways = [ways[0], *(w for w in ways if w.name.startswith("`patch`")), ways[-1]]
    beside = [one_stage(device)] if options.stages == 2 else []
    record = {
        "machine": common.machine(options),
        "rounds": options.rounds,
        "stages": options.stages,
        "ways": measure(options, device, [*ways, *beside], bundle),
        "agreement": agreement([w for w in ways if w.family == ENGINE], compared, most),
    }
    common.publish(NAME if options.stages == 1 else TWO_STAGES, record, options, table, plot)


if __name__ == "__main__":
    main()
