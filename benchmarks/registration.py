"""Known shifts put into real scenes and measured again, with and without correction.

    python benchmarks/registration.py SCENES -o docs/benchmarks/registration --page PAGE

SCENES holds a folder with ms.tif and pan.tif for each scene. PAN is moved by splines of order 5 (SciPy),
which has nothing in common with this package's resampling; no border is made up, it is cut off. If
scikit-image is installed, its phase correlation runs on the same windows for comparison.

Writes OUTPUT.json and OUTPUT.png (before and after), and the tables into PAGE
(docs/registration-evidence.md), or without --page into OUTPUT.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from common import fill
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rasterio.windows import Window as RasterioWindow
from scipy import ndimage

from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.registration import ShiftReport, measure_shift
from das2f_map.scene.registration.images import MatchImages

NAME = "registration"
PERFECT = ("berlin", "zion")
"""Made by averaging one image: their own shift is zero."""

FREE = ("gulf", "zion")
"""Scenes in the public domain."""

BORDER = 6
"""PAN pixels cut off around a moved image."""

VARYING = (1.0, 0.7)
"""Every corner gets a shift of its own, of up to 2 PAN pixels either way times these."""


def moved_pan(source: Path, target: Path, field: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Path:
    """PAN with its content moved by ``field(row, col)``, 0..1 over the image: rows, columns, PAN pixels."""
    with rasterio.open(source) as ds:
        values, nodata = ds.read(1).astype(np.float64), ds.nodata
        transform, crs = ds.transform, ds.crs
    invalid = ~np.isfinite(values) | (False if nodata is None else values == nodata)
    values[invalid] = values[~invalid].mean()
    h, w = values.shape
    row, col = np.mgrid[0:h, 0:w].astype(float)
    by = field((row + 0.5) / h, (col + 0.5) / w)
    where = np.stack([row - by[0], col - by[1]])
    out = ndimage.map_coordinates(values, where, order=5, mode="mirror")
    if invalid.any():
        near = ndimage.map_coordinates(invalid.astype(float), where, order=1, mode="nearest") > 0
        out[ndimage.binary_dilation(near, iterations=3)] = -9999.0
    b = BORDER
    with rasterio.open(
        target,
        "w",
        driver="GTiff",
        height=h - 2 * b,
        width=w - 2 * b,
        count=1,
        dtype="float32",
        nodata=-9999.0,
        crs=crs,
        transform=rasterio.windows.transform(RasterioWindow(b, b, w - 2 * b, h - 2 * b), transform),
    ) as ds:
        ds.write(out[b : h - b, b : w - b].astype(np.float32), 1)
    return target


def constant(rows: float, cols: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda r, c: np.stack([np.full_like(r, rows), np.full_like(r, cols)])


def bilinear(corners: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Corners (2, 2, 2): row, column, and which component."""

    def at(r: np.ndarray, c: np.ndarray) -> np.ndarray:
        parts = [
            corners[i, j, :, None, None] * np.abs(1 - i - r) * np.abs(1 - j - c)
            for i in (0, 1)
            for j in (0, 1)
        ]
        return np.asarray(sum(parts))

    return at


def measured(ms: Path, pan: Path) -> tuple[ShiftReport, float]:
    begin = time.perf_counter()
    with open_pair(ms, pan) as pair:
        return measure_shift(pair), time.perf_counter() - begin


def by_phase_correlation(ms: Path, pan: Path, report: ShiftReport) -> dict[str, np.ndarray] | None:
    """Median over the same windows of scikit-image's sub-pixel phase correlation, PAN pixels."""
    try:
        from skimage.registration import phase_cross_correlation
    except ModuleNotFoundError:
        return None
    found: dict[str, list[np.ndarray]] = {"phase": [], None: []}
    with open_pair(ms, pan) as pair, MatchImages(pair) as images:
        for w in report.windows:
            window = images.window(Window(w.row, w.col, w.height, w.width))
            average = window.pan_at(0.0, 0.0)
            ok = window.valid & np.isfinite(average)
            if not ok.all():
                continue
            bands = np.concatenate([window.ms.reshape(len(window.ms), -1), np.ones((1, ok.size))])
            weights = np.linalg.lstsq(bands.T, average.ravel(), rcond=None)[0]
            like = (weights @ bands).reshape(average.shape)
            for kind in found:
                shift, _, _ = phase_cross_correlation(
                    average - average.mean(), like - like.mean(), upsample_factor=100, normalization=kind
                )
                found[kind].append(shift * np.array(pair.axis_ratios))
    names = {"phase": "phase correlation", None: "cross-correlation"}
    return {names[k]: np.median(v, axis=0) for k, v in found.items() if v}


def global_fit(pair: ScenePair) -> float:
    """R² of PAN averaged over MS pixels by the MS bands, over the whole common grid, as it is read."""
    block = pair.read_block(pair.grids.ms.window, 0, 0)
    h, w = block.valid.shape
    pan = block.pan[0].reshape(h, 4, w, 4).mean(axis=(1, 3), dtype=np.float64)[block.valid]
    bands = np.stack([*(b[block.valid].astype(np.float64) for b in block.ms), np.ones(len(pan))], axis=1)
    left = pan - bands @ np.linalg.lstsq(bands, pan, rcond=None)[0]
    return float(1 - left @ left / ((pan - pan.mean()) @ (pan - pan.mean())))


def run_scene(folder: Path, work: Path, shifts: int, seed: int) -> dict[str, Any]:
    ms, pan = folder / "ms.tif", folder / "pan.tif"
    rng = np.random.default_rng(seed)
    plain, seconds = measured(ms, pan)
    assert plain.shift is not None
    own = np.zeros(2) if folder.name in PERFECT else np.array([plain.rows, plain.cols])
    rows = []
    for _ in range(shifts):
        put = rng.uniform(-3, 3, size=2)
        moved = moved_pan(pan, work / "pan.tif", constant(*put))
        report, _ = measured(ms, moved)
        assert report.rows is not None
        assert report.cols is not None
        found = np.array([report.rows, report.cols])
        with open_pair(ms, moved) as pair:
            before = global_fit(pair)
            after = global_fit(pair.shifted(PanShift(*found)))
        others = by_phase_correlation(ms, moved, report)
        rows.append(
            {
                "put": put.tolist(),
                "error": (found - own - put).tolist(),
                "verdict": report.verdict,
                "agreeing_share": report.agreeing_share,
                "uncertainty": report.uncertainty,
                "fit_before": before,
                "fit_after": after,
                "others": None
                if others is None
                else {k: (v - own - put).tolist() for k, v in others.items()},
            }
        )
    corners = rng.uniform(-2, 2, size=(2, 2, 2))
    varying = [_varied(ms, pan, work / "pan.tif", share * corners) for share in VARYING]
    with open_pair(ms, pan) as pair:
        fit_plain, fit_corrected = global_fit(pair), global_fit(pair.shifted(plain.shift))
        strategy = pair.strategy
        ratio = pair.ratio
    return {
        "scene": folder.name,
        "ratio": ratio,
        "strategy": strategy,
        "seconds": seconds,
        "plain": plain.model_dump(mode="json", exclude={"windows"}),
        "fit_plain": fit_plain,
        "fit_corrected": fit_corrected,
        "shifts": rows,
        "varying": varying,
    }


def _varied(ms: Path, pan: Path, moved: Path, corners: np.ndarray) -> dict[str, Any]:
    """What is found where every corner (2, 2) has a shift (rows, columns) of its own, PAN pixels."""
    report, _ = measured(ms, moved_pan(pan, moved, bilinear(corners)))
    shifts = corners.reshape(4, 2)
    return {
        "corners": corners.tolist(),
        "put_range": float(max(np.hypot(*(a - b)) for a in shifts for b in shifts)),
        "verdict": report.verdict,
        "varies": report.varies,
        "found_range": None if report.variation is None else report.variation.range,
        "agreeing_share": report.agreeing_share,
    }


def rms(values: list[list[float]]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def tables(results: list[dict[str, Any]]) -> dict[str, str]:
    """By the names of their places in the page."""
    return {"scenes": _scenes(results), "shifts": _shifts(results), "varying": _varying(results)}


def _scenes(results: list[dict[str, Any]]) -> str:
    lines = [
        "| scene | ratio | shift found, rows / cols (PAN px) | ± | windows: agree / matched / tried "
        "| R² as it is → corrected | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        p = r["plain"]
        lines.append(
            f"| {r['scene']} | {r['ratio']:.2f} | {p['rows']:+.2f} / {p['cols']:+.2f} "
            f"| {p['uncertainty']:.2f} "
            f"| {p['windows_agreeing']} / {p['windows_matched']} / {p['windows_tried']} "
            f"| {r['fit_plain']:.4f} → {r['fit_corrected']:.4f} | {r['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _shifts(results: list[dict[str, Any]]) -> str:
    lines = [
        "| scene | shifts | RMS error (PAN px) | largest error | verdict “agree” | R² before → after (mean) "
        "| worse after | phase correlation, RMS | cross-correlation, RMS |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        s = r["shifts"]
        errors = [x["error"] for x in s]
        largest = max(float(np.hypot(*e)) for e in errors)
        other = ["–" if x is None else f"{x:.2f}" for x in _others(s)]
        lines.append(
            f"| {r['scene']} | {len(s)} | {rms(errors):.3f} | {largest:.3f} "
            f"| {sum(x['verdict'] == 'agree' for x in s)} | {np.mean([x['fit_before'] for x in s]):.3f} → "
            f"{np.mean([x['fit_after'] for x in s]):.3f} "
            f"| {sum(x['fit_after'] < x['fit_before'] for x in s)} "
            f"| {other[0]} | {other[1]} |"
        )
    return "\n".join(lines) + "\n"


def _varying(results: list[dict[str, Any]]) -> str:
    lines = [
        "| scene | difference between corners put in (PAN px) | reported as varying | difference found | "
        "verdict on one shift | windows that agree on one |",
        "|---|---|---|---|---|---|",
    ]
    for name, v in ((r["scene"], v) for r in results for v in r["varying"]):
        said = {True: "yes", False: "no", None: "too few windows"}[v["varies"]]
        found = "–" if v["found_range"] is None else f"{v['found_range']:.1f}"
        lines.append(
            f"| {name} | {v['put_range']:.1f} | {said} | {found} | {v['verdict']} "
            f"| {100 * v['agreeing_share']:.0f} % |"
        )
    return "\n".join(lines) + "\n"


def _others(shifts: list[dict[str, Any]]) -> list[float | None]:
    return [
        None
        if any(x["others"] is None or name not in x["others"] for x in shifts)
        else rms([x["others"][name] for x in shifts])
        for name in ("phase correlation", "cross-correlation")
    ]


def draw(path: Path, folders: dict[str, Path], work: Path) -> None:
    """Checkerboards of averaged MS and PAN, and what the linear fit leaves, before and after.

    Of images that may not be passed on only the latter is shown.
    """
    shown = [n for n in ("rotterdam1", "zion", "gulf") if n in folders]
    figure = Figure(figsize=(15, 4.3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 4, squeeze=False)
    for line, name in zip(axes, shown, strict=True):
        ms, pan = folders[name] / "ms.tif", folders[name] / "pan.tif"
        title = f"{name}, as it is"
        if name != "rotterdam1":
            pan = moved_pan(pan, work / "pan.tif", constant(2.3, -1.6))
            title = f"{name}, PAN moved by +2.30 / -1.60"
        report, _ = measured(ms, pan)
        assert report.shift is not None
        with open_pair(ms, pan) as pair:
            box = _box(pair)
            limit = 0.0
            for i, (what, one) in enumerate((("before", pair), ("after", pair.shifted(report.shift)))):
                row, col = one.grids.ms.map_to_pixel(*pair.grids.ms.pixel_to_map(box.row, box.col))
                window = Window(round(row), round(col), box.height, box.width)
                block = one.read_block(window, 0, 0)
                image, left = _checkerboard(block.ms, block.pan[0])
                limit = limit or 3 * float(np.std(left))
                if name in FREE:
                    line[i].imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                    line[i].set_title(f"{what}: PAN and MS in turn")
                else:
                    line[i].text(0.5, 0.5, "images not free to show", ha="center", va="center", color="0.5")
                line[2 + i].imshow(left, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
                fit = 1 - left.var() / _variance(block.pan[0])
                line[2 + i].set_title(f"{what}: what the fit leaves, R² {fit:.3f}")
        line[0].set_ylabel(f"{title}\nfound {report.rows:+.2f} / {report.cols:+.2f} PAN pixels")
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(path, dpi=75)


def _box(pair: ScenePair) -> Window:
    """40 × 40 MS pixels where PAN has the most detail, away from the border."""
    grid = pair.grids.ms
    best, found = -1.0, Window(0, 0, 40, 40)
    # Of the gulf scene, the lower part is free of clouds.
    first = grid.height // 2 if grid.height > 500 else 8
    for row in range(first + 40, grid.height - 48, 40):
        for col in range(8, grid.width - 48, 40):
            block = pair.read_block(Window(row, col, 40, 40), 0, 0)
            detail = float(np.std(block.pan)) if block.valid.all() else -1.0
            if detail > best and (grid.height <= 500 or row > 490):
                best, found = detail, Window(row, col, 40, 40)
    return found


def _checkerboard(ms: np.ndarray, pan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h, w = ms.shape[1:]
    average = pan.reshape(h, 4, w, 4).mean(axis=(1, 3), dtype=np.float64)
    bands = np.stack([*(b.ravel() for b in ms.astype(np.float64)), np.ones(h * w)], axis=1)
    like = (bands @ np.linalg.lstsq(bands, average.ravel(), rcond=None)[0]).reshape(h, w)
    low, high = np.percentile(pan, (1, 99))
    r, c = np.mgrid[0 : 4 * h, 0 : 4 * w] // 40
    board = np.where((r + c) % 2 == 0, pan, like.repeat(4, axis=0).repeat(4, axis=1))
    return np.clip((board - low) / (high - low), 0, 1), average - like


def _variance(pan: np.ndarray) -> float:
    h, w = pan.shape
    return float(pan.reshape(h // 4, 4, w // 4, 4).mean(axis=(1, 3), dtype=np.float64).var())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--shifts", type=int, default=10, help="known shifts for each scene")
    parser.add_argument("--only", nargs="*", help="these scenes")
    parser.add_argument("--picture-only", action="store_true")
    parser.add_argument("--page", type=Path, help="Markdown file to put the tables into")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folders = {
        p.parent.name: p.parent
        for p in sorted(options.scenes.glob("*/ms.tif"))
        if not options.only or p.parent.name in options.only
    }
    target = options.output.with_suffix(".json")
    again = options.only or options.picture_only
    results = json.loads(target.read_text()) if target.exists() and again else []
    with tempfile.TemporaryDirectory() as work:
        for folder in folders.values() if not options.picture_only else ():
            print(folder.name, flush=True)
            results = [r for r in results if r["scene"] != folder.name]
            results.append(run_scene(folder, Path(work), options.shifts, options.seed))
            results.sort(key=lambda r: r["scene"])
            target.write_text(json.dumps(results, indent=1) + "\n")
        found = tables(results)
        if options.page is None:
            options.output.with_suffix(".md").write_text("\n".join(found.values()))
        else:
            fill(options.page, found)
        every = {p.parent.name: p.parent for p in sorted(options.scenes.glob("*/ms.tif"))}
        draw(options.output.with_suffix(".png"), every, Path(work))


if __name__ == "__main__":
    main()
