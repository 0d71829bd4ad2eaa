"""Values of a class field: names or whole numbers, and the ways in which files say that there is none."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from das2f_map.errors import LabelError

log = logging.getLogger(__name__)

NULL_NUMBERS = frozenset(
    float(n)
    for n in (
        *(-int("9" * digits) for digits in range(4, 11)),
        -(2**15),
        -(2**31),
        2**31 - 1,
        2**32 - 1,
        -(2**63),
        2**63 - 1,
        1e20,
    )
)
"""Numbers that programs write where there is none, besides the extremes of floating point."""

_LARGEST = 2.0**53
"""Floating point has no distinct whole numbers beyond."""

_NULL_TEXTS = frozenset({"<null>", "(null)", "null", "nan", "#n/a", "#null!"})
"""Texts that programs write where there is none, in lower case."""


def is_null(number: float) -> bool:
    """Whether a number is one that programs write where there is none."""
    size = abs(number)
    # 3.4028235e38 and 1.79769e308 are rounded in many files.
    return number in NULL_NUMBERS or 3.402e38 <= size <= 3.4029e38 or size >= 1.79e308


@dataclass(frozen=True, eq=False)
class ClassValues:
    """Values of a class field.

    Attributes
    ----------
    values:
        A name (str) or a whole number (int) for each feature, missing where there is none. The number 0 is
        kept: callers count it as unlabelled.
    named:
        Whether they are names.
    ignored:
        Values that count as missing, with the number of features: ``2 with -9999``. Empty if none.
    """

    values: pd.Series[Any]
    named: bool
    ignored: str

    @classmethod
    def of(cls, label: str, raw: pd.Series[Any]) -> ClassValues:
        """The values of a column as it is read.

        Raises
        ------
        LabelError
            It holds fractions, or numbers that cannot be class numbers.
        """
        if pd.api.types.is_bool_dtype(raw) or _all_truths(raw):
            # Two classes: false is a value like true, not the number 0.
            return cls(raw.map(lambda v: None if pd.isna(v) else str(bool(v))).astype(object), True, "")
        if pd.api.types.is_numeric_dtype(raw):
            return cls._of_numbers(label, raw)
        return cls._of_texts(label, raw)

    @classmethod
    def _of_numbers(cls, label: str, raw: pd.Series[Any]) -> ClassValues:
        numbers = pd.to_numeric(raw)
        null = numbers.map(lambda v: bool(pd.notna(v)) and is_null(float(v))).astype(bool)
        ignored = ", ".join(f"{n} with {v:g}" for v, n in numbers[null].value_counts().items())
        numbers = numbers.mask(null) if null.any() else numbers
        given = numbers.dropna()
        if pd.api.types.is_float_dtype(given):
            large = given[given.abs() > _LARGEST]
            if len(large):
                raise LabelError(
                    f"the class field of {label} holds {large.iloc[0]:g}, which is no class number",
                    "it should hold class numbers or class names; is it the right field?",
                )
            fractions = given[given != given.round()]
            if len(fractions):
                raise LabelError(
                    f"the class field of {label} holds fractions, such as {fractions.iloc[0]}",
                    "it should hold class numbers or class names",
                )
        return cls(_as_integers(numbers), False, ignored)

    @classmethod
    def _of_texts(cls, label: str, raw: pd.Series[Any]) -> ClassValues:
        _refuse_nested(label, raw)
        text = raw.astype("string")
        bare = text.str.strip()
        padded = sorted({*text.dropna()} - {*bare.dropna()})
        both = [p for p in padded if p.strip() and p.strip() in {*text.dropna()}]
        if both:
            log.info(
                "%s: blanks around a name do not count: %s",
                label,
                ", ".join(f"{p!r} is {p.strip()!r}" for p in both),
            )
        null = bare.str.lower().isin(_NULL_TEXTS)
        ignored = ", ".join(f"{n} with {v!r}" for v, n in bare[null].value_counts().items())
        bare = bare.where(bare.notna() & (bare != "") & ~null)
        given = bare.dropna()
        _warn_of_garbled(label, sorted({*given}))
        # Class codes are often kept as text. As text, 10 would come before 2, and 01 would differ from 1.
        if len(given) and given.str.fullmatch(r"[0-9]{1,15}").all():
            return cls(_as_integers(pd.to_numeric(bare)), False, ignored)
        return cls(bare.astype(object).where(bare.notna(), None), True, ignored)


def _as_integers(numbers: pd.Series[Any]) -> pd.Series[Any]:
    return numbers.map(lambda v: None if pd.isna(v) else int(v)).astype("Int64")


def _all_truths(raw: pd.Series[Any]) -> bool:
    given = raw.dropna()
    return bool(len(given)) and all(isinstance(v, (bool, np.bool_)) for v in given)


def _refuse_nested(label: str, raw: pd.Series[Any]) -> None:
    """Raise :class:`LabelError` for lists, objects and bytes: a list of one name is not the name."""
    for value in raw.dropna().tolist():
        nested = value
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            # Objects and mixed lists of GeoJSON come as their text.
            with suppress(ValueError, RecursionError):
                nested = json.loads(value)
        if isinstance(nested, (list, tuple, np.ndarray, dict, bytes)):
            shown = str(value)
            raise LabelError(
                f"the class field of {label} holds lists or other values of several parts, such as "
                f"{shown if len(shown) <= 40 else shown[:39] + '…'}",
                "it should hold one class number or name for each feature; choose another with --class-field",
            )


def _warn_of_garbled(label: str, names: list[str]) -> None:
    """Warn of names that are UTF-8 read in another encoding, such as ``WÃ¤lder``."""
    for name in names:
        for encoding in ("latin-1", "cp1252"):
            try:
                meant = name.encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
            if meant != name:
                log.warning(
                    "%s: the name %r looks like %r in a wrong encoding; does the file say the right one?",
                    label,
                    name,
                    meant,
                )
                return
