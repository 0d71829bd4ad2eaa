"""The network against logits and intermediates of the published definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import DATA, load_parity, published_shapes

from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.published import published_names
from das2f_map.network.selective_scan import BACKENDS, use_backend

# Published module name → where its output is taken from here.
_TOKENS = {
    "scan_161664_ms": "ms_stem",
    "scan_161664_pan": "pan_stem",
    "mamba_ms_1": "stages.0.spvm_ms",
    "mamba_pan_1": "stages.0.spvm_pan",
    "cromamba_1": "stages.0.cmda",
    "mamba_ms_2": "stages.1.spvm_ms",
    "mamba_pan_2": "stages.1.spvm_pan",
    "cromamba_2": "stages.1.cmda",
    "FusionBlock": "fusions.0",
    "FusionBlock2": "fusions.0",
    "FusionBlock3": "fusions.1",
}


@pytest.fixture(scope="module", params=[1, 2], ids=["one-stage", "two-stage"])
def case(request: pytest.FixtureRequest):
    network = Das2fNet(NetworkConfig(classes=11, stages=request.param)).double().eval()
    load_parity(network, request.param)
    return network, np.load(DATA / f"parity_{request.param}stage.npz")


def _inputs(vectors, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.as_tensor(vectors[f"input/{k}"]).to(dtype) for k in ("ms", "pan"))


@pytest.mark.parametrize("backend", ["sequential", "chunked"])
def test_logits_agree_in_float64(case, backend: str) -> None:
    network, vectors = case
    with torch.no_grad(), use_backend(backend):
        logits = network(*_inputs(vectors, torch.float64)).numpy()
    np.testing.assert_allclose(logits, vectors["output/logits"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_logits_agree_in_float32(case, backend: str) -> None:
    network, vectors = case
    if reason := BACKENDS[backend].unavailable(torch.device("cpu"), torch.float32):
        pytest.skip(f"{backend}: {reason}")  # it needs a GPU, a compiler or an extra
    single = Das2fNet(network.config).eval()
    single.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    )
    with torch.no_grad(), use_backend(backend):
        logits = single(*_inputs(vectors, torch.float32)).numpy()
    # Relative to each logit; the absolute part, half a millionth of the largest, is for logits near zero.
    truth = vectors["output/logits"]
    np.testing.assert_allclose(logits, truth, rtol=1e-4, atol=5e-7 * np.abs(truth).max())


def test_intermediates_agree(case) -> None:
    network, vectors = case
    seen: dict[str, object] = {}
    modules = dict(network.named_modules())
    names = [n.removeprefix("intermediate/") for n in vectors.files if n.startswith("intermediate/")]
    assert len(names) == (7 if network.config.stages == 1 else 12)
    hooks = [
        modules[_TOKENS[key]].register_forward_hook(lambda _m, _i, out, key=key: seen.__setitem__(key, out))
        for key in {n.split(".")[0] for n in names}
    ]
    ms, pan = _inputs(vectors, torch.float64)
    with torch.no_grad():
        network(ms[:1], pan[:1])
    for hook in hooks:
        hook.remove()
    for name in names:
        module, _, index = name.partition(".")
        value = seen[module][int(index)] if index else seen[module]
        truth = vectors[f"intermediate/{name}"]
        # The published fusion keeps its sub-tokens in another shape, in the same order.
        # The stored intermediates are float32, so right to half a unit in the last place only.
        np.testing.assert_allclose(
            value.numpy().reshape(truth.shape), truth, rtol=6e-8, atol=1e-9, err_msg=name
        )


def test_folded_classifier_changes_nothing(case) -> None:
    network, vectors = case
    folded = Das2fNet(network.config).double().eval()
    folded.load_state_dict(network.state_dict())
    folded.fold_classifier()
    assert sum(p.numel() for p in folded.classifier.parameters()) == 16384 * 11 + 11
    with torch.no_grad():
        logits = folded(*_inputs(vectors, torch.float64)).numpy()
    np.testing.assert_allclose(logits, vectors["output/logits"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("stages", "parameters"), [(1, 17_107_315), (2, 17_416_531)])
def test_sizes_are_the_published_ones(stages: int, parameters: int) -> None:
    with torch.device("meta"):
        network = Das2fNet(NetworkConfig(classes=11, stages=stages))
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("stages", [1, 2])
def test_published_names_cover_the_published_state_dict(stages: int) -> None:
    with torch.device("meta"):
        ours = Das2fNet(NetworkConfig(classes=11, stages=stages)).state_dict()
    names = published_names(stages)
    assert set(names) == set(published_shapes(stages))
    assert set(names.values()) == set(ours)
    for theirs, shape in published_shapes(stages).items():
        assert ours[names[theirs]].numel() == int(np.prod(shape)), theirs
