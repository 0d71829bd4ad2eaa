"""The parts of a model card that the list of models shows, so that it need not build all of the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from das2f_map.legend import Legend, odd_characters

_SPACES: Final = str.maketrans("\n\t", "  ")


def odd_in(text: str) -> str:
    """The control characters of a text but for tabs and ends of lines, escaped; empty if there are none."""
    return odd_characters(text.translate(_SPACES))


def _readable(text: str) -> str:
    """The text, if a terminal may print it: a card may come from anyone."""
    if odd := odd_in(text):
        raise ValueError(f"the text has control characters ({odd})")
    return text


Text = Annotated[str, AfterValidator(_readable)]
"""A text without control characters, but for tabs and ends of lines."""


class Domain(BaseModel):
    """Range of scenes that the model is meant for; `classify` without `--model` chooses by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms_gsd_m: tuple[FiniteFloat, FiniteFloat] = Field(
        description="smallest and largest MS pixel size, metres"
    )
    ratio: tuple[FiniteFloat, FiniteFloat] = Field(
        description="smallest and largest MS : PAN pixel size ratio"
    )
    sensor: Text = Field(default="", description="free text, e.g. 'Landsat-8 OLI, digital numbers'")


class ListedCard(BaseModel):
    """The entries of a card that a list of models shows; it looks at no others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    description: Text = ""
    legend: Legend
    domain: Domain | None = None
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)
    licence: Text = ""

    @property
    def overall_accuracy(self) -> float | None:
        """Share of the held-out pixels that the model classifies right, 0..1; ``None`` if not measured."""
        return overall_accuracy(self.metrics)


def overall_accuracy(metrics: Mapping[str, Any]) -> float | None:
    """The overall accuracy on held-out pixels in a card's figures; ``None`` if not measured."""
    value: float | None = metrics.get("test", {}).get("overall_accuracy")
    return value
