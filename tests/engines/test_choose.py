"""The engine and precision for a choice, and the messages of refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_bundle

from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import choose, kernels
from das2f_map.engines.choose import EngineChoice, EngineKind, make_engine
from das2f_map.errors import DeviceError, ModelError
from das2f_map.network import NetworkConfig
from das2f_map.network.selective_scan import default_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
PUBLISHED = NetworkConfig(classes=5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"))


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fast` is for width 64, in bf16 on CUDA; `slow` for all in fp32; the last one is never automatic."""

    def fast(config: NetworkConfig, device: torch.device, precision: str) -> str:
        if config.width != 64:
            return f"needs a width of 64, not {config.width}"
        return (
            "" if precision == "fp32" or (precision == "bf16" and device.type == "cuda") else "no such units"
        )

    def slow(config: NetworkConfig, device: torch.device, precision: str) -> str:
        return "" if precision == "fp32" else "computes in fp32"

    def none(*_: object, **__: object) -> None:
        raise AssertionError("not to be made")

    monkeypatch.setattr(
        choose,
        "KINDS",
        {
            "shared": EngineKind("shared", none, fast),
            "patch": EngineKind("patch", none, slow),
            "onnx": EngineKind("onnx", none, lambda *_: "", by_itself=False),
        },
    )


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    ("width", "device", "engine", "precision", "expected"),
    [
        (64, CPU, "auto", "auto", ("shared", "fp32")),
        (64, CUDA, "auto", "auto", ("shared", "bf16")),
        (64, CUDA, "auto", "fp32", ("shared", "fp32")),
        (64, CUDA, "patch", "auto", ("patch", "fp32")),
        (32, CPU, "auto", "auto", ("patch", "fp32")),
        (32, CUDA, "auto", "auto", ("patch", "fp32")),
        (64, CPU, "onnx", "auto", ("onnx", "fp32")),
    ],
)
def test_what_a_choice_comes_to(width, device, engine, precision, expected) -> None:
    config = NetworkConfig(classes=5, width=width)
    kind, taken = choose.choose(config, device, engine=engine, precision=precision)
    assert (kind.name, taken) == expected


@pytest.mark.usefixtures("kinds")
def test_a_refusal_names_what_works() -> None:
    with pytest.raises(DeviceError, match="no engine computes in bf16 on cpu") as caught:
        choose.choose(PUBLISHED, CPU, precision="bf16")
    assert "--engine shared with --precision fp32, --engine patch with --precision fp32" in str(caught.value)
    with pytest.raises(DeviceError, match="engine shared cannot be used on cpu in bf16: no such units"):
        choose.choose(PUBLISHED, CPU, engine="shared", precision="bf16")


@pytest.mark.usefixtures("kinds")
def test_a_model_that_an_engine_cannot_take_is_the_models_fault() -> None:
    config = NetworkConfig(classes=5, width=32)
    with pytest.raises(ModelError, match="needs a width of 64, not 32"):
        choose.choose(config, CPU, engine="shared")


@pytest.mark.parametrize("names", [{"engine": "fast"}, {"precision": "int8"}])
def test_unknown_names(bundle: ModelBundle, names: dict[str, str]) -> None:
    with pytest.raises(DeviceError, match=r"unknown (engine 'fast'|precision 'int8')") as caught:
        make_engine(bundle, EngineChoice(device=CPU, **names))
    assert "use auto, " in str(caught.value)


def test_patch_engine_is_fp32_on_the_cpu(bundle: ModelBundle) -> None:
    engine = make_engine(bundle, EngineChoice(engine="patch", device=CPU, batch_size=5))
    assert (engine.name, engine.device, engine.precision) == ("patch", "cpu", "fp32")
    for precision in ("bf16", "fp16"):
        with pytest.raises(DeviceError, match="fp32 only on the CPU"):
            make_engine(bundle, EngineChoice(engine="patch", device=CPU, precision=precision))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
def test_patch_engine_in_bf16_wants_a_card_that_has_it(capability, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    patch = choose.KINDS["patch"]
    assert bool(patch.unavailable(PUBLISHED, CUDA, "bf16")) == (capability < (8, 0))
    assert not patch.unavailable(PUBLISHED, CUDA, "fp16")


def test_a_bad_name_is_refused_before_the_scene_is_opened(tmp_path: Path) -> None:
    import das2f_map

    with pytest.raises(DeviceError, match="unknown engine"):
        das2f_map.classify("no.tif", "no.tif", tmp_path / "map.tif", engine="gpu")


def test_missing_kernels_are_said_once(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(kernels.shared, "unavailable", lambda *_: "not built")
    kernels.say_if_missing.cache_clear()
    for engine in ("shared", "patch", "auto"):
        make_engine(bundle, EngineChoice(engine=engine, device=CPU))
    kernels.say_if_missing.cache_clear()
    assert [
        r.message for r in caplog.records if "compiled kernels cannot be used: not built" in r.message
    ] == [
        "compiled kernels cannot be used: not built; slower PyTorch operations serve on the CPU; "
        "reinstall das2f-map with a C++ compiler at hand"
    ]


def test_kernels_that_are_there_are_not_missed(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    for module in (kernels.scan, kernels.shared):
        monkeypatch.setattr(module, "unavailable", lambda *_: "")
    kernels.say_if_missing.cache_clear()
    make_engine(bundle, EngineChoice(engine="patch", device=CPU))
    kernels.say_if_missing.cache_clear()
    assert not caplog.records


def test_automatic_on_the_cpu_is_the_shared_scan(bundle: ModelBundle) -> None:
    engine = make_engine(bundle, EngineChoice(device=CPU))
    assert (engine.name, engine.precision) == ("shared", "fp32")


def test_small_patches_without_kernels_go_one_by_one() -> None:
    """If the compiled selective scan is there: it saves more than small patches save by sharing."""
    small = NetworkConfig(classes=3, patch_size=8)
    scan = default_backend(CPU, torch.float32, gradients=False).name
    expected = "patch" if scan == "compiled" else "shared"
    assert choose.choose(small, CPU)[0].name == expected
    assert choose.choose(NetworkConfig(classes=3, width=32, state_size=16), CPU)[0].name == "shared"
    assert choose.choose(small, CPU, engine="shared")[0].name == "shared"


def test_sparse_drafts_go_one_by_one() -> None:
    """They have few rows to share; a named engine is taken all the same."""
    scan = default_backend(CPU, torch.float32, 64, 24, gradients=False).name
    expected = "patch" if scan == "compiled" else "shared"
    taken = [choose.choose(PUBLISHED, CPU, every=k)[0].name for k in (1, 2, 4, 9)]
    assert taken == ["shared", "shared", expected, expected]
    assert choose.choose(PUBLISHED, CPU, engine="shared", every=9)[0].name == "shared"
