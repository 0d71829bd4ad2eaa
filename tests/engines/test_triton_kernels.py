"""The shared scan's Triton kernels: against torch operations, and compiled for GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kernel_cases import errors_of

from das2f_map.engines.shared_scan import cuda, triton_calls
from das2f_map.engines.shared_scan.maps import BlockRuns
from das2f_map.engines.shared_scan.tensor_bytes import triton_patch_bytes
from das2f_map.network import NetworkConfig
from das2f_map.network.selective_scan import triton_scan

CASES = Path(__file__).with_name("triton_cases.py")
COMPILE = Path(__file__).with_name("triton_compile_cases.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        ("scan-float32", 1e-6),
        ("scan-bfloat16", 6e-3),
        ("gelu", 3e-6),  # of values up to 20, whose own rounding is 1e-6
        ("tail-float32", 2e-6),
        ("tail-float16", 2e-3),
        ("tail-bfloat16", 1e-2),
        ("softplus", 1e-6),
        ("fusion-bfloat16", 3e-6),  # its arithmetic is float32, and the truth has the same rounded inputs
        ("later-published", 2e-6),
        ("whole-fp32", 1e-5),
        ("two-stages-fp32", 1e-5),
        ("two-stages-bf16", 3e-2),
        ("whole-bf16", 3e-2),  # a small random network; of the published one with trained weights it is 1e-2
        ("scan-long-float32", 1e-6),
    ],
)
def test_kernels_agree_with_torch(case: str, tolerance: float) -> None:
    errors = errors_of(CASES, case)
    assert errors
    for name, error in errors.items():
        assert error <= tolerance, name


@pytest.mark.parametrize("width", [32, 96])
def test_widths_of_which_channels_would_be_left_out_are_refused(width: int) -> None:
    runs = BlockRuns.of(1, 2, 8, 1)
    values = torch.zeros(runs.rows.entries, runs.cols.entries, width + 4 * (width + 2 * 5))
    with pytest.raises(ValueError, match=f"multiples of 64, not {width}"):
        triton_calls.scan_branch(values, runs, values, runs, torch.zeros(4, 5, width), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "scan_forward-90-bf16",
        "scan_backward-90-bf16",
        "segments-90-bf16",
        "border_rows-90-bf16",
        "wavefront-90-bf16",
        "wavefront-80-fp32",
        "tail-90-bf16",
        "tail-80-fp32",
        "fusion-90-bf16",
        "mixer_inputs-90-bf16",
        "mixer_inputs-80-fp32",
        "scan_patches-90-bf16",
        "scan_patches-80-fp32",
    ],
)
def test_kernels_compile(case: str) -> None:
    for choice, share in errors_of(COMPILE, case, interpret=False).items():
        assert share <= 1, f"{choice}: too much shared memory"


def test_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, device = torch.device("cpu"), torch.device("cuda")
    published = NetworkConfig(classes=3)
    monkeypatch.setattr(triton_scan, "missing", lambda: "Triton is not installed")
    assert cuda.unavailable(published, device) == "Triton is not installed"
    monkeypatch.setattr(triton_scan, "missing", lambda: "")
    monkeypatch.setattr(triton_scan, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    assert cuda.unavailable(published, device) == ""
    assert "CUDA devices only" in cuda.unavailable(published, cpu)
    assert "published sizes" in cuda.unavailable(NetworkConfig(classes=3, width=32), device)
    assert "at most 64 classes" in cuda.unavailable(NetworkConfig(classes=65), device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Old card")
    assert "Old card is too old" in cuda.unavailable(published, device)


@pytest.mark.parametrize(
    ("free_gib", "smallest", "largest"), [(0.1, 16, 16), (4, 32, 80), (16, 96, 128), (75, 128, 128)]
)
def test_blocks_fit_into_free_memory(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, smallest: int, largest: int
) -> None:
    free = int(free_gib * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    side = cuda.block_size(NetworkConfig(classes=3), torch.device("cuda"), "bf16")
    assert smallest <= side <= largest


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("free_gib", [0.1, 2, 16, 75])
def test_patches_after_the_shared_part_fit_into_the_memory_that_blocks_leave(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, stages: int
) -> None:
    free = int(free_gib * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    config = NetworkConfig(classes=3, stages=stages)
    patches = cuda.patches_at_once(config, torch.device("cuda"), "fp32")
    taken = patches * triton_patch_bytes(config, 4)
    assert patches == 32 or taken <= 0.15 * free
    assert patches == 1024 or 0.14 * free <= taken
    assert 32 <= patches <= 1024


def test_fewer_patches_at_a_time_when_memory_runs_out() -> None:
    batches = cuda.PatchBatches(1024)
    tried: list[int] = []

    def finish(patches: torch.Tensor) -> torch.Tensor:
        tried.append(patches.shape[1])
        if tried[-1] > limit:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return (patches[0] * 1000 + patches[1])[:, None]

    rows = torch.arange(700)
    patches = torch.stack([rows, rows.flip(0)])
    limit = 200
    found = batches.run(finish, patches)
    assert found[:, 0].tolist() == (patches[0] * 1000 + patches[1]).tolist()
    assert tried == [700, 350, 175, 175, 175, 175]
    limit = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):  # then the block is to be smaller
        batches.run(finish, patches)
    assert batches.size >= 32
