"""Progress of long work, reported to its caller; the work knows nothing of terminals.

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
    """A reporter that shows nothing; the default."""
    yield lambda n: None
