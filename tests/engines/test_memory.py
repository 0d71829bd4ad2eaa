"""What engines say about their memory, against what they take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_bundle, tiny_card, tiny_network

from das2f_map.engines.onnx import OnnxEngine, graph_bytes
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.engines.shared_scan import SharedScanEngine, compiled
from das2f_map.engines.shared_scan.first_stage import FirstStage
from das2f_map.engines.shared_scan.tensor_bytes import map_bytes, scanned_bytes
from das2f_map.network import Das2fNet, NetworkConfig

PUBLISHED = NetworkConfig(classes=5)
KERNELS = compiled.unavailable(PUBLISHED, torch.float32)
REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
import ctypes
import gc
import sys
from pathlib import Path
import numpy as np
import torch
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import load_bundle
from das2f_map.engines.onnx import OnnxEngine, graph_bytes
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.engines.shared_scan import SharedScanEngine

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

torch.set_num_threads(1)
bundle = load_bundle(find_model("landsat8-gulf"))
size, share = int(sys.argv[2]), float(sys.argv[3])
engine = {
    "patch": lambda: PerPatchEngine(bundle.network(), batch_size=64),
    "onnx": lambda: OnnxEngine.of(bundle, batch_size=4),
    "shared": lambda: SharedScanEngine(bundle.network()),
    "torch": lambda: SharedScanEngine(bundle.network(), kernels=False),
}[sys.argv[1]]()
bands = bundle.card.network.ms_bands
# Memory that loading has freed goes back to the system: the engine would fill it again unseen.
gc.collect()
getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = resident("VmRSS")
rng = np.random.default_rng(0)
ms = rng.standard_normal((bands, size + 15, size + 15), dtype=np.float32)
pan = rng.standard_normal((1, 4 * (size + 15), 4 * (size + 15)), dtype=np.float32)
targets = rng.random((size, size)) < share
targets[0, 0] = targets[-1, -1] = True
engine.logits(ms, pan, targets)
print(resident("VmHWM") - before, engine.memory_bytes(size))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "size", "share"),
    [
        ("patch", 32, 0.1),
        ("onnx", 32, 0.02),
        pytest.param("shared", 32, 0.02, marks=pytest.mark.skipif(bool(KERNELS), reason=KERNELS)),
        pytest.param("shared", 48, 0.02, marks=pytest.mark.skipif(bool(KERNELS), reason=KERNELS)),
        ("torch", 16, 0.1),
    ],
)
def test_estimate_is_near_the_peak_of_a_fresh_process(engine: str, size: int, share: float) -> None:
    """An estimate covers what an allocator takes, and is not far above what the engine holds.

    How much of freed memory glibc's heap keeps depends on the order of earlier frees: the same run took
    45 to 82 MB for 16 patches. With a fixed threshold every tensor has its own pages, which go back when
    it is freed, and the peak repeats to a percent.
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell the peak of a process")
    if engine == "onnx":
        pytest.importorskip("onnx", reason="needs the extra onnx")
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")

    def peak_and_estimate(**settings: str) -> tuple[int, int]:
        command = [sys.executable, "-c", PROGRAM, engine, str(size), str(share)]
        environment = os.environ | settings
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        measured, estimate = map(int, done.stdout.split())
        return measured, estimate

    taken, estimate = peak_and_estimate()
    held, _ = peak_and_estimate(MALLOC_MMAP_THRESHOLD_="65536")
    # An estimate for patches allows for a heap that holds twice as much.
    assert 0.75 * taken < estimate < (2.5 if engine == "patch" else 2) * held


SMALL = {"patch_size": 8, "width": 32, "state_size": 5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [{}, SMALL], ids=["published", "small"])
def test_counted_tensors_of_the_shared_scan_are_those_that_there_are(
    dtype: torch.dtype, sizes: dict[str, int]
) -> None:
    network = Das2fNet(NetworkConfig(classes=3, **sizes)).to(dtype).eval()
    network.fold_classifier()
    config, side = network.config, 3
    halo = config.patch_size - 1
    first = FirstStage(network)
    with torch.inference_mode():
        tokens, maps = first.maps(
            torch.zeros(config.ms_bands, side + halo, side + halo, dtype=dtype),
            torch.zeros(1, 4 * (side + halo), 4 * (side + halo), dtype=dtype),
        )
        made = [t.tokens for t in tokens] + [v for m in maps for v in (m.gate, m.scan)]
        assert sum(v.nbytes for v in made) == map_bytes(config, side, dtype.itemsize)
        if sizes:
            scanned = first.scans(maps)
            assert sum(v.nbytes for v in scanned) == scanned_bytes(config, side, dtype.itemsize)


def test_parts_and_batches_bound_the_estimate() -> None:
    """A large block is computed in parts: it takes little more than a part and its own pixels."""
    network = tiny_network(tiny_card())
    for engine in (SharedScanEngine(network), PerPatchEngine(network)):
        small, large = (engine.memory_bytes(size) for size in (32, 256))
        pixels = 4 * (4 + 16) * ((256 + 15) ** 2 - (32 + 15) ** 2)
        assert large - small == pixels
        assert engine.memory_bytes(4) < small
    fewer = PerPatchEngine(network, batch_size=1)
    assert fewer.memory_bytes(32) < PerPatchEngine(network).memory_bytes(32)


def test_threads_of_the_onnx_engine_take_a_batch_each(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    bundle = tiny_bundle(tmp_path, patch=8)
    data = graph_bytes(bundle)
    before = torch.get_num_threads()
    taken = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        taken.append(OnnxEngine(data, bundle.card).memory_bytes(64))
    torch.set_num_threads(before)
    pixels = 4 * (4 + 16) * (64 + 7) ** 2
    assert taken[1] - pixels == 3 * (taken[0] - pixels) > 0
