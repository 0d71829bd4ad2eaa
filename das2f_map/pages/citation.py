"""How to cite a map: the software, and the paper whose network it uses. The facts are in CITATION.cff too."""

from __future__ import annotations

from das2f_map._version import __version__
from das2f_map.pages.elements import Html, el, join

SOFTWARE_AUTHORS = "das2f-map contributors"
LICENCE = "Apache-2.0"
PAPER_AUTHORS = (
    ("Ma", "Wenping"),
    ("Xue", "Boyou"),
    ("Ma", "Mengru"),
    ("Chen", "Chuang"),
    ("Zhang", "Hekai"),
    ("Zhu", "Hao"),
)
PAPER_TITLE = "A Diff-Attention Aware State Space Fusion Model for Remote Sensing Classification"
PAPER_JOURNAL = "IEEE Transactions on Geoscience and Remote Sensing"
PAPER_YEAR = 2025
PAPER_NUMBER = "arXiv:2504.16665"


def citation(version: str = __version__) -> Html:
    """The software and the paper as two references."""
    authors = ", ".join(f"{family}, {given[0]}." for family, given in PAPER_AUTHORS)
    return join(
        [
            el(
                "p",
                "Software: ",
                SOFTWARE_AUTHORS,
                ". ",
                el("em", "das2f-map"),
                f", version {version}. {LICENCE}.",
            ),
            el(
                "p",
                f"Network: {authors} ({PAPER_YEAR}). {PAPER_TITLE}. ",
                el("em", PAPER_JOURNAL),
                f". {PAPER_NUMBER}.",
            ),
        ]
    )
