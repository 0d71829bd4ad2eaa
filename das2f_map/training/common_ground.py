"""The ground that scenes share: labelled pixels of overlapping scenes by their place in one frame.

Scenes of one place, such as two dates or neighbouring tiles, show the same ground. A pixel that one scene
holds out must not be learnt from another one. So the pixels of overlapping scenes get rows and columns in a
common frame, in which distances are measured. The frame is the MS grid of the scene with the largest pixels:
there a patch of any of the scenes covers no more pixels than one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from das2f_map.bundle.card import Ground
from das2f_map.scene.pair import ScenePair
from das2f_map.training.ground import ground_of
from das2f_map.training.nearby import near
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.types import Int64


@dataclass(frozen=True, eq=False)
class Places:
    """Where pixels lie.

    Attributes
    ----------
    part:
        int64 ``(n,)``: number of the first of the scenes that share their ground.
    rows, cols:
        int64 ``(n,)``: pixel of the frame of these scenes.
    shared:
        Whether any scenes share ground. Frame positions are then rounded by up to a pixel.
    """

    part: Int64
    rows: Int64
    cols: Int64
    shared: bool = False

    @classmethod
    def apart(cls, pixels: ScenePixels) -> Places:
        """Places of pixels whose scenes share no ground."""
        return cls(pixels.scene.astype(np.int64), pixels.rows.astype(np.int64), pixels.cols.astype(np.int64))

    def select(self, keep: Int64) -> Places:
        """The places at some positions."""
        return Places(self.part[keep], self.rows[keep], self.cols[keep], self.shared)


def common_places(pixels: ScenePixels) -> Places:
    """Places of pixels, with overlapping scenes in a common frame.

    Scenes overlap if their rectangles of longitude and latitude do. A scene whose CRS does not lead to
    degrees is taken to overlap none.
    """
    places = Places.apart(pixels)
    pairs = [reader.source.pair for reader in pixels.readers] if len(pixels.readers) > 1 else []
    for members in _groups(pairs):
        if len(members) < 2:
            continue
        frame = max((pairs[k] for k in members), key=lambda pair: pair.ms_gsd_m)
        places = Places(places.part.copy(), places.rows.copy(), places.cols.copy(), shared=True)
        for scene in members:
            here = np.flatnonzero(pixels.scene == scene)
            places.part[here] = members[0]
            places.rows[here], places.cols[here] = _in_frame(
                pairs[scene], frame, places.rows[here], places.cols[here]
            )
    return places


def away_from(pixels: ScenePixels, others: ScenePixels, distance: int) -> ScenePixels:
    """The pixels at least so many MS pixels (Chebyshev) from all others, which are pixels of the same scenes.

    Scenes that show the same ground count as one.
    """
    mine, theirs = common_places(pixels), common_places(others)
    close = np.zeros(len(pixels), bool)
    for part in np.unique(theirs.part):
        at, there = np.flatnonzero(mine.part == part), np.flatnonzero(theirs.part == part)
        # Both ends of a distance in a common frame are rounded.
        reach = distance + 1 if mine.shared else distance
        close[at] = near(mine.rows[at], mine.cols[at], theirs.rows[there], theirs.cols[there], reach)
    return pixels.select(np.flatnonzero(~close))


def _groups(pairs: list[ScenePair]) -> list[list[int]]:
    """Numbers of the scenes that overlap directly or through others."""
    grounds = [ground_of(pair) for pair in pairs]
    groups: list[list[int]] = []
    for k, own in enumerate(grounds):
        met = [g for g in groups if own is not None and any(_overlap(own, grounds[member]) for member in g)]
        joined = sorted([k, *(member for g in met for member in g)])
        groups = [*(g for g in groups if g not in met), joined]
    return groups


def _overlap(one: Ground, other: Ground | None) -> bool:
    return other is not None and one.overlaps(other)


def _in_frame(pair: ScenePair, frame: ScenePair, rows: Int64, cols: Int64) -> tuple[Int64, Int64]:
    """Rows and columns of pixels' centres in another scene's MS grid; unchanged where no way leads there."""
    if pair is frame:
        return rows, cols
    grid, other = pair.grids.ms, frame.grids.ms
    t = grid.transform
    x = t.a * (cols + 0.5) + t.b * (rows + 0.5) + t.c
    y = t.d * (cols + 0.5) + t.e * (rows + 0.5) + t.f
    if grid.crs != other.crs:
        try:
            way = Transformer.from_crs(
                CRS.from_wkt(grid.crs.to_wkt()), CRS.from_wkt(other.crs.to_wkt()), always_xy=True
            )
            x, y = way.transform(x, y, errcheck=True)
        except ProjError:
            return rows, cols
    back = ~other.transform
    return (
        np.floor(back.d * x + back.e * y + back.f).astype(np.int64),
        np.floor(back.a * x + back.b * y + back.c).astype(np.int64),
    )
