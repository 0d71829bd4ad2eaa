"""The shared scan and the patch's tail in torch operations: any device, any floating-point type.

The algorithm, for one direction (the others are the same on a transposed or reversed block):

A patch is scanned row by row. What a row does to the state ``H`` that enters it is affine,

    H_out = P_end * H + L_end        y_t = ylocal_t + sum_n W_t[n] H[n]

and for the rows in the middle of a patch it is the same for every patch that has this row in its middle
and starts at the same column: ``P_end, L_end, W = C P, ylocal`` are computed once. The rows
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
from das2f_map.engines.shared_scan.workspace import Workspace


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
        Whose x is scanned, and whose parameters are used (CMDA: the other modality's).
    decay:
        A, negative, ``(4, D, N)``.
    skip:
        D, ``(4, D)``.
    workspace:
        Of nobody else meanwhile.
    backwards:
        The other two directions, and the result for the block turned by half: flipped in its first four axes
        it is to be added to the one of the first two.

    Returns
    -------
    ``(h, w, P, P, D)``: for each output the scanned tokens of its patch; in the workspace.
    """
    width, states = decay.shape[1:]
    x, _ = split_scan(x_maps.scan, width, states)
    _, directions = split_scan(maps.scan, width, states)
    rows, cols = maps.runs
    p = rows.patch
    out = workspace.take("out", (rows.outputs, cols.outputs, p, p, width), x).zero_()
    for columns in (False, True):
        k = 2 * backwards + columns
        dt, b, c = directions[k]
        steps = _Steps(x, F.softplus(dt), b, c, x_maps.runs, maps.runs)
        across, along, view = rows, cols, out
        if columns:
            steps, across, along, view = steps.transposed, cols, rows, out.permute(1, 0, 3, 2, 4)
        if backwards:
            steps = steps.reversed
        _scan_rows(steps, decay[k], skip[k], across, along, view, workspace)
    return out


def _scan_rows(
    steps: _Steps,
    decay: Tensor,
    skip: Tensor,
    across: AxisRuns,
    along: AxisRuns,
    out: Tensor,
    workspace: Workspace,
) -> None:
    """Add the row-major scan to ``out`` ``(across, along, P, P, D)``."""
    p, outputs = across.patch, across.outputs
    width, states = decay.shape
    edge = max(steps.runs.rows.edge, steps.x_runs.rows.edge)
    # Of the patches that have the row in their middle, as the products want them; and of the others.
    middle = workspace.take("middle", (along.outputs, width, outputs, states), decay).zero_()
    border = workspace.take("border", (outputs, along.outputs, states, width), decay).zero_()
    scan = _RowScan(steps, decay, skip, workspace)

    def add(first: int, last: int, token: int, y: Tensor) -> None:
        """Row ``token`` of patches ``first..last``: ``y`` is (patches or 1, starts, P, D)."""
        # The next patch meets the same row one position earlier.
        s0, s1, s2, s3, s4 = out.stride()
        offset = out.storage_offset() + first * s0 + (token - first) * s2
        shape = (last - first + 1, *y.shape[1:])
        out.as_strided(shape, (s0 - s2, s1, s3, s4), offset).add_(y)

    for token in range(outputs + p - 1):
        # Patch i meets this row at its position token - i.
        for position in (*range(edge), *range(p - edge, p)):
            patch = token - position
            if 0 <= patch < outputs:
                state = border[patch]
                if position == p - edge:
                    state.copy_(middle[:, :, patch].transpose(1, 2))
                add(patch, patch, token, scan.directly(patch, position, state)[None])
                if position == edge - 1:
                    middle[:, :, patch].copy_(state.transpose(1, 2))
        first, last = max(0, token - (p - 1 - edge)), min(outputs - 1, token - edge)
        if first > last:
            continue
        # Any of the patches serves: they all have the row in their middle.
        end_state = workspace.take("end state", (along.outputs, states, width), decay).zero_()
        add(first, last, token, scan.directly(last, token - last, end_state)[None])
        weight, end_decay = scan.response(last, token - last)
        now = middle[:, :, first : last + 1]
        # (starts, D, patches, N) @ (starts, D, N, P)
        y = workspace.take("middle y", (*now.shape[:3], p), decay)
        torch.matmul(now, weight.transpose(2, 3), out=y)
        add(first, last, token, y.permute(2, 0, 3, 1))
        torch.addcmul(end_state.transpose(1, 2)[:, :, None], now, end_decay[:, :, None], out=now)


class _RowScan:
    """Scans one row of tokens, of all the patches that start along it."""

    def __init__(self, steps: _Steps, decay: Tensor, skip: Tensor, workspace: Workspace) -> None:
        self._steps, self._decay, self._skip, self._workspace = steps, decay, skip, workspace
        self._decay_rows = decay.t().contiguous()
        # Entries of each step's tokens, by the classes of x and by those of the parameters: (P, starts).
        tables = [r.cols.table().T.copy() for r in (steps.x_runs, steps.runs)]
        self._x_entries, self._entries = (torch.from_numpy(t).to(decay.device) for t in tables)
        # Those of one step are neighbours in one run. Not read back from a card, which would wait for it.
        self._runs = [slice(e, e + tables[1].shape[1]) for e in tables[1][:, 0].tolist()]

    def directly(self, patch: int, position: int, state: Tensor) -> Tensor:
        """Scan row ``position`` of the patches at ``patch`` across the rows.

        Updates ``state`` ``(starts, N, D)``; returns y with D x ``(starts, P, D)``, in the workspace.
        """
        x_row, row = self._rows(patch, position)
        dt, b, c = self._steps.dt[row], self._steps.b[row], self._steps.c[row]
        exp = self._workspace.take("exp", (len(dt), *self._decay_rows.shape), state)
        torch.mul(dt[:, None, :], self._decay_rows, out=exp).exp_()
        x = self._spread("x", self._steps.x[x_row], self._x_entries)
        drive = self._spread("drive", dt, self._entries).mul_(x)[:, :, None]
        b = self._spread("b", b, self._entries)[..., None]
        c = self._spread("c", c, self._entries)[:, :, None]
        y = self._workspace.take("y", (len(x), len(state), 1, state.shape[-1]), state)
        for run, d, bt, ct, yt in zip(
            self._runs, drive.unbind(), b.unbind(), c.unbind(), y.unbind(), strict=True
        ):
            state.mul_(exp[run]).addcmul_(d, bt)
            torch.bmm(ct, state, out=yt)
        return y[:, :, 0].addcmul_(x, self._skip).transpose(0, 1)

    def response(self, patch: int, position: int) -> tuple[Tensor, Tensor]:
        """What a row makes of a state: W ``(starts, D, P, N)`` and P_end ``(starts, D, N)``.

        In the workspace.
        """
        _, row = self._rows(patch, position)
        dt, c = self._steps.dt[row], self._spread("c", self._steps.c[row], self._entries)[:, :, None]
        patch_size, starts = self._entries.shape
        exp = self._workspace.take("exp", (len(dt), *self._decay.shape), dt)
        torch.mul(dt[:, :, None], self._decay, out=exp).exp_()
        product = self._workspace.take("product", (starts, *self._decay.shape), dt).fill_(1)
        shape = (starts, self._decay.shape[0], patch_size, self._decay.shape[1])
        weight = self._workspace.take("weight", shape, dt)
        for run, ct, wt in zip(self._runs, c.unbind(), weight.unbind(2), strict=True):
            torch.mul(product.mul_(exp[run]), ct, out=wt)
        return weight, product

    def _spread(self, name: str, values: Tensor, entries: Tensor) -> Tensor:
        """Values of a row's entries by step: ``(P, starts, …)``."""
        out = self._workspace.take(name, (entries.numel(), values.shape[-1]), values)
        torch.index_select(values.contiguous(), 0, entries.view(-1), out=out)
        return out.view(*entries.shape, -1)

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
