"""The compiled kernels of the shared scan (``kernels/``): loading, packing weights, calling.

The library is built with the package. Where the build found no compiler there is none, and :mod:`.torch_path`
does the same in torch operations.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.engines.shared_scan.first_stage import Branch, FirstStage, scans
from das2f_map.engines.shared_scan.maps import MixerMaps, TokenMap, folded_embedding, folded_parameters
from das2f_map.engines.shared_scan.runs import Indices
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.network.aalf import Aalf, tokens_to_subtokens

_ABI = 8
LEVELS = ("portable", "AVX2", "AVX-512", "AVX-512 with bfloat16", "AVX-512 with AMX")
_WIDE_LEVEL, _BF16_LEVEL, _AMX_LEVEL = 2, 3, 4
_LOG2E = 1.4426950408889634
_HIDDEN_STEP = 64
_MOST_RANK = 64
_BAND = 32  # outputs that the matrix unit computes together
_BYTES = torch.empty(0, dtype=torch.uint8)

NEARLY_TIED = 0.004
"""Length of the error of a pixel's features that bfloat16 is trusted to stay within. Where such an error
could change the class, float32 settles it. On the example that is a pixel in a hundred; the largest error
that changed a class there was less than half as long."""

_int64, _pointer = ctypes.c_int64, ctypes.c_void_p
_four = _pointer * 4
_two = _pointer * 2


class _Block(ctypes.Structure):
    """``Das2fSharedBlock`` of shared_scan.cpp."""

    _fields_ = (
        ("rows", _int64),
        ("cols", _int64),
        ("scan", _four),
        ("gate", _four),
        ("tokens", _two),
        ("y", _pointer),
        ("patches", _int64),
        ("wanted", _pointer),
        ("logits", _pointer),
    )


class _Stage(ctypes.Structure):
    """``Das2fStageWeights`` of shared_scan.cpp."""

    _fields_ = (
        ("hidden", _int64),
        ("rank", _int64),
        *[
            (name, _four)
            for name in (
                "decay",
                "skip",
                "norm",
                "out_norm",
                "project",
                "mlp_in",
                "mlp_in_bias",
                "mlp_out",
                "mlp_out_bias",
            )
        ],
        ("fusion_norm", _pointer),
        ("fusion_gate", _two),
        ("fusion_bias", _two),
        *[(name, _four) for name in ("gate", "taps", "embed", "embed_bias", "parameters", "dt", "dt_bias")],
    )


class _Weights(ctypes.Structure):
    """``Das2fSharedWeights`` of shared_scan.cpp."""

    _fields_ = (
        ("classes", _int64),
        ("half", _int64),
        ("bf16", _int64),
        ("stages", _int64),
        ("stage", _Stage * 2),
        ("classifier", _pointer),
        ("classifier_bias", _pointer),
    )


@lru_cache(maxsize=1)
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The loaded library, or why there is none."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"_kernels{suffix}"
        if not path.exists():
            continue
        try:
            library = ctypes.CDLL(str(path))
            abi = library.das2f_shared_abi()
        except (OSError, AttributeError) as error:
            return None, f"{path.name} cannot be loaded: {error}"
        if abi != _ABI:
            return None, f"{path.name} belongs to another version of das2f-map; reinstall it"
        library.das2f_shared_scratch.restype = _int64
        library.das2f_shared_scratch.argtypes = (_int64, _int64, ctypes.c_int, ctypes.c_int)
        return library, ""
    return None, "not built (no working C++ compiler when das2f-map was installed)"


def _level() -> int:
    library = _library()[0]
    assert library is not None
    best = int(library.das2f_shared_level())
    # For tests and bug reports: run the code of a lesser processor.
    asked = os.environ.get("DAS2F_MAP_SIMD_LEVEL", "")
    return max(0, min(best, int(asked))) if asked.isdecimal() else best


def instruction_set() -> str | None:
    """Name of the instruction set in use, ``None`` without the library."""
    return None if _library()[0] is None else LEVELS[_level()]


def unavailable(config: NetworkConfig, dtype: torch.dtype, precision: str = "fp32") -> str:
    """Why the kernels cannot run a network of this kind; empty if they can."""
    if reason := _library()[1]:
        return reason
    if dtype is not torch.float32:
        return f"they compute in float32, not {str(dtype).removeprefix('torch.')}"
    if precision == "fp16" or (precision == "bf16" and _level() < _BF16_LEVEL):
        return f"this processor ({LEVELS[_level()]}) has no {precision} products"
    sizes = (config.patch_size, config.width, config.state_size)
    if sizes != (16, 64, 24) or config.mlp_ratio * config.width % _HIDDEN_STEP:
        return "they are made for the published sizes (patch 16, width 64, 24 states)"
    if config.stages > 1 and config.dt_rank > _MOST_RANK:
        return f"in a second stage they take step sizes of a rank up to {_MOST_RANK}"
    return ""


def packed(weight: Tensor, group: int, *, bf16: bool) -> Tensor:
    """Weights (outputs, inputs) in groups of ``group`` outputs, one after the other, (outputs * inputs,).

    A group of n outputs is (inputs, n), or (inputs / 2, n, 2) in bfloat16. Where ``group`` does not divide
    64, the last group of every 64 outputs is smaller.
    """
    groups = []
    for some in torch.split(weight, _HIDDEN_STEP):
        for block in torch.split(some, group):
            n, inputs = block.shape
            if bf16:
                groups.append(block.to(torch.bfloat16).view(n, inputs // 2, 2).transpose(0, 1).flatten())
            else:
                groups.append(block.t().flatten())
    return torch.cat(groups)


def packed_for_amx(weight: Tensor, *, bf16: bool) -> Tensor:
    """Weights (outputs, inputs), packed for the matrix unit in bfloat16.

    The axes follow the order in which the kernel reads: steps of 64 inputs, bands of 32 outputs, two
    halves of a step (32 inputs), parts, two halves of a band (16 outputs), and a tile register of 16
    pairs of inputs, 16 outputs, 2 inputs of a pair: (inputs / 64, outputs / 32, 2, parts, 2, 16, 16, 2).

    One part is the rounded number; three parts add up to the float32 number. With one part a pair is two
    neighbouring inputs; with three it is inputs i and i + 16, since the kernel packs its tokens so.
    """
    parts, rest = [], weight
    for _ in range(1 if bf16 else 3):
        parts.append(rest.to(torch.bfloat16))
        rest = rest - parts[-1].float()
    outputs, inputs = weight.shape
    # parts, bands, registers, outputs, steps, registers, and an input's place in its register
    shape = (-1, outputs // 32, 2, 16, inputs // 64, 2, *((16, 2) if bf16 else (2, 16)))
    tiles = torch.stack(parts).view(shape)
    if not bf16:
        tiles = tiles.transpose(-1, -2)
    return tiles.permute(4, 1, 5, 0, 2, 6, 3, 7)


class _PackedNetwork:
    """A network's weights as the kernels of a level read them.

    ``half``: the scanned tokens are float16. ``bf16``: products are in bfloat16, which wants ``half``.
    """

    def __init__(self, network: Das2fNet, level: int, *, half: bool, bf16: bool) -> None:
        library = _library()[0]
        assert library is not None
        self.level = level
        packing = (_int64 * 4)()
        library.das2f_shared_packing(level, packing)
        self._lanes, self._tile, self._outputs, self._block = (int(n) for n in packing)
        self._band = _BAND if level >= _AMX_LEVEL else self._lanes
        self._kept: list[Tensor] = []
        w = _Weights()
        w.classes, w.half, w.bf16, w.stages = network.config.classes, half, bf16, len(network.stages)
        for i, (stage, fusion) in enumerate(
            zip(network.stages, reversed(list(network.fusions)), strict=True)
        ):
            branches = Branch.of(stage)
            self._tails(branches, w.stage[i], w.bf16)
            self._fusion(fusion, w.stage[i])
            if i:
                self._mixers(branches, w.stage[i], w.bf16)
        self._classifier(network, w)
        self.weights = w

    def _tails(self, branches: Sequence[Branch], w: _Stage, bf16: int) -> None:
        """The weights of a stage's scans and of what follows them."""
        for i, (branch, parameters) in enumerate(zip(branches, scans(branches), strict=True)):
            w.decay[i] = self._keep((-torch.exp(parameters.A_log) * _LOG2E).transpose(1, 2))
            w.skip[i] = self._keep(parameters.D.sum(dim=0))
            w.norm[i] = self._keep(torch.stack([branch.norm.weight, branch.norm.bias]))
            w.out_norm[i] = self._keep(torch.stack([branch.out_norm.weight, branch.out_norm.bias]))
            inner, outer = branch.mlp[0], branch.mlp[2]
            assert isinstance(inner, nn.Linear)
            assert isinstance(outer, nn.Linear)
            w.hidden = inner.out_features
            w.project[i] = self._pack(branch.mixer.out_proj.weight, bf16)
            w.mlp_in[i] = self._pack(inner.weight, bf16)
            w.mlp_in_bias[i] = self._keep(inner.bias)
            w.mlp_out[i] = self._pack(outer.weight, bf16)
            w.mlp_out_bias[i] = self._keep(outer.bias)

    def _mixers(self, branches: Sequence[Branch], w: _Stage, bf16: int) -> None:
        """The weights before a later stage's scans."""
        for i, branch in enumerate(branches):
            scan, depthwise = branch.mixer.scan, branch.mixer.space.depthwise
            assert depthwise.bias is not None
            embed, bias = folded_embedding(branch.mixer.space)
            width = len(embed)
            w.gate[i] = self._in_blocks(branch.mixer.gate.weight, bf16)
            w.taps[i] = self._keep(torch.cat([depthwise.weight.flatten(1), depthwise.bias[:, None]], dim=1))
            w.embed[i] = self._in_blocks(embed.float(), bf16)
            w.embed_bias[i] = self._keep(bias.float())
            if bf16:
                # The products for dt in one: no slower on a matrix unit, and dt is rounded less often.
                weight, bias = (torch.roll(v.float(), -width, 1) for v in folded_parameters(scan))
                whole = (0, -weight.shape[1] % self._band)
                w.rank = width
                w.parameters[i] = self._in_blocks(F.pad(weight, (0, 0, *whole)), bf16)
                w.dt_bias[i] = self._keep(F.pad(bias, whole))
            else:
                dt, b_and_c = torch.split(scan.x_proj, [scan.dt_rank, 2 * scan.state_size], dim=1)
                weight = torch.cat([b_and_c, dt], dim=1)
                w.rank = scan.dt_rank
                w.parameters[i] = self._in_blocks(
                    F.pad(weight, (0, 0, 0, -weight.shape[1] % self._lanes)), bf16
                )
                w.dt[i] = self._in_blocks(scan.dt_proj, bf16)
                w.dt_bias[i] = self._keep(scan.dt_bias)

    def _fusion(self, fusion: nn.Module, w: _Stage) -> None:
        assert isinstance(fusion, Aalf)
        w.fusion_norm = self._keep(torch.stack([fusion.norm.weight, fusion.norm.bias]))
        for i, gated in enumerate((fusion.fuse_specific, fusion.fuse_common)):
            w.fusion_gate[i] = self._keep(packed(gated.gate.weight, self._outputs, bf16=False))
            w.fusion_bias[i] = self._keep(gated.gate.bias)

    def _classifier(self, network: Das2fNet, w: _Weights) -> None:
        config, classifier = network.config, network.classifier
        assert isinstance(classifier, nn.Linear)
        # The kernel's order of features: tiles of tokens, channels, tokens of a tile.
        order = torch.arange(config.flat_features).view(1, config.patch_size, config.patch_size, config.width)
        place = tokens_to_subtokens(order).flatten()
        by_token = torch.empty_like(classifier.weight)
        by_token[:, place] = classifier.weight
        tiles = by_token.view(config.classes, -1, self._tile, config.width).permute(1, 0, 3, 2)
        w.classifier = self._keep(tiles)
        w.classifier_bias = self._keep(classifier.bias)

    def _keep(self, values: Tensor) -> int:
        self._kept.append(values.detach().clone(memory_format=torch.contiguous_format))
        return self._kept[-1].data_ptr()

    def _in_blocks(self, weight: Tensor, bf16: int) -> int:
        """Address of weights ``(…, outputs, inputs)`` in blocks, each ``(inputs, outputs of a block)``.

        In bfloat16 a block is ``(inputs / 2, outputs, 2)``. :func:`packed_for_amx` packs for the matrix unit.
        """
        weight = weight.detach()
        if bf16 and self.level >= _AMX_LEVEL:
            flat = weight.reshape(-1, *weight.shape[-2:])
            return self._keep(torch.stack([packed_for_amx(v, bf16=True) for v in flat]))
        if bf16:
            weight = weight.to(torch.bfloat16)
        # (…, inputs or pairs of them, outputs, 1 or 2)
        pairs = weight.reshape(*weight.shape[:-1], -1, 2 if bf16 else 1).transpose(-3, -2)
        blocks = torch.split(pairs, self._block, dim=-2)
        return self._keep(torch.cat([block.flatten(-3) for block in blocks], dim=-1))

    def _pack(self, weight: Tensor, bf16: int) -> int:
        """Address of weights (outputs, inputs), packed for the processor's instruction set."""
        if self.level >= _AMX_LEVEL:
            return self._keep(packed_for_amx(weight, bf16=bool(bf16)))
        return self._keep(packed(weight, self._outputs, bf16=bool(bf16)))


class CompiledKernels:
    """A network in compiled kernels, from the maps of its first stage to the logits.

    Parameters
    ----------
    first:
        The first stage in torch operations; it makes the maps that the kernels read.
    precision:
        ``fp32``, or ``bf16``: products of the tail and of later stages in bfloat16, scanned tokens in
        float16, decays and step sizes to 1e-4. Where the two highest logits are nearly the same, products are
        done again in float32.
    """

    whole = True

    def __init__(self, first: FirstStage, precision: str) -> None:
        library = _library()[0]
        assert library is not None
        self._library = library
        self._workspace = first.workspace
        self.classes = first.network.config.classes
        bf16 = precision == "bf16"
        self.scanned_item = 2 if bf16 else 4  # bytes of a number of the scanned tokens
        self._packed = _PackedNetwork(first.network, _level(), half=bf16, bf16=bf16)
        self._settling = _PackedNetwork(first.network, _WIDE_LEVEL, half=True, bf16=False) if bf16 else None
        classifier = first.network.classifier
        assert isinstance(classifier, nn.Linear)
        self._between = torch.cdist(classifier.weight.detach(), classifier.weight.detach())

    def scan(self, tokens: tuple[TokenMap, ...], maps: tuple[MixerMaps, ...]) -> ScannedBlock:
        """Scan every patch of a block. The result is valid until the next call."""
        height, width = (axis.outputs for axis in maps[0].runs)
        half = int(self._packed.weights.half)
        need = int(self._library.das2f_shared_scratch(height, width, self._packed.level, half))
        y = self._workspace.take("y", (need,), _BYTES)
        block = _Block(rows=height, cols=width, y=y.data_ptr())
        kept = (
            [m.scan.contiguous() for m in maps],
            [m.gate.contiguous() for m in maps],
            [t.tokens.contiguous() for t in tokens],
        )
        for field, tensors in zip((block.scan, block.gate, block.tokens), kept, strict=True):
            field[:] = [t.data_ptr() for t in tensors]
        self._call("das2f_shared_scan", block, self._packed)
        return ScannedBlock(block, [t for tensors in kept for t in tensors])

    def finish(self, scanned: ScannedBlock, rows: Indices, cols: Indices) -> Tensor:
        """Logits ``(n, C)`` of the patches of a block that start at ``rows``, ``cols`` (n,)."""
        wanted = torch.from_numpy(rows * scanned.block.cols + cols).to(torch.int32)
        out = self._logits(scanned.block, wanted, self._packed)
        if self._settling is not None:
            near = nearly_tied(out, self._between)
            if near.any():
                out[near] = self._logits(scanned.block, wanted[near], self._settling)
        return out

    def _logits(self, block: _Block, wanted: Tensor, packed: _PackedNetwork) -> Tensor:
        out = torch.empty(len(wanted), self.classes, dtype=torch.float32)
        block.patches, block.wanted, block.logits = len(wanted), wanted.data_ptr(), out.data_ptr()
        self._call("das2f_shared_tail", block, packed)
        return out

    def _call(self, function: str, block: _Block, packed: _PackedNetwork) -> None:
        threads = torch.get_num_threads()
        call = getattr(self._library, function)
        if call(ctypes.byref(block), ctypes.byref(packed.weights), threads, packed.level):
            raise MemoryError("for the threads of the shared scan")


def nearly_tied(logits: Tensor, between: Tensor) -> Tensor:
    """Which pixels' two highest logits (n, C) are so near that errors could change their order, bool (n,).

    ``between`` (C, C) holds the distances between the classes' weights: an error of length 1 of the features
    moves two logits so far apart at most. That is the network's scale, whatever a pixel's own logits are.
    """
    if logits.shape[1] < 2:
        return torch.zeros(len(logits), dtype=torch.bool)
    (first, second), (a, b) = (v.unbind(dim=1) for v in logits.topk(2, dim=1))
    return first - second <= NEARLY_TIED * between[a, b]


@dataclass(frozen=True)
class ScannedBlock:
    """A scanned block; it keeps the tensors alive that its pointers lead to."""

    block: _Block
    tensors: list[Tensor]
