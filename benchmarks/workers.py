"""Two workers of one thread against one process of two threads, on the same window of a scene, in turns.

    python benchmarks/workers.py MS PAN [--side 256] [--turns 3] [--model landsat8-gulf]

Each run is the command `classify` on a square in the middle of the scene, in a folder of its own. Prints the
seconds in which blocks were computed and written (the report's phase `classify`), and the CPU seconds of all
processes, of each run, their medians, and the speed of the workers over that of the one process. Compares
class rasters to the byte.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import geopandas
import rasterio
import shapely


def middle(ms: Path, side: int, path: Path) -> Path:
    """A square of so many MS pixels in the middle of a scene, as GeoJSON."""
    with rasterio.open(ms) as image:
        row, col = (image.height - side) // 2, (image.width - side) // 2
        corners = [image.transform * (c, r) for c, r in ((col, row), (col + side, row + side))]
        (x0, y0), (x1, y1) = corners
        frame = geopandas.GeoDataFrame(
            geometry=[shapely.box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))], crs=image.crs
        )
    frame.to_file(path)
    return path


def measured(command: list[str], output: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of the phase `classify`, and CPU seconds of the run and its workers."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "-o", str(output)], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(json.loads(output.with_suffix(".json").read_text())["seconds"]["classify"]), cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ms", type=Path)
    parser.add_argument("pan", type=Path)
    parser.add_argument("--side", type=int, default=256, help="MS pixels a side of the window")
    parser.add_argument("--turns", type=int, default=3, help="runs of each kind")
    parser.add_argument("--model", default="landsat8-gulf")
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    kinds: dict[str, list[str]] = {"one process": [], "two workers": ["--workers", "2"]}
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    rasters: set[bytes] = set()
    with tempfile.TemporaryDirectory() as folder:
        area = middle(options.ms, options.side, Path(folder) / "area.geojson")
        command = [sys.executable, "-m", "das2f_map", "classify", str(options.ms), str(options.pan)]
        command += ["--aoi", str(area), "--model", options.model, "--no-vectors", "--device", "cpu"]
        for turn in range(options.turns):
            for kind, more in kinds.items():
                output = Path(folder) / f"{kind[:3]}{turn}.tif"
                found[kind].append(measured([*command, *more], output, environment))
                rasters.add(output.read_bytes())
                wall, cpu = found[kind][-1]
                print(f"{kind}: {wall:.1f} s, {cpu:.1f} s of the CPU", flush=True)
    walls, cpus = (
        {k: statistics.median(run[i] for run in runs) for k, runs in found.items()} for i in (0, 1)
    )
    for kind in kinds:
        print(f"median of {kind}: {walls[kind]:.1f} s, {cpus[kind]:.1f} s of the CPU")
    print(f"speed of the workers: {walls['one process'] / walls['two workers']:.2f} of the one process")
    print("class rasters are", "the same to the byte" if len(rasters) == 1 else "DIFFERENT")


if __name__ == "__main__":
    main()
