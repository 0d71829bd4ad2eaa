"""Charts as SVG and coloured tables. Numbers that matter are text in a table; charts only show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.bundle.card import ReliabilityBin
from das2f_map.pages.elements import Html, caption_of, el, join, name, scrolling, swatch
from das2f_map.types import Float64

INK, FAINT, LINE = "#1d2731", "#8a949e", "#d5dbe1"
RIGHT, WRONG = "#1f5f8b", "#c2410c"
"""Colours of right and wrong pixels; they differ for colour-blind readers and in grey."""

MOST_NUMBERED = 16
"""Classes up to which a confusion matrix is a table of numbers; a larger one is a picture."""


@dataclass(frozen=True)
class Bar:
    """A value, and an estimate of the same thing with its interval where there is one; all in one unit."""

    value: float
    color: str
    estimate: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def reach(self) -> float:
        """The largest number that has to fit into the chart."""
        return max(self.value, self.estimate or 0.0, *(self.interval or ()), 0.0)


def bar(drawn: Bar, largest: float) -> Html:
    """A bar for a cell of a table, as wide as the cell; the estimate is a tick, its interval a line."""
    scale = 100 / largest if largest > 0 else 0.0
    parts = [
        el(
            "rect",
            x="0",
            y="4",
            width=_n(drawn.value * scale),
            height="14",
            fill=drawn.color,
            stroke="#39424c",
            stroke_width="0.8",
            vector_effect="non-scaling-stroke",
        )
    ]
    if drawn.interval is not None:
        low, high = (min(max(v, 0.0) * scale, 100.0) for v in drawn.interval)
        # A light line under a dark one: it shows on bars of any colour.
        for width, ink in ((5, "#ffffff"), (2, INK)):
            parts += [
                _line(low, 11, high, 11, width, ink),
                *(_line(x, 7, x, 15, width, ink) for x in (low, high)),
            ]
    if drawn.estimate is not None:
        at = max(drawn.estimate, 0.0) * scale
        parts += [_line(at, 1, at, 21, 6, "#ffffff"), _line(at, 1, at, 21, 3, INK)]
    return el("svg", *parts, viewBox="0 0 100 22", preserveAspectRatio="none", aria_hidden="true")


def _line(x1: float, y1: float, x2: float, y2: float, width: float, ink: str) -> Html:
    return el(
        "line",
        x1=_n(x1),
        y1=_n(y1),
        x2=_n(x2),
        y2=_n(y2),
        stroke=ink,
        stroke_width=_n(width),
        vector_effect="non-scaling-stroke",
    )


def confusion_table(matrix: ConfusionMatrix, caption: object) -> Html:
    """A confusion matrix as a heat map: reference down, map across.

    A cell is the darker, the larger its share of the reference class: blue where the map is right, red
    where it is wrong. Many classes make a picture without numbers.
    """
    shares = matrix.counts / np.maximum(1, matrix.counts.sum(axis=1, keepdims=True))
    if len(matrix.legend) > MOST_NUMBERED:
        return _matrix_picture(matrix, shares, caption)
    classes = list(matrix.legend.each())
    head = el(
        "tr",
        el("th", "reference ↓ map →", scope="col"),
        *(el("th", swatch(c.color), name(c.name), scope="col") for c in classes),
        el("th", "sum", scope="col", class_="sum"),
    )
    rows = []
    for k, c in enumerate(classes):
        cells = [_heat_cell(int(n), float(shares[k, j]), j == k) for j, n in enumerate(matrix.counts[k])]
        total = el("td", f"{int(matrix.counts[k].sum()):,}", class_="sum")
        rows.append(el("tr", el("th", swatch(c.color), name(c.name), scope="row"), *cells, total))
    sums = [el("td", f"{int(n):,}", class_="sum") for n in matrix.counts.sum(axis=0)]
    foot = el(
        "tr", el("th", "sum", scope="row", class_="sum"), *sums, el("td", f"{matrix.total:,}", class_="sum")
    )
    kind = "matrix many" if len(classes) > 6 else "matrix"
    inner = el("table", caption_of(caption), el("thead", head), el("tbody", *rows, foot), class_=kind)
    return scrolling(inner, caption)


def _heat_cell(count: int, share: float, right: bool) -> Html:
    fill = mixed("#ffffff" if count == 0 else "#eef1f4", RIGHT if right else WRONG, share**0.7)
    dark = _contrast("#ffffff", fill) > _contrast(INK, fill)
    ink = "#ffffff" if dark else (INK if count else FAINT)
    return el("td", f"{count:,}", style=f"background:{fill};color:{ink}")


def _matrix_picture(matrix: ConfusionMatrix, shares: Float64, caption: object) -> Html:
    n, side = len(matrix.legend), 10
    cells = [
        el(
            "rect",
            x=side * j,
            y=side * i,
            width=side,
            height=side,
            fill=mixed("#eef1f4", RIGHT if i == j else WRONG, float(shares[i, j]) ** 0.5),
        )
        for i, j in np.argwhere(matrix.counts > 0).tolist()
    ]
    label = f"Confusion matrix of {n} classes, reference down, map across"
    size = n * side
    frame = el("rect", x=0, y=0, width=size, height=size, fill="#ffffff", stroke=INK, stroke_width="1")
    picture = el(
        "svg",
        frame,
        *cells,
        viewBox=f"-1 -1 {size + 2} {size + 2}",
        class_="chart",
        role="img",
        aria_label=label,
    )
    note = "Reference down, map across, classes in the order of the table above."
    return el("figure", picture, el("figcaption", caption, ". ", note))


def reliability_chart(bins: Sequence[ReliabilityBin]) -> Html:
    """Accuracy by confidence. A bin's point has an area by its pixels; on the diagonal both agree."""
    most = max(b.pixels for b in bins)
    left, top, side = 38.0, 8.0, 240.0
    parts: list[Html] = []
    for step in range(0, 101, 20):
        at = step / 100 * side
        parts += [
            el(
                "line",
                x1=_n(left),
                x2=_n(left + side),
                y1=_n(top + side - at),
                y2=_n(top + side - at),
                stroke=LINE,
            ),
            el("line", x1=_n(left + at), x2=_n(left + at), y1=_n(top), y2=_n(top + side), stroke=LINE),
            el("text", f"{step} %", x=_n(left - 5), y=_n(top + side - at + 4), text_anchor="end"),
            el("text", step, x=_n(left + at), y=_n(top + side + 15), text_anchor="middle"),
        ]
    parts.append(
        el(
            "line",
            x1=_n(left),
            y1=_n(top + side),
            x2=_n(left + side),
            y2=_n(top),
            stroke=FAINT,
            stroke_dasharray="4 4",
        )
    )
    points = [(left + b.confidence * side, top + (1 - b.accuracy) * side, b.pixels) for b in bins]
    path = " ".join(f"{_n(x)},{_n(y)}" for x, y, _ in points)
    parts.append(el("polyline", points=path, fill="none", stroke=RIGHT, stroke_width="1.5"))
    parts += [
        el("circle", cx=_n(x), cy=_n(y), r=_n(2.5 + 6 * (n / most) ** 0.5), fill=RIGHT, fill_opacity="0.75")
        for x, y, n in points
    ]
    parts.append(
        el("text", "confidence, %", x=_n(left + side / 2), y=_n(top + side + 32), text_anchor="middle")
    )
    listed = "; ".join(f"{b.confidence:.0%} sure, {b.accuracy:.0%} right, {b.pixels:,} pixels" for b in bins)
    label = f"Accuracy by confidence: {listed}"
    return el(
        "svg",
        *parts,
        viewBox=f"0 0 {left + side + 14:g} {top + side + 38:g}",
        class_="chart",
        role="img",
        aria_label=label,
    )


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name, and the values by step."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


_LINE_INKS = ("#1f5f8b", "#c2410c", "#3f7d3a", "#7b4ea3", "#8a6d1f", "#56626e")


def line_chart(lines: Sequence[Line], label: str, *, percent: bool, across: str = "steps") -> Html:
    """Lines over the same steps, with their names below.

    Parameters
    ----------
    lines:
        At least one, each with at least one value.
    label:
        Name of the chart, for its caption and for readers who cannot see it.
    percent:
        Whether values are shares from 0 to 1.
    across:
        Name of the steps.
    """
    left, top, width, height = 44.0, 8.0, 320.0, 180.0
    last = max(max(line.steps) for line in lines) or 1.0
    values = [v for line in lines for v in line.values]
    low, high = (min(values), 1.0) if percent else (0.0, max(values))
    low = max(0.0, np.floor(low * 10) / 10) if percent else low
    span = (high - low) or 1.0
    parts: list[Html] = []
    for k in range(5):
        value, y = low + span * k / 4, top + height * (1 - k / 4)
        shown = f"{value:.0%}".replace("%", " %") if percent else f"{value:.2g}"
        parts += [
            el("line", x1=_n(left), x2=_n(left + width), y1=_n(y), y2=_n(y), stroke=LINE),
            el("text", shown, x=_n(left - 5), y=_n(y + 4), text_anchor="end"),
        ]
    for x, shown, anchor in ((left, "0", "start"), (left + width, f"{last:,.0f} {across}", "end")):
        parts.append(el("text", shown, x=_n(x), y=_n(top + height + 16), text_anchor=anchor))
    for k, line in enumerate(lines):
        ink = _LINE_INKS[k % len(_LINE_INKS)]
        points = [
            (left + s / last * width, top + (1 - (v - low) / span) * height)
            for s, v in zip(line.steps, line.values, strict=True)
        ]
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        parts.append(el("polyline", points=path, fill="none", stroke=ink, stroke_width="1.8"))
        parts += [el("circle", cx=_n(x), cy=_n(y), r="2.6", fill=ink) for x, y in points]
    picture = el(
        "svg",
        *parts,
        viewBox=f"0 0 {left + width + 10:g} {top + height + 24:g}",
        class_="chart",
        role="img",
        aria_label=label,
    )
    inks = [swatch(_LINE_INKS[k % len(_LINE_INKS)]) for k in range(len(lines))]
    names = join(el("span", ink, name(line.name), "  ") for ink, line in zip(inks, lines, strict=True))
    return el("figure", picture, el("figcaption", label, el("br"), names))


def ramp(colors: Sequence[str], low: str, high: str) -> Html:
    """The colours of a scale from a low to a high value."""
    boxes = [
        el("rect", x=_n(100 * k / len(colors)), y="0", width=_n(100 / len(colors) + 0.2), height="10", fill=c)
        for k, c in enumerate(colors)
    ]
    picture = el("svg", *boxes, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")
    return el("div", el("span", low), picture, el("span", high), class_="ramp")


def mixed(one: str, other: str, share: float) -> str:
    """The colour between two ``#rrggbb``: the first at share 0, the other at share 1."""
    a, b = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)], float) for c in (one, other))
    red, green, blue = np.rint(a + (b - a) * min(max(share, 0.0), 1.0)).astype(int).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def _contrast(one: str, other: str) -> float:
    """Contrast of two colours by the Web Content Accessibility Guidelines: from 1, the same, to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    """Relative luminance of a colour, 0..1."""
    shares = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
