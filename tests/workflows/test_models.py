"""The list of models and their cards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import das2f_map
from das2f_map.bundle.catalogue import bundled_models
from das2f_map.errors import ModelError
from das2f_map.workflows.models import list_models, model_card


def test_the_list_tells_what_the_cards_say() -> None:
    entries = list_models()
    assert [e.name for e in entries] == list(bundled_models())
    for entry in entries:
        card = json.loads((Path(entry.path) / "model.json").read_text(encoding="utf-8"))
        told = entry.model_dump(mode="json")
        assert told["classes"] == card["legend"]["classes"]
        assert told["domain"] == card["domain"]
        assert told["overall_accuracy"] == card["metrics"]["test"]["overall_accuracy"]
        assert (told["description"], told["licence"]) == (card["description"], card["licence"])


def test_a_card_by_name_or_path() -> None:
    (name, path), *_ = bundled_models().items()
    assert model_card(name) == model_card(path) == das2f_map.load_model(name).card
    with pytest.raises(ModelError, match="no model 'none such'"):
        model_card("none such")
    without = model_card(name).model_copy(update={"metrics": {}})
    assert without.overall_accuracy is None


def test_the_list_loads_neither_torch_nor_rasterio() -> None:
    program = (
        "import sys; from das2f_map.workflows.models import list_models; assert list_models();"
        "print([m for m in ('torch', 'rasterio', 'pandas', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
