"""The shared scan in torch operations: any device, any floating-point type.

The algorithm, for one direction (the others are the same on a transposed or reversed block):

A patch is scanned row by row. Affine maps lead from the state ``H`` that enters a row to the state that
leaves it and to the row's outputs:

    H_out = P_end * H + L_end        y_t = ylocal_t + sum_n W_t[n] H[n]

All patches that start at the same column and have the row in their middle share these maps: ``P_end, L_end,
W = C P, ylocal`` are computed once. A row near a patch's border is different for each patch, so it is scanned
directly. The block's rows are taken from top to bottom, for all patches at once; each patch has its state.

This is the plain reference of the compiled kernels, and it runs where they cannot.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from das2f_map.engines.shared_scan.maps import BlockRuns, MixerMaps, split_scan
from das2f_map.engines.shared_scan.runs import AxisRuns, Indices
from das2f_map.engines.shared_scan.workspace import Workspace

_CACHE_LINE = 16  # float32 values


class _Steps(NamedTuple):
    """Scan inputs of one direction, in the order in which it meets them, by run entry."""

    x: Tensor  # (row entries, column entries, D)
    dt: Tensor  # (row entries, column entries, D), after softplus
    b: Tensor  # (row entries, column entries, N)
    c: Tensor
    x_runs: BlockRuns
    runs: BlockRuns

    @property
    def transposed(self) -> _Steps:
        """The inputs of the transposed block: its row-major scan is the column-major scan of this block."""
        x, dt, b, c = (t.transpose(0, 1) for t in (self.x, self.dt, self.b, self.c))
        x_runs, runs = (BlockRuns(r.cols, r.rows) for r in (self.x_runs, self.runs))
        return _Steps(x, dt, b, c, x_runs, runs)

    @property
    def reversed(self) -> _Steps:
        """The inputs of the block turned by 180 degrees: its runs are those of this block, read backwards."""
        x, dt, b, c = (t.flip(0, 1) for t in (self.x, self.dt, self.b, self.c))
        return _Steps(x, dt, b, c, self.x_runs, self.runs)


def scan_block(
    x_maps: MixerMaps,
    maps: MixerMaps,
    decay: Tensor,
    skip: Tensor,
    workspace: Workspace,
    *,
    backwards: bool,
) -> Tensor:
    """Scan every patch of a block in two of the four directions, along rows and along columns, and sum.

    Parameters
    ----------
    x_maps, maps:
        Maps of the branch whose x is scanned, and of the branch whose parameters are used (CMDA: the other
        modality's).
    decay:
        A, negative, ``(4, D, N)``.
    skip:
        D, ``(4, D)``.
    workspace:
        No other call may use it at the same time.
    backwards:
        Scan the other two directions. The result is for the block turned by 180 degrees: flip its first four
        axes before adding it to the result of the first two directions.

    Returns
    -------
    ``(h, w, P, P, D)``: for each output the scanned tokens of its patch; in the workspace.
    """
    width, states = decay.shape[1:]
    x, _ = split_scan(x_maps.scan, width, states)
    _, directions = split_scan(maps.scan, width, states)
    rows, cols = maps.runs
    p = rows.patch
    out = workspace.take("out", (rows.outputs, cols.outputs, p, p, width), x)
    for columns in (False, True):
        k = 2 * backwards + columns
        dt, b, c = directions[k]
        steps = _Steps(x, F.softplus(dt), b, c, x_maps.runs, maps.runs)
        across, along, view = rows, cols, out
        if columns:
            steps, across, along, view = steps.transposed, cols, rows, out.permute(1, 0, 3, 2, 4)
        if backwards:
            steps = steps.reversed
        _scan_rows(steps, decay[k], skip[k], across, along, view, workspace, add=columns)
    return out


def _scan_rows(
    steps: _Steps,
    decay: Tensor,
    skip: Tensor,
    across: AxisRuns,
    along: AxisRuns,
    out: Tensor,
    workspace: Workspace,
    *,
    add: bool,
) -> None:
    """Write the row-major scan to ``out`` ``(across, along, P, P, D)``, or add it there."""
    p, outputs = across.patch, across.outputs
    width, states = decay.shape
    edge = max(steps.runs.rows.edge, steps.x_runs.rows.edge)
    # States of the patches that have the row in their middle (N last, for the products), and of the others.
    middle = _take_staggered(workspace, "middle", outputs, (along.outputs, width, states), decay).zero_()
    border = workspace.take("border", (outputs, along.outputs, states, width), decay).zero_()
    scan = _RowScan(steps, decay, skip, workspace)

    put = Tensor.add_ if add else Tensor.copy_

    def put_row(first: int, last: int, token: int, y: Tensor) -> None:
        """Write row ``token`` of patches ``first..last``; ``y`` is (patches, starts, P, D)."""
        # The next patch meets the same row one position earlier.
        s0, s1, s2, s3, s4 = out.stride()
        offset = out.storage_offset() + first * s0 + (token - first) * s2
        put(out.as_strided(y.shape, (s0 - s2, s1, s3, s4), offset), y)

    for token in range(outputs + p - 1):
        # Patch i meets this row at its position token - i.
        for position in (*range(edge), *range(p - edge, p)):
            patch = token - position
            if 0 <= patch < outputs:
                state = border[patch]
                if position == p - edge:
                    state.copy_(middle[patch].transpose(1, 2))
                put_row(patch, patch, token, scan.directly(patch, position, state)[None])
                if position == edge - 1:
                    middle[patch].copy_(state.transpose(1, 2))
        first, last = max(0, token - (p - 1 - edge)), min(outputs - 1, token - edge)
        if first > last:
            continue
        # The maps of any of these patches: all have the row in their middle.
        end_state = workspace.take("end state", (along.outputs, states, width), decay).zero_()
        local = scan.directly(last, token - last, end_state)
        weight, end_decay = scan.response(last, token - last)
        now = middle[first : last + 1]
        y = workspace.take("middle y", (along.outputs, width, len(now), p), decay)
        y.copy_(local.transpose(1, 2)[:, :, None])
        # (starts x D, patches, N) @ (starts x D, N, P)
        products = now.flatten(1, 2).transpose(0, 1), weight.flatten(1, 2).permute(1, 2, 0)
        y.flatten(0, 1).baddbmm_(*products)
        put_row(first, last, token, y.permute(2, 0, 3, 1))
        turned = workspace.take("turned", end_decay.shape, decay).copy_(end_state.transpose(1, 2))
        torch.addcmul(turned, now, end_decay, out=now)


def _take_staggered(
    workspace: Workspace, name: str, count: int, shape: tuple[int, ...], like: Tensor
) -> Tensor:
    """A buffer ``(count, *shape)`` whose neighbouring items do not fall into the same cache sets."""
    size = math.prod(shape)
    return workspace.take(name, (count, size + _CACHE_LINE), like)[:, :size].view(count, *shape)


class _RowScan:
    """Scans one row of tokens, for all the patches that start along it.

    All rows have the same number of entries, so the tensors and their views for each step are made once.
    """

    def __init__(self, steps: _Steps, decay: Tensor, skip: Tensor, workspace: Workspace) -> None:
        self._steps, self._decay, self._skip = steps, decay, skip
        self._decay_rows = decay.t().contiguous()
        # Entries of each step's tokens (P, starts), in the layout of x and in the layout of the parameters.
        tables = [r.cols.table().T.copy() for r in (steps.x_runs, steps.runs)]
        self._x_entries, self._entries = (torch.from_numpy(t).to(decay.device) for t in tables)
        # The entries of a step follow one another. They are read from NumPy: a card would be waited for.
        runs = [slice(e, e + tables[1].shape[1]) for e in tables[1][:, 0].tolist()]
        (width, states), (patch, starts), entries = decay.shape, self._entries.shape, steps.dt.shape[1]

        def take(name: str, *shape: int) -> Tensor:
            return workspace.take(name, shape, decay)

        self._exp = take("exp", entries, states, width)
        self._x, self._drive = take("x", patch, starts, width), take("drive", patch, starts, width)
        self._b, self._c = take("b", patch, starts, states), take("c", patch, starts, states)
        self._y = take("y", patch, starts, width)
        self._steps_of_scan = [
            (self._exp[run], drive, b, c, y)
            for run, drive, b, c, y in zip(
                runs,
                self._drive[:, :, None].unbind(),
                self._b[..., None].unbind(),
                self._c[:, :, None].unbind(),
                self._y[:, :, None].unbind(),
                strict=True,
            )
        ]
        # The same with N last, for the response.
        self._exp_by_channel = take("exp by channel", entries, width, states)
        self._c_by_channel = take("c by channel", entries, width, states)
        self._product = take("product", starts, width, states)
        self._weight = _take_staggered(workspace, "weight", patch, (starts, width, states), decay)
        self._steps_of_response = [
            (self._exp_by_channel[run], self._c_by_channel[run], w)
            for run, w in zip(runs, self._weight.unbind(), strict=True)
        ]

    def directly(self, patch: int, position: int, state: Tensor) -> Tensor:
        """Scan row ``position`` of the patches that are number ``patch`` across the rows.

        Updates ``state`` ``(starts, N, D)``. Returns y, the skip ``D x`` included, ``(starts, P, D)``; it is
        valid until the next call.
        """
        x_row, row = self._rows(patch, position)
        dt = self._steps.dt[row]
        torch.mul(dt[:, None, :], self._decay_rows, out=self._exp).exp_()
        self._spread(self._steps.x[x_row], self._x_entries, self._x)
        self._spread(dt, self._entries, self._drive).mul_(self._x)
        self._spread(self._steps.b[row], self._entries, self._b)
        self._spread(self._steps.c[row], self._entries, self._c)
        for exp, drive, b, c, y in self._steps_of_scan:
            state.mul_(exp).addcmul_(drive, b)
            torch.bmm(c, state, out=y)
        return self._y.addcmul_(self._x, self._skip).transpose(0, 1)

    def response(self, patch: int, position: int) -> tuple[Tensor, Tensor]:
        """The factors of a row's state: W ``(P, starts, D, N)`` and P_end ``(starts, D, N)``.

        They are valid until the next call.
        """
        _, row = self._rows(patch, position)
        torch.mul(self._steps.dt[row][:, :, None], self._decay, out=self._exp_by_channel).exp_()
        # Copied for every channel: a product of tensors of one shape is one loop, a broadcast one a channel.
        self._c_by_channel.copy_(self._steps.c[row][:, None, :])
        self._product.fill_(1)
        for exp, c, weight in self._steps_of_response:
            torch.mul(self._product.mul_(exp), c, out=weight)
        return self._weight, self._product

    def _spread(self, values: Tensor, entries: Tensor, out: Tensor) -> Tensor:
        """Values of a row's entries by step: ``(P, starts, …)``."""
        torch.index_select(values.contiguous(), 0, entries.view(-1), out=out.view(-1, out.shape[-1]))
        return out

    def _rows(self, patch: int, position: int) -> tuple[int, int]:
        x_row, row = (int(r.rows.entry(patch, position)) for r in (self._steps.x_runs, self._steps.runs))
        return x_row, row


def gather_tokens(values: Tensor, runs: BlockRuns, rows: Indices, cols: Indices) -> Tensor:
    """Tokens of some patches of a block, ``(n, P, P, D)``, by the patches' starts ``rows``, ``cols`` (n,)."""
    r, c = (
        torch.from_numpy(axis.table()[start]).to(values.device)
        for axis, start in zip(runs, (rows, cols), strict=True)
    )
    return values[r[:, :, None], c[:, None, :]]
