"""The Triton scan against the sequential one in float64; run by test_triton_scan.py."""

from __future__ import annotations

from functools import partial

import torch
from kernel_cases import DEVICE, Case, relative_error, report

from das2f_map.network.scan_order import scan_order
from das2f_map.network.selective_scan import selective_scan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIZES = {
    "published": {"width": 64, "states": 24, "size": 3, "batch": 1},  # two blocks of channels
    "odd": {"width": 20, "states": 5, "size": 5, "batch": 1},  # two chunks of steps, the second cut short
    "small": {"width": 16, "states": 1, "size": 4, "batch": 1},  # exactly one chunk
    "empty": {"width": 16, "states": 4, "size": 2, "batch": 0},
}


def _arguments(dtype: torch.dtype, batch: int, width: int, states: int, size: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(batch + width)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    k, tokens = 4, size * size
    # B and C as the network has them: views of one projection.
    both = normal(batch, tokens, k, 2 * states).transpose(1, 2).to(dtype)
    b, c = both.split(states, dim=-1)
    return [
        normal(batch, tokens, width).to(dtype),
        (0.5 * normal(batch, k, tokens, width).exp()).to(dtype),
        -normal(k, width, states).exp().float(),
        b,
        c,
        normal(k, width).float(),
    ]


def parity(dtype: torch.dtype, sizes: dict[str, int]) -> dict[str, float]:
    """Errors of the result and of all gradients."""
    inputs = _arguments(dtype, **sizes)
    order = scan_order(sizes["size"])
    given = [t.to(DEVICE).requires_grad_() for t in inputs]
    truth = [t.double().requires_grad_() for t in inputs]
    result = selective_scan(*given, order.to(DEVICE), backend="triton")
    expected = selective_scan(*truth, order, backend="sequential")
    assert result.dtype == dtype
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(expected.shape, generator=g).to(dtype)
    grads = torch.autograd.grad((result * weight.to(DEVICE)).sum(), given)
    wanted = torch.autograd.grad((expected * weight.double()).sum(), truth)
    for got, tensor in zip(grads, given, strict=True):
        assert got.dtype == tensor.dtype
    names = ("y", "x", "dt", "A", "B", "C", "D")
    with torch.no_grad():
        alone = selective_scan(*given, order.to(DEVICE), backend="triton")
    assert torch.equal(alone, result)  # without gradients the kernel keeps no states; the result is the same
    pairs = zip(names, (result, *grads), (expected, *wanted), strict=True)
    return {name: relative_error(got, want) for name, got, want in pairs if want.numel() and want.any()}


def limits() -> dict[str, float]:
    """Steps so long that exp(dt A) underflows, and so short that nothing decays."""
    x, dt, a, b, c, d = _arguments(torch.float32, batch=1, width=16, states=8, size=3)
    order = scan_order(3)
    out = {}
    for scale in (1e-12, 1e3, 1e30):
        inputs = (x, dt, a * scale, b, c, d)
        result = selective_scan(*(t.to(DEVICE) for t in inputs), order.to(DEVICE), backend="triton")
        expected = selective_scan(*(t.double() for t in inputs), order, backend="sequential")
        out[f"A times {scale:g}"] = relative_error(result, expected)
    return out


CHOSEN = (
    ("published", "float32"),
    ("published", "bfloat16"),
    ("odd", "float32"),
    ("small", "float16"),
    ("empty", "float32"),
)
CASES: dict[str, Case] = {
    f"{size}-{dtype}": partial(parity, DTYPES[dtype], SIZES[size]) for size, dtype in CHOSEN
} | {"limits": limits}

if __name__ == "__main__":
    report(CASES)
