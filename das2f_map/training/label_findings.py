"""What a look at labels finds: faults of the features, of the pixels and of the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

from das2f_map.labels.features import LabelFeatures, names_alike
from das2f_map.labels.likeness import Likeness
from das2f_map.training.label_check import CheckedClass, LabelFinding
from das2f_map.training.label_pixels import PixelTable
from das2f_map.training.prepare import LEAST_PIXELS
from das2f_map.types import Bool

FEW_PIXELS = 30
"""Pixels of a class below which its accuracy on held-out ground says little."""

FEW_PLACES = 3
"""Places of a class below which some folds have none of it to learn from."""

_MOST_CENTRES = 1_000_000
"""Pixels of a box up to which their centres are looked at one by one."""

_MOSTLY = 0.5
"""Share of a feature's pixels that makes it doubtful."""


class Doubts:
    """Reasons to doubt features, gathered finding by finding."""

    def __init__(self, features: LabelFeatures) -> None:
        self._features = features
        self._reasons: dict[int, list[str]] = {}
        self._used: set[int] = set()

    def add(self, rows: Iterable[int], reason: str, *, used: bool = True) -> int:
        """Note a reason for some features; returns how many they are.

        ``used`` says whether a training would learn from them in spite of it.
        """
        distinct = sorted({int(r) for r in rows})
        for row in distinct:
            self._reasons.setdefault(row, []).append(reason)
        self._used |= {*distinct} if used else set()
        return len(distinct)

    @property
    def used(self) -> int:
        """Doubtful features that a training would learn from."""
        return len(self._used)

    def frame(self) -> gpd.GeoDataFrame:
        """The doubtful features with their reasons."""
        rows = sorted(self._reasons)
        found = self._features.frame.iloc[rows][["class", "feature", "layer", "geometry"]].copy()
        found.insert(0, "reasons", ["; ".join(self._reasons[r]) for r in rows])
        return gpd.GeoDataFrame(found, geometry="geometry", crs=self._features.frame.crs)


def feature_findings(features: LabelFeatures, doubts: Doubts) -> list[LabelFinding]:
    """Faults of the features themselves: outlines, place, classes, names, overlaps."""
    frame, found = features.frame, []
    if features.unreadable:
        text = "They have no geometry, or one that cannot be read: draw them again or delete them."
        found.append(LabelFinding("no geometry", features.unreadable, "features", text))
    invalid = np.flatnonzero(frame["invalid"] != "")
    for row in invalid:
        doubts.add([int(row)], f"invalid outline: {frame['invalid'].iloc[row]}")
    if invalid.size:
        text = "Their outlines cross themselves; a training mends them by rule. In QGIS: Fix geometries."
        found.append(LabelFinding("invalid outline", int(invalid.size), "features", text))
    outside = doubts.add(np.flatnonzero(~features.inside), "outside the scene", used=False)
    if outside:
        found.append(LabelFinding("outside the scene", outside, "features", "They are not used."))
    unnamed = doubts.add(np.flatnonzero(frame["class"].isna()), "no class", used=False)
    if unnamed:
        text = "The class field is empty, or holds 0 or a null value: they are not used."
        found.append(LabelFinding("no class", unnamed, "features", text))
    counts = frame["class"].value_counts()
    for group in names_alike(counts.index):
        common = max(group, key=lambda name: (int(counts[name]), name))
        rare = [name for name in group if name != common]
        rows = np.flatnonzero(frame["class"].isin(rare))
        doubts.add(rows, f"written unlike {common!r}")
        text = f"{', '.join(map(repr, sorted(group)))} are different classes: give them one name."
        found.append(LabelFinding("names alike", len(group), "classes", text, serious=True))
    pairs = features.overlaps()
    for a, b in pairs.tolist():
        doubts.add([a], f"overlaps feature {frame['feature'].iloc[b]} ({frame['class'].iloc[b]})")
        doubts.add([b], f"overlaps feature {frame['feature'].iloc[a]} ({frame['class'].iloc[a]})")
    if pairs.size:
        text = "They share ground with a feature of another class. Pixels that both claim get none."
        found.append(LabelFinding("overlap", int(np.unique(pairs).size), "features", text))
    return found


def pixel_findings(
    pixels: PixelTable, like: Likeness, features: LabelFeatures | None, doubts: Doubts | None
) -> list[LabelFinding]:
    """Faults that only the images show: no pixel, no data, pixels unlike their class."""
    found = []
    if pixels.table.contested:
        text = "Different classes claim them: they are not used."
        found.append(LabelFinding("claimed twice", pixels.table.contested, "pixels", text))
    invalid = int((~pixels.valid).sum())
    if invalid:
        text = "The images have no data there, or the mask leaves them out: they are not used."
        found.append(LabelFinding("no data or masked", invalid, "pixels", text))
    unlike = int(like.unlike.sum())
    if unlike:
        share = 100 * unlike / max(1, int(pixels.valid.sum()))
        text = f"{share:.1f} % of the usable pixels look unlike the other pixels of their class."
        found.append(LabelFinding("unlike", unlike, "pixels", text))
    if features is None or doubts is None:
        return found
    n = len(features)
    on = pixels.feature >= 0
    total = np.bincount(pixels.feature[on], minlength=n)
    bad = np.bincount(pixels.feature[on & ~pixels.valid], minlength=n)
    odd = np.bincount(pixels.feature[on & like.unlike], minlength=n)
    inside = features.inside & ~features.frame["class"].isna().to_numpy()
    small = doubts.add(
        np.flatnonzero(inside & ~_holds_a_centre(features)), "too small for a pixel", used=False
    )
    if small:
        text = (
            "They hold no centre of an MS pixel, so that they label nothing: draw them larger, or as points."
        )
        found.append(LabelFinding("too small", small, "features", text))
    blind = doubts.add(
        np.flatnonzero((total > 0) & (bad > _MOSTLY * total)), "mostly no data or masked", used=False
    )
    if blind:
        text = "More than half of their pixels have no data or are masked."
        found.append(LabelFinding("no data or masked", blind, "features", text))
    names = pixels.table.legend.names
    strange = np.flatnonzero((odd > 0) & (odd > _MOSTLY * (total - bad)))
    for row in strange:
        seen = like.looks_like[(pixels.feature == row) & like.unlike]
        seen = seen[seen >= 0]
        other = names[int(np.bincount(seen).argmax())] if seen.size else None
        doubts.add([int(row)], "unlike its class" + ("" if other is None else f", like {other}"))
    if strange.size:
        text = "Most of their pixels look unlike their class: a wrong class, cloud, or a rare kind of it."
        found.append(LabelFinding("unlike", int(strange.size), "features", text))
    return found


def _holds_a_centre(features: LabelFeatures) -> Bool:
    """bool (n,): features that hold a pixel's centre, or a point."""
    points = shapely.get_type_id(features.parts) == shapely.GeometryType.POINT
    holds = points.copy()
    for k in np.flatnonzero(~points):
        holds[k] = _centre_in(features.parts[k])
    found = np.zeros(len(features), bool)
    found[features.of[holds]] = True
    return found


def _centre_in(shape: Any) -> bool:
    """Whether a polygon in pixels holds the centre of one."""
    left, top, right, bottom = shape.bounds
    # A circle of this radius holds a centre wherever it lies: large polygons need no grid of points.
    if min(right - left, bottom - top) > 4 and not shape.buffer(-0.75).is_empty:
        return True
    if (right - left) * (bottom - top) > _MOST_CENTRES:
        return True  # a thin one across much of the scene: it holds some for all practical purposes
    cols, rows = np.arange(math.floor(left), math.ceil(right)), np.arange(math.floor(top), math.ceil(bottom))
    x, y = np.meshgrid(cols + 0.5, rows + 0.5)
    return bool(shapely.contains_xy(shape, x, y).any())


def class_findings(classes: Sequence[CheckedClass]) -> list[LabelFinding]:
    """Classes with too few pixels or places."""
    found = []
    groups: tuple[tuple[str, Callable[[CheckedClass], bool], bool, str], ...] = (
        ("empty class", lambda c: c.pixels == 0, True, "No usable pixel: label it, or delete the class."),
        (
            "tiny class",
            lambda c: 0 < c.pixels < LEAST_PIXELS,
            True,
            f"Under {LEAST_PIXELS} usable pixels: a training leaves the class out.",
        ),
        (
            "small class",
            lambda c: LEAST_PIXELS <= c.pixels < FEW_PIXELS,
            False,
            f"Under {FEW_PIXELS} usable pixels: its accuracy will say little.",
        ),
        (
            "few places",
            lambda c: c.pixels >= LEAST_PIXELS and c.places < FEW_PLACES,
            False,
            f"Labels in fewer than {FEW_PLACES} places are hardly tested: label elsewhere too.",
        ),
    )
    for kind, applies, serious, text in groups:
        names = [c.name for c in classes if applies(c)]
        if names:
            found.append(LabelFinding(kind, len(names), "classes", f"{', '.join(names)}. {text}", serious))
    return found
