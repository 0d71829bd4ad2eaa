"""`export`: the file, its metadata, its check, and maps made with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
from das2f_map.bundle.files import load_bundle, read_card
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import ModelError, OutputError
from das2f_map.workflows import export
from das2f_map.workflows.export import export_onnx

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    export_onnx(bundle, path)
    return path


def test_another_program_can_use_the_file(exported: Path) -> None:
    """It takes normalisation and class names from the metadata, and another batch size than the export."""
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert [c["name"] for c in json.loads(metadata["classes"])] == ["water", "forest", "bare soil"]
    assert [(c["index"], c["id"]) for c in json.loads(metadata["classes"])] == [(0, 2), (1, 5), (2, 9)]
    assert json.loads(metadata["ms_bands"]) == ["blue", "green", "red", "nir"]
    normalisation = json.loads(metadata["normalisation"])
    assert [(b["mean"], b["std"]) for b in normalisation["ms"]] == [(2500.0, 700.0)] * 4
    assert normalisation["pan"] == {"name": "pan", "mean": 2500.0, "std": 700.0}
    assert json.loads(metadata["patch"])["target_index"] == 7
    (logits,) = session.run(None, {"ms": np.zeros((7, 4, 16, 16), "f"), "pan": np.zeros((7, 1, 64, 64), "f")})
    assert logits.shape == (7, 3)


def test_report(bundle: ModelBundle, tmp_path: Path) -> None:
    report = export_onnx(bundle.path, tmp_path / "m.onnx", opset=18)
    assert (report.opset, report.model, report.bytes) == (18, "tiny", (tmp_path / "m.onnx").stat().st_size)
    assert report.inputs == {"ms": ("batch", 4, 16, 16), "pan": ("batch", 1, 64, 64)}
    assert 0 <= report.largest_error < report.tolerance
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == 18


def test_card_survives(bundle: ModelBundle, exported: Path) -> None:
    assert read_card(exported) == bundle.card


@pytest.mark.slow
def test_map_with_the_file_is_that_of_the_bundle(bundle: ModelBundle, exported: Path, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, ms_shape=(12, 14))
    reports, maps = [], []
    for name, model, engine in (("a", bundle, "patch"), ("b", bundle, "onnx"), ("c", exported, "auto")):
        path = tmp_path / f"{name}.tif"
        reports.append(das2f_map.classify(*pair, path, model=model, engine=engine, vectors=False))
        with rasterio.open(path) as src:
            maps.append(src.read(1))
    assert [r.engine for r in reports] == ["patch", "onnx", "onnx"]
    assert len(np.unique(maps[0])) == 3
    np.testing.assert_array_equal(maps[1], maps[0])
    np.testing.assert_array_equal(maps[2], maps[0])
    assert reports[2].model.path == str(exported)


def test_other_engines_want_the_bundle(exported: Path, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, ms_shape=(12, 14))
    with pytest.raises(ModelError, match="engine patch needs a model's weights") as caught:
        das2f_map.classify(*pair, tmp_path / "map.tif", model=exported, engine="patch")
    assert "--engine onnx" in str(caught.value)
    with pytest.raises(ModelError, match="runs on the engine onnx only"):
        load_bundle(exported).network()
    with pytest.raises(ModelError, match="runs on the engine onnx only"):
        export_onnx(exported, tmp_path / "again.onnx")


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_a_graph_that_computes_something_else_leaves_no_file(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    original = export.graph_bytes

    def scaled(*arguments: object) -> bytes:
        model = onnx.load_from_string(original(*arguments))
        factor = onnx.numpy_helper.from_array(np.float32(wrong), "factor")
        model.graph.initializer.append(factor)
        last = model.graph.node[-1]
        last.CopyFrom(onnx.helper.make_node("Mul", [last.input[0], "factor"], ["logits"]))
        return model.SerializeToString()

    monkeypatch.setattr(export, "graph_bytes", scaled)
    with pytest.raises(ModelError, match="differs from the model's"):
        export_onnx(bundle, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be(bundle: ModelBundle, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"give it the extension \.onnx"):
        export_onnx(bundle, tmp_path / "model.pt")
    with pytest.raises(OutputError, match="use 17 to 22"):
        export_onnx(bundle, tmp_path / "model.onnx", opset=11)
    before = exported.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        export_onnx(bundle, exported)
    assert exported.read_bytes() == before


def test_files_that_are_no_models_of_ours(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        das2f_map.load_model(tmp_path / "no.onnx")
    cut, foreign, edited = (tmp_path / f"{n}.onnx" for n in ("cut", "foreign", "edited"))
    cut.write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(ModelError, match="damaged or no ONNX file"):
        load_bundle(cut)
    model = onnx.load(exported)
    kept = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(model, {k: v for k, v in kept.items() if k != "das2f_map.card"})
    onnx.save(model, foreign)
    with pytest.raises(ModelError, match="not a model of das2f-map"):
        load_bundle(foreign)
    card = json.loads(kept["das2f_map.card"])
    card["network"]["classes"] = "__import__('os').getcwd()"
    onnx.helper.set_model_props(model, {**kept, "das2f_map.card": json.dumps(card)})
    onnx.save(model, edited)
    with pytest.raises(ModelError, match="metadata is not a das2f-map model card: network: classes"):
        load_bundle(edited)
