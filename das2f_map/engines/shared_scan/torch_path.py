"""The shared scan and the patch's tail in torch operations: any device, any floating-point type.

The algorithm, for one direction (the others are the same on a transposed or reversed block):

A patch is scanned row by row. What a row does to the state ``H`` that enters it is affine,

    H_out = P_end * H + L_end        y_t = ylocal_t + sum_n W_t[n] H[n]

and for the rows in the middle of a patch it is the same for every patch that has this row in its middle
and starts at the same column: ``P_end, L_end, W = C P, ylocal`` are computed once (``_segments``). The rows
near the patch's border belong to one patch each and are scanned directly. Rows are met from top to bottom by
all patches at once, each carrying its state.

This is the plain twin of the compiled kernels, and what runs where they cannot.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from das2f_map.engines.shared_scan.maps import BlockRuns, MixerMaps, split_scan
from das2f_map.engines.shared_scan.runs import AxisRuns, Indices
from das2f_map.network.scan_order import DIRECTIONS

_SEGMENTS_AT_ONCE = 64
"""Segments computed together: their states, 6 KiB each in float32, then stay in a processor's cache."""


class _Steps(NamedTuple):
    """Scan inputs of a direction in the order it meets them, look-ups by run entry."""

    x: Tensor  # (row entries, column entries, D)
    dt: Tensor  # (row entries, column entries, D), after softplus
    b: Tensor  # (row entries, column entries, N)
    c: Tensor
    x_runs: BlockRuns
    runs: BlockRuns

    @property
    def transposed(self) -> _Steps:
        """Of the transposed block, whose row-major scan is the column-major one of this."""
        x, dt, b, c = (t.transpose(0, 1) for t in (self.x, self.dt, self.b, self.c))
        x_runs, runs = (BlockRuns(r.cols, r.rows) for r in (self.x_runs, self.runs))
        return _Steps(x, dt, b, c, x_runs, runs)

    @property
    def reversed(self) -> _Steps:
        """Of the block turned by half: runs read backwards are the runs of the turned block."""
        x, dt, b, c = (t.flip(0, 1) for t in (self.x, self.dt, self.b, self.c))
        return _Steps(x, dt, b, c, self.x_runs, self.runs)


def scan_block(x_maps: MixerMaps, maps: MixerMaps, decay: Tensor, skip: Tensor) -> Tensor:
    """Scan every patch of a block in the four directions and sum.

    Parameters
    ----------
    x_maps, maps:
        Whose x is scanned, and whose parameters are used (CMDA: the other modality's).
    decay:
        A, negative, ``(4, D, N)``.
    skip:
        D, ``(4, D)``.

    Returns
    -------
    ``(h, w, P, P, D)``: for each output the scanned tokens of its patch.
    """
    width, states = decay.shape[1:]
    x, _ = split_scan(x_maps.scan, width, states)
    _, directions = split_scan(maps.scan, width, states)
    rows, cols = maps.runs
    p = rows.patch
    out = x.new_zeros(rows.outputs, cols.outputs, p, p, width)
    for k in range(DIRECTIONS):
        dt, b, c = directions[k]
        steps = _Steps(x, F.softplus(dt), b, c, x_maps.runs, maps.runs)
        across, along = (cols, rows) if k % 2 else (rows, cols)
        view = out
        if k % 2:
            steps, view = steps.transposed, out.permute(1, 0, 3, 2, 4)
        if k >= 2:
            steps = steps.reversed
        _scan_rows(steps, decay[k], across, along, view, reverse=k >= 2)
    out += _patches(x, x_maps.runs) * skip.sum(dim=0)
    return out


def _scan_rows(
    steps: _Steps, decay: Tensor, across: AxisRuns, along: AxisRuns, out: Tensor, *, reverse: bool
) -> None:
    """Add the row-major scan to ``out`` ``(across, along, P, P, D)``, which is reversed if the steps are."""
    p, outputs = across.patch, across.outputs
    width, states = decay.shape
    edge = max(steps.runs.rows.edge, steps.x_runs.rows.edge)
    state = decay.new_zeros(along.outputs, outputs, width, states)

    def add(first: int, last: int, token: int, y: Tensor) -> None:
        """Row ``token`` of patches ``first..last``: ``y`` is (starts, patches, P, D)."""
        y = y.transpose(0, 1)
        at, row = first, token - first
        if reverse:
            y, at, row = y.flip(0, 1, 2), outputs - 1 - last, p - 1 - (token - last)
        # The next patch meets the same row one position earlier.
        s0, s1, s2, s3, s4 = out.stride()
        offset = out.storage_offset() + at * s0 + row * s2
        out.as_strided(y.shape, (s0 - s2, s1, s3, s4), offset).add_(y)

    segments = _SegmentReader(steps, decay, outputs, edge)
    for token in range(outputs + p - 1):
        # Patch i meets this row at its position token - i.
        for position in (*range(edge), *range(p - edge, p)):
            patch = token - position
            if 0 <= patch < outputs:
                y = _scan_directly(steps, decay, patch, position, state[:, patch])
                add(patch, patch, token, y[:, None])
        first, last = max(0, token - (p - 1 - edge)), min(outputs - 1, token - edge)
        if first > last:
            continue
        weight, local, end_decay, end_state = segments.row(token)
        now = state[:, first : last + 1]
        # (starts, D, P, N) @ (starts, D, N, patches)
        y = torch.matmul(weight, now.permute(0, 2, 3, 1))  # (starts, D, P, patches)
        y = y.permute(0, 3, 2, 1) + local[:, None]  # (starts, patches, P, D)
        add(first, last, token, y)
        now.mul_(end_decay[:, None]).add_(end_state[:, None])


def _columns(steps: _Steps, patch_row: tuple[int, int], device: torch.device) -> tuple[Tensor, ...]:
    """x, dt, B, C of one row of every patch starting along it: ``(starts, P, …)`` each.

    ``patch_row``: a patch's start across the lines and the position of the row in it.
    """
    x_row = int(steps.x_runs.rows.entry(*patch_row))
    row = int(steps.runs.rows.entry(*patch_row))
    x_cols = torch.from_numpy(steps.x_runs.cols.table()).to(device)
    cols = torch.from_numpy(steps.runs.cols.table()).to(device)
    return steps.x[x_row][x_cols], steps.dt[row][cols], steps.b[row][cols], steps.c[row][cols]


def _scan_directly(steps: _Steps, decay: Tensor, patch: int, position: int, state: Tensor) -> Tensor:
    """Scan one row of the patches starting along it; updates ``state`` ``(starts, D, N)``."""
    x, dt, b, c = _columns(steps, (patch, position), decay.device)
    y = torch.empty_like(x)
    drive = dt * x
    for t in range(x.shape[1]):
        state.mul_(torch.exp(dt[:, t, :, None] * decay)).addcmul_(drive[:, t, :, None], b[:, t, None, :])
        y[:, t] = torch.matmul(state, c[:, t, :, None])[..., 0]
    return y


class _SegmentReader:
    """Segments of the middle rows, made a few rows at a time, in the order of the rows."""

    def __init__(self, steps: _Steps, decay: Tensor, outputs: int, edge: int) -> None:
        self._steps, self._decay, self._outputs, self._edge = steps, decay, outputs, edge
        self._rows_at_once = max(1, _SEGMENTS_AT_ONCE // steps.runs.cols.outputs)
        self._first = self._stop = -1
        self._made: tuple[Tensor, ...] = ()

    def row(self, token: int) -> tuple[Tensor, ...]:
        """W ``(starts, D, P, N)``, ylocal ``(starts, P, D)``, P_end and L_end ``(starts, D, N)`` of a row."""
        if not self._first <= token < self._stop:
            p = self._steps.runs.rows.patch
            self._first = token
            self._stop = min(token + self._rows_at_once, self._outputs + p - 1 - self._edge)
            rows = []
            for t in range(self._first, self._stop):
                patch = min(t - self._edge, self._outputs - 1)  # any patch that has it in its middle
                rows.append(_columns(self._steps, (patch, t - patch), self._decay.device))
            x, dt, b, c = (torch.stack(v) for v in zip(*rows, strict=True))
            self._made = _segments(x, dt, b, c, self._decay)
        return tuple(part[token - self._first] for part in self._made)


def _segments(x: Tensor, dt: Tensor, b: Tensor, c: Tensor, decay: Tensor) -> tuple[Tensor, ...]:
    """What rows do to a state: inputs ``(rows, starts, P, …)``, results as ``_SegmentReader.row``."""
    rows, starts, p, width = x.shape
    states = decay.shape[1]
    product = x.new_ones(rows, starts, width, states)
    local_state = x.new_zeros(rows, starts, width, states)
    weight = x.new_empty(rows, starts, width, p, states)
    local = torch.empty_like(x)
    drive = dt * x
    for t in range(p):
        step = torch.exp(dt[:, :, t, :, None] * decay)
        product.mul_(step)
        local_state.mul_(step).addcmul_(drive[:, :, t, :, None], b[:, :, t, None, :])
        local[:, :, t] = torch.matmul(local_state, c[:, :, t, :, None])[..., 0]
        torch.mul(product, c[:, :, t, None, :], out=weight[:, :, :, t])
    return weight, local, product, local_state


def _patches(values: Tensor, runs: BlockRuns) -> Tensor:
    """Spread a map over the patches of its block: ``(h, w, P, P, …)``."""
    rows, cols = (torch.from_numpy(a.table()).to(values.device) for a in runs)
    return values[rows[:, None, :, None], cols[None, :, None, :]]


def gather_tokens(values: Tensor, runs: BlockRuns, rows: Indices, cols: Indices) -> Tensor:
    """Tokens of some patches of a block, ``(n, P, P, D)``, by the patches' starts ``rows``, ``cols`` (n,)."""
    r, c = (
        torch.from_numpy(axis.table()[start]).to(values.device)
        for axis, start in zip(runs, (rows, cols), strict=True)
    )
    return values[r[:, :, None], c[:, None, :]]
