"""The ONNX engine: the network's ONNX graph, patch by patch, through onnxruntime.

On the CPU the graph's operators are small, and splitting them over threads gains little: a patch takes 11 ms
on two cores, 12 ms on one. Every thread therefore takes a batch of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from das2f_map._version import __version__
from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.onnx_file import OnnxModel, metadata_of, require_packages
from das2f_map.engines.memory import BLOCK_SIZE, block_bytes, out_of_memory, too_small
from das2f_map.engines.threads import in_threads
from das2f_map.errors import DeviceError, ModelError
from das2f_map.network import NetworkConfig
from das2f_map.network.onnx_graph import INPUT_NAMES, OPSETS, OUTPUT_NAME, build_graph
from das2f_map.network.scan_order import DIRECTIONS
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.types import Bool, Float32, Int64

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

_CPU_BATCH = 8
_CUDA_BATCH = 256


def graph_bytes(bundle: ModelBundle, opset: int = OPSETS[0]) -> bytes:
    """An ONNX file of a bundle, with the card in its metadata.

    Raises
    ------
    MissingDependencyError
        The package onnx is not installed.
    ModelError
        The model is an ONNX file already.
    """
    require_packages("onnx")
    model = build_graph(bundle.network(), opset=opset, metadata=metadata_of(bundle.card), version=__version__)
    data: bytes = model.SerializeToString()
    return data


def unavailable(config: NetworkConfig, device: torch.device, precision: str) -> str:
    """The reason why the engine cannot be used; empty if it can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:  # installed, but its libraries do not load
        return f"onnxruntime cannot be imported: {error}"
    if precision != "fp32":
        return "computes in fp32 only"
    if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        if _is_installed("onnxruntime") and _is_installed("onnxruntime-gpu"):
            return "onnxruntime hides onnxruntime-gpu: uninstall both, then install onnxruntime-gpu"
        return "this onnxruntime has no CUDA provider, which the package onnxruntime-gpu brings"
    return ""


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


class OnnxEngine:
    """Runs an ONNX graph on one patch a target pixel, many at a time.

    Parameters
    ----------
    data:
        The ONNX file's content.
    card:
        The model's card; the graph must have the inputs and outputs that the card describes.
    device:
        Where to compute.
    batch_size:
        Patches at a time; by default 8 for each thread on the CPU and 256 on CUDA. When memory runs out,
        the engine halves it for the rest of its life.

    Raises
    ------
    ModelError
        The file is damaged, or its graph does not fit the card.
    DeviceError
        onnxruntime cannot use the device.
    """

    name = "onnx"
    all_turns = False
    precision = "fp32"
    scan = "unrolled"

    def __init__(
        self,
        data: bytes,
        card: ModelCard,
        *,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._config = card.network
        self._patch = card.patch.size
        self._classes = card.network.classes
        self._session = _session(data, self._device)
        _check_signature(self._session, card)
        cuda = self._device.type == "cuda"
        # Several threads may run one session at once; one thread is enough to keep a GPU busy.
        self._threads = 1 if cuda else torch.get_num_threads()
        self.batch_size = batch_size or (_CUDA_BATCH if cuda else _CPU_BATCH)
        self._halving = threading.Lock()

    @classmethod
    def of(
        cls, bundle: ModelBundle, *, device: torch.device | str = "cpu", batch_size: int | None = None
    ) -> OnnxEngine:
        """The engine of an ONNX file, or of a bundle; a bundle's graph is made in memory."""
        data = bundle.data if isinstance(bundle, OnnxModel) else graph_bytes(bundle)
        return cls(data, bundle.card, device=device, batch_size=batch_size)

    @property
    def block_size(self) -> int:
        """MS pixels a side of a block; patches are cut one by one, so any size would do."""
        return BLOCK_SIZE

    def memory_bytes(self, size: int) -> int:
        """See :class:`das2f_map.engines.Engine`: the block, and a batch of each thread."""
        patches = min(self._threads * self.batch_size, size * size)
        return block_bytes(self._config, size) + patches * _patch_bytes(self._config)

    @property
    def device(self) -> str:
        return str(self._device)

    def logits(
        self,
        ms: Float32,
        pan: Float32,
        targets: Bool,
    ) -> Float32:
        """See :class:`das2f_map.engines.Engine`. Raises ``DeviceError`` when one patch is too much."""
        p, f = self._patch, PAN_PER_MS
        # Views of every patch of the block: (h, w, bands, P, P) and (h, w, 1, 4P, 4P), nothing copied.
        ms_patches = np.lib.stride_tricks.sliding_window_view(ms, (p, p), (1, 2)).transpose(1, 2, 0, 3, 4)
        pan_patches = np.lib.stride_tricks.sliding_window_view(pan, (f * p, f * p), (1, 2))
        pan_patches = pan_patches[:, ::f, ::f].transpose(1, 2, 0, 3, 4)
        if ms_patches.shape[:2] != targets.shape or pan_patches.shape[:2] != targets.shape:
            raise ValueError(f"block of {ms.shape} and {pan.shape} does not fit targets {targets.shape}")
        rows, cols = np.nonzero(targets)
        out = np.empty((len(rows), self._classes), dtype=np.float32)

        def run(part: slice) -> None:
            out[part] = self._run(ms_patches, pan_patches, rows[part], cols[part])

        size = self.batch_size
        in_threads(run, [slice(i, i + size) for i in range(0, len(rows), size)], self._threads)
        return out

    def _run(
        self,
        ms: Float32,
        pan: Float32,
        rows: Int64,
        cols: Int64,
    ) -> Float32:
        """Logits of some of the block's patches; in halves where memory is too small for all."""
        if len(rows) > self.batch_size:
            half = len(rows) // 2
            parts = (slice(half), slice(half, None))
            return np.concatenate([self._run(ms, pan, rows[part], cols[part]) for part in parts])
        try:
            patches = (ms[rows, cols], pan[rows, cols])
            logits: Float32 = self._session.run([OUTPUT_NAME], dict(zip(INPUT_NAMES, patches, strict=True)))[
                0
            ]
        except Exception as error:  # the only common base of onnxruntime's error classes
            if not _out_of_memory(error):
                raise
            if len(rows) == 1:
                raise too_small(self.device) from error
            with self._halving:
                self.batch_size = min(self.batch_size, len(rows) // 2)
            log.warning("out of memory on %s: going on with batches of %d", self.device, self.batch_size)
            return self._run(ms, pan, rows, cols)
        return logits


def _patch_bytes(config: NetworkConfig) -> int:
    """Estimate of the float32 bytes that a patch takes in the graph.

    The scan is unrolled, and all steps' decays and additions exist before the first state: two states a step.
    The scan's inputs, of all branches and directions, exist about ten times over. A further stage finds some
    of the first one's memory free. Fitted to measurements of onnxruntime on the CPU.
    """
    states = 2 * config.state_size * config.width
    inputs = 10 * (config.width + 2 * config.state_size)
    scans = 4 * DIRECTIONS * config.tokens
    return 4 * scans * (states + inputs) * (2 + config.stages) // 3


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    signs = ("failed to allocate", "out of memory", "bad_alloc")
    return out_of_memory(error) or any(sign in text for sign in signs)


def _session(data: bytes, device: torch.device) -> onnxruntime.InferenceSession:
    require_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # the CUDA libraries of the installed torch
        # Full float32: TensorFloat-32 keeps 10 bits.
        cuda = {"device_id": device.index or 0, "use_tf32": 0}
        providers = [("CUDAExecutionProvider", cuda), *providers]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # the only common base of onnxruntime's error classes
        raise ModelError(f"onnxruntime cannot run the model's graph: {error}") from error
    if device.type == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError(
            f"onnxruntime does not get {device} to work",
            "use --device cpu, or --engine auto for PyTorch on CUDA",
        )
    return session


def _check_signature(session: onnxruntime.InferenceSession, card: ModelCard) -> None:
    """Check names, types and sizes of inputs and output; the number of patches must be free."""
    p, bands = card.patch.size, card.network.ms_bands
    expected = {
        INPUT_NAMES[0]: [bands, p, p],
        INPUT_NAMES[1]: [1, PAN_PER_MS * p, PAN_PER_MS * p],
        OUTPUT_NAME: [card.network.classes],
    }
    values = (*session.get_inputs(), *session.get_outputs())
    found = {v.name: list(v.shape[1:]) for v in values}
    if found != expected:
        raise ModelError(f"the ONNX graph has inputs and outputs {found}, its card wants {expected}")
    for v in values:
        if v.type != "tensor(float)":
            raise ModelError(f"the ONNX graph's {v.name} is a {v.type}, not a float32 tensor")
        if isinstance(v.shape[0], int):
            raise ModelError(
                f"the ONNX graph's {v.name} is fixed to {v.shape[0]} patches at a time",
                "export it again, with `das2f-map export`",
            )
