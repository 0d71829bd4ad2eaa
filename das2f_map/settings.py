"""Settings: fields of a dataclass whose default, range and help text are written once.

The command line builds its options from them, and Python functions take their defaults from the class. Only
the standard library is imported here, as the command line reads all settings before it knows the command.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

from das2f_map.errors import InputError

T = TypeVar("T")

_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """Default, range and meaning of a setting.

    Attributes
    ----------
    kind:
        ``int``, ``float`` or ``str``.
    default:
        ``None`` where the program finds a value while it runs.
    help:
        One or two sentences for the command line and its reference.
    choices:
        The values that a text or a number may have; empty for any.
    ge, gt, le, lt:
        Limits of a number: at least, more than, at most, less than.
    """

    kind: type
    default: Any
    help: str
    choices: tuple[str | int, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def refusal(self, value: object) -> str:
        """The reason why the setting cannot have a value; empty if it can."""
        if value is None and self.default is None:
            return ""
        if self.choices and value not in self.choices:
            return f"Input should be {one_of(self.choices)}"
        if self.kind is str:
            return ""
        if not isinstance(value, Real):
            return "Input should be a valid number"
        number = float(value)
        if self.kind is int and not (isinstance(value, Integral) or number.is_integer()):
            return "Input should be a valid integer"
        # `not number >= …` also refuses nan, for which every comparison is false.
        if self.ge is not None and not number >= self.ge:
            return f"Input should be greater than or equal to {self.ge:g}"
        if self.gt is not None and not number > self.gt:
            return f"Input should be greater than {self.gt:g}"
        if self.le is not None and not number <= self.le:
            return f"Input should be less than or equal to {self.le:g}"
        if self.lt is not None and not number < self.lt:
            return f"Input should be less than {self.lt:g}"
        return "" if math.isfinite(number) else "Input should be a finite number"


def setting(
    default: T,
    *,
    help: str,
    kind: type | None = None,
    choices: Sequence[str | int] = (),
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> T:
    """A dataclass field that is a setting; parameters as in :class:`Setting`.

    ``kind`` is the default's type unless it is given.
    """
    found = Setting(kind or type(default), default, help, tuple(choices), ge, gt, le, lt)
    return dataclasses.field(default=default, metadata={_KEY: found})


def settings_of(owner: type) -> dict[str, Setting]:
    """The settings of a dataclass by name, in its order."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(owner) if _KEY in f.metadata}


def check_settings(values: Any, cannot: str) -> None:
    """Check the settings of a frozen dataclass, and convert numbers to the setting's type.

    Its ``__post_init__`` calls this. ``cannot`` begins the message, as in "Training cannot run with".

    Raises
    ------
    InputError
        A value is outside its range; the first such setting is named.
    """
    for name, known in settings_of(type(values)).items():
        value = getattr(values, name)
        if reason := known.refusal(value):
            raise InputError(f"{cannot} {name} {value!r}: {reason}")
        if value is not None:
            object.__setattr__(values, name, known.kind(value))


def one_of(choices: Sequence[str | int]) -> str:
    """Choices in words: "auto, shared or patch"."""
    words = [str(choice) for choice in choices]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
