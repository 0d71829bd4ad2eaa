"""Class ids, names and colours: the meaning of the numbers in a class raster."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from das2f_map.errors import Das2fMapError, InputError

if TYPE_CHECKING:  # the list of models does without numpy, which takes 0.1 s
    from numpy.typing import ArrayLike

    from das2f_map.types import Int64, UInt8

NODATA_CLASS = 0
"""Value of a pixel without a class, in class rasters and label rasters alike."""

MOST_CLASSES = 255
"""Classes that a map can hold: a byte's values but for :data:`NODATA_CLASS`."""

UNSURE_NAME = "unsure"
"""Name of the class of pixels whose class is too improbable, see :meth:`Legend.with_unsure`."""

_UNSURE_GREYS = ("#808080", "#d0d0d0", "#505050")
_TOO_NEAR = 60.0
"""Distance of two colours in red, green and blue, of 0..255 each, that a map does not show well."""

# Colours people expect for a name, matched on its words; the order matters where two words match.
_COLOURS_BY_WORD: tuple[tuple[tuple[str, ...], str], ...] = (
    (("shadow",), "#3f3f4f"),
    (("cloud", "snow", "ice"), "#f2f5f7"),
    (("water", "river", "lake", "sea"), "#2f6fc4"),
    (("wetland", "marsh", "swamp"), "#6fb7b0"),
    (("forest", "tree", "trees", "wood"), "#1f6b34"),
    (("shrub", "bush"), "#a58a4a"),
    (("low", "grass", "herbaceous", "meadow", "vegetation"), "#8fcf5a"),
    (("crop", "cultivated", "field", "agriculture"), "#e3cf57"),
    (("roof", "roofs"), "#c2392f"),
    (("building", "built", "developed", "urban", "house"), "#d9483b"),
    (("road", "pavement", "asphalt", "street", "paved"), "#8c8c94"),
    (("soil", "bare", "barren", "sand"), "#c9a26b"),
    (("other",), "#b0a8b9"),
)
_SPARE_COLOURS = (
    "#7b5ea7",
    "#e78ac3",
    "#17a2b8",
    "#f28e2b",
    "#59408c",
    "#9c755f",
    "#bab0ac",
    "#00796b",
    "#ad1457",
    "#827717",
    "#5d4037",
    "#1565c0",
)


def odd_characters(text: str) -> str:
    """The characters of a text that XML and terminals do not take as text, escaped; empty if there are none.

    They are control characters, separators of lines and paragraphs, halves of surrogate pairs, and U+FFFE and
    U+FFFF.
    """
    odd = {
        c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or ord(c) & 0xFFFE == 0xFFFE
    }
    return ", ".join(ascii(c)[1:-1] for c in sorted(odd))


def require_printable(names: Iterable[str], label: str, kind: type[Das2fMapError] = InputError) -> None:
    """Refuse class names with control characters; ``label`` is the file that they are from.

    Raises ``kind``, an error class of the package, that names the first such class.
    """
    for name in names:
        if odd := odd_characters(name):
            raise kind(
                f"{label} has the class name {name[:80]!a}, with control characters ({odd})",
                "names go into tables and styles: rename the class",
            )


class LegendClass(BaseModel):
    """One land-cover class: its raster value, name and ``#rrggbb`` colour.

    The name goes into style files and tables: it has no control characters, see :func:`odd_characters`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=1, le=MOST_CLASSES)
    name: str = Field(min_length=1)
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if odd := odd_characters(name):
            raise ValueError(f"class name {name[:80]!a} has control characters ({odd})")
        return name

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, each 0..255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


class Legend(BaseModel):
    """The classes of a map, in ascending order of id. Value 0 is always nodata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[LegendClass, ...] = Field(min_length=1)

    @field_validator("classes")
    @classmethod
    def _sorted(cls, classes: tuple[LegendClass, ...]) -> tuple[LegendClass, ...]:
        return tuple(sorted(classes, key=lambda c: c.id))

    @model_validator(mode="after")
    def _unique(self) -> Legend:
        for values, what in ((self.ids, "ids"), (self.names, "names")):
            if len(set(values)) != len(values):
                raise ValueError(f"class {what} must be unique, got {list(values)}")
        return self

    @classmethod
    def from_names(cls, names: Sequence[str], ids: Sequence[int] | None = None) -> Legend:
        """Make a legend with a fitting colour for each name; ids default to 1, 2, 3…"""
        chosen: list[str] = []
        for name in names:
            words = name.lower().replace("_", " ").replace("-", " ").split()
            fitting = [c for keys, c in _COLOURS_BY_WORD if any(w in keys for w in words)]
            free = [c for c in (*fitting, *_SPARE_COLOURS) if c not in chosen]
            # More classes than colours: spread further ones evenly over the blue and red channels.
            n = len(chosen)
            chosen.append(
                free[0] if free else f"#{(n * 67) % 256:02x}{(n * 29) % 256:02x}{(n * 151) % 256:02x}"
            )
        numbers = range(1, len(names) + 1) if ids is None else ids
        return cls(
            classes=tuple(
                LegendClass(id=i, name=n, color=c) for i, n, c in zip(numbers, names, chosen, strict=True)
            )
        )

    @classmethod
    def of_codes(cls, codes: Iterable[int], names: Mapping[int, str]) -> tuple[Legend, dict[int, int]]:
        """A legend of a file's own codes, and the id of each code.

        Codes from 1 to 255 are their own ids. A code 0 among them gets the lowest id that is free. If there
        are others, such as 311 or -1, all get the ids 1, 2, 3… in ascending order. A code without a name is
        called by its number, ``class 311``. Codes of one name are one class, with the id of the lowest.

        Parameters
        ----------
        codes:
            At least one; not more names than a map has classes.
        names:
            Name by code; may lack codes, and have others.
        """
        ordered = sorted({*codes})
        given = {code: names[code].strip() for code in ordered if names.get(code, "").strip()}
        called: dict[str, int] = {}
        ids: dict[int, int] = {}
        small = all(0 <= code <= MOST_CLASSES for code in ordered)
        free = iter(sorted({*range(1, MOST_CLASSES + 1)} - ({*ordered} if small else set())))
        for code in ordered:
            name = given.get(code) or f"class {code}"
            if code not in given and name in given.values():
                name += " (unnamed)"
            if name not in called:
                called[name] = code if small and code else next(free)
            ids[code] = called[name]
        return cls.from_names([*called], [*called.values()]), ids

    def __len__(self) -> int:
        return len(self.classes)

    def with_unsure(self) -> tuple[Legend, int]:
        """The legend with one more class, for pixels whose class is too improbable, and the id of that class.

        Its id is 255, or the largest one below that is free. Its colour is grey, lighter or darker where a
        class has nearly the same. Its name has the id added where a class is called so already.

        Raises
        ------
        InputError
            The legend has 255 classes.
        """
        free = {*range(1, MOST_CLASSES + 1)} - {*self.ids}
        if not free:
            raise InputError(
                f"All 255 class ids are taken: none is left for the class {UNSURE_NAME!r}",
                "classify without --reject",
            )
        unsure = LegendClass(
            id=max(free),
            name=UNSURE_NAME if UNSURE_NAME not in self.names else f"{UNSURE_NAME} ({max(free)})",
            color=next((grey for grey in _UNSURE_GREYS if self._apart(grey)), _UNSURE_GREYS[0]),
        )
        return Legend(classes=(*self.classes, unsure)), unsure.id

    def without(self, class_id: int) -> Legend:
        """The legend without the class of an id, which must not be the only one."""
        return Legend(classes=tuple(c for c in self.classes if c.id != class_id))

    def _apart(self, color: str) -> bool:
        """Whether a colour differs well from the colour of every class."""
        rgb = LegendClass(id=1, name=UNSURE_NAME, color=color).rgb
        return all(math.dist(rgb, c.rgb) > _TOO_NEAR for c in self.classes)

    def each(self) -> Iterator[LegendClass]:
        """Classes in ascending order of id."""
        return iter(self.classes)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(c.id for c in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    def positions(self, ids: ArrayLike) -> Int64:
        """Positions of class ids in a network's logits, int64 of the same shape; -1 for ids of no class."""
        import numpy as np

        values = np.asarray(ids)
        position = np.full(257, -1, np.int64)
        position[list(self.ids)] = np.arange(len(self))
        # The last entry, which stays -1, is for numbers that cannot be ids.
        return position[np.where((values >= 0) & (values <= 255), values, 256).astype(np.int64)]

    def ids_at(self, positions: ArrayLike) -> UInt8:
        """The ids of the classes at some positions, uint8 of the same shape; the way back."""
        import numpy as np

        ids: UInt8 = np.array(self.ids, np.uint8)[np.asarray(positions)]
        return ids

    def __getitem__(self, class_id: int) -> LegendClass:
        """The class with this *id* (not position); ``KeyError`` if there is none."""
        for c in self.classes:
            if c.id == class_id:
                return c
        raise KeyError(class_id)
