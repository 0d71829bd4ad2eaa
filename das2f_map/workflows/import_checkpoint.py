"""Turn a checkpoint of the published network into a model bundle: ``das2f-map models import``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from das2f_map._version import __version__
from das2f_map.bundle.card import (
    ModelCard,
    TrainingRecord,
    card_text,
    domain_around,
    require_card_texts,
)
from das2f_map.bundle.files import BundleOutput, load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.published import convert, read_checkpoint
from das2f_map.errors import ModelError
from das2f_map.legend import Legend
from das2f_map.scene.radiometry import sample_statistics
from das2f_map.scene.request import PairRequest


def import_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    ms: str | Path,
    pan: str | Path,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    licence: str = "",
    overwrite: bool = False,
) -> ModelBundle:
    """Make a bundle of a checkpoint with the published state-dict names.

    Parameters
    ----------
    checkpoint:
        A file that ``torch.save`` wrote: the state dict, bare or under a usual key; read with
        ``weights_only=True``, so that nothing in it is executed.
    output:
        Folder, or ``.zip``, to write.
    ms, pan:
        Image pair the network was trained on: the card's statistics and domain come from it.
    classes:
        Class names in the order of the network's outputs; by default ``class 1``, ``class 2``…
    name, licence:
        For the card.
    overwrite:
        Replace an existing bundle.

    Raises
    ------
    ModelError
        The file is no checkpoint, or not one of this network; says which tensors are missing or odd.
    OutputError
        The output exists or cannot be written.
    InputError
        The image pair cannot be used.
    """
    output = Path(output)
    require_card_texts(name=name, licence=licence)
    with BundleOutput(output, overwrite=overwrite) as bundle:
        given = read_checkpoint(checkpoint)
        config, state_dict = convert(given, str(checkpoint))
        names = list(classes) if classes else [f"class {i + 1}" for i in range(config.classes)]
        if len(names) != config.classes:
            raise ModelError(f"{checkpoint} has {config.classes} classes, --classes names {len(names)}")
        with PairRequest.of(ms, pan).open() as pair:
            if pair.ms_band_count != config.ms_bands:
                raise ModelError(
                    f"{checkpoint} is for {config.ms_bands} MS bands, {ms} has {pair.ms_band_count}"
                )
            statistics = sample_statistics(pair)
            domain = domain_around([(pair.ms_gsd_m, pair.ratio)])
        try:
            legend = Legend.from_names(names)
        except ValidationError as error:
            raise ModelError(f"class names do not make a legend: {error.errors()[0]['msg']}") from error
        card = ModelCard(
            name=name or card_text(output.stem),
            description="Imported from a checkpoint of the published DAS²F network.",
            network=config,
            legend=legend,
            ms_bands=statistics.ms_bands,
            pan_band=statistics.pan_band,
            domain=domain,
            training=TrainingRecord(
                data=card_text(f"unknown; statistics from {Path(ms).name} + {Path(pan).name}")
            ),
            software_version=__version__,
            licence=licence,
        )
        bundle.write(card, state_dict)
    return load_bundle(output)
