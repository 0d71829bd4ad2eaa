"""Accuracy figures as tables on stdout, for `train` and `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from das2f_map.cli.console import print_table

if TYPE_CHECKING:
    from das2f_map.assess.confusion_matrix import ConfusionMatrix


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


def _print(
    title: str, table: list[list[str]], *, text_columns: int = 1, swatches: list[str] | None = None
) -> None:
    columns = {name: "left" if i < text_columns else "right" for i, name in enumerate(table[0])}
    print_table(title, columns, table[1:], swatches=swatches or ())
