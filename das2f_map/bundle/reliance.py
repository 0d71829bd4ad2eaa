"""Warnings of maps that should not be relied on: the card's verdict, and class shares far from the training.

Both are about the model's answers. :mod:`das2f_map.bundle.fit` is about the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from das2f_map.bundle.card import NOT_ASSESSED, Calibration, ClassShares, ModelCard

LEAST_PIXELS: Final = 10_000
"""Pixels of a map whose shares are compared.

A smaller map shows one place, such as a lake or a village, whose shares rightly differ from any whole scene.
"""

LARGE_PIXELS: Final = 100_000
"""Pixels from which a map should have all the common classes of the training."""

NOTED: Final = 0.10
"""A class with less of both the map and the training is not compared: small shares vary by chance."""

GROWN: Final = 3.0
"""A share is far from the training if it is more than so many times as large."""

GROWN_IN_PART: Final = 10.0
"""The same for a map of a small part of a scene: a town may have five times the scene's share of houses."""

SHRUNK: Final = 5.0
"""A share is far from the training if it is less than the training's divided by this."""

FAR_OFF: Final = 0.10
"""Calibration error, 0..1, from which probabilities are not what they say."""


def model_cautions(card: ModelCard, reject: float | None = None) -> tuple[str, ...]:
    """Sentences about a model that a user should know before a map is made; often none.

    Parameters
    ----------
    card:
        The model's.
    reject:
        Lowest probability that a pixel's class needs; ``None`` for any.
    """
    found = []
    if card.verdict is not None and not card.verdict.usable:
        found.append(f"model {card.name} is not fit for use: {card.verdict.text}")
    elif card.verdict is not None and not card.verdict.assessed:
        why = card.verdict.text.removeprefix(f"{NOT_ASSESSED}: ")
        found.append(f"the accuracy of model {card.name} is not known: {why}")
    if reject is not None and (fault := _fault_of(card.calibration)) is not None:
        found.append(
            f"the probabilities of model {card.name} are {fault}: a class with {reject:g} or more may be "
            "right more or less often than that"
        )
    if reject is not None and reject * len(card.legend) <= 1:
        found.append(
            f"no pixel is rejected at {reject:g}: the best of {len(card.legend)} classes always has more"
        )
    return tuple(found)


def _fault_of(calibration: Calibration | None) -> str | None:
    """What is wrong with probabilities, in words; ``None`` if they may be believed."""
    if calibration is None:
        return "not calibrated"
    if calibration.error_after > FAR_OFF:
        return f"off by {100 * calibration.error_after:.0f} points on held-out ground"
    return None


def share_warnings(
    seen: ClassShares | None,
    pixels: Mapping[str, int],
    of: str = "the map",
    *,
    stands_for: int = 1,
    part: bool = False,
) -> tuple[str, ...]:
    """A sentence for each class whose share of a map is far from the share that the training saw.

    The share is compared with the one in the scenes of the training as the model maps them, or with the one
    in the labels where the card has none of the scenes. If it is not far from that, it is compared with the
    share that a random forest gave the class in the scenes. It is far if

    - the class has at least 10 % of the map, and over three times its share in the training; over ten times
      in a map of a part of a scene that has fewer than :data:`LARGE_PIXELS` pixels: it may show a town; or
    - the class had at least 10 % in the training, less than a fifth of that is left, and the map has at least
      so many. A smaller map may well lack a class.

    Maps of fewer than :data:`LEAST_PIXELS` classified pixels are not compared.

    Parameters
    ----------
    seen:
        From the model's card; without them there is nothing to compare.
    pixels:
        Pixels of the map by the name of each class that the model has.
    of:
        The pixels that are counted, in words.
    stands_for:
        Pixels of the scene that each of them stands for; more than 1 in a draft.
    part:
        The map shows less than half of a scene.
    """
    total = sum(pixels.values())
    if seen is None or total * stands_for < LEAST_PIXELS:
        return ()
    large = total * stands_for >= LARGE_PIXELS
    grown = GROWN_IN_PART if part and not large else GROWN
    known = [(seen.scenes, "the training scenes") if seen.scenes else (seen.labels, "the training labels")]
    if seen.forest:
        known.append((seen.forest, "a random forest's map of the training scenes"))
    found = []
    for name, count in pixels.items():
        share = count / total
        for shares, where in known:
            expected = shares.get(name, 0.0)
            if _far(share, expected, large, grown):
                found.append(
                    f"{name} takes {_percent(share)} of {of}; {where} had {_percent(expected)}: "
                    "check the map before use"
                )
                break
    return tuple(found)


def share_doubts(seen: ClassShares) -> tuple[str, ...]:
    """A clause for each class whose share of the training scenes is far from the share in a forest's map.

    The network and the forest have learnt from the same labels and map the same pixels; at most one of them
    is right. Without a forest there is nothing to compare.
    """
    if not seen.forest:
        return ()
    return tuple(
        f"look at {name}: {_percent(share)} of the scenes, {_percent(seen.forest.get(name, 0.0))} in a "
        "random forest's map"
        for name, share in seen.scenes.items()
        if _far(share, seen.forest.get(name, 0.0), large=True)
    )


def _far(share: float, seen: float, large: bool, grown: float = GROWN) -> bool:
    return (share >= NOTED and share > grown * seen) or (large and seen >= NOTED and SHRUNK * share < seen)


def _percent(share: float) -> str:
    """In whole percent; small shares with one digit, so that 0 % is none."""
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else f"{100 * share:.1g} %"
