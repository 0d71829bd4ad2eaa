"""The classes that a map and a reference have in common.

Classes are matched by their exact names. A name without a partner is matched apart from case, blanks, hyphens
and underscores, if only one name on each side comes into question. Where one side has only numbers they are
matched by number: the one in a name such as ``class 111``, or a raster's value. The log says where classes
are matched by anything but their exact names.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from dataclasses import dataclass
from typing import Protocol

from das2f_map.assess.open_map import OpenMap
from das2f_map.errors import LabelError
from das2f_map.legend import MOST_CLASSES, Legend, LegendClass

log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"(?:class)?[ _]*([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a reference is which class of a map."""

    map_id: dict[int, int]
    """Reference id → map id, for the classes that both have."""
    by: str
    """``name`` or ``id``, see :attr:`das2f_map.assess.evaluation.Evaluation.matched_by`."""


class ReferenceClasses(Protocol):
    """The classes of a reference of any kind, as :class:`LabelSource` has them."""

    @property
    def legend(self) -> Legend:
        """Its classes."""

    @property
    def codes(self) -> dict[int, int] | None:
        """Its own numbers."""


def match_classes(mapped: OpenMap, reference: ReferenceClasses, reference_path: str) -> ClassMatch:
    """The classes that a map and a reference have in common; there may be none.

    An id that was only counted up for a file (class names of a vector file in alphabetical order, codes
    above 255) means nothing in another file and is never compared.

    Raises :class:`LabelError` if one side has names, and the other codes that are not the map's values.
    """
    ours, theirs = mapped.legend, reference.legend
    map_numbers, their_numbers = _numbers(ours), _numbers(theirs)
    if map_numbers is None and their_numbers is None:
        return ClassMatch(_by_name(ours, theirs), "name")
    guess = ""
    if map_numbers is None:
        # The reference's codes are taken for values of the map, if they can be: a map's own values are bytes.
        codes = {*their_numbers} if their_numbers else set()
        large = max(mapped.codes, default=0) > MOST_CLASSES
        may_be = reference.codes is not None and (large or max(codes, default=0) <= MOST_CLASSES)
        map_numbers = mapped.codes if may_be else None
        guess = (
            f"the reference has no class names; its numbers are taken for values of map {mapped.file.path}"
        )
    elif their_numbers is None:
        # A reference raster has values as well as names; they compare with the numbers in the map's names.
        their_numbers = reference.codes
        guess = (
            f"map {mapped.file.path} has no class names; its numbers are taken for values of the reference"
        )
    if map_numbers is None or their_numbers is None:
        raise LabelError(
            f"map {mapped.file.path} and reference {reference_path} cannot be compared: one has class names "
            "where the other has codes",
            f"the map has {', '.join(ours.names)}; the reference has {', '.join(theirs.names)}; "
            "give the reference a field with the map's names or values (--class-field)",
        )
    pairs = {n: (i, map_numbers[n]) for n, i in their_numbers.items() if n in map_numbers}
    if guess and pairs:
        listed = ", ".join(f"{n} is {ours[i].name}" for n, (_, i) in pairs.items() if i in ours.ids)
        log.warning("Classes are matched by number, since %s: %s", guess, listed)
    return ClassMatch(dict(pairs.values()), "id")


def _by_name(ours: Legend, theirs: Legend) -> dict[int, int]:
    """Id of a reference's class → id of the map's class, by their names."""
    ids = dict(zip(ours.names, ours.ids, strict=True))
    found = {c.id: ids[c.name] for c in theirs.each() if c.name in ids}
    taken = {*found.values()}
    near_ours, near_theirs = (_by_key(legend) for legend in (ours, theirs))
    for key, names in near_theirs.items():
        others = near_ours.get(key, [])
        if len(names) != 1 or len(others) != 1:
            if others and any(c.id not in found for c in names):
                log.warning(
                    "Not matched, since several names come into question: %s of the map, %s of the reference",
                    ", ".join(repr(c.name) for c in others),
                    ", ".join(repr(c.name) for c in names),
                )
            continue
        (one,), (other,) = names, others
        if one.id not in found and other.id not in taken:
            found[one.id] = other.id
            log.info("Class %r of the reference is taken for %r of the map", one.name, other.name)
    return found


def _by_key(legend: Legend) -> dict[str, list[LegendClass]]:
    """Classes by name apart from case, blanks, hyphens and underscores."""
    found: dict[str, list[LegendClass]] = {}
    for c in legend.each():
        plain = unicodedata.normalize("NFC", c.name).casefold()
        found.setdefault(re.sub(r"[\s_-]+", "", plain), []).append(c)
    return found


def _numbers(legend: Legend) -> dict[int, int] | None:
    """Number in the name → id, if all names are numbers, such as ``class 111``, and all differ."""
    found = [_NUMBERED.fullmatch(name) for name in legend.names]
    numbers = {int(m[1]): c.id for m, c in zip(found, legend.each(), strict=True) if m is not None}
    return numbers if len(numbers) == len(legend) else None
