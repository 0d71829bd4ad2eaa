"""The errors that this package raises on purpose, each with a message for the user.

The command line prints ``message`` on one line, ``hint`` on the next, and exits
with ``exit_code``; a library caller catches :class:`Das2fMapError`.
"""

from __future__ import annotations


class Das2fMapError(Exception):
    """Root of all deliberate errors.

    Parameters
    ----------
    message:
        What is wrong, and with which file, in one sentence.
    hint:
        What to do about it (a command to type, an option to set), or ``None``.
    """

    exit_code: int = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


class InputError(Das2fMapError):
    """An input image, area or reference file cannot be used."""

    exit_code = 3


class ReadError(InputError):
    """A part of an input file cannot be read; another try may succeed."""


class LabelError(Das2fMapError):
    """Training labels or reference data cannot be used."""

    exit_code = 4


class ModelError(Das2fMapError):
    """A model bundle or checkpoint is missing, damaged, foreign or unsuitable."""

    exit_code = 5


class OutputError(Das2fMapError):
    """An output cannot be written, or exists already."""

    exit_code = 6


class MissingDependencyError(Das2fMapError):
    """A command needs an optional package that is not installed."""

    exit_code = 7


class DeviceError(Das2fMapError):
    """The requested compute device is not there or ran out of memory."""

    exit_code = 8


class ScenesFailedError(Das2fMapError):
    """Of many scenes, some could not be mapped; the others are done."""

    exit_code = 10


class ClusterError(Das2fMapError):
    """The workers or the scheduler that should compute a map are gone, or fail."""

    exit_code = 9
