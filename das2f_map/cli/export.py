"""`das2f-map export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.completion import complete_model
from das2f_map.cli.console import print_json, print_table
from das2f_map.cli.options import JsonOption, OverwriteOption


def export_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Bundled model, or a bundle's path.", autocompletion=complete_model
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="ONNX", help="File to write.")],
    opset: Annotated[
        int, typer.Option("--opset", min=17, max=22, help="Version of ONNX's operators.", show_default=True)
    ] = 17,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as an ONNX file, checked against PyTorch.

    Example: das2f-map export landsat8-gulf -o model.onnx
    """
    from das2f_map.workflows.export import export_onnx

    report = export_onnx(model, output, opset=opset, overwrite=overwrite)
    if as_json:
        print_json(report.to_dict())
        return
    error = f"{report.largest_error:.1e} of the largest logit, at most {report.tolerance:.0e}"
    facts = {
        "Model": report.model,
        **{f"Input {name}": " × ".join(map(str, shape)) for name, shape in report.inputs.items()},
        f"Output {report.output_name}": f"batch × {len(report.classes)}: {', '.join(report.classes)}",
        "Opset": str(report.opset),
        "Operators": f"{report.nodes:,}",
        "Size": f"{report.bytes / 1e6:.1f} MB",
        "Difference to PyTorch": error,
    }
    print_table(report.output, {"": "left", " ": "left"}, list(facts.items()))
