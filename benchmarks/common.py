"""Shared parts of the benchmarks: options, machine, timing, memory, made-up scenes, results, docs.

Every benchmark writes NAME.json (all measurements) and NAME.png into the output folder, by default
docs/benchmarks; NAME-cuda.* for a run on CUDA, NAME-SUFFIX.* with --suffix. With another output folder the
table goes into NAME.md there. ``python benchmarks/render.py`` makes tables and plots from the JSON alone, and
puts the tables into the pages of the documentation.

Benchmarks import this module, and render.py imports the benchmarks; no import goes the other way.
"""

from __future__ import annotations

import os

# The das2f-map command sets the same. It must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from affine import Affine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rasterio.crs import CRS

from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.network import Das2fNet
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.scene.pair import open_pair
from das2f_map.workflows.doctor import diagnose

ROOT: Final = Path(__file__).resolve().parents[1]
MODEL: Final = ROOT / "models" / "landsat8-gulf"
EXAMPLE: Final = ROOT / "examples" / "gulf"
DOCS: Final = ROOT / "docs" / "benchmarks"
MIB: Final = 2**20

BASELINE, PLAIN, OURS = "#9aa5b1", "#4c78a8", "#1f6b34"
"""Colours of bars."""

Float32 = npt.NDArray[np.float32]


# --- options and machine ---------------------------------------------------------------------------------


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("-o", "--output", type=Path, help="folder for results [docs/benchmarks]")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="CUDA if it is there")
    made.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads [all cores]")
    made.add_argument("--rounds", type=int, default=rounds, help=f"repetitions [{rounds}]")
    made.add_argument("--quick", action="store_true", help="tiny sizes: does it run? To a temporary folder")
    made.add_argument(
        "--suffix", default="", help="of the results' names, for those of a further machine [CUDA: cuda]"
    )
    made.add_argument("--child", help=argparse.SUPPRESS)  # JSON: the task of a process of its own
    return made


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(options: argparse.Namespace) -> torch.device:
    """Threads, seed, device and folder of a run."""
    if options.output is None:
        # The figures of a quick run mean nothing, so they must not replace real ones.
        options.output = Path(tempfile.gettempdir()) / "das2f-map-quick" if options.quick else DOCS
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not options.suffix:
        options.suffix = "cuda"
    return torch.device("cuda:0" if options.device == "cuda" else "cpu")


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Properties of the machine that the figures depend on, without its name or paths."""
    found = diagnose()
    cpu = found.cpu
    record: dict[str, Any] = {
        "device": options.device,
        "cpu": cpu["name"],
        "cores": cpu["cores"],
        "threads": torch.get_num_threads(),
        "kernels": cpu["shared_scan_kernels"],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "das2f_map": found.versions["das2f-map"],
        "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        "date": time.strftime("%Y-%m-%d"),
        "quick": options.quick,
    }
    for package in ("onnxruntime", "onnxruntime-gpu", "triton", "mamba-ssm"):
        try:
            record[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if options.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        record |= {"card": card.name, "card_bytes": card.total_memory, "cuda": torch.version.cuda}
    return record


def machine_text(m: Mapping[str, Any]) -> str:
    """The machine in one line, to go under a table."""
    parts = [f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, {m['kernels']}"]
    if m["device"] == "cuda":
        parts.insert(0, f"{m['card']} ({m['card_bytes'] / 2**30:.0f} GiB), CUDA {m['cuda']}")
    parts.append(f"PyTorch {m['torch']}")
    if m["device"] == "cuda":
        parts += [f"{k} {m[k]}" for k in ("triton", "mamba-ssm") if k in m]
    text = f"{'; '.join(parts)}; {m['date']}"
    return text + ("; QUICK RUN, the figures mean nothing" if m["quick"] else "")


# --- measuring -------------------------------------------------------------------------------------------


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, including the work that it left running on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each way in each round. The ways take turns, so a drift of the machine affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds):
        for name, work in ways.items():
            seconds[name].append(timed(work, device))
            say(f"round {n + 1} of {rounds}: {name}: {seconds[name][-1]:.3g} s")
    return seconds


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def resident_bytes(peak: bool) -> int:
    """Resident memory of this process in bytes: now, or the highest so far."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not Linux: give the peak in both cases
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else 1024 * used
    # On Linux ru_maxrss would start with the parent's peak.
    name = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return 1024 * int(found[1])


def in_own_process(script: str, options: argparse.Namespace, task: Mapping[str, Any]) -> dict[str, Any]:
    """Run a script with a task as ``--child``; returns its last printed line, parsed as JSON."""
    command = [sys.executable, script, "--device", options.device, "--threads", str(options.threads)]
    command += ["--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} --child {json.dumps(task)} failed:\n{done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


class PeakMemory:
    """Measures the memory of this process from now on, for a child's answer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Make the system forget the peak so far, which was reached while loading.
        with suppress(OSError):  # where this fails, the peak includes loading
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._before = resident_bytes(peak=False)

    def record(self) -> dict[str, int]:
        """Bytes: before, peak, and the peak on the card."""
        found = {"bytes_before": self._before, "peak_bytes": resident_bytes(peak=True)}
        if self._device.type == "cuda":
            found["cuda_peak_bytes"] = torch.cuda.max_memory_allocated()
        return found


def memory_cells(record: Mapping[str, Any]) -> list[str]:
    """Memory as cells of a table; :func:`memory_heads` gives their headings."""
    sizes = [record["peak_bytes"], max(0, record["peak_bytes"] - record["bytes_before"])]
    if "cuda_peak_bytes" in record:
        sizes.append(record["cuda_peak_bytes"])
    return [f"{size / MIB:,.0f}" for size in sizes]


def memory_heads(cuda: bool) -> list[str]:
    """Headings for :func:`memory_cells`."""
    heads = ["peak memory, MiB", "by computing"]
    return [*heads, "on the card, MiB"] if cuda else heads


def number(value: float) -> str:
    """A number as text with three significant digits, without exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


# --- what is measured on ---------------------------------------------------------------------------------


def published_bundle(stages: int = 1) -> ModelBundle:
    """The bundled model with the published classifier of two layers; its file holds the folded layer only.

    Weights that the bundled model does not have, the classifier's and a second stage's, are random: the
    bundle serves timing, not maps.
    """
    bundle = load_bundle(MODEL)
    config = bundle.card.network.model_copy(update={"classifier_hidden": 1024, "stages": stages})
    torch.manual_seed(0)
    network = Das2fNet(config)
    kept = {n: t for n, t in bundle.state_dict.items() if not n.startswith("classifier.")}
    network.load_state_dict(kept, strict=False)
    return ModelBundle(bundle.card.model_copy(update={"network": config}), network.state_dict())


def example_block(height: int, width: int) -> tuple[Float32, Float32]:
    """Normalised block of the example with its halo, mirrored if it is larger than the example."""
    card = load_bundle(MODEL).card
    patch = card.patch
    with open_pair(EXAMPLE / "ms.tif", EXAMPLE / "pan.tif") as pair:
        whole = pair.grids.ms.window
        block = pair.read_block(whole, patch.before, patch.after, fill=patch.fill_radius)
    ms, pan = card.normalisation.apply(block)
    rows, cols = (_mirrored(n + patch.size - 1, ms.shape[1]) for n in (height, width))
    fine_rows, fine_cols = (
        _mirrored(PAN_PER_MS * (n + patch.size - 1), pan.shape[1]) for n in (height, width)
    )
    return np.ascontiguousarray(ms[:, rows][:, :, cols]), np.ascontiguousarray(
        pan[:, fine_rows][:, :, fine_cols]
    )


def _mirrored(length: int, size: int) -> npt.NDArray[np.intp]:
    """Indices that run back and forth through ``size`` values."""
    n = np.arange(length) % (2 * size)
    return np.minimum(n, 2 * size - 1 - n)


def write_scene(folder: Path, height: int, width: int) -> tuple[Path, Path]:
    """Write a made-up pair of ``height`` x ``width`` MS pixels, PAN 4 : 1 finer, as GeoTIFFs into a folder.

    It repeats the example, mirrored at every seam, so that textures and field sizes are real.
    """
    with open_pair(EXAMPLE / "ms.tif", EXAMPLE / "pan.tif") as pair:
        block = pair.read_block(pair.grids.ms.window, 0, 0, fill=8)
        gsd, crs = pair.grids.ms.pixel_size[0], pair.grids.ms.crs
        names = [b.name for b in load_bundle(MODEL).card.ms_bands]
    paths = (folder / "ms.tif", folder / "pan.tif")
    for path, values, step, bands in (
        (paths[0], block.ms, gsd, names),
        (paths[1], block.pan, gsd / PAN_PER_MS, ["pan"]),
    ):
        finer = round(gsd / step)
        _write_mirrored(path, values, (finer * height, finer * width), step, crs, bands)
    return paths


def _write_mirrored(
    path: Path, values: Float32, shape: tuple[int, int], step: float, crs: CRS, names: Sequence[str]
) -> None:
    tile = np.rint(values).clip(0, 65535).astype(np.uint16)
    rows, cols = (_mirrored(n, s) for n, s in zip(shape, tile.shape[1:], strict=True))
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=shape[0],
        width=shape[1],
        count=len(tile),
        dtype="uint16",
        crs=crs,
        transform=Affine.translation(500_000, 3_600_000) * Affine.scale(step, -step),
        tiled=True,
        BIGTIFF="IF_SAFER",
    ) as file:
        for n, name in enumerate(names, start=1):
            file.set_band_description(n, name)
        for top in range(0, shape[0], 512):
            strip = tile[:, rows[top : top + 512]][:, :, cols]
            file.write(strip, window=((top, top + strip.shape[1]), (0, shape[1])))


# --- results ---------------------------------------------------------------------------------------------

Table = Callable[[dict[str, Any]], str]
Plot = Callable[[dict[str, Any], Figure], None]


def publish(name: str, record: dict[str, Any], options: argparse.Namespace, table: Table, plot: Plot) -> None:
    """Write a benchmark's JSON and plot, and its table unless the folder belongs to the documentation."""
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if options.suffix:
        name += f"-{options.suffix}"
    write_text(folder / f"{name}.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    text = render(name, folder, table, plot)
    print(text)
    if folder.resolve() == DOCS:
        say("`python benchmarks/render.py` puts the table into the documentation")
    else:
        write_text(folder / f"{name}.md", text)


def render(name: str, folder: Path, table: Table, plot: Plot) -> str:
    """Draw the plot of a JSON file; returns its table with the notes below it."""
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    text = _wrapped(f"{table(record).rstrip()}\n\n{machine_text(record['machine'])}.\n")
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    plot(record, figure)
    picture = folder / f"{name}.png"
    figure.savefig(picture.with_suffix(".png.part"), dpi=120, format="png", metadata={"Software": None})
    picture.with_suffix(".png.part").replace(picture)
    return text


def _wrapped(text: str) -> str:
    """Text with its long lines broken, except in tables."""
    return "".join(
        line if line.startswith("|") else textwrap.fill(line, 110, break_on_hyphens=False) + "\n"
        for line in text.splitlines(keepends=True)
    )


def fill(page: Path, found: Mapping[str, str]) -> None:
    """Put texts between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` in a page.

    Raises
    ------
    SystemExit
        If the page has no such place for a name.
    """
    text = page.read_text(encoding="utf-8")
    for name, content in found.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not place.search(text):
            raise SystemExit(f"{page.name} has no place '{begin} … {end}'")
        new = f"{begin}\n\n{content.strip()}\n\n{end}"
        text = place.sub(lambda _, new=new: new, text)
    write_text(page, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is complete or absent."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose first ``words`` columns are words, the others numbers."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * words}{'---:|' * (len(heads) - words)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def tidy(axes: Any) -> None:
    """Remove the frame of axes, and the labels between powers of ten."""
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_xscale() == "log":
        axes.xaxis.set_minor_formatter(NullFormatter())
