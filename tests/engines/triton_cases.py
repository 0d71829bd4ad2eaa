"""The shared scan's Triton kernels against torch operations in float64; run by test_triton_kernels.py.

Networks are smaller than the published one: the interpreter takes about a millisecond a step.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch
import triton
import triton.language as tl
from kernel_cases import DEVICE, Case, relative_error, report

from das2f_map.engines.shared_scan import torch_path, triton_calls, triton_tail
from das2f_map.engines.shared_scan.cuda import TritonFirstStage
from das2f_map.engines.shared_scan.first_stage import FirstStage, Tail
from das2f_map.engines.shared_scan.maps import BlockRuns, MixerMaps, TokenMap
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


def _network(stages: int) -> Das2fNet:
    """A network with random weights, all different from their initial values; classifier folded, float32."""
    torch.manual_seed(5)
    network = Das2fNet(NetworkConfig(classes=5, stages=stages, classifier_hidden=8, **SIZES)).eval()
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
    patches = torch.from_numpy(np.stack([np.append(rows, 0), np.append(cols, 0)])).to(DEVICE, torch.int32)
    maps = (x.to(DEVICE), x_runs, gate.to(DEVICE), tokens[..., order].contiguous().to(DEVICE), runs)
    plain = weights(y.to(DEVICE), patches[:, :3], *maps)
    less = weights(y.to(DEVICE), patches[:, :3], *maps, minus.to(DEVICE), dtype)
    assert less.dtype == dtype
    return {
        "plain": relative_error(plain, expected[..., order]),
        "less": relative_error(less, expected[..., order] - minus),
    }


def fusion(dtype: torch.dtype) -> dict[str, float]:
    """Fusion and classifier of more patches than a program takes; their number is not a multiple of it."""
    g = torch.Generator().manual_seed(0)
    network = _network(1)
    n = 19
    parts = [torch.randn(n, P * P, WIDTH, generator=g).to(dtype) for _ in range(4)]
    stage = StageOutput(*(t.double().view(n, P, P, WIDTH) for t in parts))
    expected = (
        copy.deepcopy(network).double().classifier(copy.deepcopy(network).double().features_after(stage))
    )
    order = torch.arange(WIDTH).view(-1, 4).t().flatten()
    # The order of channels in which a token's four sub-tokens follow each other.
    sub = tokens_to_subtokens(torch.arange(WIDTH).view(1, 1, 1, WIDTH)).flatten()
    assert torch.equal(sub, order)
    weights = triton_calls.FusionWeights(network.to(DEVICE), order.to(DEVICE))
    result = weights(*(t[..., order].contiguous().to(DEVICE) for t in parts))
    return {"logits": relative_error(result, expected)}


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


def _patch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return torch.randn(4, P, P, generator=g), torch.randn(1, 4 * P, 4 * P, generator=g)


def whole(dtype: str) -> dict[str, float]:
    """A block of one output against the network: one stage up to the logits, and the first of two stages."""
    two = _network(2)
    one = _network(1)
    stage = {name: value for name, value in two.state_dict().items() if name in one.state_dict()}
    same = {n: v for n, v in stage.items() if v.shape == one.state_dict()[n].shape}
    one.load_state_dict(same, strict=False)
    ms, pan = _patch()
    truth = copy.deepcopy(one).double()
    expected = truth(ms[None].double(), pan[None].double())
    tokens_of = truth.ms_stem(ms[None].double()), truth.pan_stem(pan[None].double())
    stages = torch.stack(list(truth.stages[0](*tokens_of)), dim=1)

    first = FirstStage(one.to(DEVICE))
    kernels = TritonFirstStage(first, dtype, patches=1)
    assert kernels.whole
    tokens, maps = first.maps(ms.to(DEVICE), pan.to(DEVICE))
    scanned = kernels.scan(tokens, maps)
    twice = np.array([0, 0])
    logits = kernels.finish(scanned, twice, twice)
    # The other stages take tokens with their channels as they are.
    inner = TritonFirstStage(FirstStage(two.to(DEVICE)), dtype)
    assert not inner.whole
    first_of_two = inner.finish(scanned._replace(tokens=[_dense(t) for t in tokens]), twice, twice)
    return {
        "logits": relative_error(logits, expected.expand_as(logits)),
        "first stage": relative_error(first_of_two, stages.expand_as(first_of_two)),
    }


def _dense(tokens: TokenMap) -> torch.Tensor:
    return tokens.tokens.contiguous()


CASES: dict[str, Case] = {
    "scan-float32": lambda: scan(2, 1, 2, 1, torch.float32),
    "scan-bfloat16": lambda: scan(1, 2, 1, 2, torch.bfloat16),
    **{f"tail-{name}": functools.partial(tail, dtype) for name, dtype in DTYPES.items()},
    "fusion-bfloat16": functools.partial(fusion, torch.bfloat16),
    "gelu": gelu,
    "whole-fp32": functools.partial(whole, "fp32"),
    "whole-bf16": functools.partial(whole, "bf16"),
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
