"""The Dask plugin that brings a plan to every worker. Imported only where Dask is installed."""

from __future__ import annotations

from typing import Any

from distributed import WorkerPlugin

from das2f_map.running.sent_plans import drop, keep


class PlanPlugin(WorkerPlugin):  # type: ignore[misc]  # mypy does not look into Dask
    """Keeps a plan on each worker, also on those that come later.

    Parameters
    ----------
    key:
        The plan's key.
    version:
        Version of das2f-map that made it.
    pickled:
        The plan. The first block unpickles it, in its own thread: that loads PyTorch, and Dask calls
        :meth:`setup` in the thread that answers the scheduler.
    """

    def __init__(self, key: str, version: str, pickled: bytes) -> None:
        self._key, self._version, self._pickled = key, version, pickled

    def setup(self, worker: Any) -> None:
        """Take the plan; called by Dask when the worker joins."""
        keep(self._key, self._version, self._pickled)

    def teardown(self, worker: Any) -> None:
        """Let go of the plan."""
        drop(self._key)
