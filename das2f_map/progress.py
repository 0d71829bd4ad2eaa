"""How long work tells its caller that it moves on, without knowing about terminals.

A function that takes ``progress`` uses it as ``with progress("Classifying", total) as advance:``
and calls ``advance(n)`` as it goes. The command line passes one that draws a bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str, "int | None"], AbstractContextManager[Callable[[int], None]]]
"""``progress(description, total) -> context manager yielding advance(n)``; total may be unknown."""


@contextmanager
def silent(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """The default: say nothing."""
    yield lambda n: None
