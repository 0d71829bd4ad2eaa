"""How often 95 % intervals of areas and accuracies hold the truth, by drawing many samples of a known map.

    python benchmarks/coverage.py --samples 2000 -o folder

A made-up landscape of five classes (from 45 % to 3 % of the ground) has a map with errors along the borders
of classes and in patches. Each design draws its sample many times; every time the figures are estimated with
their intervals, as `das2f-map evaluate` does. It writes coverage.md, a table, and coverage.json with each
figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from das2f_map.assess.area_estimates import AreaEstimates, Estimate, LabelledUnits, MappedGround, estimate
from das2f_map.assess.sampled_units import ClusteredUnits, StratifiedUnits

Array = NDArray[Any]

SIDE, BLOCK = 400, 20
SHARES = (0.45, 0.28, 0.16, 0.08, 0.03)
NAMES = ("forest", "crop", "grass", "built", "water")


@dataclass(frozen=True)
class World:
    """True classes, the map to assess, another map, and the block of every valid pixel: int64 (pixels,)."""

    truth: Array
    mapped: Array
    other: Array
    block: Array


def make_world(seed: int = 7) -> World:
    """The landscape and its maps; a corner of each block row at the edge has no data."""
    rng = np.random.default_rng(seed)
    fields = [smooth(rng, 12.0) for _ in SHARES]
    truth = classes_of(fields)
    near = [f + 0.35 * smooth(rng, 5.0) for f in fields]
    far = [f + 0.8 * smooth(rng, 6.0) for f in fields]
    rows, cols = np.indices((SIDE, SIDE))
    valid = (rows + cols > SIDE // 3).ravel()
    block = (rows // BLOCK * (SIDE // BLOCK) + cols // BLOCK).ravel()
    return World(truth[valid], classes_of(near)[valid], classes_of(far)[valid], block[valid])


def smooth(rng: np.random.Generator, scale: float) -> Array:
    """Standardised noise whose likeness reaches about ``scale`` pixels."""
    wave = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    kept = np.fft.fft2(rng.normal(size=(SIDE, SIDE))) * np.exp(-2 * (np.pi * scale * wave) ** 2 / 4)
    field = np.fft.ifft2(kept).real
    return (field - field.mean()) / field.std()


def classes_of(fields: list[Array]) -> Array:
    """The class of the highest field, after levels that give about the wanted shares."""
    level = np.zeros(len(SHARES))
    stack = np.stack([f.ravel() for f in fields])
    for _ in range(200):
        found = np.bincount((stack + level[:, None]).argmax(axis=0), minlength=len(SHARES)) / stack.shape[1]
        level += 0.5 * (np.array(SHARES) - found)
    return (stack + level[:, None]).argmax(axis=0)


def draw_in(strata: Array, sizes: list[int], rng: np.random.Generator) -> Array:
    """Positions of pixels drawn in strata, without replacement."""
    parts = [rng.choice(np.flatnonzero(strata == h), n, replace=False) for h, n in enumerate(sizes) if n]
    return np.concatenate(parts)


def stratified(world: World, strata: Array, sizes: list[int], rng: np.random.Generator) -> AreaEstimates:
    """A sample in strata and its estimates."""
    at = draw_in(strata, sizes, rng)
    pixels = np.bincount(strata).astype(float)
    present = np.zeros((pixels.size, len(NAMES)), bool)
    present[strata, world.mapped] = True
    return figures(world, at, StratifiedUnits(strata[at], pixels, pixels, np.ones(at.size), present))


def simple(world: World, n: int, post: bool, rng: np.random.Generator) -> AreaEstimates:
    """A simple random sample, with the map's classes as strata afterwards or without strata."""
    at = rng.choice(world.truth.size, n, replace=False)
    strata = world.mapped if post else np.zeros_like(world.mapped)
    pixels = np.bincount(strata).astype(float)
    present = np.eye(len(NAMES), dtype=bool) if post else np.ones((1, len(NAMES)), bool)
    return figures(world, at, StratifiedUnits(strata[at], pixels, pixels, np.ones(n), present, post=post))


def clustered(world: World, m: int, each: int, by_size: bool, rng: np.random.Generator) -> AreaEstimates:
    """Blocks first, then pixels in each; blocks with the same chance, or by their size with replacement."""
    blocks, pixels = np.unique(world.block, return_counts=True)
    chance = pixels / pixels.sum() if by_size else None
    drawn = rng.choice(blocks.size, m, replace=by_size, p=chance)
    parts = [
        rng.choice(np.flatnonzero(world.block == blocks[b]), min(each, pixels[b]), replace=False)
        for b in drawn
    ]
    at, cluster = np.concatenate(parts), np.repeat(np.arange(m), [p.size for p in parts])
    area = float(world.truth.size)
    units = (
        ClusteredUnits.of_chance_by_size(cluster, np.ones(at.size), area)
        if by_size
        else ClusteredUnits.of_equal_chance(
            cluster, pixels[drawn].astype(float), blocks.size, np.ones(at.size), area
        )
    )
    return figures(world, at, units)


def figures(world: World, at: Array, units: StratifiedUnits | ClusteredUnits) -> AreaEstimates:
    """The estimates of a sample."""
    labelled = LabelledUnits(NAMES, tuple(range(1, 6)), world.mapped[at], world.truth[at])
    pixels = np.bincount(world.mapped, minlength=len(NAMES))
    return estimate(labelled, units, MappedGround(pixels, pixels.astype(float)), design="")


def designs(world: World) -> dict[str, Callable[[np.random.Generator], AreaEstimates]]:
    """The designs that are compared."""
    shares = np.bincount(world.mapped) / world.mapped.size
    proportional = [max(30, round(500 * s)) for s in shares]
    return {
        "simple, 500 pixels": lambda rng: simple(world, 500, False, rng),
        "simple, post-stratified, 500 pixels": lambda rng: simple(world, 500, True, rng),
        "stratified by the map, 100 pixels a class": lambda rng: stratified(
            world, world.mapped, [100] * 5, rng
        ),
        "stratified by the map, in proportion, at least 30": lambda rng: stratified(
            world, world.mapped, proportional, rng
        ),
        "stratified by another map, 100 pixels a class": lambda rng: stratified(
            world, world.other, [100] * 5, rng
        ),
        "60 blocks of equal chance, 10 pixels each": lambda rng: clustered(world, 60, 10, False, rng),
        "60 blocks by their size, 10 pixels each": lambda rng: clustered(world, 60, 10, True, rng),
    }


def named(found: AreaEstimates) -> dict[str, Estimate]:
    """All figures of a sample by their names."""
    result = {"overall accuracy": found.overall_accuracy, "kappa": found.kappa}
    for c in found.classes:
        result[f"area of {c.name}"] = c.share
        result[f"user's accuracy of {c.name}"] = c.users_accuracy
        result[f"producer's accuracy of {c.name}"] = c.producers_accuracy
        result[f"F1 of {c.name}"] = c.f1
    return result


def true_figures(world: World) -> dict[str, float]:
    """The same figures of all pixels."""
    n = len(NAMES)
    cells = np.bincount(world.mapped * n + world.truth, minlength=n * n).reshape(n, n) / world.truth.size
    rows, cols, right = cells.sum(1), cells.sum(0), np.diag(cells)
    chance = float(rows @ cols)
    result = {
        "overall accuracy": float(right.sum()),
        "kappa": (float(right.sum()) - chance) / (1 - chance),
    }
    for k, name in enumerate(NAMES):
        result[f"area of {name}"] = float(cols[k])
        result[f"user's accuracy of {name}"] = float(right[k] / rows[k])
        result[f"producer's accuracy of {name}"] = float(right[k] / cols[k])
        result[f"F1 of {name}"] = float(2 * right[k] / (rows[k] + cols[k]))
    return result


def coverage(
    draw: Callable[[np.random.Generator], AreaEstimates], truth: dict[str, float], samples: int
) -> Any:
    """For every figure: share of the samples whose interval holds the truth, also of ± 1.96 errors; bias."""
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in truth}
    for number in range(samples):
        for name, e in named(draw(np.random.default_rng([number, 1]))).items():
            if e.value is None or e.lower is None or e.upper is None or e.standard_error is None:
                continue
            inside = e.lower <= truth[name] <= e.upper
            plain = abs(e.value - truth[name]) <= 1.96 * e.standard_error
            rows[name].append((inside, plain, e.value, e.standard_error, e.upper - e.lower))
    result = {}
    for name, found in rows.items():
        inside, plain, values, errors, width = np.array(found, float).T
        result[name] = {
            "truth": truth[name],
            "samples": len(found),
            "covered": inside.mean(),
            "covered by 1.96 standard errors": plain.mean(),
            "bias": values.mean() - truth[name],
            "standard deviation": values.std(ddof=1),
            "mean standard error": errors.mean(),
            "mean width": width.mean(),
        }
    return result


KINDS = ("overall accuracy", "kappa", "area of", "user's accuracy of", "producer's accuracy of", "F1 of")


def table(found: dict[str, Any]) -> str:
    """Markdown: the coverage of each kind of figure, from the lowest to the highest class."""
    lines = ["| design | " + " | ".join(k.removesuffix(" of") for k in KINDS) + " |", "|---" * 7 + "|"]
    for design, figures in found.items():
        cells = []
        for kind in KINDS:
            values = [f["covered"] for name, f in figures.items() if name.startswith(kind)]
            ends = f"{100 * min(values):.1f}"
            cells.append(ends if len(values) == 1 else f"{ends}–{100 * max(values):.1f}")
        lines.append(f"| {design} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="samples of each design")
    parser.add_argument("-o", "--output", type=Path, help="folder for coverage.md and coverage.json")
    chosen = parser.parse_args()
    world = make_world()
    truth = true_figures(world)
    found = {}
    for name, draw in designs(world).items():
        print(name, file=sys.stderr)
        found[name] = coverage(draw, truth, chosen.samples)
    text = table(found)
    print(text)
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        (chosen.output / "coverage.md").write_text(text + "\n", encoding="utf-8")
        record = {"samples": chosen.samples, "designs": found}
        (chosen.output / "coverage.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
