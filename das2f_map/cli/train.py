"""`das2f-map train`"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from das2f_map.cli.console import print_json, progress_for
from das2f_map.cli.options import (
    BandsOption,
    ClassFieldOption,
    CoregisterOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    MaskBitsOption,
    MaskOption,
    MaskValuesOption,
    MaxShiftOption,
    MsArgument,
    NodataOption,
    OverwriteOption,
    PanArgument,
    bands_of,
    mask_of,
    setting_option,
)
from das2f_map.training.settings import TrainingSettings

if TYPE_CHECKING:
    from das2f_map.workflows.train import TrainingResult

_option = partial(setting_option, TrainingSettings)


def train_command(
    context: typer.Context,
    ms: MsArgument,
    pan: PanArgument,
    labels: Annotated[
        str,
        typer.Option("--labels", metavar="FILE", help="Polygons or points of any format, or a raster."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="MODEL_DIR", help="Folder of the model bundle to make.")
    ],
    class_field: ClassFieldOption = None,
    skip_classes: Annotated[
        list[str] | None,
        typer.Option("--skip-class", metavar="NAME", help="Leave this class out; may be repeated."),
    ] = None,
    bands: BandsOption = None,
    nodata: NodataOption = None,
    mask: MaskOption = None,
    mask_values: MaskValuesOption = None,
    mask_bits: MaskBitsOption = None,
    stages: Annotated[int, _option("stages")] = TrainingSettings.stages,
    epochs: Annotated[int, _option("epochs")] = TrainingSettings.epochs,
    samples_per_class: Annotated[
        int | None, _option("samples_per_class", metavar="N")
    ] = TrainingSettings.samples_per_class,
    batch_size: Annotated[int, _option("batch_size")] = TrainingSettings.batch_size,
    learning_rate: Annotated[float, _option("learning_rate")] = TrainingSettings.learning_rate,
    label_smoothing: Annotated[float, _option("label_smoothing")] = TrainingSettings.label_smoothing,
    device: DeviceOption = TrainingSettings.device,
    devices: Annotated[int, _option("devices")] = TrainingSettings.devices,
    seed: Annotated[int, _option("seed")] = TrainingSettings.seed,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name; by default the folder's.")
    ] = None,
    description: Annotated[str, typer.Option("--description", help="For the model card.")] = "",
    data: Annotated[
        str | None, typer.Option("--data", help="Where images and labels come from, for the model card.")
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the weights, for the model card.")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    coregister: CoregisterOption = "auto",
    max_shift: MaxShiftOption = 8.0,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on the labelled pixels of a scene.

    Labels are split by blocks of the scene into training, validation and test, a patch apart. Ctrl-C ends
    the training and keeps the best epoch so far.

    Example: das2f-map train ms.tif pan.tif --labels labels.gpkg -o my-model
    """
    from das2f_map.workflows.train import train

    result = train(
        ms,
        pan,
        labels,
        output,
        class_field=class_field,
        skip_classes=tuple(skip_classes or ()),
        bands=bands_of(bands),
        nodata=nodata,
        mask=mask_of(mask, mask_values, mask_bits),
        stages=stages,
        epochs=epochs,
        samples_per_class=samples_per_class,
        batch_size=batch_size,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        device=device,
        devices=devices,
        seed=seed,
        name=name,
        description=description,
        data=data,
        licence=licence,
        resume=resume,
        coregistration=coregister,
        max_shift=max_shift,
        force=force,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    if as_json:
        print_json(_summary(result))
        return
    from das2f_map.cli.accuracy_tables import print_accuracy

    print_accuracy(result.test, f"{output}: accuracy on held-out blocks, best epoch {result.best_epoch}")
    print(output)


def _summary(result: TrainingResult) -> dict[str, Any]:
    """The result for ``--json``."""
    return {
        "model": str(result.folder),
        "best_epoch": result.best_epoch,
        "interrupted": result.interrupted,
        "test": result.test.to_dict(),
    }
