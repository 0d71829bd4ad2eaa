"""The inputs of a training: the open scenes, their labelled pixels, the network's sizes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import ValidationError

from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import InputError, LabelError
from das2f_map.labels.features import names_alike
from das2f_map.labels.files import check_labels
from das2f_map.labels.labelled_pixels import LabelTable, blocks_of_labels, limit_blocks, read_labels
from das2f_map.network import NetworkConfig
from das2f_map.progress import Progress
from das2f_map.scene.bands import given_bands, roles_of
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import Normalisation, SceneSample, sample_scene
from das2f_map.scene.registration import Coregistration
from das2f_map.training import scene_pixels
from das2f_map.training.dataset import BLOCK, PatchReader
from das2f_map.training.decided import decided, say_idle, why_not_taught
from das2f_map.training.hardware import Hardware
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.request import SceneRequest, TrainRequest
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.training.settings import (
    FRESH,
    TrainingSettings,
)

log = logging.getLogger(__name__)

MAX_BLOCKS = 4000
"""Blocks of the scenes to cut patches from, about half a megabyte each."""

LEAST_PIXELS = 5
"""Labelled pixels below which a class is left out: so few show no class, only a place."""

STATISTICS_PIXELS = 500_000
"""Pixels of all scenes that the normalisation is measured on."""


@dataclass(frozen=True, eq=False)
class OpenScene:
    """A labelled scene with its files open.

    Attributes
    ----------
    request:
        The scene as the user asks for it.
    coregistration:
        The shift that was found, and its treatment.
    """

    request: SceneRequest
    coregistration: Coregistration

    @property
    def pair(self) -> ScenePair:
        """The images, shift corrected."""
        return self.coregistration.pair


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that a training needs, decided and open.

    Attributes
    ----------
    scenes:
        The scenes, with open files.
    pixels:
        The labelled pixels of all scenes; the blocks around them are loaded.
    left_out:
        Pixels by name of classes that have too few to learn from.
    config:
        Sizes of the network.
    settings:
        The user's settings, with ``steps`` and ``distillation`` always numbers, and nothing ``auto``.
    hardware:
        Where to train.
    """

    scenes: tuple[OpenScene, ...]
    pixels: TrainingPixels
    left_out: dict[str, int]
    config: NetworkConfig
    settings: TrainingSettings
    hardware: Hardware

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The scenes as the network sees them."""
        return tuple(reader.source for reader in self.pixels.readers)

    @property
    def normalisation(self) -> Normalisation:
        """The statistics that all scenes are normalised with."""
        return self.inputs[0].normalisation

    @cached_property
    def scene_pixels(self) -> ScenePixels:
        """Pixels all over the scenes, labelled or not: every third of :meth:`ScenePixels.sampled`."""
        found = ScenePixels.sampled(self.pixels.readers, self.settings.seed)
        return found.select(np.arange(0, len(found), 3))

    @cached_property
    def scattered_pixels(self) -> ScenePixels:
        """Single pixels all over the scenes, labelled or not, about half :data:`.SAMPLED`."""
        most = scene_pixels.SAMPLED // 2
        return ScenePixels.sampled(self.pixels.readers, self.settings.seed, most=most, cluster=1)

    @property
    def _bands(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of every band: other images have others."""
        bands = (*self.normalisation.ms_bands, self.normalisation.pan_band)
        return [(b.mean, b.std) for b in bands]

    @property
    def patch(self) -> PatchGeometry:
        """Geometry of the patches."""
        return self.inputs[0].patch

    @property
    def reach(self) -> int:
        """MS pixels at which two targets' patches share no pixel of the files, in any of the scenes."""
        return max(reader.reach for reader in self.pixels.readers)

    def note(self, start: ModelBundle | None = None) -> dict[str, Any]:
        """Network, settings, start, labels and legend; a resumed training must have the same."""
        reports = [scene.pair.report() for scene in self.scenes]
        return {
            "network": self.config.model_dump(),
            "settings": {
                **self.settings.recorded(),
                "bands": [[b.number for b in scene.pair.bands] for scene in self.scenes],
                "started_from": FRESH if start is None else start.card.name,
                "nodata": [scene.request.pair.nodata for scene in self.scenes],
                "mask": [r.mask and r.mask.model_dump(mode="json") for r in reports],
                "shift_corrected": [
                    r.shift_corrected and r.shift_corrected.model_dump(mode="json") for r in reports
                ],
            },
            "contents": {
                "the labelled pixels": _digest(
                    self.pixels.scene, self.pixels.rows, self.pixels.cols, self.pixels.positions
                ),
                "the images": _digest(*(statistic for b in self._bands for statistic in b)),
                "the weights to start from": (
                    "" if start is None else _digest(*(t.numpy() for t in start.state_dict.values()))
                ),
            },
            "labels": {
                "pixels": self.pixels.counts(),
                "scenes": np.bincount(self.pixels.scene, minlength=len(self.scenes)).tolist(),
            },
            "legend": self.pixels.legend.model_dump(mode="json"),
        }


def _digest(*values: Any) -> str:
    """A short checksum of some arrays or numbers."""
    sha = hashlib.sha256()
    for value in values:
        sha.update(np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()[:16]


@contextmanager
def prepare(request: TrainRequest, hardware: Hardware, progress: Progress) -> Iterator[Prepared]:
    """Read scenes and labels and size the network; files stay open inside the ``with`` block.

    Raises
    ------
    InputError, LabelError
        Images, labels or settings cannot be used.
    MissingDependencyError
        The settings want other classifiers' opinions, and scikit-learn is not installed.
    """
    patch = PatchGeometry()
    _require_scenes_to_hold_out(request)
    if request.settings.distillation and (reason := why_not_taught(request.settings)) is not None:
        raise reason
    with ExitStack() as stack:
        for scene in request.scenes:
            check_labels(scene.labels.path, layer=scene.labels.layer)
        # All files are there before the first shift is measured.
        opened = [stack.enter_context(scene.pair.open()) for scene in request.scenes]
        scenes = tuple(_aligned(*both) for both in zip(request.scenes, opened, strict=True))
        _require_same_bands(scenes)
        normalisation = _common_statistics([scene.pair for scene in scenes])
        readers = [
            stack.enter_context(PatchReader(ModelInput(scene.pair, normalisation, patch))) for scene in scenes
        ]
        seed = request.settings.seed
        read = [_labels_of(scene, progress) for scene in scenes]
        quotas = shared_out([blocks_of_labels(table, BLOCK) for table in read], MAX_BLOCKS)
        tables = [
            _usable_labels(limit_blocks(table, BLOCK, quota, seed), reader, progress)
            for table, quota, reader in zip(read, quotas, readers, strict=True)
        ]
        _require_skipped_classes(tables, scenes)
        pixels, left_out = _learnable(
            TrainingPixels.of(readers, tables), [s.request.labels.path for s in scenes]
        )
        for group in names_alike(pixels.legend.names):
            log.warning(
                "%s are different classes: if they mean the same, give them one name in the labels",
                " and ".join(map(repr, group)),
            )
        log.info("Labelled pixels: %s", ", ".join(f"{n} {k:,}" for n, k in pixels.counts().items()))
        settings = decided(request.settings, len(pixels), on_cpu=hardware.on_cpu)
        say_idle(request.settings, settings)
        config = _network_config(
            {
                "classes": len(pixels.legend),
                "stages": settings.stages,
                "ms_bands": len(scenes[0].pair.bands),
                "patch_size": patch.size,
                **request.network,
            }
        )
        yield Prepared(scenes, pixels, left_out, config, settings, hardware)


def _require_scenes_to_hold_out(request: TrainRequest) -> None:
    """Raise :class:`InputError` where scenes shall be held out and that is not possible."""
    settings = request.settings
    if settings.fold_by != "scene":
        return
    if len(request.scenes) < 2:
        raise InputError(
            "Whole scenes can be held out of a training on several scenes; this one has one",
            "leave out --fold-by, or name more scenes with --scene",
        )
    if settings.assess == "holdout":
        raise InputError("A hold-out is cut from the ground of each scene", "--assess folds holds out scenes")


def _aligned(scene: SceneRequest, opened: ScenePair) -> OpenScene:
    used = opened
    if (bands := scene.pair.given_bands) is not None:
        used = opened.with_bands(given_bands(bands, opened.file_bands, opened.ms_path))
    coregistration = scene.pair.coregister(used)
    coregistration.log()
    log.info("MS bands: %s", ", ".join(map(str, coregistration.pair.bands)))
    return OpenScene(scene, coregistration)


def _require_same_bands(scenes: Sequence[OpenScene]) -> None:
    """Raise :class:`InputError` unless all scenes have as many bands, in one order by their names.

    A name that says nothing, such as ``band_1``, agrees with any other; a line then says so.
    """
    first = scenes[0]
    names = [b.name for b in first.pair.bands]
    for other in scenes[1:]:
        found = [b.name for b in other.pair.bands]
        if len(found) != len(names):
            raise InputError(
                f"{other.request.pair.ms} has {len(found)} MS bands, "
                f"{first.request.pair.ms} has {len(names)}",
                "choose the same bands of all scenes with --bands",
            )
        if found == names:
            continue
        elsewhere = any(name in names for name, own in zip(found, names, strict=True) if name != own)
        if elsewhere or _other_light(found, names):
            if set(found) == set(names):
                by_name = ",".join(f"{name}={name}" for name in names)
                how = "the same ones in another order"
                hint = f"name the bands of all scenes by their names in the files: --bands {by_name}"
            else:
                how, hint = "others", "choose bands that all scenes have with --bands"
            raise InputError(
                f"{other.request.pair.ms} has the bands {', '.join(found)}, {first.request.pair.ms} has "
                f"{', '.join(names)}: {how}",
                hint,
            )
        taken = ", ".join(f"{name} as {own}" for name, own in zip(found, names, strict=True) if name != own)
        log.info("Bands of %s are taken in their order: %s", other.request.pair.ms, taken)


def _other_light(found: Sequence[str], names: Sequence[str]) -> bool:
    """Whether two bands of the same place are known to measure different light."""
    pairs = zip(roles_of(found), roles_of(names), strict=True)
    return any(one != other for one, other in pairs if one is not None and other is not None)


def _common_statistics(pairs: Sequence[ScenePair]) -> Normalisation:
    """Statistics over all scenes, each of which counts for as many pixels as it gives."""
    samples = [sample_scene(pair, max_pixels=STATISTICS_PIXELS // len(pairs)) for pair in pairs]
    ms = np.concatenate([s.ms for s in samples], axis=1)
    pan = np.concatenate([s.pan for s in samples])
    return SceneSample(samples[0].names, ms, pan).statistics()


def _require_skipped_classes(tables: Sequence[LabelTable], scenes: Sequence[OpenScene]) -> None:
    """Raise :class:`LabelError` where a class that is to be skipped is in none of the label files."""
    unknown = set.intersection(*(set(table.absent) for table in tables))
    if unknown:
        files = ", ".join(scene.request.labels.path for scene in scenes)
        names = dict.fromkeys(name for table in tables for name in table.legend.names)
        have, missing = "have" if len(scenes) > 1 else "has", ", ".join(map(repr, sorted(unknown)))
        raise LabelError(
            f"{files} {have} no class {missing} to skip",
            f"the classes are {', '.join(names)}",
        )


def shared_out(wanted: Sequence[int], most: int) -> list[int]:
    """Numbers up to the wanted ones, ``most`` in all at most; who wants little leaves more to others."""
    left, given = most, [0] * len(wanted)
    for place, k in enumerate(sorted(range(len(wanted)), key=lambda k: wanted[k])):
        given[k] = min(wanted[k], left // (len(wanted) - place))
        left -= given[k]
    return given


def _labels_of(scene: OpenScene, progress: Progress) -> LabelTable:
    labels = scene.request.labels
    return read_labels(
        labels.path,
        scene.pair.grids.ms,
        class_field=labels.class_field,
        layer=labels.layer,
        skip_classes=labels.skip_classes,
        progress=progress,
    )


def _usable_labels(table: LabelTable, reader: PatchReader, progress: Progress) -> LabelTable:
    """Labels on pixels that both sensors see; their blocks are loaded."""
    valid = reader.load(table.rows, table.cols, progress)
    if not valid.all():
        log.warning("%d labelled pixels left out: no valid data there", int((~valid).sum()))
        table = table.select(valid)
    return table


def _learnable(pixels: TrainingPixels, files: Sequence[str]) -> tuple[TrainingPixels, dict[str, int]]:
    """The pixels of classes that have enough of them, and the pixels of the others by name."""
    counts = pixels.counts()
    left_out = {name: k for name, k in counts.items() if k < LEAST_PIXELS}
    if len(counts) - len(left_out) < 2:
        enough = ", ".join(repr(n) for n in counts if n not in left_out) or "no class"
        raise LabelError(
            f"{', '.join(files)}: a classifier needs two classes of at least {LEAST_PIXELS} labelled pixels "
            f"in the scene; there is {enough}"
            + "".join(f", and {name!r} with {k}" for name, k in left_out.items()),
            "label more, or merge classes",
        )
    if not left_out:
        return pixels, {}
    log.warning(
        "Left out, with fewer than %d labelled pixels: %s",
        LEAST_PIXELS,
        ", ".join(f"{n} ({k})" for n, k in left_out.items()),
    )
    return pixels.without(left_out), left_out


def _network_config(sizes: dict[str, Any]) -> NetworkConfig:
    try:
        return NetworkConfig(**sizes)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "network"
        raise InputError(f"Training cannot run with {name} {first.get('input')!r}: {first['msg']}") from error
