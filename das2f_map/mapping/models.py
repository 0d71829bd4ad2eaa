"""Which model maps which scene: choosing a bundled one, and judging a chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from das2f_map.errors import ModelError
from das2f_map.model import ModelBundle, ModelCard, bundled_models, find_model, load_bundle, read_card
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.radiometry import BandStatistics

# How far a scene's mean may lie outside the range a model has seen, in that range's width,
# and by which factor its contrast may differ, before the model counts as unsuitable.
_MEAN_MARGIN = 0.25
_CONTRAST_FACTOR = 4.0


@dataclass(frozen=True)
class SceneTraits:
    """What a model's card is held against."""

    ms_gsd_m: float
    ratio: float
    ms_bands: tuple[BandStatistics, ...]
    pan_band: BandStatistics

    @classmethod
    def of(
        cls, pair: ScenePair, ms_bands: tuple[BandStatistics, ...], pan_band: BandStatistics
    ) -> SceneTraits:
        return cls(pair.ms_gsd_m, pair.ratio, ms_bands, pan_band)


def load_model(name_or_path: str | Path) -> ModelBundle:
    """Load a bundled model by name, or any bundle by path.

    Raises :class:`~das2f_map.errors.ModelError` when there is none, or it is damaged.
    """
    return load_bundle(find_model(name_or_path))


def misfits(card: ModelCard, scene: SceneTraits) -> list[str]:
    """Why a model's card does not fit a scene, a phrase each; empty when it fits."""
    if len(card.ms_bands) != len(scene.ms_bands):
        return [f"it needs {len(card.ms_bands)} MS bands, the scene has {len(scene.ms_bands)}"]
    found: list[str] = []
    if phrase := _order_misfit(card, [b.name for b in scene.ms_bands]):
        found.append(phrase)
    if card.domain is not None:
        low, high = card.domain.ms_gsd_m
        if not low <= scene.ms_gsd_m <= high:
            found.append(
                f"it is for MS pixels of {low:.3g} to {high:.3g} m, these have {scene.ms_gsd_m:.3g} m"
            )
        low, high = card.domain.ratio
        if not low <= scene.ratio <= high:
            found.append(f"it is for ratios of {low:.3g} to {high:.3g}, the scene's is {scene.ratio:.3g}")
    for known, seen in zip((*card.ms_bands, card.pan_band), (*scene.ms_bands, scene.pan_band), strict=True):
        if phrase := _radiometric_misfit(known, seen):
            found.append(phrase)
    return found


def _order_misfit(card: ModelCard, names: Sequence[str]) -> str:
    """Said when the file names the model's very bands, in another order. Other names say nothing."""
    wanted = [b.name.casefold() for b in card.ms_bands]
    given = [n.casefold() for n in names]
    if given == wanted or sorted(given) != sorted(wanted):
        return ""
    return f"it takes the bands in the order {', '.join(wanted)}, the file has {', '.join(given)}"


def _radiometric_misfit(known: BandStatistics, seen: BandStatistics) -> str:
    margin = _MEAN_MARGIN * (known.p99 - known.p01)
    if not known.p01 - margin <= seen.mean <= known.p99 + margin:
        return (
            f"band {known.name}: the scene's mean {seen.mean:.5g} is outside the "
            f"{known.p01:.5g} to {known.p99:.5g} it was trained on"
        )
    if not 1 / _CONTRAST_FACTOR <= seen.std / known.std <= _CONTRAST_FACTOR:
        return (
            f"band {known.name}: the scene's standard deviation {seen.std:.4g} is far from "
            f"the {known.std:.4g} it was trained on"
        )
    return ""


def require_bands(card: ModelCard, pair: ScenePair) -> None:
    """Raise :class:`~das2f_map.errors.ModelError` unless the scene has the model's MS bands.

    Their number must be the same, and so must their order where the file names them as the model does.
    """
    needed, given = len(card.ms_bands), pair.ms_band_count
    if needed != given:
        names = ", ".join(b.name for b in card.ms_bands)
        raise ModelError(
            f"model {card.name!r} needs {needed} MS bands ({names}), {pair.ms_path} has {given}",
            "bring the file's bands to that number and order, e.g. with gdal_translate -b",
        )
    if phrase := _order_misfit(card, pair.ms_band_names):
        places = [n.casefold() for n in pair.ms_band_names]
        order = " ".join(f"-b {places.index(b.name.casefold()) + 1}" for b in card.ms_bands)
        raise ModelError(
            f"model {card.name!r} does not fit {pair.ms_path}: {phrase}",
            f"bring them into its order: gdal_translate {order} in.tif out.tif",
        )


def choose_model(scene: SceneTraits, ms: str, pan: str) -> Path:
    """The bundled model that fits a scene, nearest in ground sample distance if there are several.

    Raises :class:`~das2f_map.errors.ModelError` when none fits; the message says why for each.
    """
    fitting: list[tuple[float, Path]] = []
    refusals: list[str] = []
    for name, path in bundled_models().items():
        card = read_card(path)
        if reasons := misfits(card, scene):
            refusals.append(f"{name}: {reasons[0]}")
            continue
        low, high = card.domain.ms_gsd_m if card.domain else (scene.ms_gsd_m, scene.ms_gsd_m)
        fitting.append((abs(scene.ms_gsd_m / (low * high) ** 0.5 - 1), path))
    if fitting:
        return min(fitting, key=lambda f: (f[0], f[1].name))[1]
    known = "; ".join(refusals) or "there are none"
    raise ModelError(
        f"no bundled model fits this scene ({known})",
        f"train one: das2f-map train {ms} {pan} --labels labels.gpkg -o my-model, "
        "or name one with --model to use it all the same",
    )
