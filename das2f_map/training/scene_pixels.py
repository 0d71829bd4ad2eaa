"""Pixels of the scenes of a training, labelled or not, with the patches around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from das2f_map.scene.spread import spread_blocks
from das2f_map.training.dataset import BLOCK, PatchReader
from das2f_map.types import Int32, Int64

SAMPLED = 800
"""Pixels of all scenes that are looked at without labels.

In 89 clusters of 9 the share of a class has a standard error of one to five percentage points. Neighbours
have the same class, so that more clusters make it smaller, and larger ones do not.
"""

CLUSTER = 3
"""Pixels a side of a sampled cluster: fewer blocks are read than for single pixels."""


@dataclass(frozen=True, eq=False)
class ScenePixels:
    """Pixels of one or more scenes.

    Attributes
    ----------
    readers:
        A reader of patches for each scene; the blocks around its pixels are loaded.
    scene:
        int64 ``(n,)``: position in ``readers``.
    rows, cols:
        int32 ``(n,)``: MS pixels of the scene.
    """

    readers: tuple[PatchReader, ...]
    scene: Int64
    rows: Int32
    cols: Int32

    @classmethod
    def sampled(
        cls,
        readers: Sequence[PatchReader],
        seed: int,
        *,
        most: int | None = None,
        cluster: int = CLUSTER,
    ) -> ScenePixels:
        """About ``most`` usable pixels all over the scenes, of each scene as many.

        By default :data:`SAMPLED`. They lie in clusters of ``cluster`` pixels a side.
        """
        each = max(1, (SAMPLED if most is None else most) // len(readers))
        found = [sampled_pixels(reader, each, seed, cluster=cluster) for reader in readers]
        return cls(
            tuple(readers),
            np.repeat(np.arange(len(readers), dtype=np.int64), [rows.size for rows, _ in found]),
            np.concatenate([rows for rows, _ in found]),
            np.concatenate([cols for _, cols in found]),
        )

    def __len__(self) -> int:
        return int(self.rows.size)

    def select(self, keep: Int64) -> ScenePixels:
        """The pixels at some positions."""
        return replace(self, scene=self.scene[keep], rows=self.rows[keep], cols=self.cols[keep])

    def patches(self, at: Int64, turns: Int64 | None = None) -> tuple[Tensor, Tensor]:
        """Patches of the pixels at ``at``, float32: MS ``(n, bands, P, P)`` and PAN ``(n, 1, 4P, 4P)``.

        ``turns`` as in :meth:`PatchReader.patches`.
        """
        found: list[tuple[Int64, Tensor, Tensor]] = []
        for scene in np.unique(self.scene[at]):
            here = np.flatnonzero(self.scene[at] == scene)
            mine = at[here]
            own_turns = None if turns is None else turns[here]
            ms, pan = self.readers[scene].patches(self.rows[mine], self.cols[mine], own_turns)
            found.append((here, ms, pan))
        if not found:
            return self.readers[0].patches(self.rows[at], self.cols[at])
        # Back from the order of the scenes to that of ``at``.
        order = torch.from_numpy(np.argsort(np.concatenate([here for here, _, _ in found])))
        return torch.cat([ms for _, ms, _ in found])[order], torch.cat([pan for _, _, pan in found])[order]


def sampled_pixels(
    reader: PatchReader, most: int, seed: int, *, cluster: int = CLUSTER
) -> tuple[Int32, Int32]:
    """Rows and columns of usable pixels in clusters all over a scene, int32 ``(n,)`` each."""
    rng = np.random.default_rng([seed, 9])
    grid = reader.source.pair.grids.ms
    rows: list[Int32] = []
    cols: list[Int32] = []
    found = 0
    clusters = -(-most // cluster**2)
    # One cluster in each of many blocks; some lie on nodata, so more are tried than are needed. A small scene
    # has smaller blocks, so that it has enough of them.
    size = min(BLOCK, max(cluster, int((grid.height * grid.width / clusters) ** 0.5)))
    whole = min(size, grid.height) * min(size, grid.width)
    for number, block in enumerate(spread_blocks(grid.window, size, strata=clusters, seed=seed)):
        if found >= most or number >= 4 * clusters:
            break
        # A narrow block at the scene's edge has as much of the sample as it has of the ground.
        area = block.height * block.width
        if area < whole and rng.random() * whole >= area:
            continue
        top = block.row + int(rng.integers(0, max(1, block.height - cluster + 1)))
        left = block.col + int(rng.integers(0, max(1, block.width - cluster + 1)))
        r, c = np.meshgrid(
            np.arange(top, min(top + cluster, block.row + block.height), dtype=np.int32),
            np.arange(left, min(left + cluster, block.col + block.width), dtype=np.int32),
            indexing="ij",
        )
        valid = reader.load(r.ravel(), c.ravel())
        rows.append(r.ravel()[valid])
        cols.append(c.ravel()[valid])
        found += int(valid.sum())
    if not rows:
        none = np.zeros(0, np.int32)
        return none, none
    return np.concatenate(rows)[:most], np.concatenate(cols)[:most]
