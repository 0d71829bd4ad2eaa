"""How a reference sample is to be drawn, as a user asks for it.

The command line reads its options here, so nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from das2f_map.errors import InputError
from das2f_map.settings import check_settings, setting

EXPECTED_ACCURACY = 0.8
"""User's accuracy that is expected of a class where the user says nothing."""


@dataclass(frozen=True)
class SampleSettings:
    """The request for a sample.

    Attributes
    ----------
    expected:
        User's accuracy 0..1 that is expected, by class name; the key ``""`` is for all other classes. It
        decides about the size for a ``precision`` and about the optimal allocation.
    target:
        Classes whose areas the optimal allocation is for; none for the overall accuracy.

    Raises
    ------
    InputError
        A value is out of range, or settings contradict each other.
    """

    design: str = setting(
        "stratified",
        choices=("simple", "stratified", "cluster"),
        help="stratified by the map's classes, simple (random points), or cluster (points in random blocks).",
    )
    points: int | None = setting(None, kind=int, ge=2, help="Number of points.")
    precision: float | None = setting(
        None,
        kind=float,
        gt=0,
        lt=0.5,
        help="Instead of a number: half of the 95 % interval that the overall accuracy should have, 0.02.",
    )
    allocation: str = setting(
        "proportional",
        choices=("equal", "proportional", "optimal"),
        help="Points of each class: equal, proportional to its pixels, or optimal (least variance).",
    )
    min_per_stratum: int | None = setting(
        None,
        kind=int,
        ge=1,
        help="Points of each class at least; by default as many as half of the sample allows, up to 50.",
    )
    block_size: int = setting(
        50, ge=2, le=100_000, help="Rows and columns of a block of the cluster design, in pixels."
    )
    per_block: int = setting(10, ge=1, le=10_000, help="Points in each block of the cluster design.")
    block_selection: str = setting(
        "proportional",
        choices=("equal", "proportional"),
        help="Chance of a block: proportional to its pixels with a class, or equal.",
    )
    min_distance: float | None = setting(
        None, kind=float, gt=0, help="Metres between points; makes the chances of pixels approximate."
    )
    seed: int = setting(0, ge=0, help="The same seed draws the same points.")
    expected: Mapping[str, float] = field(default_factory=dict)
    target: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self, "No sample can be drawn with")
        if self.points is not None and self.precision is not None:
            raise InputError(
                "A number of points and a precision cannot both be given", "leave out --points or --precision"
            )
        if self.design == "cluster" and self.precision is not None:
            raise InputError(
                "The points for a precision are not known for a cluster design: they depend on how alike the "
                "pixels of a block are",
                "give --points; 30 blocks or more are advisable",
            )
        if self.design == "cluster" and self.min_distance is not None:
            raise InputError("A cluster design has no minimum distance", "leave out --min-distance")
        if self.target and (self.design, self.allocation) != ("stratified", "optimal"):
            raise InputError(
                "Target classes need the optimal allocation of a stratified sample",
                "add --allocation optimal",
            )
        for name, share in self.expected.items():
            if not 0 < share < 1:
                raise InputError(
                    f"The expected accuracy of {name or 'all classes'}, {share:g}, is not between 0 and 1",
                    "write 0.85 for 85 %",
                )

    def expected_of(self, names: Mapping[int, str]) -> dict[int, float]:
        """Expected user's accuracy by class id.

        Raises
        ------
        InputError
            An accuracy is expected of a class that the map does not have.
        """
        if strangers := sorted({*self.expected} - {*names.values(), ""}):
            raise InputError(
                f"the map has no class {strangers[0]!r}", f"its classes are {', '.join(names.values())}"
            )
        others = self.expected.get("", EXPECTED_ACCURACY)
        return {i: self.expected.get(name, others) for i, name in names.items()}


def parse_expected(text: str) -> dict[str, float]:
    """Accuracies from a text such as ``0.85`` or ``water=0.95,built_up=0.7,0.85``.

    Raises
    ------
    ValueError
        The text is no list of numbers and classes with numbers.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            raise ValueError(f"{part!r} is no accuracy such as 0.85 or water=0.95") from None
        if name.strip() in found:
            raise ValueError(f"two accuracies are given for {name.strip() or 'all classes'}")
        found[name.strip()] = share
    return found
