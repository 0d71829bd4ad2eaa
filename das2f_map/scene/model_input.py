"""The one reader of a network's input: a window of a scene, normalised, with its halo.

Maps, training, trials and benchmarks all read through it, so that a network gets the same input in a map as
in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from das2f_map.scene.fill import invalid_shares
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import Normalisation
from das2f_map.types import Bool, Float32


@dataclass(frozen=True, eq=False)
class InputBlock:
    """A window of a scene as an engine takes it.

    Attributes
    ----------
    window:
        Target pixels, MS pixels of the common grid.
    ms:
        float32 (bands, h + halo, w + halo), normalised, finite. For patches of P × P MS pixels that reach at
        most R pixels from their target, the halo is P - 1 MS pixels in all, or 2 R if read for all turns.
    pan:
        float32 (1, 4 × (h + halo), 4 × (w + halo)), normalised, finite.
    usable:
        bool (h, w): targets that can be classified or learnt from. Both sensors have measured them, no mask
        excludes them, and no more of their patch is invalid than the patch geometry allows.
    """

    window: Window
    ms: Float32
    pan: Float32
    usable: Bool


@dataclass(frozen=True)
class ModelInput:
    """The input of a network: a pair, its normalisation and the network's patch.

    Attributes
    ----------
    pair:
        An open pair with the model's bands in the model's order.
    normalisation:
        Statistics of these bands and of PAN.
    patch:
        Size of the patches, the target's place in them, and the treatment of invalid pixels.
    """

    pair: ScenePair
    normalisation: Normalisation
    patch: PatchGeometry

    @property
    def radius(self) -> int:
        """MS pixels that a patch reaches at most from its target, in any direction."""
        return max(self.patch.before, self.patch.after)

    def read(
        self, window: Window, wanted: Bool | None = None, *, all_turns: bool = False
    ) -> InputBlock | None:
        """Read a window with its halo.

        Parameters
        ----------
        window:
            MS pixels, inside the common grid and not empty.
        wanted:
            bool (h, w): targets that are needed; by default all.
        all_turns:
            Read the same halo on all four sides, wide enough for patches that are turned or mirrored.

        Returns
        -------
        InputBlock or None
            ``None`` where no wanted target is usable; nothing is normalised then.

        Raises
        ------
        InputError
            A file is damaged.
        """
        if wanted is not None and not wanted.any():
            return None
        patch = self.patch
        before, after = (self.radius, self.radius) if all_turns else (patch.before, patch.after)
        block = self.pair.read_block(window, before, after, fill=patch.fill_radius)
        # The halo may reach further than the patch does; shares are counted by each patch's first pixel.
        first = before - patch.before
        shares = invalid_shares(block.invalid, patch.size)[first:, first:][: window.height, : window.width]
        usable = block.valid & (shares <= patch.max_invalid_share)
        if wanted is not None:
            usable &= wanted
        if not usable.any():
            return None
        return InputBlock(window, *self.normalisation.apply(block, reuse=True), np.asarray(usable))
