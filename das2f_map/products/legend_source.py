"""Names and colours of classes from a file: a legend in JSON, a model, or another map."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from das2f_map.bundle.catalogue import bundled_models, find_model
from das2f_map.bundle.members import is_onnx, read_card
from das2f_map.errors import InputError
from das2f_map.legend import MOST_CLASSES, Legend, LegendClass
from das2f_map.products.class_file import read_legend
from das2f_map.scene.paths import exists, is_dir
from das2f_map.scene.products.delivery import read_text

log = logging.getLogger(__name__)

_EXAMPLE = '{"classes": [{"id": 1, "name": "water", "color": "#2f6fc4"}]}'


class ClassChange(BaseModel):
    """The new name and colour of one class; ``None`` keeps the old one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=1, le=MOST_CLASSES)
    name: str | None = None
    color: str | None = None


class LegendChange(BaseModel):
    """New names and colours, by class id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[ClassChange, ...] = Field(min_length=1)

    @classmethod
    def to(cls, legend: Legend) -> LegendChange:
        """The change that makes a legend of any map with the same ids."""
        return cls(classes=tuple(ClassChange(id=c.id, name=c.name, color=c.color) for c in legend.each()))

    def applied(self, legend: Legend, label: str, *, keeps: int | None = None) -> Legend:
        """A map's legend with the new names and colours; classes that the map lacks are left out, and logged.

        Parameters
        ----------
        legend:
            Of the map.
        label:
            Words for the source of the change, in messages.
        keeps:
            Id of a class that may be missing in the change; it stays as it is.

        Raises
        ------
        InputError
            The change lacks a class of the map, or has an id twice; or the new names and colours make no
            legend.
        """
        ids = [c.id for c in self.classes]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise InputError(f"{label} has class id {twice[0]} twice", "keep one of the two")
        if missing := sorted({*legend.ids} - {*ids} - {keeps}):
            raise InputError(
                f"{label} lacks class ids of the map: {_listed(missing, legend)}",
                "list every class of the map; an entry with an id alone stays as it is",
            )
        if unknown := sorted({*ids} - {*legend.ids}):
            log.warning("%s: the map has no class %s; left out", label, ", ".join(map(str, unknown)))
        changes = {c.id: c for c in self.classes}
        try:
            return Legend(
                classes=tuple(
                    LegendClass(
                        id=c.id,
                        name=c.name if new.name is None else new.name,
                        color=c.color if new.color is None else new.color,
                    )
                    for c in legend.each()
                    for new in [changes.get(c.id, ClassChange(id=c.id))]
                )
            )
        except ValidationError as error:
            raise _unusable(label, error) from error


def read_legend_change(source: str | Path) -> LegendChange:
    """The names and colours that a source has.

    Parameters
    ----------
    source:
        A JSON file (``{"classes": [{"id": 1, "name": "water", "color": "#2f6fc4"}]}``, the report of a map's
        run, or the card of a model), a bundled model's name, a model's path, or a class raster.

    Raises
    ------
    InputError, ModelError
        The source does not exist, or has no legend.
    """
    path, label = Path(source), f"legend {source}"
    if str(source) in bundled_models() or is_dir(path) or path.suffix.lower() == ".zip" or is_onnx(path):
        return LegendChange.to(read_card(find_model(source)).legend)
    if not exists(path):
        raise InputError(
            f"{label} does not exist",
            f"give a JSON file, a class raster, or a model: {', '.join(bundled_models())} or a path",
        )
    if path.suffix.lower() != ".json":
        legend = read_legend(path)
        if legend is None:
            raise InputError(f"{label} is a raster without names and colours of classes")
        return LegendChange.to(legend)
    return _from_json(read_text(str(path)), label)


def _from_json(text: bytes, label: str) -> LegendChange:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{label} is not JSON: {error}", f"it looks like this: {_EXAMPLE}") from error
    if isinstance(document, dict):
        if isinstance(document.get("legend"), dict):  # a model's card
            document = document["legend"]
        elif "report_version" in document and isinstance(document.get("classes"), list):
            rows = [row for row in document["classes"] if isinstance(row, dict)]
            document = {"classes": [{k: row.get(k) for k in ("id", "name", "color")} for row in rows]}
    try:
        return LegendChange.model_validate(document)
    except ValidationError as error:
        raise _unusable(label, error) from error


def _unusable(label: str, error: ValidationError) -> InputError:
    first = error.errors()[0]
    place = "".join(f"{str(part)[:80]}: " for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return InputError(f"{label} cannot be used: {place}{message}", f"it looks like this: {_EXAMPLE}")


def _listed(ids: list[int], legend: Legend) -> str:
    return ", ".join(f"{i} ({legend[i].name})" for i in ids)
