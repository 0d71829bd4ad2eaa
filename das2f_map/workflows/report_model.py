"""A page about a model for people who would rather look: ``das2f-map models show --html``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.members import read_card
from das2f_map.bundle.untrusted import read_member
from das2f_map.errors import ModelError
from das2f_map.pages.document import Page, check_page_path
from das2f_map.pages.model_page import model_page

_RECORD_NAME, _RECORD_LIMIT = "training.json", 16 << 20


@dataclass(frozen=True, eq=False)
class ModelReport:
    """A model as a page.

    Attributes
    ----------
    card:
        Of the model.
    page:
        The page.
    path:
        File of the page; ``None`` where none was asked for.
    """

    card: ModelCard
    page: Page
    path: Path | None

    def _repr_html_(self) -> str:
        return self.page.notebook_form()


def report_model(
    name_or_path: str | Path, output: str | Path | None = None, *, overwrite: bool = False
) -> ModelReport:
    """Write a self-contained HTML page about a model.

    Parameters
    ----------
    name_or_path:
        Bundled model, or a bundle's path.
    output:
        The page, ``.html``; ``None`` for none, as in a notebook.
    overwrite:
        Replace an existing page.

    Raises
    ------
    ModelError
        There is no such model, or it is damaged.
    OutputError
        The page cannot be written, or exists already.
    """
    if output is not None:
        check_page_path(Path(output))
    where = find_model(name_or_path)
    card = read_card(where)
    page = model_page(card, _training_record(where))
    if output is not None:
        page.write(Path(output), overwrite=overwrite)
    return ModelReport(card, page, None if output is None else Path(output))


def _training_record(path: Path) -> dict[str, Any] | None:
    """The record of the training in a bundle; ``None`` where it has none that can be read."""
    try:
        found = json.loads(read_member(path, _RECORD_NAME, _RECORD_LIMIT))
    except (ModelError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
