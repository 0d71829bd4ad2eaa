"""The DAS²F network as torch modules.

Its sizes can be read without importing torch: the module itself is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from das2f_map.network.config import NetworkConfig

if TYPE_CHECKING:
    from das2f_map.network.das2f import Das2fNet

__all__ = ["Das2fNet", "NetworkConfig"]


if not TYPE_CHECKING:  # to a type checker an unknown name stays an error

    def __getattr__(name: str) -> Any:
        if name != "Das2fNet":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from das2f_map.network.das2f import Das2fNet

        return Das2fNet
