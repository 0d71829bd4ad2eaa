"""The shared-scan engine against the network run on each patch alone."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.engines.shared_scan import SharedScanEngine, compiled, torch_path, unavailable
from das2f_map.engines.shared_scan.first_stage import FirstStage
from das2f_map.engines.shared_scan.runs import AxisRuns
from das2f_map.engines.shared_scan.workspace import Workspace
from das2f_map.errors import DeviceError
from das2f_map.network import Das2fNet, NetworkConfig

SMALL = {"width": 16, "state_size": 4, "dt_rank": 4}
KERNELS_MISSING = compiled.unavailable(NetworkConfig(classes=2), torch.float32)


def trained_looking(dtype: torch.dtype, **sizes: int) -> Das2fNet:
    """Random weights and normalisation statistics, all different from their initial values."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    network = Das2fNet(NetworkConfig(**{"classes": 5, "classifier_hidden": 32, **sizes})).double().eval()

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * noise(p))
        for name, b in network.named_buffers():
            if name.endswith("running_mean"):
                b.add_(0.3 * noise(b))
            if name.endswith("running_var"):
                b.mul_(torch.exp(0.5 * noise(b)))
    return network.to(dtype)


def block(h: int, w: int, bands: int = 4, seed: int = 0) -> SimpleNamespace:
    """A block with its halo; one corner has constant fill values, as nodata leaves them."""
    rng = np.random.default_rng(seed)
    ms = rng.standard_normal((bands, h + 15, w + 15)).astype(np.float32)
    pan = rng.standard_normal((1, 4 * (h + 15), 4 * (w + 15))).astype(np.float32)
    ms[:, 2:6, 5:9] = 0
    pan[:, 40:52, 8:20] = 0
    return SimpleNamespace(ms=ms, pan=pan, all=np.ones((h, w), bool))


def truth(network: Das2fNet, scene: SimpleNamespace) -> np.ndarray:
    """Each patch cut by hand through the network: (h, w, C) in the network's type."""
    dtype = next(network.parameters()).dtype
    ms, pan = (torch.from_numpy(v).to(dtype) for v in (scene.ms, scene.pan))
    h, w = scene.all.shape
    with torch.inference_mode():
        rows = [
            network(
                torch.stack([ms[:, r : r + 16, c : c + 16] for c in range(w)]),
                torch.stack([pan[:, 4 * r : 4 * r + 64, 4 * c : 4 * c + 64] for c in range(w)]),
            )
            for r in range(h)
        ]
    return torch.stack(rows).numpy()


def in_float64(network: Das2fNet, scene: SimpleNamespace) -> np.ndarray:
    """The torch path's logits in float64: the engine would round them to float32."""
    first = FirstStage(network)
    with torch.inference_mode():
        tokens, maps = first.maps(*(torch.from_numpy(v).double() for v in (scene.ms, scene.pan)))
        stage = first.output(first.scans(maps), tokens, maps, *np.nonzero(scene.all))
        out = network.classifier(network.features_after(stage))
    return out.view(*scene.all.shape, -1).numpy()


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((5, 7), SMALL),
        ((1, 1), SMALL),
        ((1, 18), SMALL),
        pytest.param((19, 2), SMALL, marks=pytest.mark.slow),
        ((3, 4), SMALL | {"ms_bands": 6}),
        ((3, 4), SMALL | {"stages": 2}),
        ((3, 2), SMALL | {"patch_size": 8}),
        pytest.param((2, 3), {}, id="published sizes", marks=pytest.mark.slow),
    ],
)
def test_torch_path_is_exact_in_float64(shape: tuple[int, int], sizes: dict[str, int]) -> None:
    network = trained_looking(torch.float64, **sizes)
    scene = block(*shape, bands=sizes.get("ms_bands", 4))
    if p := sizes.get("patch_size"):
        h, w = shape
        scene.ms = scene.ms[:, : h + p - 1, : w + p - 1]
        scene.pan = scene.pan[:, : 4 * (h + p - 1), : 4 * (w + p - 1)]
        expected = by_patches_of(network, scene, p)
    else:
        expected = truth(network, scene)
    got = in_float64(network, scene)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def by_patches_of(network: Das2fNet, scene: SimpleNamespace, p: int) -> np.ndarray:
    ms, pan = (torch.from_numpy(v).double() for v in (scene.ms, scene.pan))
    h, w = scene.all.shape
    with torch.inference_mode():
        out = [
            network(ms[None, :, r : r + p, c : c + p], pan[None, :, 4 * r : 4 * (r + p), 4 * c : 4 * (c + p)])
            for r in range(h)
            for c in range(w)
        ]
    return torch.cat(out).view(h, w, -1).numpy()


# Nothing to test where they were not built; that a compiler builds them is tested next.
needs_kernels = pytest.mark.skipif(bool(KERNELS_MISSING), reason=KERNELS_MISSING or "-")


def test_where_there_is_a_compiler_the_kernels_were_built() -> None:
    """Their tests are skipped without them, so a build that breaks would go unseen."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler here")
    assert KERNELS_MISSING == ""


def assert_two_stages_agree(got: np.ndarray, expected: np.ndarray) -> None:
    """With random weights the plain network in float32 is off by 1.4e-5 to 1.8e-5 of the largest logit, too.

    AALF normalises products with a mean that may be almost zero, which makes small errors large.
    """
    error = np.abs(got.reshape(expected.shape) - expected) / np.abs(expected).max()
    assert error.max() < 1e-4
    assert np.sqrt((error**2).mean()) < 1e-5


def assert_agree(got: np.ndarray, expected: np.ndarray, stages: int) -> None:
    """To 1e-5 of the largest logit, or as far as float32 goes with two stages."""
    if stages > 1:
        assert_two_stages_agree(got, expected)
    else:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def choose_level(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the code of one instruction set, or skip the test on a processor without it."""
    monkeypatch.setenv("DAS2F_MAP_SIMD_LEVEL", str(level))
    if compiled.instruction_set() != compiled.LEVELS[level]:
        pytest.skip(f"no {compiled.LEVELS[level]} here")


# With bfloat16 products (3) float32 is the same code as with AVX-512 (2).
each_level = pytest.mark.parametrize(
    "level",
    # The portable code is slow on any machine that has something better; AVX2 has a like path with AVX-512.
    [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 2, 4],
    ids=lambda i: compiled.LEVELS[i],
)


@needs_kernels
@each_level
@pytest.mark.parametrize(
    "shape", [(5, 7), (1, 1), pytest.param((2, 33), marks=pytest.mark.slow), (18, 1)], ids=str
)
def test_kernels_agree_with_every_patch(
    shape: tuple[int, int], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_level(level, monkeypatch)
    scene = block(*shape)
    expected = truth(trained_looking(torch.float64), scene)
    engine = SharedScanEngine(trained_looking(torch.float32))
    assert engine.scan.startswith("compiled")
    got = engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("bf16", [False, True])
def test_weights_are_packed_for_amx_as_its_instructions_take_them(bf16: bool) -> None:
    """Element by element, on any processor."""
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    packed = compiled.packed_for_amx(weight, bf16=bf16)
    assert packed.dtype is torch.bfloat16
    assert packed.shape == (2, 2, 2, 1 if bf16 else 3, 2, 16, 16, 2)
    sums = packed.double().sum(dim=3)
    for out, of in np.ndindex(64, 128):
        register, place = of % 64 // 32, of % 32
        row, half = divmod(place, 2) if bf16 else (place % 16, place // 16)
        found = sums[of // 64, out // 32, register, out % 32 // 16, row, out % 16, half]
        expected = weight[out, of].bfloat16() if bf16 else weight[out, of]
        assert found == expected.double()


@needs_kernels
@each_level
@pytest.mark.parametrize("mlp_ratio", [1, 3])
def test_kernels_agree_with_other_hidden_layers(
    mlp_ratio: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of the hidden layer, and an odd number of them."""
    choose_level(level, monkeypatch)
    scene = block(1, 2)
    expected = truth(trained_looking(torch.float64, mlp_ratio=mlp_ratio), scene)
    engine = SharedScanEngine(trained_looking(torch.float32, mlp_ratio=mlp_ratio))
    assert engine.scan.startswith("compiled")
    got = engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@needs_kernels
@each_level
def test_kernels_agree_where_activations_are_large(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden values of tens: the GELU approximates on an interval, and outside must give 0 and x."""

    found: list[torch.Tensor] = []

    def network(dtype: torch.dtype) -> Das2fNet:
        made = trained_looking(dtype)
        for module in made.modules():
            if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Linear):
                module[0].weight.data *= 25
                module[0].register_forward_hook(lambda _module, _inputs, out: found.append(out.abs().max()))
        return made

    choose_level(level, monkeypatch)
    scene = block(2, 3)
    expected = truth(network(torch.float64), scene)
    assert max(found) > 30
    engine = SharedScanEngine(network(torch.float32))
    got = engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def two_stages_and_truth(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a two-stage network by the compiled kernels, and by the plain network in float64."""
    scene = block(*shape)
    expected = truth(trained_looking(torch.float64, stages=2), scene)
    engine = SharedScanEngine(trained_looking(torch.float32, stages=2))
    assert engine.scan.startswith("compiled")
    return engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape), expected


@needs_kernels
@each_level
@pytest.mark.parametrize(
    "shape",
    [(2, 3), pytest.param((1, 1), marks=pytest.mark.slow)],
)
def test_kernels_agree_with_both_stages(
    shape: tuple[int, int], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_level(level, monkeypatch)
    got, expected = two_stages_and_truth(shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@needs_kernels
@each_level
def test_kernels_round_no_more_than_the_plain_network(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products summed onto the much larger tokens gave twice the error of the plain network in float32.

    With AMX, which leaves out the smallest products of a number's three parts, it was two and a half times.
    """
    choose_level(level, monkeypatch)
    got, expected = two_stages_and_truth((6, 4))
    plain = truth(trained_looking(torch.float32, stages=2), block(6, 4))
    ours, theirs = (np.sqrt(((found - expected) ** 2).mean()) for found in (got, plain))
    assert ours < (2 if level == 4 else 1.4) * theirs


@needs_kernels
@each_level
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 5), (6, 4), (19, 2)])
def test_kernels_agree_with_both_stages_where_float32_is_not_enough(
    shape: tuple[int, int], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_level(level, monkeypatch)
    assert_two_stages_agree(*two_stages_and_truth(shape))


@needs_kernels
@each_level
@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"dt_rank": 5}, {"dt_rank": 64}, {"mlp_ratio": 3}, {"ms_bands": 6}], ids=str
)
def test_kernels_agree_with_two_stages_of_other_sizes(
    sizes: dict[str, int], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_level(level, monkeypatch)
    scene = block(2, 2, bands=sizes.get("ms_bands", 4))
    expected = truth(trained_looking(torch.float64, stages=2, **sizes), scene)
    engine = SharedScanEngine(trained_looking(torch.float32, stages=2, **sizes))
    assert engine.scan.startswith("compiled")
    assert_two_stages_agree(engine.logits(scene.ms, scene.pan, scene.all), expected)


def lasting_and_ending(dtype: torch.dtype, stages: int) -> Das2fNet:
    """A network with decays from almost one to exp(-1000)."""
    made = trained_looking(torch.float64, stages=stages)
    for name, p in made.named_parameters():
        if name.endswith("A_log"):
            p.data += torch.linspace(-9, 6, p.shape[-1], dtype=torch.float64)
        if name.endswith("dt_bias"):
            p.data += 3
    return made.to(dtype)


@needs_kernels
@each_level
@pytest.mark.slow
@pytest.mark.parametrize("stages", [1, 2])
def test_kernels_agree_with_states_that_last_and_states_that_end(
    stages: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below 2^-126 the kernels have other decays, but tiny ones."""
    choose_level(level, monkeypatch)
    scene = block(2, 3)
    expected = truth(lasting_and_ending(torch.float64, stages), scene)
    engine = SharedScanEngine(lasting_and_ending(torch.float32, stages))
    got = engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape)
    assert_agree(got, expected, stages)


half_level = pytest.mark.parametrize("level", [3, 4], ids=lambda i: compiled.LEVELS[i])


@needs_kernels
@half_level
@pytest.mark.parametrize(("stages", "tolerance"), [(1, 2e-2), (2, 5e-2)])
def test_bfloat16_stays_near(
    stages: int, tolerance: float, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_level(level, monkeypatch)
    monkeypatch.setattr(compiled, "NEARLY_TIED", -1.0)
    assert not unavailable(NetworkConfig(classes=5, stages=stages), torch.device("cpu"), "bf16")
    scene = block(4, 6) if stages == 1 else block(2, 3)
    expected = truth(trained_looking(torch.float64, stages=stages), scene)
    engine = SharedScanEngine(trained_looking(torch.float32, stages=stages), precision="bf16")
    got = engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < tolerance  # less would mean that it was not bfloat16


@needs_kernels
@half_level
@pytest.mark.parametrize(("stages", "shape"), [(1, (4, 6)), pytest.param(2, (2, 3), marks=pytest.mark.slow)])
def test_near_ties_are_settled_in_float32(
    stages: int, shape: tuple[int, int], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_level(level, monkeypatch)
    scene = block(*shape)
    expected = truth(trained_looking(torch.float64, stages=stages), scene).reshape(-1, 5)
    engine = SharedScanEngine(trained_looking(torch.float32, stages=stages), precision="bf16")

    def logits(nearly_tied: float) -> np.ndarray:
        monkeypatch.setattr(compiled, "NEARLY_TIED", nearly_tied)
        return engine.logits(scene.ms, scene.pan, scene.all)

    never, always = logits(-1.0), logits(1e9)
    errors = [np.sqrt(((found - expected) ** 2).mean()) for found in (never, always)]
    assert errors[1] < errors[0] / 2
    network = trained_looking(torch.float32, stages=stages)
    network.fold_classifier()
    weights = network.classifier.weight.detach().double().numpy()
    first, second = never.argsort(axis=1)[:, :-3:-1].T
    rows = np.arange(len(never))
    apart = np.linalg.norm(weights[first] - weights[second], axis=1)
    ahead = (never[rows, first] - never[rows, second]) / apart
    some = float(np.sort(ahead)[len(ahead) // 2 - 1 : len(ahead) // 2 + 1].mean())
    np.testing.assert_array_equal(logits(some), np.where(ahead[:, None] < some, always, never))


def test_near_ties_are_those_of_the_two_highest_logits() -> None:
    near = compiled.NEARLY_TIED
    between = torch.tensor([[0.0, 1.0, 10.0], [1.0, 0.0, 1.0], [10.0, 1.0, 0.0]])
    logits = torch.tensor(
        [
            [5.0, 5.0 - 0.9 * near, 0.0],
            [5.0, 5.0 - 1.1 * near, 0.0],  # too far apart for two classes that are so near
            [5.0, 0.0, 5.0 - 9.0 * near],
            [1.0, 1.0, 1.0],
            [0.5 * near, 0.0, -0.4 * near],  # all three are near each other
        ]
    )
    assert compiled.nearly_tied(logits, between).tolist() == [True, False, True, True, True]
    # Two classes, and a single one.
    assert compiled.nearly_tied(logits[:3, :2], between[:2, :2]).tolist() == [True, False, False]
    assert compiled.nearly_tied(torch.zeros(3, 1), torch.zeros(1, 1)).tolist() == [False] * 3


@needs_kernels
@pytest.mark.parametrize("stages", [1, 2])
def test_bfloat16_products_are_the_same_with_and_without_the_matrix_unit(
    stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sum the same products of the same rounded numbers; only rounding of the sums differs.

    It moves some of the numbers that are rounded next. A second stage with random weights enlarges that in
    single patches, so that all patches together are looked at there.
    """
    scene, found = block(2, 3), []
    monkeypatch.setattr(compiled, "NEARLY_TIED", -1.0)
    for level in (3, 4):
        choose_level(level, monkeypatch)
        network = trained_looking(torch.float32, stages=stages, dt_rank=5)
        engine = SharedScanEngine(network, precision="bf16")
        found.append(engine.logits(scene.ms, scene.pan, scene.all))
    difference = np.abs(found[0] - found[1]) / np.abs(found[0]).max()
    if stages == 1:
        assert difference.max() < 1e-3
    else:
        assert np.sqrt((difference**2).mean()) < 2.5e-3


@needs_kernels
@torch.inference_mode()
def test_tokens_scanned_for_bfloat16_agree_with_the_torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of four directions is rounded to 11 bits four times, and decays are right to 1e-4."""
    choose_level(3, monkeypatch)
    network = trained_looking(torch.float32).requires_grad_(False)
    network.fold_classifier()
    first = FirstStage(network)
    kernels = compiled.CompiledKernels(first, "bf16")
    rows, cols = 18, 5
    scene = block(rows, cols)
    tokens, maps = first.maps(torch.from_numpy(scene.ms), torch.from_numpy(scene.pan))
    found = kernels.scan(tokens, maps)
    # The kernel's layout: a spare cache line of 32 numbers after each patch and each row of patches.
    patch = 256 * 16 + 32
    row = cols * patch + 32
    group = rows * row
    numbers = (ctypes.c_uint16 * (4 * 4 * group)).from_address(found.block.y)
    buffer = torch.frombuffer(numbers, dtype=torch.float16)
    scanned = buffer.as_strided((4, rows, cols, 256, 4, 16), (4 * group, row, patch, 16, group, 1)).float()
    for own, expected in zip(scanned, first.scans(maps), strict=True):
        error = (own.reshape(expected.shape) - expected).abs().max() / expected.abs().max()
        assert 1e-5 < error < 2e-3


@needs_kernels
@half_level
@pytest.mark.parametrize(("stages", "tolerance"), [(1, 2e-2), pytest.param(2, 0.1, marks=pytest.mark.slow)])
def test_bfloat16_stays_near_with_states_that_last_and_states_that_end(
    stages: int, tolerance: float, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_level(level, monkeypatch)
    scene = block(2, 3)
    expected = truth(lasting_and_ending(torch.float64, stages), scene)
    engine = SharedScanEngine(lasting_and_ending(torch.float32, stages), precision="bf16")
    got = engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@needs_kernels
def test_kernels_can_be_left_out() -> None:
    network = trained_looking(torch.float32)
    scene = block(2, 3)
    engine = SharedScanEngine(network, kernels=False)
    assert engine.scan == "torch"
    got, expected = (e.logits(scene.ms, scene.pan, scene.all) for e in (engine, SharedScanEngine(network)))
    assert not np.array_equal(got, expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@torch.inference_mode()
def test_torch_path_stays_on_its_device() -> None:
    """As on a card without Triton: no operation runs on the CPU, and no value is read back in between.

    PyTorch's `meta` device stands in for the card. It has no values to read and mixes with no other.
    """
    network, scene = trained_looking(torch.float32).to("meta"), block(5, 6)
    first = FirstStage(network)
    tokens, maps = first.maps(*(torch.from_numpy(v).to("meta") for v in (scene.ms, scene.pan)))
    stage = first.output(first.scans(maps), tokens, maps, *np.nonzero(scene.all))
    logits = network.classifier(network.features_after(stage))
    assert logits.device.type == "meta"
    assert logits.shape == (30, network.config.classes)


@pytest.mark.parametrize(
    ("kernels", "stages"),
    [
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 1, marks=needs_kernels),
        pytest.param(True, 2, marks=[needs_kernels, pytest.mark.slow]),
    ],
)
def test_block_size_and_targets_make_no_difference(kernels: bool, stages: int) -> None:
    network = trained_looking(torch.float32, stages=stages, **({} if kernels else SMALL))
    scene = block(9, 11)
    expected = PerPatchEngine(network).logits(scene.ms, scene.pan, scene.all).reshape(9, 11, -1)
    targets = np.random.default_rng(1).random((9, 11)) < 0.4
    targets[4:8, 4:8] = False  # a sub-block without any
    for size in (4, 7, 32):
        engine = SharedScanEngine(network, block_size=size)
        assert engine.scan.startswith("compiled") is kernels
        got = engine.logits(scene.ms, scene.pan, targets)
        assert_agree(got, expected[targets], stages)


@needs_kernels
def test_threads_make_no_difference() -> None:
    scene = block(18, 5)
    engine = SharedScanEngine(trained_looking(torch.float32))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(engine.logits(scene.ms, scene.pan, scene.all))
    finally:
        torch.set_num_threads(before)
    # The maps are torch's, which adds in another order; the kernels add in one, see below.
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_torch_scans_are_the_same_for_any_number_of_threads(threads: int) -> None:
    """Bit for bit, also after larger blocks; the process keeps its number of threads."""
    first = FirstStage(trained_looking(torch.float32, **SMALL))
    small, large = (
        [torch.from_numpy(v) for v in (scene.ms, scene.pan)] for scene in (block(4, 6), block(9, 7, seed=1))
    )

    def scans(ms: torch.Tensor, pan: torch.Tensor) -> list[torch.Tensor]:
        return [y.clone() for y in first.scans(first.maps(ms, pan)[1])]

    before = torch.get_num_threads()
    with torch.inference_mode():
        expected = scans(*small)
        try:
            torch.set_num_threads(threads)
            scans(*large)
            found = scans(*small)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_kernels
@pytest.mark.parametrize("stages", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_any_threads_give_the_same_bits_of_the_same_maps(stages: int) -> None:
    """With more threads than strips, the kernels make shorter strips."""
    network = trained_looking(torch.float32, stages=stages).requires_grad_(False)
    network.fold_classifier()
    first = FirstStage(network)
    kernels = compiled.CompiledKernels(first, "fp32")
    scene = block(19, 10)
    tokens, maps = first.maps(torch.from_numpy(scene.ms), torch.from_numpy(scene.pan))
    rows, cols = np.nonzero(scene.all)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 50, 150):
            torch.set_num_threads(threads)
            found.append(kernels.finish(kernels.scan(tokens, maps), rows, cols).clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_threads_are_kept_when_a_scan_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SharedScanEngine(trained_looking(torch.float32, **SMALL), kernels=False)
    scene = block(2, 3)

    def fail(*_all: object, **_more: object) -> torch.Tensor:
        raise ArithmeticError

    monkeypatch.setattr(torch_path, "scan_block", fail)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(ArithmeticError):
            engine.logits(scene.ms, scene.pan, scene.all)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [SMALL, {}], ids=["torch", "kernels"])
def test_one_engine_called_by_several_threads(sizes: dict[str, int]) -> None:
    engine = SharedScanEngine(trained_looking(torch.float32, **sizes))
    scenes = [block(3, 4 + i, seed=i) for i in range(4)] * 2

    def logits(scene: SimpleNamespace) -> np.ndarray:
        return engine.logits(scene.ms, scene.pan, scene.all)

    expected = [logits(s) for s in scenes]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(logits, scenes))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mappings")
def test_memory_of_blocks_is_private_and_given_back() -> None:
    """Shared mappings would have no huge pages, and forked processes would write into them."""

    def mappings() -> dict[int, str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {int(line.split("-")[0], 16): line.split()[1] for line in lines}

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    workspace = Workspace()
    taken = workspace.take("some", (16 << 20,), torch.zeros(1)).fill_(1)  # 64 MiB
    assert mappings()[max(a for a in mappings() if a <= taken.data_ptr())] == "rw-p"
    held = resident()
    del taken
    workspace.clear()
    assert held - resident() > 48 << 20


def test_what_blocks_of_a_size_share_is_made_once_and_not_kept_for_ever() -> None:
    workspace = Workspace()
    made: list[int] = []

    def of(size: int) -> int:
        def make() -> tuple[torch.Tensor, ...]:
            made.append(size)
            return (torch.tensor(size),)

        return int(workspace.kept(("size", size), make)[0])

    assert [of(size) for size in (3, 4, 3)] == [3, 4, 3]
    assert made == [3, 4]
    for size in range(100, 115):  # the one asked for last outlives them, the other does not
        of(size)
    assert of(3) == 3
    assert of(4) == 4
    assert made.count(3) == 1
    assert made.count(4) == 2
    workspace.clear()
    assert of(3) == 3
    assert made.count(3) == 2


def test_blocks_of_many_sizes_one_after_the_other() -> None:
    network = trained_looking(torch.float64, **SMALL)
    engine = SharedScanEngine(network)
    for height, width in ((1, 2), (2, 1), (3, 2), (1, 2)):
        scene = block(height, width, seed=height)
        expected = truth(network, scene)
        found = engine.logits(scene.ms, scene.pan, scene.all).reshape(expected.shape)
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()  # they come as float32


def test_nothing_wanted_and_a_block_that_does_not_fit() -> None:
    engine = SharedScanEngine(trained_looking(torch.float32, **SMALL))
    scene = block(2, 3)
    assert engine.logits(scene.ms, scene.pan, ~scene.all).shape == (0, 5)
    with pytest.raises(ValueError, match="does not fit"):
        engine.logits(scene.ms, scene.pan, np.ones((3, 3), bool))


def test_what_it_cannot_run() -> None:
    cpu = torch.device("cpu")
    assert "middle" in unavailable(NetworkConfig(classes=2, patch_size=4), cpu, "fp32")
    assert unavailable(NetworkConfig(classes=2), cpu, "fp16")
    assert "published sizes" in compiled.unavailable(NetworkConfig(classes=2, **SMALL), torch.float32) or (
        KERNELS_MISSING
    )


@pytest.mark.parametrize("edge", [0, 1, 2])
@pytest.mark.parametrize("outputs", [1, 3, 20])
def test_runs_hold_each_token_of_each_class_once(outputs: int, edge: int) -> None:
    runs = AxisRuns(outputs, 16, edge)
    seen = {}
    for start in range(outputs):
        for position in range(16):
            kind = position if position < edge or position >= 16 - edge else -1
            seen.setdefault(int(runs.entry(start, position)), set()).add((start + position, kind))
    assert sorted(seen) == list(range(runs.entries))
    assert all(len(tokens) == 1 for tokens in seen.values())
    start, position = runs.representatives()
    assert [next(iter(seen[e]))[0] for e in range(runs.entries)] == (start + position).tolist()


@pytest.mark.slow
def test_blocks_are_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained_looking(torch.float32, **SMALL)
    scene = block(5, 7)
    scene.all[1, 2] = False
    expected = SharedScanEngine(network).logits(scene.ms, scene.pan, scene.all)
    buffers: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    class Buffer(mmap.mmap):
        """Memory of a workspace, counted as long as it lives."""

        def __init__(self, *_all: object, **_more: object) -> None:
            buffers.add(self)

    monkeypatch.setattr(mmap, "mmap", Buffer)
    # Batches of 8 are not halved: a block whose output does not fit is.
    engine = SharedScanEngine(network, block_size=7, batch_size=8)
    maps, output = FirstStage.maps, FirstStage.output
    sizes: list[int] = []
    held: list[
        tuple[bool, bool]
    ] = []  # whether there are buffers when a block starts, and when it is scanned

    def block_starts(first: FirstStage, ms: torch.Tensor, pan: torch.Tensor) -> object:
        sizes.append(max(ms.shape[1:]) - 15)
        before = bool(buffers)
        made = maps(first, ms, pan)
        held.append((before, bool(buffers)))
        return made

    def short_of_memory(*args: object) -> object:
        if sizes[-1] > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return output(*args)

    monkeypatch.setattr(FirstStage, "maps", block_starts)
    monkeypatch.setattr(FirstStage, "output", short_of_memory)
    result = engine.logits(scene.ms, scene.pan, scene.all)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert sizes[:3] == [7, 4, 2]
    assert held[:4] == [(False, True), (False, True), (False, True), (True, True)]
    assert set(sizes[3:]) <= {1, 2}
    assert engine.block_size == 2

    def no_memory(*_all: object) -> object:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(FirstStage, "output", no_memory)
    with pytest.raises(DeviceError, match="too little free memory for a single patch"):
        engine.logits(scene.ms, scene.pan, scene.all)


def test_batches_of_a_second_stage_are_halved_first(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained_looking(torch.float32, **SMALL, stages=2)
    scene = block(6, 7)
    expected = SharedScanEngine(network).logits(scene.ms, scene.pan, scene.all)
    engine = SharedScanEngine(network, batch_size=40)
    second, tried = Das2fNet.features_after, []

    def few_only(net: Das2fNet, stage: tuple[torch.Tensor, ...]) -> torch.Tensor:
        tried.append(len(stage[0]))
        if tried[-1] > 10:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return second(net, stage)

    monkeypatch.setattr(Das2fNet, "features_after", few_only)
    result = engine.logits(scene.ms, scene.pan, scene.all)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert tried == [40, 20, 10, 10, 10, 10, 2]
    assert (engine.batch_size, engine.block_size) == (10, 32)


@pytest.mark.slow
@needs_kernels
def test_kernels_go_on_when_the_machine_gives_no_more() -> None:
    """The memory limit leaves no room for a thread or a block of the usual size."""
    resource = pytest.importorskip("resource", reason="needs a Unix's limits")
    if not hasattr(resource, "RLIMIT_AS") or not Path("/proc/self/statm").exists():
        pytest.skip("no limits of memory here")
    program = """
import resource, sys
import numpy as np, torch
from test_shared_scan import block, trained_looking
from das2f_map.engines.shared_scan import SharedScanEngine
torch.set_num_threads(2)
network = trained_looking(torch.float32)
engine = SharedScanEngine(network)
small, large = block(3, 3), block(32, 32)
# Another engine: its memory goes with it.
expected = SharedScanEngine(network).logits(small.ms, small.pan, small.all)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20,) * 2)
assert np.isfinite(engine.logits(large.ms, large.pan, large.all)).all()
assert engine.block_size < 32, engine.block_size
np.testing.assert_allclose(engine.logits(small.ms, small.pan, small.all), expected, rtol=1e-5, atol=1e-5)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@needs_kernels
@each_level
@pytest.mark.parametrize("stages", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_absurd_values_do_no_harm(stages: int, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_level(level, monkeypatch)
    scene = block(2, 2)
    scene.ms[:, 8, 8] = -3.4e38
    network = trained_looking(torch.float32, stages=stages)
    for precision in ("fp32", "bf16") if level >= 3 else ("fp32",):
        logits = SharedScanEngine(network, precision=precision).logits(scene.ms, scene.pan, scene.all)
        assert not np.isfinite(logits).all()  # as the network's own would be
