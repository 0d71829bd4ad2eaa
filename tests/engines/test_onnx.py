"""ONNX graph and engine against the network in torch."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_bundle, tiny_card, tiny_network

from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.engines.onnx import OnnxEngine, graph_bytes, unavailable
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.errors import DeviceError, MissingDependencyError, ModelError
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.onnx_graph import OPSETS, build_graph
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import open_pair
from das2f_map.workflows.export import export_onnx

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

CPU = torch.device("cpu")
GULF = Path(__file__).resolve().parents[2] / "examples" / "gulf"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"))


def _block(h: int, w: int, bands: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ms = rng.standard_normal((bands, h + 15, w + 15)).astype(np.float32)
    return ms, rng.standard_normal((1, 4 * (h + 15), 4 * (w + 15))).astype(np.float32)


def _trained_looking(config: NetworkConfig) -> Das2fNet:
    """Every weight and statistic differs from its initial value, so that the test sees a forgotten one."""
    torch.manual_seed(1)
    network = Das2fNet(config).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for name, b in network.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(std=0.3)
            elif name.endswith("running_var"):
                b.uniform_(0.5, 2.0)
    return network


@pytest.mark.parametrize(
    "sizes",
    [
        {"stages": 1, "width": 32, "opset": OPSETS[0]},
        pytest.param({"stages": 2, "ms_bands": 3, "opset": OPSETS[-1]}, marks=pytest.mark.slow),
        {"stages": 1, "patch_size": 8, "pan_channels": 2, "mlp_ratio": 2, "opset": 20},
    ],
    ids=str,
)
def test_graph_agrees_with_torch(sizes: dict[str, int]) -> None:
    opset = sizes.pop("opset")
    config = NetworkConfig(**{"classes": 3, "width": 16, "state_size": 5, "dt_rank": 4, **sizes})
    network = _trained_looking(config)
    model = build_graph(network, opset=opset, metadata={}, version="0")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    assert not {n.op_type for n in model.graph.node} & {"Loop", "Scan", "If"}
    assert {n.domain for n in model.graph.node} == {""}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    p = config.patch_size
    for batch in (1, 4):
        ms, pan = torch.randn(batch, config.ms_bands, p, p), torch.randn(batch, 1, 4 * p, 4 * p)
        with torch.no_grad():
            expected = network.double()(ms.double(), pan.double()).numpy()
        (got,) = session.run(["logits"], {"ms": ms.numpy(), "pan": pan.numpy()})
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("threads", [1, 3])
def test_engine_agrees_with_patch_engine(bundle: ModelBundle, threads: int) -> None:
    ms, pan = _block(5, 6)
    targets = np.random.default_rng(1).random((5, 6)) < 0.7
    expected = PerPatchEngine(bundle.network()).logits(ms, pan, targets)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = make_engine(bundle, EngineChoice(engine="onnx", device=CPU, batch_size=4))
    finally:
        torch.set_num_threads(before)
    assert (engine.name, engine.device, engine.precision) == ("onnx", "cpu", "fp32")
    logits = engine.logits(ms, pan, targets)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert engine.logits(ms, pan, np.zeros((5, 6), bool)).shape == (0, 3)
    with pytest.raises(ValueError, match="does not fit"):
        engine.logits(ms, pan, np.ones((5, 5), bool))


@pytest.mark.slow
def test_bundled_model_gives_the_same_classes_on_a_real_scene() -> None:
    bundle = load_bundle(find_model("landsat8-gulf"))
    card = bundle.card
    with open_pair(GULF / "ms.tif", GULF / "pan.tif") as pair:
        block = pair.read_block(Window(180, 100, 64, 64), card.patch.before, card.patch.after)
    ms, pan = card.normalisation.apply(block)
    targets = np.zeros((64, 64), bool)
    targets[::7, ::7] = True
    expected = PerPatchEngine(bundle.network()).logits(ms, pan, targets)
    logits = OnnxEngine.of(bundle).logits(ms, pan, targets)
    assert len(np.unique(expected.argmax(axis=1))) > 1, "the pixels should be of several classes"
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_out_of_memory_halves_the_batch(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ms, pan = _block(4, 4)
    targets = np.ones((4, 4), bool)
    engine = OnnxEngine.of(bundle, batch_size=8)
    whole = engine.logits(ms, pan, targets)
    run, limit = onnxruntime.InferenceSession.run, 2

    def small_only(session, names, feeds):
        if len(feeds["ms"]) > limit:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer")
        return run(session, names, feeds)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", small_only)
    np.testing.assert_allclose(engine.logits(ms, pan, targets), whole, atol=1e-4)
    assert engine.batch_size == 2
    limit = 0
    with pytest.raises(DeviceError, match="too little free memory"):
        engine.logits(ms, pan, targets)


def test_graph_of_another_network_than_the_cards_is_refused(bundle: ModelBundle) -> None:
    other = tiny_card(bands=3)
    data = graph_bytes(ModelBundle(other, tiny_network(other).state_dict()))
    with pytest.raises(ModelError, match="its card wants"):
        OnnxEngine(data, bundle.card)


def test_what_onnx_cannot_do(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="fp32 only"):
        make_engine(bundle, EngineChoice(engine="onnx", device=CPU, precision="bf16"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(metadata, "version", lambda package: _only(package, "onnxruntime"))
    with pytest.raises(DeviceError, match="no CUDA provider"):
        make_engine(bundle, EngineChoice(engine="onnx", device=torch.device("cuda:0")))
    monkeypatch.setattr(metadata, "version", lambda package: "1.0")
    with pytest.raises(DeviceError, match="hides onnxruntime-gpu"):
        make_engine(bundle, EngineChoice(engine="onnx", device=torch.device("cuda:0")))


@pytest.fixture
def card_without_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device that PyTorch knows but the installed onnxruntime does not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(metadata, "version", lambda package: _only(package, "onnxruntime"))


@pytest.mark.usefixtures("card_without_provider")
@pytest.mark.parametrize("as_file", [False, True])
def test_without_a_cuda_provider_an_automatic_device_is_the_cpu(
    bundle: ModelBundle, as_file: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m.onnx").write_bytes(graph_bytes(bundle))
    model = load_bundle(tmp_path / "m.onnx") if as_file else bundle
    engine = make_engine(model, EngineChoice(engine="auto" if as_file else "onnx", device="auto"))
    assert (engine.name, engine.device) == ("onnx", "cpu")
    assert [r.message for r in caplog.records if "no CUDA provider" in r.message]
    with pytest.raises(DeviceError, match="no CUDA provider"):  # a card that was asked for by name
        make_engine(model, EngineChoice(engine="onnx", device="cuda"))


@pytest.mark.usefixtures("card_without_provider")
@pytest.mark.parametrize(
    ("as_file", "engine", "precision", "says"),
    [
        (False, "onnx", "bf16", "fp32 only"),
        (True, "auto", "bf16", "fp32 only"),
        (True, "patch", "auto", "needs a model's weights"),
    ],
)
def test_what_is_refused_is_not_said_to_run_on_the_cpu(
    bundle: ModelBundle,
    as_file: bool,
    engine: str,
    precision: str,
    says: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "m.onnx").write_bytes(graph_bytes(bundle))
    model = load_bundle(tmp_path / "m.onnx") if as_file else bundle
    with pytest.raises((DeviceError, ModelError), match=says):
        make_engine(model, EngineChoice(engine=engine, device="auto", precision=precision))
    assert not caplog.records


def _only(package: str, installed: str) -> str:
    if package != installed:
        raise metadata.PackageNotFoundError(package)
    return "1.0"


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_missing_packages_are_named(
    bundle: ModelBundle, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == missing else find(n, *a))
    with pytest.raises(MissingDependencyError, match=f"the package {missing}$|the package {missing} "):
        make_engine(bundle, EngineChoice(engine="onnx", device=CPU))


def test_graph_for_a_fixed_number_of_patches_is_refused(bundle: ModelBundle) -> None:
    model = onnx.load_model_from_string(graph_bytes(bundle))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ModelError, match="fixed to 1 patches at a time"):
        OnnxEngine(model.SerializeToString(), bundle.card)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_packages_that_do_not_load_are_told(
    package: str, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(graph_bytes(bundle))
    real = importlib.import_module

    def broken(name: str, *rest: str) -> object:
        if name == package:
            raise ImportError("libcudart.so.12: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(MissingDependencyError, match=f"{package} cannot be imported: libcudart"):
        export_onnx(bundle, tmp_path / "new.onnx")
    if package == "onnxruntime":
        with pytest.raises(MissingDependencyError, match="cannot be imported"):
            load_bundle(tmp_path / "m.onnx")
        assert "cannot be imported" in unavailable(bundle.card.network, torch.device("cpu"), "fp32")


def test_hints_for_an_onnx_file_name_what_it_can_do(bundle: ModelBundle, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(graph_bytes(bundle))
    model = load_bundle(tmp_path / "m.onnx")
    with pytest.raises(DeviceError, match="computes in fp32 only") as caught:
        make_engine(model, EngineChoice(device=torch.device("cpu"), precision="bf16"))
    assert "--engine" not in str(caught.value.hint)


def test_copies_of_patches_that_do_not_fit_are_halved(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OnnxEngine.of(bundle, batch_size=8)
    rng = np.random.default_rng(0)
    ms = rng.standard_normal((bundle.card.network.ms_bands, 20, 20)).astype(np.float32)
    pan = rng.standard_normal((1, 80, 80)).astype(np.float32)
    targets = np.ones((5, 5), np.bool_)
    expected = engine.logits(ms, pan, targets)

    run = onnxruntime.InferenceSession.run

    def small_only(session, names: list[str], patches: dict[str, np.ndarray]) -> list[np.ndarray]:
        if len(next(iter(patches.values()))) > 3:
            raise MemoryError("Unable to allocate 1 GiB for an array")
        return run(session, names, patches)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", small_only)
    np.testing.assert_allclose(engine.logits(ms, pan, targets), expected, rtol=0, atol=1e-5)
    assert engine.batch_size == 2
