"""The per-patch engine against the network run on patches cut by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_card, tiny_network

from das2f_map.engines.device import resolve_device
from das2f_map.engines.per_patch import PerPatchEngine, arithmetic
from das2f_map.errors import DeviceError
from das2f_map.network import Das2fNet, mixer


@pytest.fixture(scope="module")
def network():
    return tiny_network(tiny_card())


def _block(h: int, w: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ms = rng.standard_normal((4, h + 15, w + 15)).astype(np.float32)
    pan = rng.standard_normal((1, 4 * (h + 15), 4 * (w + 15))).astype(np.float32)
    return ms, pan


def _by_hand(network, ms: np.ndarray, pan: np.ndarray, row: int, col: int) -> np.ndarray:
    """The pixel whose patch starts at (row, col) of the block with its halo."""
    patch = torch.from_numpy(ms[None, :, row : row + 16, col : col + 16])
    fine = torch.from_numpy(pan[None, :, 4 * row : 4 * row + 64, 4 * col : 4 * col + 64])
    with torch.no_grad():
        return network(patch, fine)[0].numpy()


def test_every_pixel_gets_its_own_patch(network) -> None:
    ms, pan = _block(3, 5)
    logits = PerPatchEngine(network, batch_size=4).logits(ms, pan, np.ones((3, 5), bool))
    expected = np.stack([_by_hand(network, ms, pan, r, c) for r in range(3) for c in range(5)])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_only_wanted_pixels_are_computed(network, monkeypatch: pytest.MonkeyPatch) -> None:
    ms, pan = _block(4, 4)
    targets = np.zeros((4, 4), bool)
    targets[1, 2] = targets[3, 0] = True
    engine = PerPatchEngine(network, batch_size=64)
    seen = []
    forward = Das2fNet.forward
    monkeypatch.setattr(Das2fNet, "forward", lambda net, a, b: seen.append(len(a)) or forward(net, a, b))
    logits = engine.logits(ms, pan, targets)
    monkeypatch.undo()
    assert seen == [2]
    expected = np.stack([_by_hand(network, ms, pan, 1, 2), _by_hand(network, ms, pan, 3, 0)])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_nothing_wanted_is_an_empty_result(network) -> None:
    ms, pan = _block(2, 2)
    assert PerPatchEngine(network).logits(ms, pan, np.zeros((2, 2), bool)).shape == (0, 3)


def test_engine_leaves_the_network_alone(network) -> None:
    before = {n: t.clone() for n, t in network.state_dict().items()}
    PerPatchEngine(network)
    assert {n for n, _ in network.named_parameters()} <= set(before)
    assert all(p.requires_grad for p in network.parameters())


def test_block_that_does_not_fit_its_targets_is_refused(network) -> None:
    ms, pan = _block(3, 3)
    with pytest.raises(ValueError, match="does not fit"):
        PerPatchEngine(network).logits(ms, pan, np.ones((3, 4), bool))


def test_out_of_memory_halves_the_batch(network, monkeypatch: pytest.MonkeyPatch) -> None:
    ms, pan = _block(4, 4)
    engine = PerPatchEngine(network, batch_size=8)
    whole = engine.logits(ms, pan, np.ones((4, 4), bool))
    forward = Das2fNet.forward

    def small_only(net: Das2fNet, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if len(a) > 2:
            raise torch.cuda.OutOfMemoryError("too much")
        return forward(net, a, b)

    monkeypatch.setattr(Das2fNet, "forward", small_only)
    np.testing.assert_allclose(engine.logits(ms, pan, np.ones((4, 4), bool)), whole, atol=1e-4)
    assert engine.batch_size == 2

    def never(*_all: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("too much")

    monkeypatch.setattr(Das2fNet, "forward", never)
    with pytest.raises(DeviceError, match="too little free memory"):
        engine.logits(ms, pan, np.ones((4, 4), bool))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="unknown device"):
        resolve_device(name)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(DeviceError, match="not available"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="there are 2"):
        resolve_device("cuda:2")


def test_half_precision_stays_near_and_scans_in_float32(network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast on the CPU runs the same code as on CUDA."""
    ms, pan = _block(3, 4)
    targets = np.ones((3, 4), bool)
    full = PerPatchEngine(network).logits(ms, pan, targets)
    scanned = set()
    scan = mixer.selective_scan

    def watched(*tensors: torch.Tensor) -> torch.Tensor:
        scanned.update((t.dtype, torch.is_autocast_enabled("cpu")) for t in tensors[:-1])
        return scan(*tensors)

    monkeypatch.setattr(mixer, "selective_scan", watched)
    engine = PerPatchEngine(network, precision="bf16")
    half = engine.logits(ms, pan, targets)
    assert scanned == {(torch.float32, False)}
    assert engine.precision == "bf16"
    assert half.dtype == np.float32
    error = np.abs(half - full).max() / np.abs(full).max()
    # This network's logits are small differences of large sums; a trained one comes four times nearer.
    assert 1e-4 < error < 0.08
    rounded = torch.from_numpy(half).bfloat16().float().numpy()
    assert (half != rounded).any(), "logits themselves are not rounded to 8 bits"


def test_fp32_on_cuda_is_not_tensorfloat() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.enabled, cudnn.benchmark)
    with arithmetic(torch.device("cuda"), "fp32"):
        assert not cudnn.allow_tf32
        assert (cudnn.enabled, cudnn.benchmark) == before[1:]
    assert (cudnn.allow_tf32, cudnn.enabled, cudnn.benchmark) == before


def test_unknown_precision(network) -> None:
    with pytest.raises(ValueError, match="no precision 'int8'"):
        PerPatchEngine(network, precision="int8")
