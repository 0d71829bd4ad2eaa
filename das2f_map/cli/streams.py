"""Standard input, output and error of a command: always there, and a failed write ends no run."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BROKEN_PIPE = 141
"""Exit code of a command whose reader has gone, as a shell gives it for SIGPIPE."""


AT_ONCE = 512
"""Bytes that a pipe takes at once if it takes any: the least that POSIX allows for ``PIPE_BUF``."""

PATIENCE_S = 1.0
"""Seconds that a reader has for them when a run is told to end."""


class _Lenient(io.RawIOBase):
    """A stream of the process. The first write that fails is noted, and nothing more is written."""

    patient = True
    """Whether writes wait for the readers of the streams as long as it takes."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self.failure is None:
            try:
                if _Lenient.patient:
                    rest = rest[os.write(self._descriptor, rest) :]
                elif takes_soon(self._descriptor):
                    rest = rest[os.write(self._descriptor, rest[:AT_ONCE]) :]
                else:
                    self.failure = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            except OSError as error:
                self.failure = error
        return size

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor


_lenient: dict[str, _Lenient] = {}


def open_streams() -> None:
    """Open the standard streams that are closed, and let no failed write raise an error.

    A closed stream would be given to the next file that is opened, and messages would go into that file. A
    character that the terminal lacks becomes a question mark.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest descriptor that is free is this one: those below are open by now.
            with suppress(OSError):
                os.open(os.devnull, flags)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        # Streams that a caller has put there, such as a test's, stay.
        stream: TextIO | None = getattr(sys, name)
        if stream is None or _is_the_process_own(stream, descriptor):
            setattr(sys, name, _wrapped(name, stream, descriptor))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def lose_patience() -> None:
    """From now on, leave out what the reader of a stream does not take soon, such as that of a full pipe."""
    _Lenient.patient = False


def takes_soon(descriptor: int) -> bool:
    """Whether a descriptor takes :data:`AT_ONCE` bytes within :data:`PATIENCE_S`."""
    try:
        return bool(select.select((), (descriptor,), (), PATIENCE_S)[1])
    except (OSError, ValueError):  # no such descriptor, or a system that asks sockets alone
        return True


def output_failure() -> OSError | None:
    """The error with which standard output took no more data; ``None`` if it has taken all."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    return _lenient["stdout"].failure if "stdout" in _lenient else None


def is_broken_pipe(error: OSError) -> bool:
    """Whether a write failed because nobody reads it any more, as after ``| head``."""
    return error.errno in (errno.EPIPE, errno.ESHUTDOWN)


def _is_the_process_own(stream: TextIO, descriptor: int) -> bool:
    if not isinstance(stream, io.TextIOWrapper):
        return False
    raw = getattr(stream.buffer, "raw", stream.buffer)  # `python -u` has no buffer between
    try:
        return isinstance(raw, io.FileIO) and raw.fileno() == descriptor
    except ValueError:  # it is closed
        return False


def _wrapped(name: str, stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.flush()
    raw = _lenient[name] = _Lenient(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="replace",
        line_buffering=name == "stderr" or raw.isatty(),
    )
