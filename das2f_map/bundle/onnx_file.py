"""Models as ONNX files, with the card in the file's metadata.

onnxruntime evaluates the graph; nothing else in a file is executed. The card is checked like a bundle's card.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any, Final

from das2f_map.bundle.card import ModelCard, parse_card
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.untrusted import read_whole
from das2f_map.errors import MissingDependencyError, ModelError
from das2f_map.installation import install_extra
from das2f_map.network import Das2fNet

SUFFIX: Final = ".onnx"
LIMIT: Final = 1 << 30
"""Most bytes of a file; the published networks have 70 million."""
CARD_KEY: Final = "das2f_map.card"
"""Metadata key of the whole card; the other keys repeat parts of it for other programs."""


class OnnxModel(ModelBundle):
    """A model whose network is an ONNX graph: it runs on the engine ``onnx`` alone.

    Attributes
    ----------
    data:
        The file's content.
    """

    def __init__(self, card: ModelCard, data: bytes, path: Path) -> None:
        super().__init__(card, {}, path)
        self.data = data

    def digest(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def network(self) -> Das2fNet:
        """Raises :class:`~das2f_map.errors.ModelError`: there are no weights for torch."""
        raise ModelError(
            f"{self.path} is an ONNX file, which runs on the engine onnx only",
            "use the bundle it was exported from",
        )


def require_packages(*names: str) -> None:
    """Raise :class:`~das2f_map.errors.MissingDependencyError` unless all packages can be imported."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"ONNX models need the package {' and '.join(missing)}", install_extra("onnx")
        )
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:  # installed, but its libraries do not load
            raise MissingDependencyError(
                f"{name} cannot be imported: {error}", "install it again, or use a bundle with --engine auto"
            ) from error


def metadata_of(card: ModelCard) -> dict[str, str]:
    """Metadata of an ONNX file: the whole card, and the parts of it that other programs need."""
    bands = (*card.ms_bands, card.pan_band)
    parts: dict[str, Any] = {
        "classes": [{"index": i, **c.model_dump()} for i, c in enumerate(card.legend.each())],
        "ms_bands": [b.name for b in card.ms_bands],
        "normalisation": {
            "formula": "(value - mean) / std",
            "ms": [{"name": b.name, "mean": b.mean, "std": b.std} for b in bands[:-1]],
            "pan": {"name": bands[-1].name, "mean": bands[-1].mean, "std": bands[-1].std},
        },
        "patch": card.patch.model_dump(),
    }
    return {
        CARD_KEY: card.model_dump_json(),
        "name": card.name,
        "licence": card.licence,
        **{key: json.dumps(value, ensure_ascii=False) for key, value in parts.items()},
    }


def load_onnx(path: Path) -> OnnxModel:
    """Read a file that ``das2f-map export`` wrote.

    Raises
    ------
    ModelError
        The file is missing or damaged, or another program or a newer version made it.
    MissingDependencyError
        onnxruntime is not installed.
    """
    require_packages("onnxruntime")
    try:
        data = read_whole(path, LIMIT)
    except FileNotFoundError as error:
        raise ModelError(f"model not found: {path}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        text = _metadata(data, path).get(CARD_KEY)
    except UnicodeError as error:
        raise ModelError(f"{path} is damaged: its metadata is no text") from error
    if text is None:
        raise ModelError(
            f"{path} is not a model of das2f-map: its metadata has no {CARD_KEY}",
            "`das2f-map export` writes such files",
        )
    return OnnxModel(parse_card(text.encode(), path, "metadata"), data, path)


def _metadata(data: bytes, path: Path) -> dict[str, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the only common base of onnxruntime's error classes
        raise ModelError(f"{path} is damaged or no ONNX file that onnxruntime can run: {error}") from error
    return dict(session.get_modelmeta().custom_metadata_map)
