"""The pipe around the engine: MS pixels a second with an engine that computes next to nothing.

    python benchmarks/pipe.py [--sides 2048] [--block 512] [--no-vectors]

Classifies a made-up scene (PAN 4 : 1, tiled GeoTIFFs) as `das2f-map classify` does: reading, normalising,
class and confidence rasters with their Cloud Optimized GeoTIFFs, areas, and polygons unless left out.
Each measurement is a process of its own. Wall and CPU seconds are printed, and those of each phase.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import trivial

import das2f_map.workflows.classify as workflow


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Wall, user and system seconds, peak memory and phases of one map."""
    workflow.make_engine = trivial.make_trivial(options.block)
    profile = cProfile.Profile() if options.profile else None
    with tempfile.TemporaryDirectory(dir=folder) as place:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        if profile is not None:
            profile.enable()
        report = workflow.classify(
            folder / "ms.tif",
            folder / "pan.tif",
            Path(place) / "map.tif",
            model=common.MODEL,
            turns=1,
            vectors=None if options.vectors else False,
            confidence=Path(place) / "confidence.tif",
            coregistration="off",
        )
        if profile is not None:
            profile.disable()
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    if profile is not None:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    return {
        "wall": wall,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "peak_bytes": common.resident_bytes(peak=True),
        "phases": report.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[2048], help="MS pixels a side of the scenes")
    parser.add_argument("--block", type=int, default=512, help="MS pixels a side of a block")
    parser.add_argument("--no-vectors", dest="vectors", action="store_false", help="no polygons")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions")
    parser.add_argument("--profile", action="store_true", help="print the functions that take longest")
    parser.add_argument("--folder", type=Path, help="keep the scenes here, or find them here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(Path(options.child), options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for side in options.sides:
            place = (options.folder or Path(temporary)) / str(side)
            if not place.exists():
                place.mkdir(parents=True)
                common.write_scene(place, side, side)
            for _ in range(options.rounds):
                command = [sys.executable, __file__, *sys.argv[1:], "--child", str(place)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                one = json.loads(done.stdout.splitlines()[-1])
                cpu = one["user"] + one["system"]
                print(
                    f"{side}²: {one['wall']:.2f} s wall, {cpu:.2f} s CPU ({one['system']:.2f} of it system), "
                    f"{1e-6 * side**2 / one['wall']:.2f} million pixels a second, "
                    f"{one['peak_bytes'] / common.MIB:.0f} MiB, {one['phases']}"
                )


if __name__ == "__main__":
    main()
