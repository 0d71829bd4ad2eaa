"""The STAC Item of a model, by the Machine Learning Model extension (MLM)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from das2f_map.bundle.card import Ground, ModelCard
from das2f_map.bundle.members import CARD_NAME, WEIGHTS_NAME, is_onnx
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.stac_parts import CLASSIFICATION, FILE, class_objects, file_fields, footprint
from das2f_map.scene.grid import PAN_PER_MS

MLM: Final = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
TASK: Final = "classification"
_FIRST, _LAST = "1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
"""A model is not of one time."""
_LICENCE: Final = re.compile(r"[\w\-.+]+")


def model_item(bundle: ModelBundle, path: Path, item: Path) -> dict[str, Any]:
    """The STAC Item of a model as JSON has it.

    Parameters
    ----------
    bundle:
        The loaded model.
    path:
        Its bundle: a folder, a zip or an ONNX file.
    item:
        Where the Item will lie: the paths in it start from there.
    """
    import pystac

    card = bundle.card
    geometry, box = footprint([_ring(g) for g in card.training.ground])
    made = pystac.Item(
        id=card.name,
        geometry=geometry,
        bbox=box,
        datetime=None,
        properties={
            "start_datetime": _FIRST,
            "end_datetime": _LAST,
            "title": card.name,
            "description": card.description or f"Land-cover model {card.name}",
            "license": card.licence if _LICENCE.fullmatch(card.licence) else "other",
            **_network(bundle, onnx=is_onnx(path)),
        },
        stac_extensions=[MLM, FILE, CLASSIFICATION],
    )
    for key, asset in _assets(path, item).items():
        made.add_asset(key, asset)
    found: dict[str, Any] = made.to_dict(include_self_link=False, transform_hrefs=False)
    return found


def model_item_text(bundle: ModelBundle, path: Path, item: Path) -> str:
    """The text of :func:`model_item`."""
    return json.dumps(model_item(bundle, path, item), indent=2, ensure_ascii=False) + "\n"


def _network(bundle: ModelBundle, *, onnx: bool) -> dict[str, Any]:
    card = bundle.card
    size = card.patch.size
    output = {
        "name": "logits",
        "tasks": [TASK],
        "result": {"shape": [-1, len(card.legend)], "dim_order": ["batch", "class"], "data_type": "float32"},
        "classification:classes": class_objects(card.legend, nodata=False, words="description"),
        "post_processing_function": {
            "format": "text",
            "expression": f"softmax(logits / {card.temperature:g})",
        },
    }
    name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", card.name).strip("-_.")
    known: dict[str, Any] = {
        "mlm:name": name if re.fullmatch(r"[a-zA-Z].+", name) else f"model-{name}".rstrip("-"),
        "mlm:architecture": "DAS2F",
        "mlm:tasks": [TASK],
        "mlm:framework": "ONNX" if onnx else "PyTorch",
        "mlm:pretrained": True,
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:hyperparameters": {**card.network.model_dump(mode="json"), "turns": card.turns},
        "mlm:input": [
            _input("ms", [b.name for b in card.ms_bands], size, card),
            _input("pan", [card.pan_band.name], PAN_PER_MS * size, card),
        ],
        "mlm:output": [output],
    }
    if not onnx:
        known["mlm:total_parameters"] = sum(t.numel() for t in bundle.state_dict.values())
    return known


def _input(name: str, bands: list[str], size: int, card: ModelCard) -> dict[str, Any]:
    """A patch of one image: pixels are normalised with the mean and deviation of each band."""
    statistics = card.ms_bands if name == "ms" else (card.pan_band,)
    return {
        "name": name,
        "bands": bands,
        "input": {
            "shape": [-1, len(bands), size, size],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [{"type": "z-score", "mean": b.mean, "stddev": b.std} for b in statistics],
        "resize_type": None,
    }


def _assets(path: Path, item: Path) -> dict[str, Any]:
    import pystac

    def asset(file: Path, title: str, media: str, roles: list[str], **fields: Any) -> Any:
        href = Path(os.path.relpath(file.absolute(), item.absolute().parent)).as_posix()
        return pystac.Asset(href, title, None, media, roles, {**file_fields(file), **fields})

    if path.is_dir():
        weights = asset(
            path / WEIGHTS_NAME,
            "Weights",
            "application/octet-stream",
            ["mlm:model", "mlm:weights"],
            **{"mlm:artifact_type": "safetensors.torch.save"},
        )
        card = asset(path / CARD_NAME, "Card", "application/json", ["metadata", "mlm:model-card"])
        return {"weights": weights, "card": card}
    kind = "onnx" if is_onnx(path) else "das2f-map bundle"
    media = "application/octet-stream" if is_onnx(path) else "application/zip"
    return {"model": asset(path, "Model", media, ["mlm:model"], **{"mlm:artifact_type": kind})}


def _ring(ground: Ground) -> list[tuple[float, float]]:
    east = ground.east if ground.east >= ground.west else ground.east + 360
    corners = ((ground.west, ground.south), (east, ground.south), (east, ground.north))
    return [*corners, (ground.west, ground.north)]
