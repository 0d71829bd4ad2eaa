"""Export a model as an ONNX file, checked against the network in torch."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import bundle_files, load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.onnx_file import SUFFIX, require_packages
from das2f_map.engines.onnx import OnnxEngine, graph_bytes
from das2f_map.errors import ModelError, OutputError
from das2f_map.network.onnx_graph import INPUT_NAMES, OPSETS, OUTPUT_NAME
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import writing
from das2f_map.scene.grid import PAN_PER_MS

log = logging.getLogger(__name__)

TOLERANCE: Final = 1e-4
"""Largest difference allowed, as a share of the largest logit; any two float32 engines may differ by it."""
_CHECKED_BATCHES: Final = (1, 5)


@dataclass(frozen=True)
class ExportReport:
    """The ONNX file that was written.

    Attributes
    ----------
    output, model:
        The file, and the name of the model in it.
    opset, nodes, bytes:
        Version of its operators, their number, and the size of the file.
    classes:
        Names in the order of the logits.
    inputs, output_name:
        Name → shape of a batch; name of the logits.
    largest_error, tolerance:
        Largest difference to torch in the check, as a share of the largest logit; the largest allowed.
    """

    output: str
    model: str
    opset: int
    nodes: int
    bytes: int
    classes: tuple[str, ...]
    inputs: dict[str, tuple[int | str, ...]]
    output_name: str
    largest_error: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def export_onnx(
    model: str | Path | ModelBundle,
    output: str | Path,
    *,
    opset: int = OPSETS[0],
    overwrite: bool = False,
) -> ExportReport:
    """Write a model as an ONNX file that onnxruntime and others run.

    The file takes normalised patches in batches of any size and gives logits. It is run on random patches
    before it is put into place.

    Parameters
    ----------
    model:
        A bundled model's name, a bundle's path, or a loaded bundle.
    output:
        File to write, a ``.onnx``.
    opset:
        Version of ONNX's operators, 17 to 22.
    overwrite:
        Replace an existing file.

    Raises
    ------
    ModelError
        The model cannot be read, or its graph does not give torch's logits; no file is left then.
    OutputError
        The file cannot be written, or exists.
    MissingDependencyError
        onnx or onnxruntime is not installed.
    """
    output = Path(output)
    if output.suffix.lower() != SUFFIX:
        raise OutputError(f"output {output} is not an ONNX file", f"give it the extension {SUFFIX}")
    if opset not in OPSETS:
        raise OutputError(f"opset {opset} cannot be written", f"use {OPSETS[0]} to {OPSETS[-1]}")
    require_packages("onnx", "onnxruntime")
    inputs: list[Path] = []
    if not isinstance(model, ModelBundle):
        path = find_model(model)
        inputs = bundle_files(path)
        model = load_bundle(path)
    with StagedOutputs(inputs=inputs, overwrite=overwrite) as staged:
        place = staged.stage(output)
        data = graph_bytes(model, opset)
        error = _largest_error(model, data)
        if not error <= TOLERANCE:
            raise ModelError(
                f"the exported network differs from the model's by {error:.1e} of the largest logit, "
                f"more than {TOLERANCE:.0e}: nothing was written",
                "another --opset or version of onnxruntime may help; please report it",
            )
        with writing(place):
            place.write_bytes(data)
    network, p = model.card.network, model.card.patch
    import onnx

    return ExportReport(
        output=str(output),
        model=model.card.name,
        opset=opset,
        nodes=len(onnx.load_from_string(data).graph.node),
        bytes=len(data),
        classes=model.card.legend.names,
        inputs={
            INPUT_NAMES[0]: ("batch", network.ms_bands, p.size, p.size),
            INPUT_NAMES[1]: ("batch", 1, PAN_PER_MS * p.size, PAN_PER_MS * p.size),
        },
        output_name=OUTPUT_NAME,
        largest_error=error,
        tolerance=TOLERANCE,
    )


def _largest_error(model: ModelBundle, data: bytes) -> float:
    """Largest difference to torch over the largest logit, on random patches in batches of several sizes."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    OnnxEngine(data, model.card)  # raises if inputs and outputs are not those of the card
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    network, config, p = model.network(), model.card.network, model.card.patch
    generator = torch.Generator().manual_seed(0)
    worst = largest = 0.0
    for batch in _CHECKED_BATCHES:
        ms = torch.randn(batch, config.ms_bands, p.size, p.size, generator=generator)
        side = PAN_PER_MS * p.size
        pan = torch.randn(batch, 1, side, side, generator=generator)
        with torch.inference_mode():
            expected = network(ms, pan).numpy()
        got = session.run([OUTPUT_NAME], dict(zip(INPUT_NAMES, (ms.numpy(), pan.numpy()), strict=True)))[0]
        # NaN must not pass: np.maximum keeps it, max() may not.
        worst = float(np.maximum(worst, np.abs(got - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return worst / largest if largest else worst
