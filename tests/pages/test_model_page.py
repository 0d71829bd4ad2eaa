"""The page of a model: valid, escaped, with the figures of the card."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from das2f_map.bundle.catalogue import find_model
from das2f_map.errors import OutputError
from das2f_map.workflows.models import model_card
from das2f_map.workflows.report_model import report_model

MODEL = "landsat8-gulf"


def text_of(page: str) -> str:
    return "".join(ET.fromstring(page).itertext())


def test_page_has_the_figures_of_the_card(tmp_path: Path) -> None:
    found = report_model(MODEL, tmp_path / "m.html")
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    root, text = ET.fromstring(page), text_of(page)
    card = model_card(MODEL)
    assert card.verdict is not None
    assert card.verdict.text in text
    assert f"{100 * (card.overall_accuracy or 0):.1f} %" in text
    for c in card.metrics["test"]["classes"]:
        assert f"{100 * c['producers_accuracy']:.1f} %" in text
    assert card.training.data in text
    assert not list(root.iter("script"))
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert {e.get("href") for e in root.iter("a")} == {f"#{i}" for i in ids}
    assert [e for e in root.iter("svg") if e.get("role") == "img" and not e.get("aria-label")] == []
    assert len(list(root.iter("polyline"))) >= 5  # reliability, and folds of two charts
    assert found.path == tmp_path / "m.html"
    with pytest.raises(OutputError, match="exists already"):
        report_model(MODEL, tmp_path / "m.html")
    with pytest.raises(OutputError, match="not an HTML page"):
        report_model(MODEL, tmp_path / "m.pdf")


@pytest.mark.parametrize(
    "record",
    [b"[1]", b"{", b'{"checks": 3}', b'{"checks": {"a": "b", "c": [1, {"steps": "x", "loss": null}]}}', None],
)
def test_odd_bundles_still_give_a_page(tmp_path: Path, record: bytes | None) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(find_model(MODEL), bundle)
    card = json.loads((bundle / "model.json").read_text())
    card["description"] = "<script>alert(1)</script> & more"
    card["metrics"] = {"test": {"overall_accuracy": 0.5}}
    card["training"]["split"] = {"random_split": {"optimism": "high"}, "pixels_per_class": [1]}
    card["calibration"] = card["shares"] = card["verdict"] = card["domain"] = None
    (bundle / "model.json").write_text(json.dumps(card))
    (bundle / "training.json").unlink()
    if record is not None:
        (bundle / "training.json").write_bytes(record)
    page = report_model(bundle).page.html()
    assert "<script>alert(1)</script> & more" in text_of(page)
    assert "is not known" in text_of(page)
    assert "not calibrated" in text_of(page)
