"""Launches of the Triton kernels, with arguments made from a network's modules and a block's maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from das2f_map.engines.shared_scan.first_stage import Tail
from das2f_map.engines.shared_scan.maps import BlockRuns
from das2f_map.engines.shared_scan.runs import AxisRuns, Indices
from das2f_map.network import Das2fNet
from das2f_map.network.aalf import Aalf, tokens_to_subtokens
from das2f_map.network.scan_order import DIRECTIONS

HIDDEN_STEP = 64
"""Hidden values of the MLP that are computed at a time."""
CHANNEL_STEP = 64
"""The most channels (BD) of a program in ``triton_kernels``; a width must be a multiple of it."""
_SPLITS = 8
"""Parts that a patch's tokens are split into; each part gives logits, which are then summed."""
_LOG2E = math.log2(math.e)


def stepped(scan: Tensor, width: int, states: int) -> Tensor:
    """A scan map (see :class:`.MixerMaps`) with softplus applied to its dt; overwrites the map."""
    dt = scan[..., width:].view(*scan.shape[:-1], DIRECTIONS, width + 2 * states)[..., :width]
    dt.copy_(F.softplus(dt))
    return scan


def kernel_decay(decay: Tensor) -> Tensor:
    """A ``(4, D, N)`` as the kernels take it: ``(4, N, D)``, times log2 e."""
    return (decay.float() * _LOG2E).transpose(1, 2).contiguous()


def triton_dtype(dtype: torch.dtype) -> Any:
    """Triton's name of a type."""
    import triton.language as tl

    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``, and as long as an operand of a product has to be."""
    return max(16, 1 << (n - 1).bit_length())


def scan_branch(
    x: Tensor, x_runs: BlockRuns, parameters: Tensor, runs: BlockRuns, decay: Tensor, dtype: torch.dtype
) -> Tensor:
    """Scan every patch of a block in the four directions.

    Parameters
    ----------
    x, parameters:
        Maps from :func:`stepped`: of the branch whose x is scanned, and of the branch whose parameters are
        used.
    x_runs, runs:
        Their layouts.
    decay:
        From :func:`kernel_decay`.
    dtype:
        Type of the result. Unless it is float32, the products with the states are in TF32.

    Returns
    -------
    ``(h w, 4, P², D)``: one result for each direction, tokens in the order in which the direction meets them,
    without the skip ``D x``.

    Raises
    ------
    ValueError
        If the width is not a multiple of :data:`CHANNEL_STEP`.
    """
    states, width = decay.shape[1:]
    if width % CHANNEL_STEP:
        raise ValueError(f"the kernels take widths that are multiples of {CHANNEL_STEP}, not {width}")
    from das2f_map.engines.shared_scan import triton_kernels as kernels

    p, sizes = runs.rows.patch, tuple(a.outputs for a in runs)
    edge = max(x_runs.rows.edge, runs.rows.edge)
    tables = _tables(x.stride()[:2], x_runs, parameters.stride()[:2], runs, x.device)
    y = x.new_empty(sizes[0] * sizes[1], DIRECTIONS, p * p, width, dtype=dtype)
    common = {"P": p, "WIDTH": width, "STATES": states, "NP": power_of_two(states)}
    most = max(sizes[0] * (sizes[1] + p - 1 - 2 * edge), sizes[1] * (sizes[0] + p - 1 - 2 * edge))
    ends = x.new_empty(most * states * width)
    local, elapsed = (x.new_empty(most * p * width) for _ in range(2))
    enter, leave = (x.new_empty(sizes[0] * sizes[1] * states * width) for _ in range(2))
    for k in range(DIRECTIONS):
        way = _direction(k, sizes, states, x, parameters, y.view(sizes[0], sizes[1], *y.shape[1:]))
        across, along = way.across, way.along

        def by_width(rows: int, along: int = along) -> object:
            return lambda meta: (along * (width // meta["BD"]), rows)

        kernels.segments[by_width(across + p - 1 - 2 * edge)](
            way.x,
            way.parameters,
            decay[k],
            tables[k],
            ends,
            local,
            elapsed,
            *way.x_steps,
            *way.parameter_steps,
            along,
            EDGE=edge,
            **common,
        )
        for last in (False, True):
            kernels.border_rows[by_width(across)](
                way.x,
                way.parameters,
                decay[k],
                tables[k],
                leave if last else enter,
                way.y,
                *way.x_steps,
                *way.parameter_steps,
                *way.y_steps,
                along,
                LAST=last,
                EDGE=edge,
                **common,
            )
            if not last:
                kernels.wavefront[by_width(1)](
                    way.parameters,
                    decay[k],
                    tables[k],
                    ends,
                    local,
                    elapsed,
                    enter,
                    leave,
                    way.y,
                    *way.parameter_steps,
                    *way.y_steps,
                    across,
                    along,
                    EDGE=edge,
                    PRODUCT="tf32x3" if dtype == torch.float32 else "tf32",
                    **common,
                )
    return y


class _Direction(NamedTuple):
    """Maps and patches as a direction of the scan reads them: first elements, and steps to the next entries.

    Steps are those across the rows of the direction, and along them, as numbers of patches are.
    """

    x: Tensor
    parameters: Tensor
    y: Tensor
    x_steps: tuple[int, int]
    parameter_steps: tuple[int, int]
    y_steps: tuple[int, int]
    across: int
    along: int


def _direction(
    k: int, sizes: Sequence[int], states: int, x: Tensor, parameters: Tensor, y: Tensor
) -> _Direction:
    """Direction ``k``: rows, columns, and both backwards. ``y`` is (rows, columns, 4, P², D) of patches."""
    a, b = (1, 0) if k % 2 else (0, 1)
    backwards, width = k >= 2, y.shape[-1]

    def begun(tensor: Tensor, first: int) -> Tensor:
        # Backwards, the last entry of a map or a block comes first.
        return tensor.view(-1)[first + backwards * _offset_of_last(tensor.shape, tensor.stride()) :]

    def steps(tensor: Tensor) -> tuple[int, int]:
        sign = -1 if backwards else 1
        return sign * tensor.stride(a), sign * tensor.stride(b)

    return _Direction(
        begun(x, 0),
        begun(parameters, width + k * (width + 2 * states)),
        begun(y, k * y.stride(2)),
        steps(x),
        steps(parameters),
        steps(y),
        sizes[a],
        sizes[b],
    )


def _offset_of_last(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last entry of the first two axes."""
    return sum((n - 1) * s for n, s in zip(shape[:2], strides[:2], strict=True))


@lru_cache(maxsize=64)
def _tables(
    x_strides: tuple[int, ...],
    x_runs: BlockRuns,
    p_strides: tuple[int, ...],
    runs: BlockRuns,
    device: torch.device,
) -> Tensor:
    """Offsets, in elements, of the P positions of the patch with start 0: int64 (4, 4, P).

    For each direction: in x across the direction's rows and along them, in the parameters across and along.
    """
    tables = []
    for k in range(DIRECTIONS):
        for strides, axes in ((x_strides, x_runs), (p_strides, runs)):
            for axis in (1, 0) if k % 2 else (0, 1):
                stride = strides[axis] * (-1 if k >= 2 else 1)
                tables.append(_positions(axes[axis]) * stride)
    return torch.from_numpy(np.stack(tables).reshape(DIRECTIONS, 4, -1)).to(device)


def _positions(axis: AxisRuns) -> Indices:
    """Entries of the P positions of the patch with start 0; for a patch with start s, add s."""
    return axis.entry(0, np.arange(axis.patch))


@lru_cache(maxsize=64)
def _places(x_runs: BlockRuns, runs: BlockRuns, device: torch.device) -> Tensor:
    """int32 (4, P): :func:`_positions` of x's rows and columns and of the tokens' rows and columns."""
    return torch.from_numpy(np.stack([_positions(axis) for axis in (*x_runs, *runs)])).to(device, torch.int32)


class TailInput(NamedTuple):
    """What a branch's tail reads of a scanned block.

    y:
        ``(outputs of the block, 4, P², D)``, see :func:`scan_branch`.
    x, x_runs:
        Map ``(row entries, column entries, …)`` that has x first in its last axis, and its layout.
    gate, tokens, runs:
        Maps ``(row entries, column entries, D)`` and their layout. The tokens' channels are in the order of
        the tail's output.
    """

    y: Tensor
    x: Tensor
    x_runs: BlockRuns
    gate: Tensor
    tokens: Tensor
    runs: BlockRuns


class TailWeights:
    """The weights of a branch's tail, as its kernel takes them.

    ``order``: the order of the output's channels, (D,).
    """

    def __init__(self, tail: Tail, skip: Tensor, order: Tensor, dtype: torch.dtype) -> None:
        inner, outer = tail.mlp[0], tail.mlp[2]
        assert isinstance(inner, nn.Linear)
        assert isinstance(outer, nn.Linear)
        if tail.norm.eps != tail.out_norm.eps:
            raise ValueError("a branch's two norms have different epsilons")
        self.eps = tail.norm.eps
        self.vectors = torch.stack(
            [
                skip.sum(dim=0),
                tail.out_norm.weight,
                tail.out_norm.bias,
                tail.norm.weight[order],
                tail.norm.bias[order],
                outer.bias[order],
            ]
        ).float()
        self.project = tail.out_proj.weight.t()[:, order].to(dtype).contiguous()
        self.inner = inner.weight.t()[order].to(dtype).contiguous()
        self.inner_bias = inner.bias.float().contiguous()
        self.outer = outer.weight.t()[:, order].to(dtype).contiguous()

    def __call__(self, block: TailInput, patches: Tensor, out: Tensor, minus: Tensor | None = None) -> None:
        """Write the branch's output for some patches of a block to ``out`` ``(n, P², D)``, dense.

        Parameters
        ----------
        block:
            The scanned block.
        patches:
            int32 (3, n), dense in its last axis: numbers of the patches in the block's ``y``, their rows and
            columns.
        minus:
            Subtracted from the output, ``(n, P², D)``.
        """
        from das2f_map.engines.shared_scan import triton_tail

        y, x, x_runs, gate, tokens, runs = block
        n, p = patches.shape[1], runs.rows.patch
        length = p * p
        width, hidden = self.inner.shape
        triton_tail.tail[lambda meta: (n * length // meta["ROWS"],)](
            y,
            patches,
            x,
            gate,
            tokens,
            _places(x_runs, runs, y.device),
            self.vectors,
            self.project,
            self.inner,
            self.inner_bias,
            self.outer,
            out if minus is None else minus,
            out,
            patches.stride(0),
            x_runs.cols.entries,
            runs.cols.entries,
            x.shape[-1],
            self.eps,
            SUBTRACT=minus is not None,
            P=p,
            WIDTH=width,
            HIDDEN=hidden,
            STEP=min(HIDDEN_STEP, hidden),
            DTYPE=triton_dtype(self.project.dtype),
        )


class FusionWeights:
    """The weights of a network's fusions and classifier, as their kernel takes them.

    ``order``: the order of the channels of the inputs, (D,).
    """

    def __init__(self, network: Das2fNet, order: Tensor) -> None:
        classifier, config = network.classifier, network.config
        assert isinstance(classifier, nn.Linear)
        c = config.fusion_channels
        vectors, gates, epsilons = [], [], set()
        for fusion in network.fusions:  # the last stage's comes first
            assert isinstance(fusion, Aalf)
            linear = [fusion.fuse_specific.gate, fusion.fuse_common.gate]
            vectors.append(
                torch.stack([fusion.norm.weight, fusion.norm.bias, *(g.bias for g in linear)]).float()
            )
            parts = [part.t() for g in linear for part in (g.weight[:, :c], g.weight[:, c:])]
            gates.append(torch.stack(parts).float())
            epsilons.add(fusion.norm.eps)
        if len(epsilons) != 1:
            raise ValueError("the fusions' norms have different epsilons")
        self.classes, self.eps = config.classes, epsilons.pop()
        self.vectors, self.gates = torch.stack(vectors), torch.stack(gates)
        # Features go to their place among the tokens' (row, column, channel), then channels into ``order``.
        p, width = config.patch_size, config.width
        place = tokens_to_subtokens(torch.arange(config.flat_features).view(1, p, p, width)).flatten()
        weight = classifier.weight.new_zeros(
            power_of_two(self.classes), config.flat_features, dtype=torch.float32
        )
        weight[: self.classes, place.to(weight.device)] = classifier.weight.float()
        by_token = weight.view(-1, p * p, width)[..., order]
        self.classifier = by_token.permute(1, 2, 0).contiguous()
        self.bias = classifier.bias.float()

    def __call__(self, specific: Tensor, common: Tensor) -> Tensor:
        """Logits ``(n, C)``.

        Parameters
        ----------
        specific:
            The specific parts of every stage, the last stage first, ``(stages, 2, n, P², D)``: MS, PAN.
        common:
            The common parts of the last stage, ``(2, n, P², D)``.
        """
        from das2f_map.engines.shared_scan import triton_tail

        stages, _, n, length, width = specific.shape
        classes = self.classifier.shape[2]
        parts = common.new_empty(_SPLITS, n, classes, dtype=torch.float32)
        triton_tail.fusion[lambda meta: (-(-n // meta["PATCHES"]), _SPLITS)](
            specific,
            common,
            self.vectors,
            self.gates,
            self.classifier,
            parts,
            n,
            self.eps,
            STAGES=stages,
            TOKENS=length,
            CHANNELS=width // 4,
            CLASSES=classes,
            SPLITS=_SPLITS,
            DTYPE=triton_dtype(torch.float32),
        )
        return parts.sum(dim=0)[:, : self.classes] + self.bias
