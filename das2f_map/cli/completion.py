"""Values that the shell completes, and the error for a value that an option cannot have."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import typer

from das2f_map.engines.choice import device_is_known
from das2f_map.settings import one_of

DEVICE_NAMES = ("auto", "cpu", "cuda", "cuda:0")
VECTOR_EXTENSIONS = (".gpkg", ".shp", ".geojson", ".fgb", ".parquet")
_NOUNS = ("engine", "precision", "device")
_OTHER_WORDS = {"gpu": "cuda", "nvidia": "cuda", "per_patch": "patch", "float32": "fp32", "half": "fp16"}
"""Words that people type → the name of the same thing here."""


def from_list(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """A function that completes a value to one of some choices."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def complete_model(incomplete: str) -> list[str]:
    """Names of bundled models that begin so; where none does, the shell offers paths."""
    from das2f_map.bundle.catalogue import bundled_models

    return [name for name in bundled_models() if name.startswith(incomplete)]


def complete_start(incomplete: str) -> list[str]:
    """As :func:`complete_model`, with the words ``auto`` and ``none`` for the start of a training."""
    return from_list(("auto", "none"))(incomplete) + complete_model(incomplete)


def complete_vectors(incomplete: str) -> list[str]:
    """The vector formats, as extensions of the path that is begun."""
    path, dot, begun = incomplete.rpartition(".")
    if not dot or "/" in begun:
        path, begun = incomplete, ""
    if not path or path.endswith("/"):
        path += "landcover"
    return [path + extension for extension in VECTOR_EXTENSIONS if extension.startswith(f".{begun}")]


def require_choice(choices: Sequence[str], what: str) -> Callable[[str], str]:
    """A function that gives a value back if it is one of some choices.

    It raises ``BadParameter``, which names the choices and the nearest of them, otherwise.
    """

    def check(value: str) -> str:
        if value not in choices:
            raise typer.BadParameter(_unknown(what, value, choices, one_of(choices)))
        return value

    return check


def require_device(value: str) -> str:
    """The value, if it is the name of a device; whether there is such a device shows later."""
    if not device_is_known(value):
        raise typer.BadParameter(_unknown("device", value, DEVICE_NAMES[:3], "auto, cpu, cuda or cuda:N"))
    return value


def _unknown(what: str, value: str, choices: Sequence[str], listed: str) -> str:
    other = _OTHER_WORDS.get(value.lower(), value.lower())
    near = [other] if other in choices else difflib.get_close_matches(other, choices, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    known = f"unknown {what} {value!r}" if what in _NOUNS else f"unknown value {value!r}"
    return f"{known}{meant} It is one of {listed}."
