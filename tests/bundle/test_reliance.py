"""When a map is warned of: the card's verdict, and shares of classes far from those of the training."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_card

from das2f_map.bundle.card import Calibration, ClassShares, ModelCard, Verdict
from das2f_map.bundle.reliance import model_cautions, share_doubts, share_warnings

CALIBRATION = Calibration(temperature=1.5, pixels=10, error_before=0.1, error_after=0.0)


def warned(share: float, seen: float, total: int = 100_000, **which: Any) -> bool:
    """Whether a class is warned of; a second class has the rest and the same share as in training."""
    pixels = {"water": round(share * total), "land": total - round(share * total)}
    known = ClassShares(labels={"water": seen, "land": 1 - share})
    return any(w.startswith("water ") for w in share_warnings(known, pixels, **which))


@pytest.mark.parametrize(
    ("share", "seen", "expected"),
    [
        (0.41, 0.01, True),
        (0.30, 0.10, False),  # three times, not more
        (0.31, 0.10, True),
        (0.10, 0.03, True),
        (0.099, 0.0, False),  # too small to speak of
        (0.10, 0.0, True),
        (0.02, 0.10, False),  # a fifth is left
        (0.019, 0.10, True),
        (0.0, 0.50, True),
        (0.0, 0.099, False),
        (0.5, 0.5, False),
        (1.0, 0.4, False),
    ],
)
def test_far_shares(share: float, seen: float, expected: bool) -> None:
    assert warned(share, seen) == expected


def test_small_maps_are_not_compared() -> None:
    assert warned(0.5, 0.0, total=10_000)
    assert not warned(0.5, 0.0, total=9_998)
    # A class may lack in a window of a scene.
    assert warned(0.0, 0.5, total=100_000)
    assert not warned(0.0, 0.5, total=99_998)
    assert share_warnings(ClassShares(labels={"water": 1.0}), {"water": 0}) == ()


def test_a_part_of_a_scene_may_be_a_town() -> None:
    assert warned(0.18, 0.024, total=20_000)
    assert not warned(0.18, 0.024, total=20_000, part=True)
    assert warned(0.41, 0.01, total=20_000, part=True)
    assert not warned(0.2, 0.02, total=20_000, part=True)  # ten times, not more
    # An area as large as this is a scene of its own.
    assert warned(0.18, 0.024, part=True)


def test_pixels_of_a_draft_stand_for_more() -> None:
    assert not warned(0.5, 0.0, total=2_000)
    assert warned(0.5, 0.0, total=2_000, stands_for=9)
    assert warned(0.0, 0.5, total=12_500, stands_for=9)


def test_scenes_count_before_labels() -> None:
    pixels = {"water": 41_000, "land": 59_000}
    labels = {"water": 0.4, "land": 0.6}
    assert share_warnings(None, pixels) == ()
    assert share_warnings(ClassShares(labels=labels), pixels) == ()
    seen = ClassShares(labels=labels, scenes={"water": 0.01, "land": 0.99})
    assert share_warnings(seen, pixels) == (
        "water takes 41 % of the map; the training scenes had 1 %: check the map before use",
    )
    seen = ClassShares(labels={"water": 0.002, "land": 0.3, "road": 0.7})
    assert share_warnings(seen, {**pixels, "road": 0}, of="its sure pixels") == (
        "water takes 41 % of its sure pixels; the training labels had 0.2 %: check the map before use",
        "road takes 0 % of its sure pixels; the training labels had 70 %: check the map before use",
    )


def test_cautions_about_a_model() -> None:
    def card(**parts: object) -> ModelCard:
        return tiny_card().model_copy(update=parts)

    assert model_cautions(card()) == ()
    assert model_cautions(card(verdict=Verdict(usable=True, text="Fine."))) == ()
    assert model_cautions(
        card(verdict=Verdict(usable=True, text="not assessed: no ground was held out"))
    ) == ("the accuracy of model tiny is not known: no ground was held out",)
    assert model_cautions(card(verdict=Verdict(usable=False, text="Poor."))) == (
        "model tiny is not fit for use: Poor.",
    )
    (only,) = model_cautions(card(), reject=0.8)
    assert "not calibrated" in only
    assert model_cautions(card(calibration=CALIBRATION), reject=0.8) == ()
    far_off = CALIBRATION.model_copy(update={"error_after": 0.22})
    assert model_cautions(card(calibration=far_off)) == ()
    (only,) = model_cautions(card(calibration=far_off), reject=0.8)
    assert "off by 22 points on held-out ground: a class with 0.8 or more" in only
    (only,) = model_cautions(card(calibration=CALIBRATION), reject=0.3)
    assert only.startswith("no pixel is rejected at 0.3: the best of 3 classes")


def test_a_forest_contradicts_the_model() -> None:
    """The model maps its own scene wrongly, so a new map of it is as wrong and no surprise to the model."""
    labels = {"water": 0.2, "forest": 0.5, "soil": 0.3}
    scenes = {"water": 0.41, "forest": 0.5, "soil": 0.09}
    forest = {"water": 0.012, "forest": 0.9, "soil": 0.088}
    pixels = {"water": 41_000, "forest": 50_000, "soil": 9_000}
    assert share_warnings(ClassShares(labels=labels, scenes=scenes), pixels) == ()
    seen = ClassShares(labels=labels, scenes=scenes, forest=forest)
    assert share_warnings(seen, pixels) == (
        "water takes 41 % of the map; a random forest's map of the training scenes had 1 %: "
        "check the map before use",
    )
    assert share_doubts(seen) == ("look at water: 41 % of the scenes, 1 % in a random forest's map",)
    assert share_doubts(ClassShares(labels=labels, scenes=scenes)) == ()
    assert share_doubts(ClassShares(labels=labels, scenes=forest, forest=forest)) == ()
