"""The shared scan's Triton kernels against torch operations in float64; run by test_triton_kernels.py.

Networks are smaller than the published one: the interpreter takes about a millisecond a step.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from kernel_cases import DEVICE, Case, relative_error, report
from torch.utils._python_dispatch import TorchDispatchMode

from das2f_map.engines.shared_scan import torch_path, triton_calls, triton_later, triton_tail
from das2f_map.engines.shared_scan.cuda import TritonKernels
from das2f_map.engines.shared_scan.first_stage import Branch, FirstStage, Tail, scans
from das2f_map.engines.shared_scan.maps import BlockRuns, MixerMaps
from das2f_map.engines.shared_scan.tensor_bytes import triton_patch_bytes
from das2f_map.engines.shared_scan.triton_later_calls import LaterStage, apart
from das2f_map.engines.shared_scan.workspace import Workspace
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.aalf import tokens_to_subtokens
from das2f_map.network.das2f import StageOutput
from das2f_map.network.scan_order import scan_order

# Sizes as on a GPU, or small ones that the interpreter has time for.
PUBLISHED = {"patch_size": 16, "width": 64, "state_size": 24, "dt_rank": 24, "mlp_ratio": 4}
SMALL = {"patch_size": 8, "width": 64, "state_size": 5, "dt_rank": 6, "mlp_ratio": 4}
SIZES = PUBLISHED if DEVICE == "cuda" else SMALL
P, WIDTH, STATES = SIZES["patch_size"], SIZES["width"], SIZES["state_size"]
FEW = P if DEVICE == "cuda" else 4  # rows of a patch, where there are more patches than that
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _network(stages: int, sizes: dict[str, int] = SIZES) -> Das2fNet:
    """A network with random weights, all different from their initial values; classifier folded, float32."""
    torch.manual_seed(5)
    network = Das2fNet(NetworkConfig(classes=5, stages=stages, classifier_hidden=8, **sizes)).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for name, b in network.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(std=0.3)
            if name.endswith("running_var"):
                b.uniform_(0.5, 2)
    network.fold_classifier()
    return network.requires_grad_(False)


def scan(
    height: int, width: int, x_edge: int, edge: int, dtype: torch.dtype, patch: int = P
) -> dict[str, float]:
    """All four directions of a branch; x and the parameters may come from different modalities."""
    g = torch.Generator().manual_seed(height)
    features = WIDTH + 4 * (WIDTH + 2 * STATES)
    maps = []
    for e in (x_edge, edge):
        runs = BlockRuns.of(height, width, patch, e)
        values = torch.randn(runs.rows.entries, runs.cols.entries, features, generator=g)
        maps.append(MixerMaps(torch.zeros(0), values, runs))
    decay = -8 * torch.rand(4, WIDTH, STATES, generator=g)
    skip = torch.randn(4, WIDTH, generator=g)
    x, parameters = (m._replace(scan=m.scan.double()) for m in maps)
    there, back = (
        torch_path.scan_block(x, parameters, decay.double(), skip.double(), Workspace(), backwards=b)
        for b in (False, True)
    )
    expected = there + back.flip(0, 1, 2, 3)

    x_map, map_ = (triton_calls.stepped(m.scan.to(DEVICE, copy=True), WIDTH, STATES) for m in maps)
    a = triton_calls.kernel_decay(decay.to(DEVICE))
    y = triton_calls.scan_branch(x_map, maps[0].runs, map_, maps[1].runs, a, dtype)
    assert y.dtype == dtype
    order = scan_order(patch)
    result = torch.zeros(height * width, patch * patch, WIDTH, dtype=torch.float64)
    for k in range(4):
        result[:, order[k]] += y[:, k].cpu().double()
    result = result.view(height, width, patch, patch, WIDTH)
    rows, cols = (axis.table() for axis in x.runs)
    result += x.scan[rows[:, None, :, None], cols[None, :, None, :], :WIDTH] * skip.sum(dim=0)
    return {"y": relative_error(result, expected)}


def tail(dtype: torch.dtype) -> dict[str, float]:
    """A branch's tail, with outputs in another order and the other branch subtracted."""
    g = torch.Generator().manual_seed(0)
    first = FirstStage(_network(1))
    module, skip = first.tails[2], first.skips[2]
    assert isinstance(module, Tail)
    height, width, length = 2, 3, P * P
    x_runs, runs = (BlockRuns.of(height, width, P, edge) for edge in (2, 1))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    y = (0.5 * normal(height * width, 4, length, WIDTH)).to(dtype)
    x = normal(x_runs.rows.entries, x_runs.cols.entries, WIDTH + 16)
    gate, tokens = (normal(runs.rows.entries, runs.cols.entries, WIDTH) for _ in range(2))
    rows, cols = np.array([1, 0, 1]), np.array([2, 1, 0])
    minus = normal(3, length, WIDTH)

    def of_patches(values: torch.Tensor, of: BlockRuns) -> torch.Tensor:
        r, c = of.rows.table()[rows], of.cols.table()[cols]
        return values[r[:, :, None], c[:, None, :]].double().flatten(1, 2)

    total = of_patches(x, x_runs)[..., :WIDTH] * skip.double().sum(dim=0)
    for k, order in enumerate(scan_order(P)):
        total[:, order] += y[rows * width + cols, k].double()
    truth = copy.deepcopy(module).double()
    expected = truth(total, of_patches(gate, runs), of_patches(tokens, runs))
    order = torch.randperm(WIDTH, generator=g)
    module, skip = module.to(DEVICE), skip.to(DEVICE)
    weights = triton_calls.TailWeights(module, skip, order.to(DEVICE), dtype)
    # One more than is wanted: rows and columns need not follow each other.
    places = np.stack([rows * width + cols, rows, cols])
    patches = torch.from_numpy(np.append(places, [[0], [0], [0]], axis=1)).to(DEVICE, torch.int32)[:, :3]
    own = tokens[..., order].contiguous().to(DEVICE)
    block = triton_calls.TailInput(y.to(DEVICE), x.to(DEVICE), x_runs, gate.to(DEVICE), own, runs)
    plain, less = (torch.empty(3, length, WIDTH, dtype=t, device=DEVICE) for t in (torch.float32, dtype))
    weights(block, patches, plain)
    weights(block, patches, less, minus.to(DEVICE))
    return {
        "plain": relative_error(plain, expected[..., order]),
        "less": relative_error(less, expected[..., order] - minus),
    }


def fusion(dtype: torch.dtype, stages: int) -> dict[str, float]:
    """Fusions and classifier of more patches than a program takes; their number is not a multiple of it."""
    g = torch.Generator().manual_seed(0)
    network = _network(stages)
    n = 19
    specific = torch.randn(stages, 2, n, P * P, WIDTH, generator=g).to(dtype)
    common = torch.randn(2, n, P * P, WIDTH, generator=g)
    truth = copy.deepcopy(network).double()
    fused = tokens_to_subtokens(common.double().mean(dim=0).view(n, P, P, WIDTH))
    for module, parts in zip(truth.fusions, specific.double(), strict=True):  # the last stage comes first
        fused = module(*(tokens_to_subtokens(part.view(n, P, P, WIDTH)) for part in parts), fused)
    expected = truth.classifier(fused.flatten(1))
    order = _by_subtoken()
    # The order of channels in which a token's four sub-tokens follow each other.
    sub = tokens_to_subtokens(torch.arange(WIDTH).view(1, 1, 1, WIDTH)).flatten()
    assert torch.equal(sub, order)
    weights = triton_calls.FusionWeights(network.to(DEVICE), order.to(DEVICE))
    result = weights(*(t[..., order].contiguous().to(DEVICE) for t in (specific, common)))
    return {"logits": relative_error(result, expected)}


def _by_subtoken() -> torch.Tensor:
    return torch.arange(WIDTH).view(-1, 4).t().flatten()


def later(dtype: torch.dtype, sizes: dict[str, int]) -> dict[str, float]:
    """A second stage of a patch, up to its outputs; its tokens have their channels in another order."""
    n, p = 1, sizes["patch_size"]
    g = torch.Generator().manual_seed(1)
    network = _network(2, sizes)
    tokens = torch.randn(2, n, p, p, WIDTH, generator=g)
    truth = copy.deepcopy(network.stages[1]).double()(*tokens.double())
    order = torch.randperm(WIDTH, generator=g).to(DEVICE)
    branches = Branch.of(network.to(DEVICE).stages[1])
    stage = LaterStage(branches, order, dtype)
    tails = [
        triton_calls.TailWeights(Tail(b), parameters.D, order, dtype)
        for b, parameters in zip(branches, scans(branches), strict=True)
    ]
    given = tokens.to(DEVICE).flatten(2, 3)[..., order].contiguous()
    found = torch.full((4, n, p * p, WIDTH), torch.nan, device=DEVICE)
    for i, block in stage.scan(given, p):
        tails[i](block, apart(n, p, found.device), found[i])
    common_first = [found[0] - found[2], found[1] - found[3], found[2], found[3]]
    return {
        name: relative_error(part[..., torch.argsort(order)].unflatten(1, (p, p)), expected)
        for name, part, expected in zip(StageOutput._fields, common_first, truth, strict=True)
    }


@triton.jit
def _gelu_of(in_ptr, out_ptr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # as all kernels
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out_ptr + at, triton_tail.gelu(tl.load(in_ptr + at)))


def gelu() -> dict[str, float]:
    """The largest error of values within ± 20, and of larger ones as 20 times the relative error."""
    near = torch.linspace(-20, 20, 2**16)
    far = 20 * 1.3 ** torch.linspace(0, 300, 2**9)
    values = torch.cat([near, far, -far]).to(DEVICE)
    out = torch.empty_like(values)
    _gelu_of[(len(values) // 512,)](values, out, SIZE=512)
    exact = torch.nn.functional.gelu(values.double())
    error = (out.double() - exact).abs() / values.abs().clamp(min=20) * 20
    return {"near": float(error[: len(near)].max()), "far": float(error[len(near) :].max())}


@triton.jit
def _softplus_of(in_ptr, out_ptr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # as all kernels
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out_ptr + at, triton_later.softplus(tl.load(in_ptr + at)))


def softplus() -> dict[str, float]:
    """The largest relative error: step sizes are small, and must keep their digits."""
    values = torch.cat([torch.linspace(-10, 10, 2**14 - 2), torch.tensor([-1000.0, 1000.0])]).to(DEVICE)
    out = torch.empty_like(values)
    _softplus_of[(len(values) // 512,)](values, out, SIZE=512)
    exact = torch.nn.functional.softplus(values[:-2].double())
    assert out[-2:].tolist() == [0, 1000]
    return {"relative": float((out[:-2].double() / exact - 1).abs().max())}


def whole(precision: str, stages: int, outputs: int = 1) -> dict[str, float]:
    """A block of a few outputs against the network: logits of all but one of them, two at a time."""
    g = torch.Generator().manual_seed(2)
    width = -(-outputs // 2)
    height = -(-outputs // width)
    ms, pan = (
        torch.randn(bands, scale * (height + P - 1), scale * (width + P - 1), generator=g)
        for bands, scale in ((4, 1), (1, 4))
    )
    rows, cols = (i.ravel()[1:] if outputs > 1 else i.ravel() for i in np.mgrid[:height, :width])
    network = _network(stages)
    expected = copy.deepcopy(network).double()(
        torch.stack([ms[:, r : r + P, c : c + P] for r, c in zip(rows, cols, strict=True)]).double(),
        torch.stack(
            [pan[:, 4 * r : 4 * (r + P), 4 * c : 4 * (c + P)] for r, c in zip(rows, cols, strict=True)]
        ).double(),
    )
    first = FirstStage(network.to(DEVICE))
    kernels = TritonKernels(first, precision, patches=2)
    scanned = kernels.scan(*first.maps(ms.to(DEVICE), pan.to(DEVICE)))
    with _Allocated() as allocated:
        logits = kernels.finish(scanned, rows, cols)
    estimate = len(rows) * triton_patch_bytes(network.config, 2 if precision == "bf16" else 4)
    return {"logits": relative_error(logits, expected), "memory": _beyond(allocated.bytes / estimate)}


def _beyond(ratio: float) -> float:
    """0 if the estimate of the memory that patches take is right to 2 %, else infinite.

    It leaves out the logits of parts of a patch, which are 1 % of these small sizes.
    """
    return 0.0 if abs(ratio - 1) < 0.02 else float("inf")


class _Allocated(TorchDispatchMode):
    """Counts the bytes of new tensors that nothing has been written to."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "empty" in str(func):
            self.bytes += result.nbytes
        return result


CASES: dict[str, Case] = {
    "scan-float32": lambda: scan(2, 1, 2, 1, torch.float32),
    "scan-bfloat16": lambda: scan(1, 2, 1, 2, torch.bfloat16),
    **{f"tail-{name}": functools.partial(tail, dtype) for name, dtype in DTYPES.items()},
    "fusion-bfloat16": functools.partial(fusion, torch.bfloat16, 2),
    "later-published": functools.partial(later, torch.float32, PUBLISHED),
    "gelu": gelu,
    "softplus": softplus,
    "whole-fp32": functools.partial(whole, "fp32", 1),
    "whole-bf16": functools.partial(whole, "bf16", 1),
    "two-stages-fp32": functools.partial(whole, "fp32", 2, outputs=4),
    "two-stages-bf16": functools.partial(whole, "bf16", 2),
    # More patches than a patch has rows: the places of their states are used again.
    "scan-long-float32": lambda: scan(FEW + 2, 1, 1, 1, torch.float32, FEW),
}
if DEVICE == "cuda":  # for which the interpreter is too slow
    CASES |= {
        "scan-float32": lambda: scan(19, 33, 2, 1, torch.float32),
        "scan-bfloat16": lambda: scan(33, 19, 1, 2, torch.bfloat16),
    }

if __name__ == "__main__":
    report(CASES)
