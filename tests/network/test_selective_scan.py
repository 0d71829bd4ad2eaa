"""Every backend against the recurrence as it is defined, values and gradients."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from das2f_map.network.scan_order import scan_order
from das2f_map.network.selective_scan import BACKENDS, default_backend, selective_scan, use_backend

_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def _arguments(dtype=torch.float64, batch=2, width=16, states=5, size=4, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    k, tokens = 4, size * size
    arguments = (
        normal(batch, tokens, width),
        0.5 * normal(batch, k, tokens, width).exp(),
        -normal(k, width, states).exp(),
        normal(batch, k, tokens, states),
        normal(batch, k, tokens, states),
        normal(k, width),
    )
    return (*(t.to(dtype) for t in arguments), scan_order(size))


def _plain(x, dt, A, B, C, D, order) -> np.ndarray:
    """The recurrence for one number at a time, in Python floats."""
    batch, k, tokens, width = dt.shape
    y = np.zeros((batch, k, tokens, width))
    for b in range(batch):
        for direction in range(k):
            for d in range(width):
                h = [0.0] * A.shape[2]
                for token in order[direction].tolist():
                    step, value = float(dt[b, direction, token, d]), float(x[b, token, d])
                    out = float(D[direction, d]) * value
                    for n in range(len(h)):
                        decay = math.exp(step * float(A[direction, d, n]))
                        h[n] = decay * h[n] + step * float(B[b, direction, token, n]) * value
                        out += float(C[b, direction, token, n]) * h[n]
                    y[b, direction, token, d] = out
    return y


def _skip_unless(backend: str, dtype: torch.dtype) -> None:
    if reason := BACKENDS[backend].unavailable(torch.device("cpu"), dtype):
        pytest.skip(f"{backend}: {reason}")  # it needs a GPU, a compiler or an extra


def test_reference_is_the_definition() -> None:
    arguments = _arguments(batch=1, width=3, states=2, size=3)
    y = selective_scan(*arguments, backend="sequential").numpy()
    np.testing.assert_allclose(y, _plain(*arguments), rtol=1e-12, atol=1e-12)


def test_scan_orders() -> None:
    assert scan_order(3).tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 3, 6, 1, 4, 7, 2, 5, 8],
        [8, 7, 6, 5, 4, 3, 2, 1, 0],
        [8, 5, 2, 7, 4, 1, 6, 3, 0],
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize(
    "sizes",
    [
        # The published network.
        pytest.param({"width": 64, "states": 24, "size": 16, "batch": 3}, marks=pytest.mark.slow),
        {"width": 16, "states": 5, "size": 5},  # states padded, steps no multiple of a chunk
        {"width": 48, "states": 32, "size": 6, "batch": 1},
        {"batch": 0},
    ],
    ids=["published", "odd", "wide", "empty"],
)
def test_values_and_gradients(backend: str, dtype: torch.dtype, sizes: dict[str, int]) -> None:
    _skip_unless(backend, dtype)
    truth = [t.requires_grad_() if t.is_floating_point() else t for t in _arguments(**sizes)]
    given = [t.requires_grad_() if t.is_floating_point() else t for t in _arguments(dtype, **sizes)]
    expected = selective_scan(*truth, backend="sequential")
    result = selective_scan(*given, backend=backend)
    assert result.dtype == dtype
    assert result.shape == expected.shape
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected_grads = torch.autograd.grad((expected * weight).sum(), truth[:6])
    grads = torch.autograd.grad((result * weight.to(dtype)).sum(), given[:6])
    for name, got, want in zip(
        ("y", "x", "dt", "A", "B", "C", "D"), (result, *grads), (expected, *expected_grads), strict=True
    ):
        if want.numel():
            error = (got.double() - want).abs().max() / want.abs().max().clamp(min=1e-30)
            assert error <= _TOLERANCE[dtype], name


@pytest.mark.parametrize("backend", ["sequential", "chunked"])
def test_gradients_agree_with_finite_differences(backend: str) -> None:
    arguments = _arguments(batch=1, width=2, states=2, size=2)
    inputs = tuple(t.requires_grad_() for t in arguments[:6])
    assert torch.autograd.gradcheck(
        lambda *a: selective_scan(*a, arguments[6], backend=backend), inputs, eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("level", [0, 1, 2])
def test_compiled_agrees_on_every_instruction_set(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _skip_unless("compiled", torch.float32)
    monkeypatch.setenv("DAS2F_MAP_SIMD_LEVEL", str(level))
    sizes = {"width": 64, "states": 24, "size": 8}
    expected = selective_scan(*_arguments(**sizes), backend="sequential")
    result = selective_scan(*_arguments(torch.float32, **sizes), backend="compiled")
    assert (result - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_compiled_exponential_holds_at_its_limits() -> None:
    """Steps so long that exp(dt A) underflows: the state is forgotten, nothing becomes NaN."""
    _skip_unless("compiled", torch.float32)
    x, dt, A, B, C, D, order = _arguments(torch.float32, width=16, states=8)
    for scale in (1e-12, 1e3, 1e30):
        result = selective_scan(x, dt, A * scale, B, C, D, order, backend="compiled")
        expected = selective_scan(x, dt, A * scale, B, C, D, order, backend="sequential")
        torch.testing.assert_close(result, expected, rtol=2e-5, atol=2e-5)


def test_result_of_a_patch_does_not_depend_on_its_batch() -> None:
    backend = default_backend(torch.device("cpu"), torch.float32).name
    x, dt, A, B, C, D, order = _arguments(torch.float32, batch=5, width=64, states=24, size=16)
    together = selective_scan(x, dt, A, B, C, D, order, backend=backend)
    alone = selective_scan(x[3:4], dt[3:4], A, B[3:4], C[3:4], D, order, backend=backend)
    assert torch.equal(together[3:4], alone)


def test_unknown_and_unsuitable_backends_are_named() -> None:
    arguments = _arguments()
    with pytest.raises(ValueError, match="no selective-scan backend 'fast'; there are: mamba-ssm"):
        selective_scan(*arguments, backend="fast")
    with pytest.raises(ValueError, match="'mamba-ssm' cannot be used: runs on CUDA tensors only"):
        selective_scan(*arguments, backend="mamba-ssm")
    with pytest.raises(ValueError, match="no selective-scan backend"), use_backend("fast"):
        pass


def test_auto_falls_back_where_sizes_do_not_suit() -> None:
    arguments = _arguments(torch.float32, batch=1, width=16, states=70, size=2)
    expected = selective_scan(*arguments, backend="sequential")
    torch.testing.assert_close(selective_scan(*arguments), expected)
    kind = (torch.device("cpu"), torch.float32, 16, 70)
    assert default_backend(*kind).name == "chunked"
    assert default_backend(*kind, gradients=False).name == "sequential"


def test_where_there_is_a_compiler_the_compiled_scan_was_built() -> None:
    """The other tests of the compiled scan are skipped without it: a broken build would go unseen."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler here")
    assert BACKENDS["compiled"].unavailable(torch.device("cpu"), torch.float32) == ""


def test_dispatcher_uses_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    backend = BACKENDS["chunked"]
    spy = type(backend)(
        backend.name, lambda *a: called.append("chunked") or backend.scan(*a), backend.unavailable
    )
    monkeypatch.setitem(BACKENDS, "chunked", spy)
    arguments = _arguments(torch.float32)
    with use_backend("chunked"):
        selective_scan(*arguments)
        selective_scan(*arguments, backend="sequential")
    assert called == ["chunked"]


def test_mamba_that_imports_but_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed mamba-ssm without working CUDA code must not break anything."""
    import importlib.util
    import sys
    import types

    def broken(*_a: object) -> None:
        raise RuntimeError("no kernel image is available")

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = broken
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *s, **_k: torch.empty(s).fill_(0))
    # A copy of the module: the one in use remembers whether the kernel works.
    spec = importlib.util.find_spec("das2f_map.network.selective_scan.mamba_cuda")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert "no kernel image is available" in fresh.unavailable_reason()


def test_compiled_takes_other_types_and_refuses_other_shapes() -> None:
    """The kernel reads memory by these sizes, so a wrong one must never reach it."""
    _skip_unless("compiled", torch.float32)
    names = ("x", "dt", "A", "B", "C", "D", "order")
    given = dict(zip(names, _arguments(torch.float32), strict=True))
    expected = selective_scan(**given, backend="sequential")
    others = {
        "A": given["A"].double(),
        "B": given["B"].double(),
        "order": given["order"].int(),
    }
    found = selective_scan(**{**given, **others}, backend="compiled")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, wrong in {
        "x": given["x"][:, 1:],
        "D": given["D"][:1],
        "B": given["B"][:, :, 1:],
        "A": given["A"][:, 1:],
        "order": given["order"][:, 1:],
    }.items():
        with pytest.raises(ValueError, match=f"^{name} is .* it must be"):
            selective_scan(**{**given, name: wrong}, backend="compiled")
    for step in (-1, given["order"].shape[1]):
        order = given["order"].clone()
        order[0, 0] = step
        with pytest.raises(ValueError, match="tokens outside"):
            selective_scan(**{**given, "order": order}, backend="compiled")
