"""List the bundled models, read a model's card, load a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.bundle.card_parts import Domain, ListedCard
from das2f_map.bundle.catalogue import bundled_models, find_model, load_model
from das2f_map.bundle.members import read_card, read_listed
from das2f_map.legend import LegendClass

if TYPE_CHECKING:
    from das2f_map.bundle.card import ModelCard

__all__ = ["ModelEntry", "list_models", "load_model", "model_card"]


class ModelEntry(BaseModel):
    """A bundled model in a list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    classes: tuple[LegendClass, ...]
    domain: Domain | None = Field(description="scenes it is for; null if its card does not say")
    overall_accuracy: float | None = Field(description="on held-out pixels, 0..1; null if not measured")
    licence: str
    path: str

    @classmethod
    def of(cls, name: str, path: Path, card: ListedCard | ModelCard) -> ModelEntry:
        """The entry of a bundle under the name that users find it by."""
        return cls(
            name=name,
            description=card.description,
            classes=card.legend.classes,
            domain=card.domain,
            overall_accuracy=card.overall_accuracy,
            licence=card.licence,
            path=str(path),
        )


def list_models() -> list[ModelEntry]:
    """The models that ship with the package, by name.

    Raises :class:`~das2f_map.errors.ModelError` if one is damaged.
    """
    return [ModelEntry.of(name, path, read_listed(path)) for name, path in bundled_models().items()]


def model_card(name_or_path: str | Path) -> ModelCard:
    """The card of a bundled model or of any bundle; its weights are not read.

    Raises :class:`~das2f_map.errors.ModelError` when there is no such model, or it is damaged.
    """
    return read_card(find_model(name_or_path))
