"""Labelled pixels → training, validation and test pixels that share no image content.

The scene is cut into square blocks and every block goes to one part. A split of random pixels would flatter
the model: a held-out pixel's patch overlaps the patches of its neighbours in the training part. Blocks alone
do not separate the parts either, since patches reach over a block's edge. Pixels within ``gap`` of another
part are therefore dropped: training pixels near validation or test pixels, and validation pixels near test
pixels. Only labelled pixels count, so sparse labels lose little.

Labels cluster, and most random assignments leave some class without test pixels. Many assignments are tried,
over several block sizes and offsets, and the best few are improved block by block. The split is the
assignment that comes nearest to giving each class its share of every part, counted in pixels after the gap.
It depends on labels, grid, gap and shares, and on the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from das2f_map.errors import LabelError
from das2f_map.labels.labelled_pixels import LabelTable, by_block
from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid
from das2f_map.types import Bool, Float64, Int32, Int64

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)

MIN_PART_PIXELS = (8, 0, 4)
"""Pixels a class must keep in training, validation and test; half of the classes need one for validation."""

_UNUSED = -1
_NEIGHBOURS = tuple((r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0))


@dataclass(frozen=True)
class Split:
    """Labels in three parts; pixels of different parts lie at least ``gap`` apart.

    ``gap`` is a Chebyshev distance in MS pixels. If it is at least the patch size, patches of different
    parts have no common pixel.
    """

    train: LabelTable
    validation: LabelTable
    test: LabelTable
    block_size: int
    gap: int
    seed: int
    dropped: int
    """Labelled pixels in no part, because they lie within the gap."""

    @property
    def parts(self) -> dict[str, LabelTable]:
        """Part name → pixels."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def write_raster(self, path: Path, grid: Grid) -> None:
        """Write the parts as a GeoTIFF of the MS grid: 1 train, 2 validation, 3 test, 0 elsewhere."""
        tile = 512
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "sparse_ok": True}
        profile |= {"compress": "deflate", "tiled": True, "blockxsize": tile, "blockysize": tile}
        tables = self.parts.values()
        rows = np.concatenate([t.rows for t in tables])
        cols = np.concatenate([t.cols for t in tables])
        part = np.repeat(np.arange(1, 4, dtype=np.uint8), [len(t) for t in tables])
        with rasterio.open(
            path, "w", height=grid.height, width=grid.width, transform=grid.transform, crs=grid.crs, **profile
        ) as file:
            file.set_band_description(1, "1 train, 2 validation, 3 test")
            for tile_row, tile_col, members in by_block(rows, cols, tile):
                top, left = tile_row * tile, tile_col * tile
                height, width = min(tile, grid.height - top), min(tile, grid.width - left)
                block = np.zeros((height, width), np.uint8)
                block[rows[members] - top, cols[members] - left] = part[members]
                file.write(block, 1, window=((top, top + height), (left, left + width)))

    def summary(self) -> dict[str, Any]:
        """Rule, sizes and pixels per class, for the model card."""
        return {
            "method": "spatial blocks with a gap",
            "block_size_ms_pixels": self.block_size,
            "gap_ms_pixels": self.gap,
            "seed": self.seed,
            "dropped_in_gap": self.dropped,
            "pixels": {name: len(table) for name, table in self.parts.items()},
            "pixels_per_class": {name: table.counts() for name, table in self.parts.items()},
        }


def split_labels(
    labels: LabelTable,
    grid: Grid,
    *,
    gap: int,
    seed: int = 0,
    shares: tuple[float, float, float] = (0.6, 0.15, 0.25),
) -> Split:
    """Split labelled pixels by spatial blocks.

    Parameters
    ----------
    grid:
        The MS grid the labels lie on.
    gap:
        Least Chebyshev distance between targets of different parts, MS pixels; at least the
        patch size.
    shares:
        Wanted share of every class in training, validation and test.

    Raises
    ------
    LabelError
        The scene is too small, or no assignment gives each class enough pixels in training and test and
        half of the classes pixels in validation.
    """
    rng = np.random.default_rng(seed)
    totals = np.array(list(labels.counts().values()), float)
    goal = _Goal(totals, np.array(shares) / sum(shares))
    layouts = [
        layout
        for size in _block_sizes(grid, gap)
        for _ in range(12 if len(labels) < 100_000 else 3)
        if (layout := _Layout.random(labels, grid, size, gap, rng)).n_blocks >= 3
    ]
    if not layouts:
        raise LabelError(
            f"the scene of {grid.width} × {grid.height} MS pixels is too small to be split into training and "
            f"test blocks {gap} pixels apart",
            "train on a larger scene",
        )
    drawn = [found for layout in layouts for found in _draw(layout, goal, rng)]
    drawn.sort(key=lambda found: -found[0])
    improved = [_improve(layout, parts, goal, rng) for _, layout, parts in drawn[:12]]
    improved.sort(key=lambda found: -found[0])
    layout, of_pixel = _first_sufficient(improved, labels, gap)
    train, validation, test = (labels.select(of_pixel == part) for part in range(3))
    return Split(
        train,
        validation,
        test,
        block_size=layout.size,
        gap=gap,
        seed=seed,
        dropped=int((of_pixel == _UNUSED).sum()),
    )


def _first_sufficient(
    found: list[tuple[float, _Layout, NDArray[np.int8]]], labels: LabelTable, gap: int
) -> tuple[_Layout, NDArray[np.int8]]:
    """The best assignment with enough pixels in every part, and the part of every pixel."""
    first_problem: LabelError | None = None
    for _, layout, parts in found:
        of_pixel = layout.apply(parts, labels)
        counts = _count(of_pixel, labels)
        try:
            _require_all_classes(counts, labels.legend, gap)
            _require_validation(counts, labels.legend, gap)
        except LabelError as problem:
            # The error names the classes that even the best split leaves short.
            first_problem = first_problem or problem
            continue
        return layout, of_pixel
    assert first_problem is not None  # there is at least one assignment
    raise first_problem


def _block_sizes(grid: Grid, gap: int) -> list[int]:
    """Candidates from a third of the scene down to little more than the gap, largest first."""
    longest = max(grid.height, grid.width)
    # A pixel within the gap must belong to a neighbouring block, not to the next but one.
    smallest = gap + 3
    sizes = {min(512, max(smallest, round(longest / k))) for k in (3, 4, 5, 6, 8, 10, 12, 16, 20, 24)}
    return sorted((s for s in sizes if s < longest), reverse=True)


def _count(of_pixel: NDArray[np.int8], labels: LabelTable) -> Int64:
    """Pixels of each class in each part, ``(classes, 3)``."""
    used = of_pixel != _UNUSED
    flat = labels.legend.positions(labels.classes[used]) * 3 + of_pixel[used]
    return np.bincount(flat, minlength=len(labels.legend) * 3).reshape(-1, 3)


def _require_all_classes(counts: Int64, legend: Legend, gap: int) -> None:
    short = [(c.name, n) for c, n in zip(legend.each(), counts, strict=True) if (n < MIN_PART_PIXELS).any()]
    if short:
        listed = ", ".join(f"{name!r} ({n[TRAIN]} for training, {n[TEST]} for testing)" for name, n in short)
        options = " ".join(
            f'--skip-class "{name}"' if " " in name else f"--skip-class {name}" for name, _ in short
        )
        raise LabelError(
            f"Training and test pixels must lie {gap} MS pixels apart, and no such split gives every class "
            f"enough of both (at least {MIN_PART_PIXELS[TRAIN]} and {MIN_PART_PIXELS[TEST]}); "
            f"the best one is short of {listed}",
            f"label these classes in more places, spread over the scene, or leave them out with {options}",
        )


def _require_validation(counts: Int64, legend: Legend, gap: int) -> None:
    """Raise unless half of the classes have validation pixels; for the others a warning is enough."""
    without = [c.name for c, n in zip(legend.each(), counts, strict=True) if n[VALIDATION] == 0]
    if 2 * len(without) > len(legend):
        raise LabelError(
            f"The labels lie in too few places for three parts {gap} MS pixels apart: "
            f"there are no validation pixels to choose the best epoch by for {', '.join(map(repr, without))}",
            "label these classes in more places, at least three for each, spread over the scene",
        )


@dataclass(frozen=True)
class _Goal:
    """The aim of a split: each class has its share of every part."""

    totals: Float64
    shares: Float64

    def score(self, counts: NDArray[Any]) -> Float64:
        """Score of splits with ``counts`` ``(…, classes, 3)``: at most about 0, lower the more is missing."""
        needed = np.array([max(1, n) for n in MIN_PART_PIXELS])
        weight = np.array([5.0, 1.0, 5.0])
        missing = (np.maximum(0, needed - counts) / needed * weight).sum(axis=(-2, -1))
        held = np.minimum(1.0, counts / (self.totals[:, None] * self.shares))
        # The logarithm makes the worst-served class count most.
        result: Float64 = np.log(held + 0.02).mean(axis=(-2, -1)) - missing
        return result


@dataclass(frozen=True)
class _Layout:
    """Blocks of one size and offset, and the labelled pixels in them.

    Pixels of one block and class that lie near the same neighbouring blocks are kept or dropped together
    under any assignment. They are counted as a group, so that thousands of assignments can be judged.
    """

    size: int
    gap: int
    offset: tuple[int, int]
    n_blocks: int
    group_block: Int64  # (groups,)
    group_class: Int64  # (groups,) position in the legend
    group_count: Float64  # (groups,)
    group_near: Int64  # (groups, 8) blocks with labels within the gap, own block where none
    pixel_block: Int64  # (pixels,)

    @classmethod
    def random(cls, labels: LabelTable, grid: Grid, size: int, gap: int, rng: np.random.Generator) -> _Layout:
        """Blocks with a random offset."""
        offset = (int(rng.integers(0, size)), int(rng.integers(0, size)))
        rows, cols = labels.rows.astype(np.int64), labels.cols.astype(np.int64)
        block_row, block_col = (rows + offset[0]) // size, (cols + offset[1]) // size
        stride = (grid.width + offset[1]) // size + 3
        keys, pixel_block = np.unique(block_row * stride + block_col, return_inverse=True)
        code = _near_codes(rows, cols, block_row, block_col, size, offset, gap)
        of_class = labels.legend.positions(labels.classes)
        packed = (pixel_block * len(labels.legend) + of_class) * 256 + code
        groups, counts = np.unique(packed, return_counts=True)
        group_block = groups // 256 // len(labels.legend)
        near_blocks = np.repeat(group_block[:, None], 8, axis=1)
        for bit, (r, c) in enumerate(_NEIGHBOURS):
            there = np.flatnonzero(groups >> bit & 1)
            near_blocks[there, bit] = np.searchsorted(keys, keys[group_block[there]] + r * stride + c)
        return cls(
            size=size,
            gap=gap,
            offset=offset,
            n_blocks=int(keys.size),
            group_block=group_block,
            group_class=groups // 256 % len(labels.legend),
            group_count=counts.astype(float),
            group_near=near_blocks,
            pixel_block=pixel_block,
        )

    def counts(self, parts: NDArray[np.int8], n_classes: int) -> Float64:
        """Pixels left of each class in each part, ``(…, classes, 3)`` for assignments ``(…, blocks)``.

        A pixel near a neighbouring block of a higher part counts as dropped. This is slightly pessimistic:
        the pixels of that block may themselves have been dropped because of a third block.
        """
        own = parts[..., self.group_block]
        stays = (parts[..., self.group_near] <= own[..., None]).all(axis=-1)
        by_class = np.zeros((self.group_class.size, n_classes))
        by_class[np.arange(self.group_class.size), self.group_class] = self.group_count
        return np.stack([((own == part) & stays) @ by_class for part in range(3)], axis=-1)

    def apply(self, parts: NDArray[np.int8], labels: LabelTable) -> NDArray[np.int8]:
        """Part of every pixel, ``_UNUSED`` in the gap."""
        rows, cols = labels.rows.astype(np.int64), labels.cols.astype(np.int64)
        result: NDArray[np.int8] = parts[self.pixel_block].copy()
        for part in (VALIDATION, TRAIN):
            mine, others = np.flatnonzero(result == part), result > part
            close = near(rows[mine], cols[mine], rows[others], cols[others], self.gap)
            result[mine[close]] = _UNUSED
        return result


def _draw(
    layout: _Layout, goal: _Goal, rng: np.random.Generator
) -> list[tuple[float, _Layout, NDArray[np.int8]]]:
    """The best few random assignments of a layout."""
    # Bounded work on scenes of very many blocks; there almost any assignment is well balanced.
    tries = int(np.clip(3_000_000 // (8 * layout.group_class.size), 4, 600))
    parts = rng.choice(3, size=(tries, layout.n_blocks), p=goal.shares).astype(np.int8)
    scores = goal.score(layout.counts(parts, goal.totals.size))
    best = np.argsort(-scores, kind="stable")[:3]
    return [(float(scores[k]), layout, parts[k]) for k in best]


def _improve(
    layout: _Layout, parts: NDArray[np.int8], goal: _Goal, rng: np.random.Generator
) -> tuple[float, _Layout, NDArray[np.int8]]:
    """Move single blocks to another part as long as the score rises."""
    parts = parts.copy()
    n_classes = goal.totals.size
    score = float(goal.score(layout.counts(parts, n_classes)))
    moves_left = int(np.clip(40_000_000 // (8 * layout.group_class.size), 50, 4000))
    improved = True
    while improved and moves_left > 0:
        improved = False
        for block in rng.permutation(layout.n_blocks)[:moves_left]:
            options = np.repeat(parts[None], 3, axis=0)
            options[:, block] = (TRAIN, VALIDATION, TEST)
            scores = goal.score(layout.counts(options, n_classes))
            best = int(np.argmax(scores))
            if scores[best] > score + 1e-9:
                score, parts, improved = float(scores[best]), options[best], True
            moves_left -= 1
    return score, layout, parts


def near(
    rows: Int64,
    cols: Int64,
    other_rows: Int64,
    other_cols: Int64,
    distance: int,
) -> Bool:
    """Which of the first pixels have one of the others closer than ``distance`` (Chebyshev), bool (n,)."""
    reach = distance - 1
    result = np.zeros(rows.size, bool)
    for tile in _tiles(rows, cols, other_rows, other_cols, reach):
        r, c = rows[tile.members], cols[tile.members]
        result[tile.members] = tile.any_in(r - reach, r + reach, c - reach, c + reach)
    return result


def _near_codes(
    rows: Int64,
    cols: Int64,
    block_row: Int64,
    block_col: Int64,
    size: int,
    offset: tuple[int, int],
    gap: int,
) -> Int64:
    """Code of every pixel, (n,): bit k is set if neighbouring block k has a labelled pixel within the gap."""
    reach = gap - 1
    code = np.zeros(rows.size, np.int64)
    for tile in _tiles(rows, cols, rows, cols, reach):
        m = tile.members
        for bit, (dr, dc) in enumerate(_NEIGHBOURS):
            top = (block_row[m] + dr) * size - offset[0]
            left = (block_col[m] + dc) * size - offset[1]
            found = tile.any_in(
                np.maximum(rows[m] - reach, top),
                np.minimum(rows[m] + reach, top + size - 1),
                np.maximum(cols[m] - reach, left),
                np.minimum(cols[m] + reach, left + size - 1),
            )
            code[m] |= found.astype(np.int64) << bit
    return code


@dataclass(frozen=True)
class _Tile:
    """Some of the first pixels, and a summed-area table of the other pixels around them."""

    members: Int64
    top: int
    left: int
    area: Int32

    def any_in(self, r0: Int64, r1: Int64, c0: Int64, c1: Int64) -> Bool:
        """Whether boxes hold one of the other pixels; both ends are included, a box may be empty."""
        filled = (r1 >= r0) & (c1 >= c0)
        a, b = np.where(filled, r0 - self.top, 0), np.where(filled, r1 + 1 - self.top, 0)
        c, d = np.where(filled, c0 - self.left, 0), np.where(filled, c1 + 1 - self.left, 0)
        t = self.area
        return np.asarray(t[b, d] - t[a, d] - t[b, c] + t[a, c] > 0)


def _tiles(
    rows: Int64,
    cols: Int64,
    other_rows: Int64,
    other_cols: Int64,
    reach: int,
) -> Iterator[_Tile]:
    """Tiles with a margin of ``reach``: memory grows with the tile, not with the scene."""
    tile = 512
    side = tile + 2 * reach
    by_row = np.argsort(other_rows, kind="stable")
    sorted_rows = other_rows[by_row]
    for tile_row, tile_col, members in by_block(rows, cols, tile):
        top, left = tile_row * tile - reach, tile_col * tile - reach
        first, last = np.searchsorted(sorted_rows, (top, top + side))
        band = by_row[first:last]
        band = band[(other_cols[band] >= left) & (other_cols[band] < left + side)]
        area = np.zeros((side + 1, side + 1), np.int32)
        np.add.at(area, (other_rows[band] - top + 1, other_cols[band] - left + 1), 1)
        yield _Tile(members, top, left, area.cumsum(0).cumsum(1))
