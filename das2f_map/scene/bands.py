"""Find the bands of a file that a model needs: by number, by name, by colour.

A band's *role* is the plain name of the light that it measures (``blue``, ``red_edge_2``, ``nir``…). It is
read from the file's band description, or else from the colour interpretation. Numbers after a B (``B2``,
``SR_B5``, ``B8A``) differ from satellite to satellite. They have a role only if all of them together tell the
satellite.

The bands that a model wants are matched to those of a file in this order:

1. the user's choice (``--bands``),
2. equal names, then equal roles,
3. bands without a role, in their order, if exactly as many bands are left in the file as are still wanted.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from das2f_map.errors import InputError

GivenBands = Mapping[str, int | str]
"""The user's choice: a model's band name → number of the band in the file, from 1, or its name there."""


@dataclass(frozen=True)
class FileBand:
    """A band of a file.

    Attributes
    ----------
    number:
        Number in the file, from 1.
    name:
        The band's description, else its colour, else ``band_N``.
    alpha:
        Whether the band is transparency, which is a mask and no measurement.
    """

    number: int
    name: str
    alpha: bool = False


@dataclass(frozen=True)
class BandChoice:
    """A band of a file that serves as a band of a model.

    Attributes
    ----------
    role:
        Name of the model's band.
    number, name:
        Number and name in the file, as in :class:`FileBand`.
    how:
        ``given`` by the user, found by ``name``, or taken by its ``place``.
    """

    role: str
    number: int
    name: str
    how: Literal["given", "name", "place"]

    def __str__(self) -> str:
        same = self.name.casefold() in (self.role.casefold(), f"band_{self.number}")
        return f"{self.role} = band {self.number}" + ("" if same else f" ({self.name})")


class UnmatchedBands(InputError):
    """Raised if a file's band names and numbers do not give exactly the bands that a model needs."""


_WORDS = (
    # Longer terms first: each term that is found is cut out of the name before the next is searched.
    ("coastal", r"coastal(?: blue)?|aerosol|ultra ?blue|deep ?blue|violet"),
    ("red_edge", r"(?:red ?edge|vre) ?(?P<n>\d)?"),
    ("nir_2", r"nir ?2|narrow nir|nir narrow"),
    ("swir", r"(?:swir|short ?wave infra ?red) ?(?P<n>\d)?"),
    ("thermal", r"tir ?\d?|lwir ?\d?|mwir ?\d?|thermal(?: infra ?red)?"),
    ("nir", r"nir ?1?|near infra ?red|nearinfra ?red|infra ?red|ir"),
    ("cirrus", r"cirrus"),
    ("water_vapour", r"water vapou?r"),
    ("pan", r"pan|panchromatic"),
    ("yellow", r"yellow"),
    ("blue", r"blue|bleu|blau"),
    ("green", r"green|vert|grün|gruen"),
    ("red", r"red|rouge|rot"),
)
_PATTERNS = tuple((role, re.compile(rf"\b(?:{words})\b")) for role, words in _WORDS)
_LETTERS = {"b": "blue", "g": "green", "r": "red", "n": "nir", "pc": "pan"}
_NUMBERED = re.compile(r"(?:.* )?b ?0?(\d{1,2}a?)")
_NEW_LANDSAT = re.compile(r"\b(?:landsat ?0?[89]|l[co]?0?[89]|oli)\b")
_OLD_LANDSAT = re.compile(r"\b(?:landsat ?0?[1-7]|l[etm]0?[1-7]|l[57]|etm|tm)\b")
_REFLECTANCE = re.compile(r"(?:.* )?sr b ?\d")
_SENTINEL2 = dict(
    zip(
        ("1", "2", "3", "4", "5", "6", "7", "8", "8a", "9", "10", "11", "12"),
        (
            *("coastal", "blue", "green", "red", "red_edge_1", "red_edge_2", "red_edge_3", "nir", "nir_2"),
            *("water_vapour", "cirrus", "swir_1", "swir_2"),
        ),
        strict=True,
    )
)
_LANDSAT8 = dict(
    zip(
        ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"),
        (
            *("coastal", "blue", "green", "red", "nir", "swir_1", "swir_2", "pan", "cirrus"),
            *("thermal", "thermal_2"),
        ),
        strict=True,
    )
)


def roles_of(names: Sequence[str]) -> tuple[str | None, ...]:
    """The role of each band name, ``None`` if it has none; all numbered names together tell the satellite."""
    plain = [_plain(n) for n in names]
    numbered = [p for p in plain if _NUMBERED.fullmatch(p)]
    satellite = _satellite(numbered)
    return tuple(_role(p, satellite) for p in plain)


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[^\w]|_", " ", name.casefold()).split())


def _role(plain: str, satellite: Mapping[str, str]) -> str | None:
    if plain in _LETTERS:
        return _LETTERS[plain]
    found: set[str] = set()
    rest = plain
    for role, pattern in _PATTERNS:
        if m := pattern.search(rest):
            number = m.groupdict().get("n")
            found.add(f"{role}_{number}" if number else role)
            rest = pattern.sub(" ", rest)
    if len(found) == 1:
        return found.pop()
    if found:  # "red minus green" is neither
        return None
    numbered = _NUMBERED.fullmatch(plain)
    return satellite.get(numbered[1]) if numbered else None


def _satellite(names: Sequence[str]) -> Mapping[str, str]:
    """Number → role, if the numbers of plain band names together leave no doubt about the satellite."""
    numbers = {m[1] for m in map(_NUMBERED.fullmatch, names) if m}
    sentinel = {"8a", "12"} & numbers
    if numbers >= {"2", "3", "4", "8"} and (sentinel or "5" not in numbers):
        return _SENTINEL2
    if sentinel or not numbers >= {"2", "3", "4", "5"} or any(map(_OLD_LANDSAT.search, names)):
        return {}
    # B1 is blue on Landsat 4 to 7, but coastal on Landsat 8 and 9. So B1 to B7 may be either's.
    if any(map(_NEW_LANDSAT.search, names)):
        return _LANDSAT8
    # Surface reflectance of Landsat 4 to 7 has no band 6. So 1 or 7 may be theirs, unless 6 and 7 are both
    # there.
    old = bool({"1", "7"} & numbers) and not numbers >= {"6", "7"}
    if any(map(_REFLECTANCE.match, names)) and not (old or "8" in numbers):
        return _LANDSAT8
    # 8 to 11 together, or 9 or 10 without 8, are Landsat's; other choices may be Sentinel-2's.
    if numbers >= {"8", "9", "10", "11"} or ("8" not in numbers and {"9", "10"} & numbers):
        return _LANDSAT8
    return {}


def parse_bands(text: str) -> dict[str, int | str]:
    """The mapping in a text such as ``"blue=3,green=B3"``. Raises ``ValueError`` with a clear message."""
    result: dict[str, int | str] = {}
    for part in text.split(","):
        role, equals, band = (p.strip() for p in part.partition("="))
        if not (role and equals and band):
            raise ValueError(f"{part.strip()!r} is not NAME=BAND, e.g. blue=3 or nir=B8")
        if role.casefold() in (r.casefold() for r in result):
            raise ValueError(f"{role!r} is there twice")
        result[role] = int(band) if band.isdecimal() else band
    return result


def own_bands(bands: Sequence[FileBand]) -> tuple[BandChoice, ...]:
    """All image bands in the file's order, named by their roles where these are clear."""
    images = [b for b in bands if not b.alpha]
    roles = roles_of([b.name for b in images])
    return tuple(
        BandChoice(role if role and roles.count(role) == 1 else b.name, b.number, b.name, "place")
        for b, role in zip(images, roles, strict=True)
    )


def given_bands(given: GivenBands, bands: Sequence[FileBand], path: str) -> tuple[BandChoice, ...]:
    """The bands that a user names, in that order. Raises :class:`InputError` for unknown or repeated ones."""
    if not given:
        raise InputError("no bands are named", "name all that are to be used, e.g. --bands blue=3,green=2")
    chosen = tuple(
        BandChoice(role, band.number, band.name, "given")
        for role, band in ((r, _find(r, which, bands, path)) for r, which in given.items())
    )
    numbers = [c.number for c in chosen]
    for c in chosen:
        if numbers.count(c.number) > 1:
            twice = " and ".join(o.role for o in chosen if o.number == c.number)
            raise InputError(
                f"band {c.number} of {path} cannot be {twice} at once", "--bands names a band for each"
            )
    return chosen


def _find(role: str, which: int | str, bands: Sequence[FileBand], path: str) -> FileBand:
    if isinstance(which, int):
        if 1 <= which <= len(bands):
            return bands[which - 1]
        raise InputError(
            f"MS file {path} has no band {which} for {role}: it has {len(bands)}", "bands count from 1"
        )
    found = [b for b in bands if b.name.casefold() == which.casefold()]
    if not found:
        wanted = _plain(which)
        found = [b for b in bands if _plain(b.name) == wanted or [wanted] == _plain(b.name).split()[:1]]
    names = ", ".join(b.name for b in bands)
    if len(found) > 1:
        numbers = " and ".join(str(b.number) for b in found)
        raise InputError(f"MS file {path} has more than one band {which!r}: {numbers}", "give the number")
    if not found:
        near = difflib.get_close_matches(which, [b.name for b in bands], n=1)
        raise InputError(
            f"MS file {path} has no band {which!r} for {role}: it has {names}",
            f"did you mean {near[0]!r}?" if near else "or give its number, from 1",
        )
    return found[0]


def match_bands(
    wanted: Sequence[str], bands: Sequence[FileBand], given: GivenBands | None, path: str
) -> tuple[BandChoice, ...]:
    """The file's band for each band that is wanted, in that order; see the module's note.

    Parameters
    ----------
    wanted:
        A model's band names.
    bands:
        All bands of the file, alpha included.
    given:
        The user's choice, for some or all of the wanted bands.
    path:
        The file's path, for messages.

    Raises
    ------
    InputError
        ``given`` names a band that the file lacks, or one band twice.
    UnmatchedBands
        The file does not have exactly one band for each wanted band.
    """
    keys = _keys(wanted)
    chosen: dict[str, BandChoice] = {}
    if given:
        said = given_bands(given, bands, path)
        for role, choice in zip(roles_of([c.role for c in said]), said, strict=True):
            key = role if role in keys else choice.role.casefold()
            if key not in keys:
                raise UnmatchedBands(
                    f"it has no band {choice.role!r}, it takes {', '.join(wanted)}", "name these in --bands"
                )
            if key in chosen:
                raise UnmatchedBands(f"--bands names {chosen[key].role} twice", "name each band once")
            chosen[key] = choice
    taken = {c.number for c in chosen.values()}
    free = [b for b in bands if not b.alpha and b.number not in taken]
    roles = dict(zip([b.number for b in free], roles_of([b.name for b in free]), strict=True))
    for key, name in zip(keys, wanted, strict=True):
        if key in chosen:
            continue
        same = [b for b in free if b.name.casefold() == name.casefold()]
        same = same or [b for b in free if roles[b.number] == key]
        if len(same) > 1:
            numbers = " and ".join(str(b.number) for b in same)
            raise UnmatchedBands(
                f"it needs one band {name}, {path} has several: {numbers}", f"say which: --bands {name}=…"
            )
        if same:
            chosen[key] = BandChoice(name, same[0].number, same[0].name, "name")
    left = [(k, n) for k, n in zip(keys, wanted, strict=True) if k not in chosen]
    taken = {c.number for c in chosen.values()}
    rest = [b for b in free if b.number not in taken]
    known = {role for role, _ in _WORDS}
    contradicts = any(
        roles[b.number] is not None and key.rstrip("_0123456789") in known
        for (key, _), b in zip(left, rest, strict=False)
    )
    # A user who names one nameless band has reason to doubt the order, so two or more may not go by place.
    guess = bool(given) and len(left) > 1
    if left and (len(left) != len(rest) or contradicts or guess):
        raise _unmatched(wanted, [n for _, n in left], bands, path)
    for (key, name), b in zip(left, rest, strict=True) if left else ():
        chosen[key] = BandChoice(name, b.number, b.name, "place")
    return tuple(
        BandChoice(name, c.number, c.name, c.how)
        for name, c in ((n, chosen[k]) for k, n in zip(keys, wanted, strict=True))
    )


def _keys(names: Sequence[str]) -> list[str]:
    """The role of each name; the name itself if it has no role or shares one."""
    roles = roles_of(names)
    return [
        r if r is not None and roles.count(r) == 1 else n.casefold()
        for r, n in zip(roles, names, strict=True)
    ]


def _unmatched(
    wanted: Sequence[str], missing: Sequence[str], bands: Sequence[FileBand], path: str
) -> UnmatchedBands:
    images = [b for b in bands if not b.alpha]
    alpha = [b for b in bands if b.alpha]
    has = ", ".join(f"{b.number} {b.name}" for b in images)
    beside = f" beside an alpha band ({alpha[0].number})" if alpha else ""
    if len(images) == len(wanted):
        what = f"it needs a band {' and '.join(missing)}, {path} has {has}"
    else:
        what = (
            f"it needs {len(wanted)} MS bands ({', '.join(wanted)}), {path} has {len(images)} ({has}){beside}"
        )
    if len(images) == 1 and len(wanted) > 1:
        files = " ".join(f"{name}.tif" for name in wanted)
        return UnmatchedBands(
            what,
            f"stack the bands first, gdalbuildvrt -separate ms.vrt {files}, or give the product's folder in "
            "place of MS and PAN",
        )
    if len(bands) < len(wanted):
        return UnmatchedBands(what, "use a model for fewer bands, or an image that has them")
    example = ",".join(f"{name}={n}" for n, name in enumerate(wanted, start=1))
    return UnmatchedBands(what, f"say which band is which by number or name, e.g. --bands {example}")
