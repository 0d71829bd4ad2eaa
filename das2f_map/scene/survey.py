"""A quick look at a scene: the share of valid pixels, a sample of values, and a thumbnail.

Neither reads all of a large scene. The survey reads blocks spread over it. The thumbnail reads overviews, or
single pixels if the file has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from affine import Affine

from das2f_map.scene.grid import Grid
from das2f_map.scene.mask import open_mask
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.radiometry import SceneSample, valid_values
from das2f_map.scene.reduced import reduced_windows
from das2f_map.scene.source import RasterSource
from das2f_map.scene.spread import spread_blocks
from das2f_map.types import Bool, Float32

_BLOCK = 128
"""MS pixels a side of a block that is read."""


@dataclass(frozen=True)
class Survey:
    """Shares of invalid and masked pixels, and a sample of values, from blocks spread over a scene.

    Attributes
    ----------
    pixels:
        MS pixels that were read: all of a small scene, a sample of a large one.
    invalid:
        Part of them without a measurement in some MS band or in some of their PAN pixels, 0..1.
    masked:
        Part of them that has measurements but is left out by the mask, 0..1.
    sample:
        Values of the other pixels; ``None`` if there are none.
    """

    pixels: int
    invalid: float
    masked: float
    sample: SceneSample | None


def survey_scene(pair: ScenePair, *, max_pixels: int = 150_000, seed: int = 0) -> Survey:
    """The survey of blocks spread over a scene: about ``max_pixels`` MS pixels in all, valid or not."""
    window = pair.grids.ms.window
    seen = invalid = masked = 0
    ms: list[Float32] = []
    pan: list[Float32] = []
    strata = max(1, -(-max_pixels // _BLOCK**2))
    for part in spread_blocks(window, _BLOCK, strata=strata, seed=seed):
        block = pair.read_block(part, 0, 0)
        seen += block.valid.size
        invalid += int(block.invalid.sum())
        masked += int((~block.valid & ~block.invalid).sum())
        values = valid_values(block)
        ms.append(values[0])
        pan.append(values[1].ravel())
        if seen >= max_pixels:
            break
    sample = SceneSample(pair.ms_band_names, np.concatenate(ms, axis=1), np.concatenate(pan))
    return Survey(seen, invalid / seen, masked / seen, sample if sample.pan.size else None)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a scene, on a coarse version of its common grid.

    Attributes
    ----------
    grid:
        The coarse grid.
    ms, pan:
        float32 (bands, h, w) and (1, h, w), NaN where invalid.
    masked:
        bool (h, w): the mask leaves the pixel out.
    """

    grid: Grid
    ms: Float32
    pan: Float32
    masked: Bool


def thumbnail(pair: ScenePair, *, longest: int = 900) -> Thumbnail:
    """A small picture of a scene, at most ``longest`` pixels a side.

    Pixels are looked up at their centres in reduced images of the files, to about half a pixel of the
    picture. So the picture is too coarse to show how well MS and PAN are aligned.
    """
    full = pair.grids.pan
    factor = max(1.0, max(full.height, full.width) / longest)
    rows, cols = max(1, math.floor(full.height / factor)), max(1, math.floor(full.width / factor))
    scale = Affine.scale(full.width / cols, full.height / rows)
    coarse = Grid(rows, cols, full.transform * scale, full.crs)
    ms, pan = (_reduced(source, coarse) for source in pair.sources)
    masked = np.zeros((rows, cols), dtype=np.bool_)
    if pair.mask_file is not None:
        with open_mask(pair.mask_file, pair.grids) as mask:
            masked = mask.at_a_glance(coarse)
    return Thumbnail(coarse, ms, pan, masked)


def _reduced(source: RasterSource, coarse: Grid) -> Float32:
    """Values of a file at the pixels of a coarse grid, float32 (bands, h, w), NaN where invalid."""
    out = np.full((source.band_count, coarse.height, coarse.width), np.nan, dtype=np.float32)
    for part in reduced_windows(source.grid, coarse):
        small = source.read_reduced(part.window, part.height, part.width)
        out[:, part.inside] = small[:, part.at_row, part.at_col]
    return out
