"""The first stage of a network over whole blocks, in torch operations."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from das2f_map.engines.shared_scan import torch_path
from das2f_map.engines.shared_scan.maps import (
    MS_EDGE,
    PAN_EDGE,
    BlockRuns,
    MixerMaps,
    MixerWeights,
    TokenMap,
    mixer_maps,
    ms_tokens,
    pan_tokens,
)
from das2f_map.engines.shared_scan.runs import Indices
from das2f_map.engines.shared_scan.workspace import Workspace
from das2f_map.engines.threads import in_threads
from das2f_map.network import Das2fNet
from das2f_map.network.cmda import CmdaBranch
from das2f_map.network.das2f import Stage, StageOutput
from das2f_map.network.mixer import Mlp, ScanParameters
from das2f_map.network.spvm import SpvmMixer

_threads = threading.Lock()


@contextmanager
def _threads_shared_by(items: int) -> Iterator[int]:
    """A context in which so many work items share PyTorch's threads; gives how many threads to start.

    PyTorch has one number of threads for the whole process, so only one caller at a time may change it.
    """
    with _threads:
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // items))
        try:
            yield min(threads, items)
        finally:
            torch.set_num_threads(threads)


class Branch(NamedTuple):
    """The modules of one branch of a stage: an SPVM block, or one modality's part of CMDA."""

    norm: nn.LayerNorm
    mixer: SpvmMixer | CmdaBranch
    out_norm: nn.LayerNorm
    mlp: Mlp

    @classmethod
    def of(cls, stage: nn.Module) -> tuple[Branch, ...]:
        """The branches of a stage: SPVM of MS, SPVM of PAN, CMDA of MS, CMDA of PAN."""
        assert isinstance(stage, Stage)
        cross = stage.cmda
        return (
            *(cls(s.norm, s.mixer, s.mixer.out_norm, s.mlp) for s in (stage.spvm_ms, stage.spvm_pan)),
            *(cls(cross.norm, mixer, cross.out_norm, mixer.mlp) for mixer in (cross.ms, cross.pan)),
        )


PARAMETERS_OF = (0, 1, 3, 2)
"""For each branch, the branch whose parameters it is scanned with: CMDA has those of the other modality."""


def scans(branches: Sequence[Branch]) -> list[ScanParameters]:
    """For each branch, the weights of the parameters that it is scanned with."""
    return [branches[i].mixer.scan for i in PARAMETERS_OF]


class Tail(nn.Module):
    """The layers of one branch after its scan: norm, gate, projection, residual, norm, MLP, residual."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.norm, self.out_norm, self.mlp = branch.norm, branch.out_norm, branch.mlp
        self.out_proj = branch.mixer.out_proj

    def forward(self, y: Tensor, gate: Tensor, tokens: Tensor) -> Tensor:
        """Output of the branch for scanned tokens ``y``, gates and input tokens; all ``(…, D)``."""
        residual: Tensor = tokens + self.out_proj(self.out_norm(y) * gate)
        out: Tensor = residual + self.mlp(self.norm(residual))
        return out


class FirstStage:
    """The first stage of a network over blocks, in torch operations.

    The branches come in the order of :meth:`.Branch.of`.
    """

    def __init__(self, network: Das2fNet) -> None:
        self.network = network
        self.workspace = Workspace()
        branches = Branch.of(network.stages[0])
        self.mixers = tuple(MixerWeights.of(b.norm, b.mixer) for b in branches)
        self.tails = tuple(Tail(b) for b in branches)
        self._scan_workspaces = [Workspace() for _ in range(2 * len(self.mixers))]
        self.decays = tuple(-torch.exp(scan.A_log) for scan in scans(branches))
        self.skips = tuple(scan.D for scan in scans(branches))

    def maps(self, ms: Tensor, pan: Tensor) -> tuple[tuple[TokenMap, ...], tuple[MixerMaps, ...]]:
        """Tokens (MS, PAN) and the four branches' maps of a block with its halo."""
        p = self.network.config.patch_size
        height, width = ms.shape[1] - p + 1, ms.shape[2] - p + 1
        runs = [BlockRuns.of(height, width, p, edge) for edge in (MS_EDGE, PAN_EDGE)]
        tokens = (
            ms_tokens(self.network.ms_stem, ms, runs[0], self.workspace),
            pan_tokens(self.network.pan_stem, pan, runs[1]),
        )
        return tokens, tuple(
            mixer_maps(w, tokens[i % 2], self.workspace, str(i)) for i, w in enumerate(self.mixers)
        )

    def scans(self, maps: tuple[MixerMaps, ...]) -> list[Tensor]:
        """Scanned tokens of every patch, ``(h, w, P, P, D)`` for each branch; valid until the next call."""

        def scan(item: int) -> Tensor:
            i = item // 2
            return torch_path.scan_block(
                maps[i],
                maps[PARAMETERS_OF[i]],
                self.decays[i],
                self.skips[i],
                self._scan_workspaces[item],
                backwards=bool(item % 2),
            )

        caller = threading.get_ident()

        def scan_in_thread(item: int) -> Tensor:
            # States decay through denormal numbers, which are slow. The setting ends with the thread.
            if threading.get_ident() != caller:
                torch.set_flush_denormal(True)
            with torch.inference_mode():
                return scan(item)

        items = range(len(self._scan_workspaces))
        if maps[0].scan.device.type != "cpu":
            parts = [scan(item) for item in items]
        else:
            # The operations are many and small: a thread for each item, not all threads for each operation.
            with _threads_shared_by(len(items)) as workers:
                parts = in_threads(scan_in_thread, items, workers)
        out = []
        for forwards, backwards in zip(parts[::2], parts[1::2], strict=True):
            for own, other in zip(forwards, reversed(backwards.unbind()), strict=True):
                own.add_(other.flip(0, 1, 2))
            out.append(forwards)
        return out

    def free(self) -> None:
        """Free the memory that is kept from block to block."""
        for workspace in (self.workspace, *self._scan_workspaces):
            workspace.clear()

    def output(
        self,
        scanned: list[Tensor],
        tokens: tuple[TokenMap, ...],
        maps: tuple[MixerMaps, ...],
        rows: Indices,
        cols: Indices,
    ) -> StageOutput:
        """The stage's output for the patches that start at ``rows``, ``cols`` (n,): ``(n, P, P, D)`` each."""
        at = tuple(torch.from_numpy(i).to(scanned[0].device) for i in (rows, cols))
        out = []
        for i, tail in enumerate(self.tails):
            source = tokens[i % 2]
            gate, own = (
                torch_path.gather_tokens(v, source.runs, rows, cols) for v in (maps[i].gate, source.tokens)
            )
            out.append(tail(scanned[i][at], gate, own))
        return StageOutput(out[0] - out[2], out[1] - out[3], out[2], out[3])
