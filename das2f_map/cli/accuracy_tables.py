"""Accuracy figures as tables on stdout, for `train` and `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from das2f_map.cli.console import print_table

if TYPE_CHECKING:
    from das2f_map.assess.confusion_matrix import ConfusionMatrix
    from das2f_map.assess.estimates import AreaEstimates


def print_accuracy(matrix: ConfusionMatrix, title: str) -> None:
    """Print overall figures, accuracy per class and the confusion matrix."""
    from das2f_map.assess.confusion_matrix import percent

    overall = [["OA", "AA", "kappa", "pixels"]]
    overall.append(
        [
            percent(matrix.overall_accuracy),
            percent(matrix.average_accuracy),
            "–" if matrix.kappa is None else f"{matrix.kappa:.3f}",
            f"{matrix.total:,}",
        ]
    )
    colours = [c.color for c in matrix.legend.each()]
    _print(title, overall, text_columns=0)
    _print("Accuracy of each class", matrix.class_table(), swatches=colours)
    _print("Pixels", matrix.matrix_table(), swatches=colours)


def print_estimates(estimates: AreaEstimates, matrix: ConfusionMatrix, title: str) -> None:
    """Print the estimates from a probability sample: overall, areas, accuracies, and the sample's counts."""
    colour = {c.name: c.color for c in matrix.legend.each()}
    swatches = [colour.get(c.name, "#808080") for c in estimates.classes]
    _print(f"{title}: {estimates.design}", estimates.overall_table(), text_columns=0)
    _print("Area of each class", estimates.area_table(), swatches=swatches)
    level = f"{100 * estimates.confidence:g} % intervals"
    _print(f"Accuracy of each class, with {level}", estimates.accuracy_table(), swatches=swatches)
    _print("Points", matrix.matrix_table(), swatches=list(colour.values()))


def print_text_table(title: str, table: list[list[str]]) -> None:
    """Print a table of text whose first column is set left."""
    _print(title, table)


def _print(
    title: str, table: list[list[str]], *, text_columns: int = 1, swatches: list[str] | None = None
) -> None:
    columns = {name: "left" if i < text_columns else "right" for i, name in enumerate(table[0])}
    print_table(title, columns, table[1:], swatches=swatches or ())
