"""The inputs of a training: the open scene, the labelled pixels by part, the network's sizes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from das2f_map.errors import InputError
from das2f_map.network import NetworkConfig
from das2f_map.progress import Progress
from das2f_map.scene.bands import given_bands
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import sample_statistics
from das2f_map.scene.registration import Coregistration
from das2f_map.scene.request import PairRequest
from das2f_map.training.dataset import PatchReader
from das2f_map.training.hardware import Hardware
from das2f_map.training.request import TrainRequest
from das2f_map.training.samples import Samples, find_samples
from das2f_map.training.settings import TrainingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that a training needs, decided and open.

    Attributes
    ----------
    request:
        The images as the user asks for them.
    coregistration:
        The shift that was found, and its treatment.
    reader:
        Patches of the scene; the blocks around the samples are loaded.
    samples:
        Labelled pixels by part.
    config:
        Sizes of the network.
    settings:
        The user's settings, with ``samples_per_class`` always a number.
    hardware:
        Where to train.
    """

    request: PairRequest
    coregistration: Coregistration
    reader: PatchReader
    samples: Samples
    config: NetworkConfig
    settings: TrainingSettings
    hardware: Hardware

    @property
    def input(self) -> ModelInput:
        """The scene as the network sees it."""
        return self.reader.source

    def note(self) -> dict[str, Any]:
        """Network, settings, split and legend; a resumed training must have the same."""
        report = self.input.pair.report()
        return {
            "network": self.config.model_dump(),
            "settings": {
                **self.settings.recorded(),
                "bands": [b.number for b in self.input.pair.bands],
                "nodata": self.request.nodata,
                "mask": report.mask and report.mask.model_dump(mode="json"),
                "shift_corrected": report.shift_corrected and report.shift_corrected.model_dump(mode="json"),
            },
            "split": self.samples.split.summary(),
            "legend": self.samples.legend.model_dump(mode="json"),
        }


@contextmanager
def prepare(request: TrainRequest, hardware: Hardware, progress: Progress) -> Iterator[Prepared]:
    """Read scene and labels, split them and size the network; files stay open inside the ``with`` block.

    Raises
    ------
    InputError, LabelError
        Images, labels or settings cannot be used.
    """
    settings, patch = request.settings, PatchGeometry()
    with request.pair.open() as opened:
        used = opened
        if (bands := request.pair.given_bands) is not None:
            used = opened.with_bands(given_bands(bands, opened.file_bands, opened.ms_path))
        coregistration = request.pair.coregister(used)
        coregistration.log()
        pair = coregistration.pair
        log.info("MS bands: %s", ", ".join(map(str, pair.bands)))
        with PatchReader(ModelInput(pair, sample_statistics(pair), patch)) as reader:
            samples = find_samples(
                request.labels, reader, seed=settings.seed, on_cpu=hardware.on_cpu, progress=progress
            )
            if settings.samples_per_class is None:
                per_class = samples.default_per_class(on_cpu=hardware.on_cpu)
                settings = replace(settings, samples_per_class=per_class)
            config = _network_config(
                {
                    "classes": len(samples.legend),
                    "stages": settings.stages,
                    "ms_bands": len(pair.bands),
                    "patch_size": patch.size,
                    **request.network,
                }
            )
            yield Prepared(request.pair, coregistration, reader, samples, config, settings, hardware)


def _network_config(sizes: dict[str, Any]) -> NetworkConfig:
    try:
        return NetworkConfig(**sizes)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "network"
        raise InputError(f"Training cannot run with {name} {first.get('input')!r}: {first['msg']}") from error
