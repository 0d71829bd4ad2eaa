"""`das2f-map models list|show|import`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.commands import App
from das2f_map.cli.console import print_json, print_table
from das2f_map.cli.options import JsonOption, ModelArgument, OverwriteOption

app = App(help="Bundled models and model bundles.", no_args_is_help=True)


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the bundled models.

    Example: das2f-map models list
    """
    from das2f_map.workflows.models import list_models

    models = list_models()
    if as_json:
        print_json([m.model_dump(mode="json") for m in models])
        return
    print_table(
        "Bundled models",
        {
            "Name": "left",
            "Classes": "left",
            "MS GSD": "right",
            "Ratio": "right",
            "OA": "right",
            "About": "left",
        },
        [
            (
                m.name,
                ", ".join(c.name for c in m.classes),
                _range(m.domain.ms_gsd_m, " m") if m.domain else "any",
                _range(m.domain.ratio) if m.domain else "any",
                _accuracy(m.overall_accuracy),
                m.description,
            )
            for m in models
        ],
    )


@app.command("show")
def show_command(
    model: ModelArgument,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="HTML", help="Write the card as a page, with charts.")
    ] = None,
    stac: Annotated[
        Path | None,
        typer.Option("--stac", metavar="JSON", help="Write a STAC Item of the model, for catalogues."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a model's card.

    Example: das2f-map models show landsat8-gulf
    """
    if stac is not None:
        from das2f_map.workflows.model_item import write_model_item

        print(write_model_item(model, stac, overwrite=overwrite), file=sys.stderr if as_json else sys.stdout)
    if html is not None:
        from das2f_map.workflows.report_model import report_model

        report_model(model, html, overwrite=overwrite)
        # With --json, stdout holds the card alone.
        print(f"{html}: {html.stat().st_size / 1000:,.0f} kB", file=sys.stderr if as_json else sys.stdout)
    if not as_json and (html is not None or stac is not None):
        return
    from das2f_map.assess.confusion_matrix import percent
    from das2f_map.workflows.models import model_card

    card = model_card(model)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    facts = {
        "Name": card.name,
        "About": card.description,
        "Network": f"DAS²F, {card.network.stages} stage{'s' if card.network.stages > 1 else ''}, "
        f"patch {card.network.patch_size} × {card.network.patch_size} MS pixels, "
        f"target at index {card.patch.target_index}",
        "MS pixel": _range(card.domain.ms_gsd_m, " m") if card.domain else "any",
        "MS : PAN": _range(card.domain.ratio) if card.domain else "any",
        "Trained on": card.training.data,
        "Held-out accuracy": _accuracy(card.overall_accuracy),
        "Notes": card.training.notes,
        "Licence": card.licence,
        "Made with": f"das2f-map {card.software_version}",
    }
    print_table("Model", {"": "left", " ": "left"}, [(k, v) for k, v in facts.items() if v])
    print_table(
        "Bands, in this order",
        {"Band": "left", "Mean": "right", "Std": "right", "1 %": "right", "99 %": "right"},
        [
            (b.name, f"{b.mean:.5g}", f"{b.std:.5g}", f"{b.p01:.5g}", f"{b.p99:.5g}")
            for b in (*card.ms_bands, card.pan_band)
        ],
    )
    tested = {c["name"]: c for c in card.metrics.get("test", {}).get("classes", [])}
    print_table(
        "Classes; accuracies on held-out blocks",
        {"Class": "left", "Id": "right", "Producer's": "right", "User's": "right", "Pixels": "right"},
        [
            (
                c.name,
                str(c.id),
                percent(tested.get(c.name, {}).get("producers_accuracy")),
                percent(tested.get(c.name, {}).get("users_accuracy")),
                f"{tested.get(c.name, {}).get('reference_pixels', 0):,}",
            )
            for c in card.legend.each()
        ],
        swatches=[c.color for c in card.legend.each()],
    )


@app.command("import")
def import_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="State dict of the published network (.pt, .pth…).")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="BUNDLE", help="Folder or .zip to write.")
    ],
    ms: Annotated[
        str,
        typer.Option("--ms", metavar="MS", help="MS image the network was trained on, for its statistics."),
    ],
    pan: Annotated[str, typer.Option("--pan", metavar="PAN", help="PAN image it was trained on.")],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes", metavar="NAMES", help="Class names in the network's order, separated by commas."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name; by default the output's.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights, for the card.")] = "",
    overwrite: OverwriteOption = False,
) -> None:
    """Turn a checkpoint of the published network into a model bundle.

    A checkpoint has weights alone. The statistics to normalise images come from the image pair it was
    trained on.

    Example: das2f-map models import net.pth --ms ms.tif --pan pan.tif --classes water,forest,soil -o my-model
    """
    from das2f_map.workflows.import_checkpoint import import_checkpoint

    names = [n.strip() for n in classes.split(",")] if classes else None
    bundle = import_checkpoint(
        checkpoint, output, ms=ms, pan=pan, classes=names, name=name, licence=licence, overwrite=overwrite
    )
    print(
        f"{output}: {bundle.card.network.stages}-stage network of {len(bundle.card.legend)} classes "
        f"({', '.join(bundle.card.legend.names)})"
    )


def _range(limits: tuple[float, float], unit: str = "") -> str:
    return f"{limits[0]:.3g} to {limits[1]:.3g}{unit}"


def _accuracy(overall: float | None) -> str:
    return "not measured" if overall is None else f"{100 * overall:.1f} %"
