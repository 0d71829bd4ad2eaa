"""Launches of the Triton kernels of a stage after the first, with arguments made from its modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from das2f_map.engines.shared_scan.first_stage import PARAMETERS_OF, Branch, scans
from das2f_map.engines.shared_scan.maps import BlockRuns, folded_embedding, folded_parameters
from das2f_map.engines.shared_scan.tensor_bytes import LINE
from das2f_map.engines.shared_scan.triton_calls import TailInput, kernel_decay, power_of_two, triton_dtype
from das2f_map.network.mixer import ScanParameters
from das2f_map.network.scan_order import DIRECTIONS
from das2f_map.network.stem import PIXELS_PER_TOKEN

COMMON_FIRST = (2, 3, 0, 1)
"""The branches of a stage in the order of their tails: specific parts are differences to common ones."""


class InputWeights:
    """The weights of a branch before its scan, as their kernel takes them.

    ``order``: the order of the input tokens' channels, (D,). Gate and x have theirs as they are.
    """

    def __init__(self, branch: Branch, order: Tensor, dtype: torch.dtype) -> None:
        norm, space = branch.norm, branch.mixer.space
        taps, bias = space.depthwise.weight, space.depthwise.bias
        assert bias is not None
        embed, embed_bias = folded_embedding(space)
        pixels = PIXELS_PER_TOKEN**2
        self.eps = norm.eps
        self.vectors = torch.stack(
            [
                norm.weight[order],
                norm.bias[order],
                bias.repeat_interleave(pixels),
                embed_bias.to(bias),
            ]
        ).float()
        self.taps = taps.flatten(1).repeat_interleave(pixels, dim=0).t().float().contiguous()
        self.sources = _sources(len(taps), order)
        self.gate = branch.mixer.gate.weight.t()[order].to(dtype).contiguous()
        self.embed = embed.t().to(dtype).contiguous()

    def __call__(self, tokens: Tensor, normed: Tensor, gate: Tensor, x: Tensor, patch: int) -> None:
        """Write a branch's gates and scan inputs for the tokens of n patches.

        All tensors are dense float32 ``(n, P², D)``. ``normed`` is scratch.
        """
        from das2f_map.engines.shared_scan import triton_later

        triton_later.mixer_inputs[(len(tokens),)](
            tokens,
            self.vectors,
            self.taps,
            self.sources,
            self.gate,
            self.embed,
            normed,
            gate,
            x,
            self.eps,
            P=patch,
            WIDTH=tokens.shape[-1],
            DTYPE=triton_dtype(self.gate.dtype),
        )


def _sources(channels: int, order: Tensor) -> Tensor:
    """Where the convolution of tokens that are laid out as pixels finds its inputs, int32 (9, 3, D).

    For each of 3 x 3 taps, and each channel of the result: row and column of the source token, from the
    token of the result, and the place of the source channel in ``order``.
    """
    s = PIXELS_PER_TOKEN
    tap = torch.arange(9).view(-1, 1)
    channel = torch.arange(channels * s * s)
    row, col = channel // s % s + tap // 3 - 1, channel % s + tap % 3 - 1
    source = channel // (s * s) * (s * s) + row % s * s + col % s
    place = torch.argsort(order.cpu())[source]
    found = torch.stack([row.div(s, rounding_mode="floor"), col.div(s, rounding_mode="floor"), place], dim=1)
    return found.to(order.device, torch.int32).contiguous()


class ScanWeights:
    """The weights with which a branch is scanned, as their kernel takes them."""

    def __init__(self, scan: ScanParameters, dtype: torch.dtype) -> None:
        parameters, bias = folded_parameters(scan)
        self.decay = kernel_decay(-torch.exp(scan.A_log))
        self.project = parameters.transpose(1, 2).to(dtype).contiguous()
        self.bias = bias.float()

    def __call__(self, x: Tensor, source: Tensor, line: Tensor, y: Tensor, patch: int) -> None:
        """Scan n patches in the four directions, without the skip ``D x``.

        Parameters
        ----------
        x, source:
            Scan inputs, and those that the parameters are computed from, dense float32 ``(n, P², D)``.
        line:
            Scratch, ``(4, n, LINE, D + 2 N)``; its LINE tokens are computed at a time.
        y:
            The result, dense ``(n, 4, P², D)``: tokens in the order in which each direction meets them.
        """
        from das2f_map.engines.shared_scan import triton_later

        states, width = self.decay.shape[1:]
        triton_later.scan_patches[(len(x), DIRECTIONS)](
            x,
            source,
            self.project,
            self.bias,
            self.decay,
            line,
            y,
            P=patch,
            WIDTH=width,
            STATES=states,
            NP=power_of_two(states),
            LINE=line.shape[2],
            DTYPE=triton_dtype(self.project.dtype),
        )


class LaterStage:
    """The weights of a stage after the first, up to its tails, as the kernels take them.

    Parameters
    ----------
    branches:
        See :meth:`.Branch.of`.
    order:
        The order of the input tokens' channels, (D,).
    dtype:
        Type of the products, and of the scanned tokens in memory.
    """

    def __init__(self, branches: Sequence[Branch], order: Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._inputs = [InputWeights(branch, order, dtype) for branch in branches]
        self._scans = [ScanWeights(scan, dtype) for scan in scans(branches)]

    def scan(self, common: Tensor, patch: int) -> Iterator[tuple[int, TailInput]]:
        """The branches one after the other, CMDA's first; each is valid until the next one is asked for.

        ``common``: the common parts of the stage before, ``(2, n, P², D)``: MS, PAN. The patches, one below
        the other, are a block in which every P-th output is wanted: see :func:`apart`.
        """
        _, n, length, width = common.shape
        gate, x = torch.empty_like(common), torch.empty_like(common)
        normed = torch.empty_like(common[0])
        y = common.new_empty(n, DIRECTIONS, length, width, dtype=self._dtype)
        states = self._scans[0].decay.shape[1]
        line = common.new_empty(DIRECTIONS, n, min(LINE, length), width + 2 * states)
        runs = BlockRuns.of((n - 1) * patch + 1, 1, patch, 0)
        for pair in (COMMON_FIRST[:2], COMMON_FIRST[2:]):
            for i in pair:
                self._inputs[i](common[i % 2], normed, gate[i % 2], x[i % 2], patch)
            for i in pair:
                own, source = x[i % 2], x[PARAMETERS_OF[i] % 2]
                self._scans[i](own, source, line, y, patch)
                yield i, TailInput(y, own, runs, gate[i % 2], common[i % 2], runs)


@lru_cache(maxsize=64)
def apart(patches: int, patch: int, device: torch.device) -> Tensor:
    """The patches of a batch, each a block of its own, as :class:`.TailWeights` takes them: int32 (3, n)."""
    number = torch.arange(patches, device=device, dtype=torch.int32)
    return torch.stack([number, patch * number, torch.zeros_like(number)])
