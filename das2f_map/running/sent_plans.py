"""Plans that a Dask scheduler has sent to this process. Imports nothing heavy: workers take them at once."""

from __future__ import annotations

from das2f_map._version import __version__
from das2f_map.errors import ClusterError

_sent: dict[str, tuple[str, bytes]] = {}
"""Version of das2f-map and pickled plan, by the plan's key."""


def keep(key: str, version: str, pickled: bytes) -> None:
    """Keep a plan that a version of das2f-map has made."""
    _sent[key] = version, pickled


def drop(key: str) -> None:
    """Let go of a plan."""
    _sent.pop(key, None)


def dropped(key: str) -> bool:
    """Whether no plan with this key is kept."""
    return key not in _sent


def pickled_plan(key: str) -> bytes:
    """A plan that is kept, pickled.

    Raises
    ------
    ClusterError
        There is none, or another version has made it.
    """
    if key not in _sent:
        raise ClusterError("a worker has lost the plan", "the block is sent again")
    version, pickled = _sent[key]
    if version != __version__:
        raise ClusterError(
            f"a worker has das2f-map {__version__}, the plan was made by {version}",
            "install the same version everywhere",
        )
    return pickled
