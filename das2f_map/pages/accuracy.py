"""Accuracies as parts of a page, for maps and for models."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.bundle.card import Calibration
from das2f_map.pages.charts import confusion_table, reliability_chart
from das2f_map.pages.elements import Html, el, facts, join, name, swatch, table
from das2f_map.pages.evaluation import Estimate, EvaluationFigures
from das2f_map.pages.numbers import interval

_MOST_CONFUSIONS = 6
"""Confusions of classes that a page names in words."""


def overall_tiles(figures: EvaluationFigures, source: str) -> list[tuple[object, object, object]]:
    """Overall accuracy and kappa as key figures; ``source`` says in words where they are from."""
    accuracy, kappa = figures.overall["overall_accuracy"], figures.overall["kappa"]
    found: list[tuple[object, object, object]] = []
    if accuracy.value is not None:
        found.append(("Overall accuracy", percent(accuracy.value), _with(interval(accuracy), source)))
    if kappa.value is not None:
        shown = None if kappa.interval is None else f"{kappa.interval[0]:.2f} – {kappa.interval[1]:.2f}"
        shown = "exact" if kappa.is_exact else shown
        found.append(("Kappa", f"{kappa.value:.2f}", shown or "agreement beyond chance"))
    return found


def _with(shown: str | None, source: str) -> str:
    return source if shown is None else f"{shown} (95 %), {source}"


def accuracy_part(figures: EvaluationFigures, pixels: str = "reference pixels") -> Html:
    """Accuracy of each class, the confusion matrix, and the largest confusions in words.

    Parameters
    ----------
    figures:
        The figures.
    pixels:
        The counted things in words.
    """
    matrix = figures.matrix
    counts = {c.name: c for c in matrix.per_class()}
    rows = []
    for c in matrix.legend.each():
        of_class = figures.classes[c.name]
        shown = [_cell(of_class[key]) for key in ("producers_accuracy", "users_accuracy", "f1")]
        count = [] if figures.has_intervals else [f"{counts[c.name].reference_pixels:,}"]
        rows.append([join([swatch(c.color), name(c.name)]), *shown, *count])
    caption = (
        "Producer's accuracy: share of a class's reference that the map shows as it. User's accuracy: share "
        "of what the map shows as a class that is it."
        + (" With 95 % intervals." if figures.has_intervals else "")
    )
    # With intervals there is no room for the counts on a phone; the matrix has them too.
    last = [] if figures.has_intervals else [pixels.capitalize()]
    classes = table(caption, ["Class", "Producer's", "User's", "F1", *last], rows)
    heat = confusion_table(matrix, f"Confusion matrix in {pixels}; shading: share of the reference class")
    return join([classes, heat, _confusions(matrix)])


def _cell(figure: Estimate) -> Html:
    shown = interval(figure)
    return join([percent(figure.value), None if shown is None else el("small", shown.removesuffix(" %"))])


def _confusions(matrix: ConfusionMatrix) -> Html | None:
    """The largest confusions as sentences; ``None`` if the map has all right."""
    wrong = matrix.counts * (1 - np.eye(len(matrix.legend), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    names, sums = matrix.legend.names, matrix.counts.sum(axis=1)
    items = []
    for k in order.tolist():
        i, j = divmod(k, len(names))
        count = int(wrong[i, j])
        if count:
            of = f"{count:,} of {int(sums[i]):,}"
            items.append(
                el(
                    "li",
                    of,
                    " of ",
                    name(names[i]),
                    " are mapped as ",
                    name(names[j]),
                    f" ({percent(count / sums[i])})",
                )
            )
    return join([el("h3", "Largest confusions"), el("ul", *items)]) if items else None


def reliability_part(calibration: Calibration, of: Iterable[object]) -> Html:
    """How far confidence is to be believed: the chart of a calibration, and its figures.

    Parameters
    ----------
    calibration:
        Of the model.
    of:
        The model in words, as content of a sentence.
    """
    chart = reliability_chart(calibration.bins) if calibration.bins else None
    said = el(
        "p",
        "Reliability of ",
        *of,
        f": the confidence of {calibration.pixels:,} held-out pixels against the share that is right. On the "
        "dashed line both agree; below it the model is too sure.",
    )
    numbers = facts(
        [
            (
                "Calibration error",
                f"{percent(calibration.error_after)} (before: {percent(calibration.error_before)})",
            ),
            ("Temperature", f"{calibration.temperature:.3f}"),
        ]
    )
    return el("div", el("div", said, numbers), None if chart is None else el("div", chart), class_="pair")
