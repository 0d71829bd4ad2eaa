"""Real scenes through `inspect`, `align` and `classify`: what is said of each, and what comes out.

    python benchmarks/real_scenes.py SCENES -o docs/benchmarks/real_scenes --page docs/real-scenes.md

SCENES is a folder with a folder for each scene, `ms.tif` and `pan.tif` in it, and for some a mask. At most
10 000 MS pixels in the middle of a scene are classified: this is about whether it works, not about accuracy.
`--only NAME…` does some and keeps the others' results.

Writes OUTPUT.json, the tables into PAGE, or without --page into OUTPUT.md, and OUTPUT-NAME.png, the quick
look, for the scenes named in `--pictures`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import geopandas
import shapely
from PIL import Image

import das2f_map
from das2f_map.errors import Das2fMapError
from das2f_map.scene.grid import Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import open_pair
from das2f_map.scene.registration import measure_shift
from das2f_map.workflows.align import align

NAME = "real_scenes"
MODEL = "landsat8-gulf"
MASKS = {"gulf": ("bqa.tif", (15,))}
SIDE = 100
"""MS pixels a side of what is classified."""


def middle(ms: Path, pan: Path, path: Path) -> Path:
    """An area of interest in the middle of the scene."""
    with open_pair(ms, pan) as pair:
        grid = pair.grids.ms
    height, width = min(SIDE, grid.height), min(SIDE, grid.width)
    part = grid.cropped(Window((grid.height - height) // 2, (grid.width - width) // 2, height, width))
    geopandas.GeoDataFrame(geometry=[shapely.Polygon(part.corners())], crs=grid.crs.to_wkt()).to_file(path)
    return path


def classified(ms: Path, pan: Path, **options: Any) -> dict[str, Any]:
    """What comes of a run: a report in short, or the error."""
    with TemporaryDirectory() as folder:
        area = middle(ms, pan, Path(folder) / "aoi.gpkg")
        start = time.perf_counter()
        try:
            report = das2f_map.classify(ms, pan, Path(folder) / "map.tif", aoi=area, **options)
        except Das2fMapError as error:
            return {"error": error.message, "hint": error.hint}
    classes = sorted((c for c in report.classes if c.pixels), key=lambda c: -c.pixels)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "pixels": sum(c.pixels for c in classes),
        "nodata": report.nodata_pixels,
        "classes": {c.name: round(c.share, 3) for c in classes},
        "warnings": report.warnings,
        "shift_corrected": report.scene.model_dump(mode="json")["shift_corrected"],
    }


def aligned(ms: Path, pan: Path) -> dict[str, Any]:
    """What `align -o` finds and does, and what is left when the written pair is measured again."""
    with TemporaryDirectory() as folder:
        try:
            report = align(ms, pan, folder)
        except Das2fMapError as error:
            return {"error": error.message, "hint": error.hint}
        with open_pair(Path(folder) / "ms.tif", Path(folder) / "pan.tif") as pair:
            left = measure_shift(pair)
            strategy = pair.strategy
    return {
        "shift": report.shift.model_dump(mode="json", exclude={"windows"}),
        "corrected": report.corrected,
        "written": strategy,
        "left": left.length,
    }


def run(folder: Path, picture: Path | None) -> dict[str, Any]:
    ms, pan = folder / "ms.tif", folder / "pan.tif"
    start = time.perf_counter()
    look = das2f_map.inspect(ms, pan, picture, overwrite=True)
    seconds = time.perf_counter() - start
    if picture is not None:  # 256 colours are enough here, and a third of the size
        Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)
    scene = look.scene.model_dump(mode="json")
    found: dict[str, Any] = {
        **{k: scene[k] for k in ("ms", "pan", "ratio", "strategy")},
        "overlap": look.overlap.model_dump(),
        "shift": look.shift and look.shift.model_dump(include={"sentence", "action", "because"}),
        "align": aligned(ms, pan),
        "invalid_share": look.invalid_share,
        "models": [m.model_dump() for m in look.models],
        "verdict": look.verdict,
        "seconds_per_1000_pixels": look.estimate and 1000 / look.estimate.pixels_per_second,
        "inspect_seconds": round(seconds, 1),
        "by_itself": classified(ms, pan),
    }
    if not look.models[0].fits:
        found["named"] = classified(ms, pan, model=MODEL)
        found["rescaled"] = classified(ms, pan, model=MODEL, radiometry="scene")
    if folder.name in MASKS:
        name, bits = MASKS[folder.name]
        found["masked"] = classified(ms, pan, mask=MaskFile(folder / name, bits=bits))
    for side in ("ms", "pan"):
        found[side]["path"] = f"{folder.name}/{side}.tif"
    text = json.dumps(found)
    return dict(json.loads(text.replace(f"{folder.parent}/", "")))


def tables(scenes: dict[str, Any]) -> dict[str, str]:
    """By the names of their places in the page."""
    return {
        "pairs": _pairs(scenes),
        "models": _models(scenes),
        "shifts": _shifts(scenes),
        "maps": _maps(scenes),
    }


def _pairs(scenes: dict[str, Any]) -> str:
    rows = []
    for name, s in scenes.items():
        ms, pan = s["ms"], s["pan"]
        rows.append(
            [
                name,
                f"{ms['width']} × {ms['height']}, {ms['gsd_m']:.4g} m, {ms['dtype']}",
                f"{pan['width']} × {pan['height']}, {pan['gsd_m']:.4g} m",
                f"{s['ratio']:.4g}",
                f"`{s['strategy']}`",
                f"{100 * s['invalid_share']:.1f} %",
                f"{s['inspect_seconds']:.0f} s",
            ]
        )
    return _table("scene, MS, PAN, ratio, alignment, nodata, inspect", rows)


def _models(scenes: dict[str, Any]) -> str:
    rows = []
    for name, s in scenes.items():
        reasons = s["models"][0]["reasons"]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        named = "error" in s["by_itself"]
        done = s["named"] if named else s["by_itself"]
        rows.append(
            [
                name,
                f"{reasons[0]}{more}" if reasons else "fits",
                "`--model`" if named else "none",
                f"{done['pixels']:,}",
                f"{done['nodata']:,}",
                f"{done['seconds']:.0f} s",
            ]
        )
    return _table("scene, bundled model, option needed, pixels classified, nodata, `classify`", rows)


def _shifts(scenes: dict[str, Any]) -> str:
    rows = []
    for name, s in scenes.items():
        a = s["align"]
        if "error" in a:
            rows.append([name, "–", "–", "–", "–", s["shift"]["because"], f"error: {a['error']}"])
            continue
        found = a["shift"]
        rows.append(
            [
                name,
                f"{found['length']:.2f} ({found['rows']:+.2f} / {found['cols']:+.2f})",
                f"{found['uncertainty']:.2f}",
                f"{found['windows_agreeing']} / {found['windows_matched']}",
                {None: "too few windows to tell", False: "no", True: "yes"}[found["varies"]],
                s["shift"]["because"],
                f"{a['left']:.2f}",
            ]
        )
    return _table("scene, found, ±, windows: agree / matched, changes over the scene, `classify`, left", rows)


def _maps(scenes: dict[str, Any]) -> str:
    rows = []
    for name, s in scenes.items():
        for key, how in (
            ("by_itself", "–"),
            ("masked", "`--mask bqa.tif --mask-bits 15`"),
            ("named", "`--model`"),
            ("rescaled", "`--radiometry scene`"),
        ):
            if key not in s:
                continue
            if "error" in s[key]:
                rows.append([name, how, "–", f"error: {s[key]['error']}"])
                continue
            shares = ", ".join(f"{c} {100 * v:.0f} %" for c, v in s[key]["classes"].items() if v >= 0.005)
            notes = "; ".join(w for w in s[key]["warnings"] if w.startswith("model ")) or "–"
            first, *rest = notes.split("; ")
            first = first.removeprefix(f"model {MODEL} is out of its range here: ")
            rows.append([name, how, shares, f"{first}; and {len(rest)} more" if rest else first])
    return _table("scene, options, classes, error or warning", rows)


def _table(heads: str, rows: list[list[str]]) -> str:
    return common.markdown(heads.split(", "), rows, words=len(rows[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--page", type=Path, help="Markdown file to put the tables into")
    parser.add_argument("--pictures", nargs="*", metavar="NAME", default=())
    given = parser.parse_args()
    out: Path = given.output
    result = out.with_suffix(".json")
    scenes = json.loads(result.read_text()) if given.only and result.exists() else {}
    for folder in sorted(p.parent for p in given.scenes.glob("*/ms.tif")):
        if given.only and folder.name not in given.only:
            continue
        picture = out.with_name(f"{out.name}-{folder.name}.png") if folder.name in given.pictures else None
        scenes[folder.name] = run(folder, picture)
        print(folder.name, scenes[folder.name]["verdict"], flush=True)
    scenes = dict(sorted(scenes.items()))
    result.write_text(json.dumps(scenes, indent=1) + "\n")
    if given.page is None:
        out.with_suffix(".md").write_text("\n\n".join(tables(scenes).values()) + "\n")
    else:
        common.fill(given.page, tables(scenes))


if __name__ == "__main__":
    main()
