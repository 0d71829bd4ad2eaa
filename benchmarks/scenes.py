"""Whole scenes of the sizes in the network's paper, end to end.

    python benchmarks/scenes.py [--budget 15]

Made-up pairs (the example mirrored to and fro, PAN 4 : 1) of 800 x 830, 2000 x 2500 and 4541 x 4548 MS
pixels, written to a temporary folder (up to 0.9 GB), go through `das2f_map.classify`: class raster, polygons
and report, everything on automatic. A scene that would take longer than the budget, in minutes, is measured
on a square in its middle; its time is then extrapolated by the number of pixels, and marked so. Each run is
a process of its own.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import geopandas
import rasterio
import torch
from common import BASELINE, OURS
from matplotlib.figure import Figure
from shapely.geometry import box

import das2f_map

NAME = "scenes"
SIZES = ((800, 830), (2000, 2500), (4541, 4548))
_PROBE = 128
"""Pixels a side of a first look at the speed."""


def child(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Classify a scene, or a square in its middle; wall time and peak memory."""
    folder = Path(task["folder"])
    aoi = None
    if task["side"]:
        with rasterio.open(folder / "ms.tif") as file:
            step, left, top = file.transform.a, file.transform.c, file.transform.f
            col, row = (max(0, (n - task["side"]) // 2) for n in (file.width, file.height))
            width, height = (min(n, task["side"]) for n in (file.width, file.height))
            area = box(
                left + col * step, top - (row + height) * step, left + (col + width) * step, top - row * step
            )
            aoi = folder / "square.gpkg"
            geopandas.GeoDataFrame(geometry=[area], crs=file.crs).to_file(aoi)
    memory = common.PeakMemory(device)
    begin = time.perf_counter()
    report = das2f_map.classify(
        folder / "ms.tif",
        folder / "pan.tif",
        folder / "map.tif",
        model=common.MODEL,
        aoi=aoi,
        device=device.type,
        overwrite=True,
    )
    seconds = time.perf_counter() - begin
    for path in folder.glob("map.*"):
        path.unlink()
    return {
        "pixels": report.grid.height * report.grid.width,
        "seconds": seconds,
        "phases": report.seconds,
        "engine": report.engine,
        "precision": report.precision,
        "scan": report.scan,
        **memory.record(),
    }


def scene(options: Any, height: int, width: int) -> dict[str, Any]:
    """Measure a scene, whole if it fits the budget."""
    budget, pixels = 60 * options.budget, height * width
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common.say(f"writing {height} × {width}")
        common.write_scene(folder, height, width)

        def run(side: int) -> dict[str, Any]:
            task = {"folder": str(folder), "side": side}
            found = common.in_own_process(__file__, options, task)
            common.say(f"{height} × {width}: {found['pixels']:,} pixels in {found['seconds']:.1f} s")
            return found

        part = run(options.probe)
        if part["pixels"] < pixels and _extrapolated(part, pixels) > budget:
            # A better look, for a fifth of the budget: a small one is mostly start, and compiling on CUDA.
            side = int((0.2 * budget * part["pixels"] / part["seconds"]) ** 0.5)
            part = run(side) if side > options.probe else part
        if part["pixels"] == pixels:
            return _record(height, width, part, None)
        if _extrapolated(part, pixels) <= budget:
            return _record(height, width, run(0), None)
        return _record(height, width, part, _extrapolated(part, pixels))


def _extrapolated(run: dict[str, Any], pixels: int) -> float:
    """Seconds of a whole scene. What does not grow with it is in every run: the model, the scene's sample."""
    growing = sum(run["phases"].get(phase, 0.0) for phase in ("classify", "areas", "polygons"))
    seconds: float = run["seconds"] + growing * (pixels / run["pixels"] - 1)
    return seconds


def _record(height: int, width: int, run: dict[str, Any], extrapolated: float | None) -> dict[str, Any]:
    return {
        "height": height,
        "width": width,
        "seconds": run["seconds"] if extrapolated is None else extrapolated,
        "measured": extrapolated is None,
        "run": run,
    }


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def table(record: dict[str, Any]) -> str:
    cuda = record["machine"]["device"] == "cuda"
    rows = []
    for s in record["scenes"]:
        run = s["run"]
        took = duration(s["seconds"])
        size = f"{s['height']} × {s['width']} = {s['height'] * s['width']:,}"
        basis = "the whole scene" if s["measured"] else f"{run['pixels']:,} pixels of it"
        shares = [
            f"{100 * run['phases'].get(phase, 0.0) / run['seconds']:.0f} %"
            for phase in ("classify", "polygons")
        ]
        rows.append(
            [
                size,
                f"**{took}**" if s["measured"] else f"{took} (extrapolated)",
                basis,
                f"{s['height'] * s['width'] / s['seconds']:,.0f}",
                *shares,
                *common.memory_cells(run),
            ]
        )
    run = record["scenes"][0]["run"]
    heads = ["MS pixels", "wall time", "measured on", "pixels/s, all in all", "classifying", "polygons"]
    return common.markdown([*heads, *common.memory_heads(cuda)], rows) + (
        f"\n\nEngine `{run['engine']}` in {run['precision']} ({run['scan']}), from two GeoTIFFs to class "
        "raster, polygons and report. An extrapolated time assumes that every further pixel takes as long as "
        "those measured; its memory is the measured part's."
    )


def plot(record: dict[str, Any], figure: Figure) -> None:
    figure.set_size_inches(7, 2.4)
    axes = figure.subplots()
    names = [f"{s['height']} × {s['width']}" for s in record["scenes"]]
    minutes = [s["seconds"] / 60 for s in record["scenes"]]
    bars = axes.barh(names, minutes, color=[OURS if s["measured"] else BASELINE for s in record["scenes"]])
    labels = [duration(s["seconds"]) + ("" if s["measured"] else ", extrapolated") for s in record["scenes"]]
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(minutes) / 3, max(minutes) * 6)
    axes.invert_yaxis()
    axes.set_xlabel("minutes from two files to map and polygons")
    common.tidy(axes)


def main() -> None:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--budget", type=float, default=15.0, help="minutes for the longest single run [15]")
    parser.add_argument("--probe", type=int, default=_PROBE, help="pixels a side of the first look [128]")
    options = parser.parse_args()
    sizes: tuple[tuple[int, int], ...] = SIZES
    if options.quick:
        sizes, options.budget, options.probe = ((20, 24), (40, 44)), 0.0, 24
    device = common.start(options)
    if options.child:
        print(json.dumps(child(json.loads(options.child), device)))
        return
    record = {
        "machine": common.machine(options),
        "budget_minutes": options.budget,
        "scenes": [scene(options, *size) for size in sizes],
    }
    common.publish(NAME, record, options, table, plot)


if __name__ == "__main__":
    main()
