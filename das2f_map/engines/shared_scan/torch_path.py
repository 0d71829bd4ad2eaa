"""The shared scan and the patch's tail in torch operations: any device, any floating-point type.

The algorithm, for one direction (the others are the same on a transposed or reversed block):

A patch is scanned row by row. What a row does to the state ``H`` that enters it is affine,

    H_out = P_end * H + L_end        y_t = ylocal_t + sum_n W_t[n] H[n]

and for the rows in the middle of a patch it is the same for every patch that has this row in its middle
and starts at the same column: ``P_end, L_end, W = C P, ylocal`` are computed once (``_segment``). The rows
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
    state = decay.new_zeros(outputs, along.outputs, states, width)

    def add(first: int, last: int, token: int, y: Tensor) -> None:
        """Row ``token`` of patches ``first..last``: ``y`` is (patches, starts, P, D)."""
        at, row = first, token - first
        if reverse:
            y, at, row = y.flip(0, 1, 2), outputs - 1 - last, p - 1 - (token - last)
        # The next patch meets the same row one position earlier.
        s0, s1, s2, s3, s4 = out.stride()
        offset = out.storage_offset() + at * s0 + row * s2
        out.as_strided(y.shape, (s0 - s2, s1, s3, s4), offset).add_(y)

    for token in range(outputs + p - 1):
        # Patch i meets this row at its position token - i.
        for position in (*range(edge), *range(p - edge, p)):
            patch = token - position
            if 0 <= patch < outputs:
                y = _scan_directly(_Row.of(steps, decay, patch, position), state[patch])
                add(patch, patch, token, y[None])
        first, last = max(0, token - (p - 1 - edge)), min(outputs - 1, token - edge)
        if first > last:
            continue
        # Any of the patches serves: they all have the row in their middle.
        row = _Row.of(steps, decay, last, token - last)
        weight, local, end_decay, end_state = _segment(row, decay)
        now = state[first : last + 1]
        # (starts, D, P, N) @ (starts, D, N, patches)
        y = torch.matmul(weight, now.permute(1, 3, 2, 0))  # (starts, D, P, patches)
        add(first, last, token, y.permute(3, 0, 2, 1) + local)
        now.mul_(end_decay).add_(end_state)


class _Row:
    """One row of tokens as the patches that start along it see it, step by step."""

    def __init__(self, steps: _Steps, decay: Tensor, x_row: int, row: int) -> None:
        self.x, self._x_runs = steps.x[x_row], steps.x_runs.cols
        self.dt, self.b, self.c = steps.dt[row], steps.b[row], steps.c[row]
        self._runs = steps.runs.cols
        self.exp = torch.exp(self.dt[:, None, :] * decay.t())  # (entries, N, D)

    @classmethod
    def of(cls, steps: _Steps, decay: Tensor, patch: int, position: int) -> _Row:
        """Row ``position`` of the patches at ``patch`` across the rows."""
        x_row, row = (int(r.rows.entry(patch, position)) for r in (steps.x_runs, steps.runs))
        return cls(steps, decay, x_row, row)

    @property
    def starts(self) -> int:
        return self._runs.outputs

    @property
    def steps(self) -> int:
        return self._runs.patch

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """exp(dt A) ``(starts, N, D)``, dt x ``(starts, 1, D)``, B ``(starts, N, 1)``, C ``(starts, 1, N)``.

        Entries of a step are neighbours: the patches' tokens at it follow each other in one run.
        """
        x_first, first = (int(r.entry(0, step)) for r in (self._x_runs, self._runs))
        own = slice(first, first + self.starts)
        drive = self.dt[own] * self.x[x_first : x_first + self.starts]
        return self.exp[own], drive[:, None], self.b[own, :, None], self.c[own, None, :]


def _scan_directly(row: _Row, state: Tensor) -> Tensor:
    """Scan one row of the patches starting along it; updates ``state`` ``(starts, N, D)``."""
    y = state.new_empty(row.starts, row.steps, state.shape[-1])
    for t in range(row.steps):
        exp, drive, b, c = row.at(t)
        state.mul_(exp).addcmul_(drive, b)
        y[:, t] = torch.matmul(c, state)[:, 0]
    return y


def _segment(row: _Row, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a row does to a state.

    Returns W ``(starts, D, P, N)``, ylocal ``(starts, P, D)``, P_end and L_end ``(starts, N, D)``.
    """
    width, states = decay.shape
    product = decay.new_ones(row.starts, states, width)
    local_state = torch.zeros_like(product)
    weight = product.new_empty(row.starts, width, row.steps, states)
    local = product.new_empty(row.starts, row.steps, width)
    for t in range(row.steps):
        exp, drive, b, c = row.at(t)
        product.mul_(exp)
        local_state.mul_(exp).addcmul_(drive, b)
        local[:, t] = torch.matmul(c, local_state)[:, 0]
        torch.mul(product.transpose(1, 2), c, out=weight[:, :, t])
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
