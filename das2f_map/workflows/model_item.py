"""Describe a model as a STAC Item: ``das2f-map models show --stac``."""

from __future__ import annotations

from pathlib import Path

from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import bundle_files, load_bundle
from das2f_map.bundle.mlm_item import model_item_text
from das2f_map.bundle.stac_parts import require_pystac
from das2f_map.errors import OutputError
from das2f_map.outputs.staging import StagedOutputs


def write_model_item(name_or_path: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write the STAC Item of a model, by the Machine Learning Model extension; returns its path.

    Parameters
    ----------
    name_or_path:
        Bundled model, or a bundle's path.
    output:
        The Item, a ``.json``. Its paths to the model's files start from its folder.
    overwrite:
        Replace an existing file.

    Raises
    ------
    ModelError
        There is no such model, or it is damaged.
    OutputError
        The Item cannot be written, or exists already.
    MissingDependencyError
        pystac is not installed.
    """
    destination = Path(output)
    if destination.suffix.lower() != ".json":
        raise OutputError(f"output {destination} is no STAC Item", "give it the extension .json")
    require_pystac()
    path = find_model(name_or_path)
    bundle = load_bundle(path)
    with StagedOutputs(inputs=bundle_files(path), overwrite=overwrite) as outputs:
        place = outputs.stage(destination)
        place.write_text(model_item_text(bundle, path, destination), encoding="utf-8")
    return destination
