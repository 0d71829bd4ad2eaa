"""How many bytes a block takes in the shared scan, counted tensor by tensor.

Estimates: temporary tensors of a few rows and the heap's own losses are left out.
"""

from __future__ import annotations

from das2f_map.engines.shared_scan.maps import MS_EDGE, PAN_EDGE, BlockRuns
from das2f_map.network import NetworkConfig
from das2f_map.network.scan_order import DIRECTIONS

BRANCHES = 4
"""SPVM and CMDA, of MS and PAN each."""
LINE = 32
"""Tokens whose dt, B and C the Triton kernels of a later stage compute at a time."""


def _tokens(runs: BlockRuns) -> int:
    return runs.rows.entries * runs.cols.entries


def _runs(config: NetworkConfig, side: int, edge: int) -> BlockRuns:
    return BlockRuns.of(side, side, config.patch_size, edge)


def map_bytes(config: NetworkConfig, side: int, item: int) -> int:
    """Tokens, gates and scan maps of ``side`` × ``side`` outputs. ``item``: bytes of a number."""
    width = config.width
    features = width + DIRECTIONS * (width + 2 * config.state_size)
    numbers = 0
    for edge in (MS_EDGE, PAN_EDGE):
        runs = _runs(config, side, edge)
        # The tokens, and for SPVM and CMDA a gate and a scan map each.
        numbers += 3 * _tokens(runs) * width + 2 * _tokens(runs.wider) * features
    return item * numbers


def work_bytes(config: NetworkConfig, side: int, item: int) -> int:
    """The temporary tensors from which a branch's maps are made.

    All branches use the same memory in turn, so the largest counts: MS has more tokens than PAN.
    """
    runs = _runs(config, side, MS_EDGE)
    # Each token's shares for its nine neighbours; the image of sums, its sigmoid, and their product.
    return item * config.width * (9 * _tokens(runs) + 3 * _tokens(runs.wider))


def scanned_bytes(config: NetworkConfig, side: int, item: int) -> int:
    """The scanned tokens of every patch of ``side`` × ``side`` outputs, all branches."""
    return item * BRANCHES * side**2 * config.tokens * config.width


def triton_bytes(config: NetworkConfig, side: int, item: int, patches: int) -> int:
    """The tensors of the Triton kernels, without the maps.

    ``item`` is the size of a result in bytes; states are float32. ``patches`` is how many patches are
    computed at a time after the shared part.
    """
    width, patch = config.width, config.patch_size
    states = config.state_size * width
    rows = side * (side + patch - 1)
    scratch = rows * states + 2 * rows * patch * width + 2 * side**2 * states
    # The result of each direction is kept.
    after = min(patches, side**2) * triton_patch_bytes(config, item)
    return DIRECTIONS * scanned_bytes(config, side, item) + 4 * scratch + after


def triton_patch_bytes(config: NetworkConfig, item: int) -> int:
    """What a patch takes in the Triton kernels after the shared part; ``item`` as in :func:`triton_bytes`."""
    values = config.tokens * config.width
    # Specific and common parts of MS and PAN.
    taken = config.stages * 2 * values * (item + 4)
    if config.stages > 1:
        # Gates and scan inputs of MS and PAN, normalised tokens, the directions of one scan, and its lines.
        taken += values * (5 * 4 + DIRECTIONS * item)
        taken += 4 * DIRECTIONS * min(LINE, config.tokens) * (config.width + 2 * config.state_size)
    return taken


def torch_scan_bytes(config: NetworkConfig, side: int, item: int, at_once: int) -> int:
    """The tensors of the scan in torch operations, without the maps.

    Each branch is scanned in two items of work, which keep their memory; ``at_once`` items run at a time.
    """
    width, patch = config.width, config.patch_size
    states = config.state_size * width
    wider = _runs(config, side, MS_EDGE).wider
    per_item = (
        side**2 * config.tokens * width  # scanned tokens
        + 2 * side**2 * states  # states of patches in the middle and at the border
        + patch * side * states  # a row's response
        + 3 * wider.cols.entries * states  # decays of a row, and C for every channel
        + side * width * min(side, patch) * patch  # a row's outputs
    )
    # x, dt, its softplus, B and C, turned round.
    turned = _tokens(wider) * (3 * width + 2 * config.state_size)
    return item * (2 * BRANCHES * per_item + at_once * turned)
