"""A user's choice of how to treat a shift between the contents of MS and PAN.

The command line reads its options here, so nothing heavy is imported.
"""

from __future__ import annotations

from typing import Final, Literal

CoregisterMode = Literal["auto", "on", "off"]
"""Whether a shift is corrected, see :func:`das2f_map.scene.registration.coregister`."""

MODES: Final[tuple[CoregisterMode, ...]] = ("auto", "on", "off")

DEFAULT_MODE: Final[CoregisterMode] = "auto"

DEFAULT_MAX_SHIFT: Final = 8.0
"""PAN pixels over which a shift is refused: the files hardly belong together."""
