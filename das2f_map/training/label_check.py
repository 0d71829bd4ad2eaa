"""The result of a look at labels before a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import geopandas as gpd

from das2f_map.assess.html_tables import html_page, html_table
from das2f_map.training.prepare import LEAST_PIXELS

SCENE_PARTS = 4
"""The spread of labels is counted in this many parts of the scene in each direction."""

_SINGULAR = {"features": "feature", "pixels": "pixel", "classes": "class"}

EXPECTED = 0.9
"""Accuracy for which the margin of a hold-out is computed."""


@dataclass(frozen=True)
class LabelFinding:
    """Something about the labels that a person should look at.

    Attributes
    ----------
    kind:
        A word or two, such as ``overlap``.
    count, unit:
        How many ``features``, ``pixels`` or ``classes``.
    text:
        A sentence that says what and where.
    serious:
        Whether a training fails for it, or learns from wrong labels.
    """

    kind: str
    count: int
    unit: str
    text: str
    serious: bool = False


@dataclass(frozen=True)
class CheckedClass:
    """A class of the labels.

    Attributes
    ----------
    features:
        ``None`` for a label raster.
    pixels:
        Labelled MS pixels that a training can use.
    invalid, unlike:
        Pixels without valid data or under the mask; usable pixels that look unlike the class.
    places:
        Squares of a patch's side that hold usable pixels: about as many independent looks at the class.
    parts:
        Of the scene's 16 parts, those with usable pixels.
    tested:
        Usable pixels that a training would hold out and test.
    """

    name: str
    color: str
    features: int | None
    pixels: int
    invalid: int
    unlike: int
    places: int
    parts: int
    tested: int


@dataclass(frozen=True)
class HoldOut:
    """The assessment that a training with these labels would make.

    Attributes
    ----------
    method:
        ``folds`` or ``holdout``, as ``train`` would choose.
    folds:
        Trainings that test something.
    gap:
        MS pixels between training and held-out pixels.
    pixels, places:
        Tested pixels, and squares of a patch's side that hold them.
    margin:
        Half of the 95 % interval of an overall accuracy of 90 %, if every place is one independent look.
    overlap:
        Share of the tested pixels whose patch overlaps a training patch: more than 0 flatters the figures.
    not_tested:
        Classes without a tested pixel.
    """

    method: str
    folds: int
    gap: int
    pixels: int
    places: int
    margin: float
    overlap: float
    not_tested: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """Everything that was found about the labels of a scene.

    Attributes
    ----------
    labels:
        The file, or ``GeoDataFrame``.
    classes, findings:
        A row for each.
    hold_out:
        ``None`` where nothing can be held out.
    usable:
        Whether a training can start.
    verdict:
        One sentence.
    doubtful:
        Features to look at, with their reasons, in the scene's CRS.
    doubtful_pixels:
        Pixels to look at, as squares, in the scene's CRS.
    """

    labels: str
    classes: tuple[CheckedClass, ...]
    findings: tuple[LabelFinding, ...]
    hold_out: HoldOut | None
    usable: bool
    verdict: str
    doubtful: gpd.GeoDataFrame
    doubtful_pixels: gpd.GeoDataFrame

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "labels": self.labels,
            "usable": self.usable,
            "verdict": self.verdict,
            "classes": [asdict(c) for c in self.classes],
            "findings": [asdict(f) for f in self.findings],
            "hold_out": None if self.hold_out is None else asdict(self.hold_out),
            "doubtful_features": len(self.doubtful),
            "doubtful_pixels": len(self.doubtful_pixels),
        }

    def class_table(self) -> list[list[str]]:
        """Header and a row for each class, as text."""
        whole = SCENE_PARTS**2
        header = ["class", "features", "pixels", "invalid", "unlike", "places", f"parts of {whole}", "tested"]
        return [
            header,
            *(
                [
                    c.name,
                    "–" if c.features is None else f"{c.features:,}",
                    *(f"{n:,}" for n in (c.pixels, c.invalid, c.unlike, c.places, c.parts, c.tested)),
                ]
                for c in self.classes
            ),
        ]

    def finding_table(self) -> list[list[str]]:
        """Header and a row for each finding, as text."""
        return [
            ["", "finding", "number", "what to do"],
            *(
                [
                    "!" if f.serious else "",
                    f.kind,
                    f"{f.count:,} {f.unit if f.count != 1 else _SINGULAR[f.unit]}",
                    f.text,
                ]
                for f in self.findings
            ),
        ]

    def hold_out_text(self) -> str:
        """The expected assessment in a sentence."""
        h = self.hold_out
        if h is None:
            return "nothing can be held out: label every class in several places"
        way = "one hold-out" if h.method == "holdout" else f"{h.folds} folds"
        text = f"{way} would test {h.pixels:,} pixels in {_counted(h.places, 'place')}: a figure of "
        text += f"{100 * EXPECTED:.0f} % is known to about ± {100 * h.margin:.0f} points"
        if h.not_tested:
            text += f"; not tested: {', '.join(h.not_tested)}"
        return text

    def to_html(self) -> str:
        """The tables and the verdict as HTML; a notebook shows it."""
        tables = [html_table(self.class_table())]
        if self.findings:
            tables.append(html_table(self.finding_table()))
        return html_page(f"Labels {self.labels}: {self.verdict}", tables, [self.hold_out_text()])

    def _repr_html_(self) -> str:
        return self.to_html()


def judge_labels(
    classes: Sequence[CheckedClass], findings: Sequence[LabelFinding], hold_out: HoldOut | None, doubtful: int
) -> tuple[bool, str]:
    """Whether a training can start, and the verdict in one sentence."""
    learnable = [c for c in classes if c.pixels >= LEAST_PIXELS]
    if len(learnable) < 2:
        return False, (
            f"no training is possible: it needs two classes of at least {LEAST_PIXELS} usable pixels, "
            f"there {'is' if len(learnable) == 1 else 'are'} {len(learnable)}"
        )
    look = f"; look at {_counted(doubtful, 'doubtful feature')} first" if doubtful else ""
    serious = [f.kind for f in findings if f.serious]
    if serious:
        return True, f"mend the labels before training: {', '.join(dict.fromkeys(serious))}{look}"
    if hold_out is None:
        return True, f"fit to train on, but the accuracy would not be known: nothing can be held out{look}"
    if hold_out.not_tested:
        return True, f"fit to train on, but {', '.join(hold_out.not_tested)} would not be tested{look}"
    return True, f"fit to train on{look}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
