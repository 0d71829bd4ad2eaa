"""How well a model fits a scene, and the choice of the bundled model that fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.catalogue import bundled_models, find_model
from das2f_map.bundle.files import load_bundle, read_card
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import InputError, ModelError
from das2f_map.scene.bands import GivenBands, UnmatchedBands, match_bands
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.radiometry import BandStatistics, Normalisation, SceneSample, sample_scene

log = logging.getLogger(__name__)

Radiometry = Literal["model", "scene"]
"""Source of the statistics that values are normalised with: the model's card or the scene."""

# A model is unsuitable if the scene's mean lies further outside the card's 1st to 99th percentile than
# _MEAN_MARGIN times their distance, or if the standard deviations differ by more than _CONTRAST_FACTOR.
_MEAN_MARGIN = 0.25
_CONTRAST_FACTOR = 4.0

OUTSIDE_MARGIN = 0.1
"""Values this far beyond the card's 1st and 99th percentile still count as known; unit: their distance."""

OUTSIDE_WARNED, OUTSIDE_REFUSED = 0.1, 0.5
"""Shares of a band's values that lie further outside. Above the first the user is warned, above the second
the model counts as unsuitable. By definition the model's own training scene has at most 0.02."""


@dataclass(frozen=True)
class SceneTraits:
    """Properties of a scene that are compared with a model's card.

    ``statistics`` has the MS bands in the order of the card. Without ``sample`` only means and spreads are
    compared.
    """

    ms_gsd_m: float
    ratio: float
    statistics: Normalisation
    sample: SceneSample | None = None


class SceneViews:
    """Views of a pair for several models, each with the model's own choice and order of bands.

    Parameters
    ----------
    pair:
        The pair with all its bands.
    bands:
        The bands that the user names; see :mod:`das2f_map.scene.bands`.
    sample:
        Function that samples a pair's values, to compare them with a card.
    """

    def __init__(
        self,
        pair: ScenePair,
        bands: GivenBands | None = None,
        *,
        sample: Callable[[ScenePair], SceneSample] = sample_scene,
    ) -> None:
        self.pair = pair
        self._sample = sample
        self._given = bands
        self._traits: dict[tuple[int, ...], SceneTraits] = {}

    def pair_for(self, card: ModelCard) -> ScenePair:
        """The pair with the bands of a model, in its order. Raises ``UnmatchedBands`` or ``InputError``."""
        wanted = [b.name for b in card.ms_bands]
        return self.pair.with_bands(match_bands(wanted, self.pair.file_bands, self._given, self.pair.ms_path))

    def pair_for_model(self, card: ModelCard) -> ScenePair:
        """As :meth:`pair_for`, for a model that is to be used: raises ``ModelError`` or ``InputError``."""
        try:
            return self.pair_for(card)
        except UnmatchedBands as error:
            raise ModelError(f"model {card.name!r} does not fit: {error.message}", error.hint) from error

    def traits_for(self, card: ModelCard) -> SceneTraits:
        """The scene's traits for a card; a sample of the scene is read once for each choice of bands."""
        pair = self.pair_for(card)
        key = tuple(b.number for b in pair.bands)
        if key not in self._traits:
            sample = self._sample(pair)
            self._traits[key] = SceneTraits(pair.ms_gsd_m, pair.ratio, sample.statistics(), sample)
        return self._traits[key]


@dataclass(frozen=True)
class FittedModel:
    """A model, and the scene prepared as its input.

    Attributes
    ----------
    bundle:
        The model as loaded.
    input:
        The pair with the model's bands, and the statistics to normalise it with.
    warnings:
        Sentences on how the scene differs from the scenes that the model is meant for.
    """

    bundle: ModelBundle
    input: ModelInput
    warnings: tuple[str, ...]


class ModelFit(BaseModel):
    """The result of comparing a model's card with a scene."""

    model_config = ConfigDict(extra="forbid")

    name: str
    fits: bool
    fits_rescaled: bool = Field(description="whether it would fit with `--radiometry scene`")
    reasons: list[str] = Field(description="why it does not fit")
    cautions: list[str] = Field(description="what to know though it fits")
    bands: dict[str, int] | None = Field(description="band name → number in the MS file")


def every_fit(views: SceneViews, own: ModelBundle | None = None) -> list[ModelFit]:
    """The fit of every model to a scene: the given model first, then the bundled ones.

    Raises :class:`~das2f_map.errors.InputError` if the user names bands that are not there.
    """
    return [_fit(views, name, card) for name, card in _cards(own).items()]


def _cards(own: ModelBundle | None) -> dict[str, ModelCard]:
    """Cards by name; a given model replaces a bundled one of the same name."""
    given = {} if own is None else {own.card.name: own.card}
    return given | {name: read_card(p) for name, p in bundled_models().items() if name not in given}


def _fit(views: SceneViews, name: str, card: ModelCard) -> ModelFit:
    try:
        pair = views.pair_for(card)
    except UnmatchedBands as error:
        said = f"{error.message}: {error.hint}" if error.hint else error.message
        return ModelFit(name=name, fits=False, fits_rescaled=False, reasons=[said], cautions=[], bands=None)
    try:
        traits = views.traits_for(card)
        reasons, known = misfits(card, traits), cautions(card, traits)
        rescaled = not misfits(card, traits, "scene")
    except InputError as error:  # the scene has no valid pixel
        reasons, known, rescaled = [error.message], [], False
    return ModelFit(
        name=name,
        fits=not reasons,
        fits_rescaled=rescaled,
        reasons=reasons,
        cautions=known,
        bands={b.role: b.number for b in pair.bands},
    )


def model_to_try(
    views: SceneViews, fits: Sequence[ModelFit], own: ModelBundle | None = None
) -> ModelBundle | None:
    """The model for a trial run: the given one, else one that fits, else any whose bands the scene has.

    ``None`` if the scene has the bands of no model. ``fits`` comes from :func:`every_fit`.
    """
    if own is not None:
        return own if fits[0].bands is not None else None
    try:
        return load_bundle(choose_model(views))
    except (ModelError, InputError):
        usable = [f.name for f in fits if f.bands is not None]
        return load_bundle(bundled_models()[usable[0]]) if usable else None


def bands_to_name(
    pair: ScenePair, fits: Sequence[ModelFit], own: ModelBundle | None = None
) -> list[str] | None:
    """Band names of a model that the user must assign by hand; ``None`` if there is no need or no way.

    They are returned if no model finds its bands by name, and the file has at least as many bands.
    """
    if any(f.bands is not None for f in fits):
        return None
    images = sum(not b.alpha for b in pair.file_bands)
    cards = [own.card] if own is not None else list(_cards(None).values())
    return next(([b.name for b in c.ms_bands] for c in cards if len(c.ms_bands) <= images), None)


def choose_bundle(
    views: SceneViews,
    model: str | Path | ModelBundle | None,
    radiometry: Radiometry = "model",
    *,
    load: Callable[[Path], ModelBundle] = load_bundle,
) -> ModelBundle:
    """The loaded model for a scene: the one that is named, else the bundled one that fits.

    ``load`` reads a bundle.

    Raises
    ------
    ModelError
        There is no such model, or none fits.
    InputError
        A model has to be chosen, and the scene has no valid pixel.
    """
    if model is not None:
        return model if isinstance(model, ModelBundle) else load(find_model(model))
    bundle = load(choose_model(views, radiometry))
    log.info("model %s chosen: its card fits the scene", bundle.card.name)
    return bundle


def fit_model(views: SceneViews, bundle: ModelBundle, radiometry: Radiometry = "model") -> FittedModel:
    """A model with a scene prepared as its input, and warnings where the two do not fit.

    Raises
    ------
    ModelError
        The scene does not have the model's bands.
    InputError
        The user names bands that are not there, or the scene has no valid pixel.
    """
    card = bundle.card
    fitted = views.pair_for_model(card)
    if [b.number for b in fitted.bands] != list(range(1, len(fitted.file_bands) + 1)):
        log.info("MS bands: %s", ", ".join(map(str, fitted.bands)))
    traits = views.traits_for(card)
    found = misfits(card, traits, radiometry) + cautions(card, traits, radiometry)
    warnings = [f"model {card.name} is out of its range here: {'; '.join(found)}"] if found else []
    for warning in warnings:
        log.warning("%s", warning)
    own = radiometry == "model"
    normalisation = card.normalisation if own else traits.statistics
    return FittedModel(bundle, ModelInput(fitted, normalisation, card.patch), tuple(warnings))


def misfits(card: ModelCard, scene: SceneTraits, radiometry: Radiometry = "model") -> list[str]:
    """Reasons why a model's card does not fit a scene, a phrase each; empty when it fits.

    If values are normalised with the scene's own statistics, this compares pixel size and ratio, and checks
    that no band is constant; :func:`cautions` compares the values.
    """
    found: list[str] = []
    if card.domain is not None:
        low, high = card.domain.ms_gsd_m
        if not low <= scene.ms_gsd_m <= high:
            found.append(
                f"it is for MS pixels of {low:.3g} to {high:.3g} m, these have {scene.ms_gsd_m:.3g} m"
            )
        low, high = card.domain.ratio
        if not low <= scene.ratio <= high:
            found.append(f"it is for ratios of {low:.3g} to {high:.3g}, the scene's is {scene.ratio:.3g}")
    pairs = list(zip(card.normalisation.bands, scene.statistics.bands, strict=True))
    if radiometry == "scene":
        # A constant band holds no measurement in any unit.
        return found + [_constant(known, seen) for known, seen in pairs if _constant(known, seen)]
    shares = _shares_outside(card, scene)
    for (known, seen), share in zip(pairs, shares, strict=True):
        if phrase := _radiometric_misfit(known, seen):
            found.append(phrase)
        elif share > OUTSIDE_REFUSED:
            found.append(_outside(known, share))
    return found


def cautions(card: ModelCard, scene: SceneTraits, radiometry: Radiometry = "model") -> list[str]:
    """Differences between a scene and a card that do not rule the model out, a phrase each.

    If values are normalised with the scene's own statistics, the normalised values of scene and card are
    compared: they have the same mean and spread, but the shape of the distribution may differ.
    """
    bands, seen = card.normalisation.bands, scene.statistics.bands
    shares = _shares_outside(card, scene, rescaled=radiometry == "scene")
    if radiometry == "scene":
        return [
            f"band {b.name}: normalised, {100 * share:.0f} % of the scene's values are well outside the "
            f"{(b.p01 - b.mean) / b.std:+.2g} to {(b.p99 - b.mean) / b.std:+.2g} it was trained on"
            for b, share in zip(bands, shares, strict=True)
            if share > OUTSIDE_WARNED
        ]
    return [
        _outside(known, share)
        for known, share, s in zip(bands, shares, seen, strict=True)
        if OUTSIDE_WARNED < share <= OUTSIDE_REFUSED and not _radiometric_misfit(known, s)
    ]


def _shares_outside(card: ModelCard, scene: SceneTraits, *, rescaled: bool = False) -> tuple[float, ...]:
    """Share of values well outside the card's percentiles, for each MS band and PAN.

    ``rescaled`` compares normalised values: scene and card, each by its own statistics.
    """
    bands, seen = card.normalisation.bands, scene.statistics.bands
    if scene.sample is None:
        return (0.0,) * len(bands)
    limits = []
    for b, s in zip(bands, seen, strict=True):
        margin = OUTSIDE_MARGIN * (b.p99 - b.p01)
        low, high = b.p01 - margin, b.p99 + margin
        if rescaled:
            low, high = (s.mean + s.std * (end - b.mean) / b.std for end in (low, high))
        limits.append((low, high))
    return scene.sample.shares_outside(limits)


def _outside(known: BandStatistics, share: float) -> str:
    return (
        f"band {known.name}: {100 * share:.0f} % of the scene's values are well outside the "
        f"{known.p01:.5g} to {known.p99:.5g} it was trained on"
    )


def _constant(known: BandStatistics, seen: BandStatistics) -> str:
    """A phrase if the band is constant in the scene but was not in training, else empty."""
    if seen.spread or not known.spread:
        return ""
    return f"band {known.name} has the same value {seen.mean:.5g} everywhere in the scene"


def _radiometric_misfit(known: BandStatistics, seen: BandStatistics) -> str:
    if phrase := _constant(known, seen):
        return phrase
    margin = _MEAN_MARGIN * (known.p99 - known.p01)
    if not known.p01 - margin <= seen.mean <= known.p99 + margin:
        return (
            f"band {known.name}: the scene's mean {seen.mean:.5g} is outside the "
            f"{known.p01:.5g} to {known.p99:.5g} it was trained on"
        )
    if not known.spread:
        # A band that was constant in training has a mean to compare, as above, but no spread.
        return (
            ""
            if not seen.spread
            else f"band {known.name} was the same everywhere in training, and varies here"
        )
    if not 1 / _CONTRAST_FACTOR <= seen.std / known.std <= _CONTRAST_FACTOR:
        return (
            f"band {known.name}: the scene's standard deviation {seen.std:.4g} is far from "
            f"the {known.std:.4g} it was trained on"
        )
    return ""


def choose_model(views: SceneViews, radiometry: Radiometry = "model") -> Path:
    """The bundled model that fits a scene, nearest in ground sample distance if there are several.

    Raises :class:`~das2f_map.errors.ModelError` when none fits; the message gives the reason for each.
    """
    pair = views.pair
    fitting: list[tuple[float, Path]] = []
    refusals: list[str] = []
    hint = (
        f"train one: das2f-map train {' '.join(pair.arguments)} --labels labels.gpkg -o my-model, "
        "or name one with --model to use it all the same"
    )
    for name, path in bundled_models().items():
        card = read_card(path)
        try:
            traits = views.traits_for(card)
            reasons = misfits(card, traits, radiometry)
        except UnmatchedBands as error:
            refusals.append(f"{name}: {error.message}")
            hint = error.hint or hint
            continue
        if reasons:
            refusals.append(f"{name}: {reasons[0]}")
            if radiometry == "model" and not misfits(card, traits, "scene"):
                hint = f"if the values are only in another unit, --radiometry scene fits {name}; or {hint}"
            continue
        low, high = card.domain.ms_gsd_m if card.domain else (pair.ms_gsd_m, pair.ms_gsd_m)
        fitting.append((abs(pair.ms_gsd_m / (low * high) ** 0.5 - 1), path))
    if fitting:
        return min(fitting, key=lambda f: (f[0], f[1].name))[1]
    known = "; ".join(refusals) or "there are none"
    raise ModelError(f"no bundled model fits this scene ({known})", hint)
