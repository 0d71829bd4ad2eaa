"""The pipe around the engine: MS pixels a second with an engine that computes next to nothing.

    python benchmarks/pipe.py [--sides 2048] [--block 512] [--no-vectors]
    python benchmarks/pipe.py --virtual --sides 3162 10000 31623 --rounds 1 -o docs/benchmarks

Classifies a made-up scene (PAN 4 : 1, tiled GeoTIFFs) as `das2f-map classify` does: reading, normalising,
class and confidence rasters with their Cloud Optimized GeoTIFFs, areas, and polygons unless left out.
Each measurement is a process of its own. Wall and CPU seconds are printed, and those of each phase.

With ``--virtual`` a scene is a VRT that repeats one of 4096² pixels whose fields are four times as wide, so
that 10⁹ pixels take no room on the disk. Its outputs take 14 bytes a pixel there while they are written.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import common
import rasterio
import trivial

import das2f_map.workflows.classify as workflow
from das2f_map.running import many

NAME: Final = "pipe"

BASE: Final = 4096
"""MS pixels a side of the scene that virtual ones repeat."""

ZOOM: Final = 4
"""Pixels a side of each of its measured pixels."""


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Wall, user and system seconds, peak memory and phases of one map."""
    many.make_engine = trivial.make_trivial(options.block)
    profile = cProfile.Profile() if options.profile else None
    with tempfile.TemporaryDirectory(dir=folder) as place:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        if profile is not None:
            profile.enable()
        report = workflow.classify(
            *(next(folder.glob(f"{name}.*")) for name in ("ms", "pan")),
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
    if report.engine != trivial.TrivialEngine.name:
        raise SystemExit(f"the trivial engine was not used, but {report.engine}")
    if profile is not None:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    return {
        "wall": wall,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "peak_bytes": common.resident_bytes(peak=True),
        "phases": report.seconds,
    }


def write_virtual_scene(folder: Path, side: int) -> None:
    """Write ``ms.vrt`` and ``pan.vrt`` of ``side``² MS pixels, which repeat a scene in the folder above."""
    base = folder.parent / "base"
    if not base.exists():
        base.mkdir()
        common.write_scene(base, BASE // ZOOM, BASE // ZOOM)
        for path in (base / "ms.tif", base / "pan.tif"):
            _enlarge(path)
    for name, scale in (("ms", 1), ("pan", common.PAN_PER_MS)):
        with rasterio.open(base / f"{name}.tif") as file:
            _write_vrt(folder / f"{name}.vrt", file, scale * side)


def _enlarge(path: Path) -> None:
    """Replace an image by one with ``ZOOM`` × ``ZOOM`` pixels of the same size for each."""
    with rasterio.open(path) as file:
        values, profile, names = file.read(), file.profile, file.descriptions
    profile.update(height=ZOOM * profile["height"], width=ZOOM * profile["width"])
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2))
        for n, name in enumerate(names, start=1):
            file.set_band_description(n, name)


def _write_vrt(path: Path, file: rasterio.DatasetReader, side: int) -> None:
    t, n = file.transform, file.width
    lines = [
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{escape(file.crs.to_wkt())}</SRS>',
        f"<GeoTransform>{t.c},{t.a},0,{t.f},0,{t.e}</GeoTransform>",
    ]
    for band, name in enumerate(file.descriptions, start=1):
        lines.append(f'<VRTRasterBand dataType="UInt16" band="{band}"><Description>{name}</Description>')
        for row, col in itertools.product(range(0, side, n), repeat=2):
            size = f'xSize="{min(n, side - col)}" ySize="{min(n, side - row)}"'
            lines.append(
                f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(file.name)}</SourceFilename>'
                f'<SourceBand>{band}</SourceBand><SourceProperties RasterXSize="{n}" RasterYSize="{n}" '
                f'DataType="UInt16" BlockXSize="256" BlockYSize="256"/><SrcRect xOff="0" yOff="0" {size}/>'
                f'<DstRect xOff="{col}" yOff="{row}" {size}/></SimpleSource>'
            )
        lines.append("</VRTRasterBand>")
    path.write_text("\n".join([*lines, "</VRTDataset>"]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[2048], help="MS pixels a side of the scenes")
    parser.add_argument("--block", type=int, default=512, help="MS pixels a side of a block")
    parser.add_argument("--no-vectors", dest="vectors", action="store_false", help="no polygons")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions")
    parser.add_argument("--virtual", action="store_true", help="VRTs that repeat one scene of larger fields")
    parser.add_argument("--profile", action="store_true", help="print the functions that take longest")
    parser.add_argument("--folder", type=Path, help="keep the scenes here, or find them here")
    parser.add_argument("-o", "--output", type=Path, help="folder for pipe.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(Path(options.child), options)))
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for side in options.sides:
            place = (options.folder or Path(temporary)) / f"{'virtual' if options.virtual else ''}{side}"
            if not place.exists():
                place.mkdir(parents=True)
                if options.virtual:
                    write_virtual_scene(place, side)
                else:
                    common.write_scene(place, side, side)
            for _ in range(options.rounds):
                command = [sys.executable, __file__, *sys.argv[1:], "--child", str(place)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                one = json.loads(done.stdout.splitlines()[-1])
                found.append({"side": side, **one})
                cpu = one["user"] + one["system"]
                print(
                    f"{side}²: {one['wall']:.2f} s wall, {cpu:.2f} s CPU ({one['system']:.2f} of it system), "
                    f"{1e-6 * side**2 / one['wall']:.2f} million pixels a second, "
                    f"{one['peak_bytes'] / common.MIB:.0f} MiB, {one['phases']}"
                )
    if options.output is not None:
        options.device, options.quick = "cpu", False
        record = {"runs": found, "machine": common.machine(options)}
        common.write_text(options.output / f"{NAME}.json", json.dumps(record, indent=1) + "\n")


def table(record: dict[str, Any]) -> str:
    """A row for each scene of a record, medians where there are several runs."""
    rows = []
    for side in sorted({run["side"] for run in record["runs"]}):
        runs = [run for run in record["runs"] if run["side"] == side]
        cpu = common.median([run["user"] + run["system"] for run in runs])
        peak = common.median([run["peak_bytes"] for run in runs])
        rows.append([f"{side:,}²", f"{cpu:,.1f}", f"{1e6 * cpu / side**2:.2f}", f"{peak / common.MIB:,.0f}"])
    heads = ["MS pixels", "CPU seconds", "CPU µs a pixel", "peak memory, MiB"]
    return f"{common.markdown(heads, rows)}\n\n{common.machine_text(record['machine'])}."


if __name__ == "__main__":
    main()
