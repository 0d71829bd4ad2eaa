"""`das2f-map train`"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from das2f_map.cli.commands import Command
from das2f_map.cli.completion import complete_start
from das2f_map.cli.console import print_json, progress_for
from das2f_map.cli.options import (
    BandsOption,
    ClassFieldOption,
    CoregisterOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    LayerOption,
    MaskBitsOption,
    MaskOption,
    MaskValuesOption,
    MaxShiftOption,
    NodataOption,
    OptionalMsArgument,
    OverwriteOption,
    PanArgument,
    ReflectanceOption,
    bands_of,
    mask_of,
    setting_option,
)
from das2f_map.scene.shift_choice import DEFAULT_MAX_SHIFT, DEFAULT_MODE
from das2f_map.training.settings import AUTO, TrainingSettings

if TYPE_CHECKING:
    from das2f_map.workflows.train import TrainingResult

_option = partial(setting_option, TrainingSettings)


class TrainCommand(Command):
    """The command with an option of three values that may be repeated, which Typer cannot declare.

    Each three values become a single one, a JSON list, before Typer reads them.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _grouped(args))


def _grouped(args: Sequence[str]) -> list[str]:
    """Arguments of the command line with one value for each ``--scene``."""
    found: list[str] = []
    rest = iter(args)
    for arg in rest:
        found.append(arg)
        if arg == "--":
            return found + list(rest)
        if arg.partition("=")[0] != "--scene":
            continue
        values = list(islice(rest, 3))
        if "=" in arg or len(values) < 3 or any(v.startswith("-") for v in values):
            raise typer.BadParameter("--scene takes three values: MS PAN LABELS")
        found.append(json.dumps(values))
    return found


def train_command(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="MODEL_DIR", help="Folder of the model bundle to make.")
    ],
    ms: OptionalMsArgument = None,
    pan: PanArgument = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="FILE", help="Polygons or points of any format, or a raster."),
    ] = None,
    scene: Annotated[
        list[str] | None,
        typer.Option(
            "--scene",
            metavar="MS PAN LABELS",
            help='Another labelled scene; may be repeated. With a product as MS, PAN is "".',
        ),
    ] = None,
    scenes: Annotated[
        Path | None,
        typer.Option(
            "--scenes",
            metavar="FILE.csv",
            help="Labelled scenes, one a line: columns ms, pan and labels; relative paths from the file on.",
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from the weights of this model; auto: a bundled one with the same bands that was "
            "trained elsewhere; none: fresh weights.",
            autocompletion=complete_start,
        ),
    ] = AUTO,
    class_field: ClassFieldOption = None,
    layer: LayerOption = None,
    skip_classes: Annotated[
        list[str] | None,
        typer.Option("--skip-class", metavar="NAME", help="Leave this class out; may be repeated."),
    ] = None,
    bands: BandsOption = None,
    nodata: NodataOption = None,
    mask: MaskOption = None,
    mask_values: MaskValuesOption = None,
    mask_bits: MaskBitsOption = None,
    reflectance: ReflectanceOption = False,
    stages: Annotated[int, _option("stages")] = TrainingSettings.stages,
    head: Annotated[str, _option("head")] = TrainingSettings.head,
    assess: Annotated[str, _option("assess")] = TrainingSettings.assess,
    folds: Annotated[int, _option("folds")] = TrainingSettings.folds,
    fold_by: Annotated[str, _option("fold_by")] = TrainingSettings.fold_by,
    steps: Annotated[int | None, _option("steps", metavar="N")] = TrainingSettings.steps,
    fast: Annotated[bool, _option("fast")] = TrainingSettings.fast,
    batch_size: Annotated[int, _option("batch_size")] = TrainingSettings.batch_size,
    learning_rate: Annotated[float, _option("learning_rate")] = TrainingSettings.learning_rate,
    label_smoothing: Annotated[float, _option("label_smoothing")] = TrainingSettings.label_smoothing,
    balance: Annotated[float, _option("balance")] = TrainingSettings.balance,
    dropout: Annotated[float, _option("dropout")] = TrainingSettings.dropout,
    statistics: Annotated[str, _option("statistics")] = TrainingSettings.statistics,
    distillation: Annotated[
        float | None, _option("distillation", metavar="WEIGHT")
    ] = TrainingSettings.distillation,
    jitter: Annotated[float, _option("jitter")] = TrainingSettings.jitter,
    haze: Annotated[float, _option("haze")] = TrainingSettings.haze,
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
    coregister: CoregisterOption = DEFAULT_MODE,
    max_shift: MaxShiftOption = DEFAULT_MAX_SHIFT,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on the labelled pixels of one or more scenes.

    Parts of the ground are held out in turn: they give the accuracy and choose the number of steps. The model
    is then trained on all labels. After Ctrl-C, --resume goes on.

    Example: das2f-map train ms.tif pan.tif --labels labels.gpkg -o my-model
    """
    from das2f_map.workflows.train import train

    first, *others = _all_scenes(ms, pan, labels, scene or [], scenes)
    result = train(
        *first,
        output,
        class_field=class_field,
        layer=layer,
        skip_classes=tuple(skip_classes or ()),
        bands=bands_of(bands),
        nodata=nodata,
        mask=mask_of(mask, mask_values, mask_bits),
        reflectance=reflectance,
        stages=stages,
        head=head,
        assess=assess,
        folds=folds,
        fold_by=fold_by,
        steps=steps,
        fast=fast,
        batch_size=batch_size,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        balance=balance,
        dropout=dropout,
        statistics=statistics,
        distillation=distillation,
        jitter=jitter,
        haze=haze,
        scenes=others,
        start=start,
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
    from das2f_map.training.optimism import optimism_text

    if result.test is not None:
        print_accuracy(result.test, f"{output}: accuracy on held-out ground")
    if (compared := result.card.training.split.get("random_split")) is not None:
        print(optimism_text(compared))
    if result.card.verdict is not None:
        print(f"Verdict: {result.card.verdict.text}")
    print(output)


def _all_scenes(
    ms: str | None,
    pan: str | None,
    labels: str | None,
    more: Sequence[str],
    listed: Path | None,
) -> list[tuple[str, str | None, str]]:
    """MS, PAN (``None`` where MS is a product) and labels of every scene that the command names."""
    found: list[tuple[str, str | None, str]] = []
    if ms is not None and labels is not None:
        found.append((ms, pan, labels))
    elif ms is not None or labels is not None:
        missing = "MS" if ms is None else "--labels"
        raise typer.BadParameter(f"a scene needs MS, PAN and --labels; {missing} is missing")
    for values in more:
        one, other, labelled = json.loads(values)
        found.append((one, other or None, labelled))
    if listed is not None:
        from das2f_map.training.scene_list import read_scene_list

        found += read_scene_list(listed)
    if not found:
        raise typer.BadParameter("name a scene: MS PAN --labels FILE, --scene or --scenes")
    return found


def _summary(result: TrainingResult) -> dict[str, Any]:
    """The result for ``--json``."""
    card = result.card
    return {
        "model": str(result.folder),
        "interrupted": result.interrupted,
        "steps": card.training.settings["steps_done"],
        "test": card.metrics.get("test"),
        "random_forest": card.metrics.get("random_forest"),
        "calibration": card.calibration and card.calibration.model_dump(exclude={"bins"}),
        "random_split": card.training.split.get("random_split"),
        "verdict": card.verdict and card.verdict.model_dump(),
        "shares": card.shares and card.shares.model_dump(),
    }
