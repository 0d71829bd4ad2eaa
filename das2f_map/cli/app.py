"""The command line's entry point: registers the commands and prints an error as one clear line."""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from das2f_map._version import __version__
from das2f_map.cli.commands import App
from das2f_map.cli.configuration import FILE_VARIABLE, configure, sets_options
from das2f_map.cli.console import setup_logging
from das2f_map.cli.streams import (
    BROKEN_PIPE,
    is_broken_pipe,
    lose_patience,
    open_streams,
    output_failure,
    takes_soon,
)
from das2f_map.errors import Das2fMapError, OutputError
from das2f_map.outputs.libtiff_messages import keep_libtiff_quiet
from das2f_map.scene.proj_gdal_data import use_own_data

log = logging.getLogger(__name__)

COMMANDS: Final = (
    "classify",
    "train",
    "inspect",
    "align",
    "sample",
    "evaluate",
    "preview",
    "report",
    "vectorize",
    "mosaic",
    "rerun",
    "style",
    "export",
    "clean",
    "doctor",
)
"""Commands, in the order of the help. Each has a module of its name, with the function ``NAME_command``."""

GROUPS: Final = ("models", "labels")
"""Commands with commands. Each has a module of its name, with its ``app``."""

_FLAGS: Final = frozenset({"-q", "--quiet", "-v", "--verbose", "-vv", "--debug"})
"""Options that may come before a command and take no value."""

_INTERRUPTED = 130
"""Exit code of typer after Ctrl-C."""

_AGAIN_S = 0.5
"""Seconds after which a run that does not end is told to end again."""


@dataclass
class _Settings:
    debug: bool = False
    remarks: tuple[str, ...] = ()
    end: SystemExit | None = None


_settings = _Settings()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"das2f-map {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Say more; twice for everything.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors, no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="Values of options, for all commands or in a table of one.",
            envvar=FILE_VARIABLE,
            show_envvar=False,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    _settings.debug = debug
    context.obj = quiet
    setup_logging(-1 if quiet else verbose)
    if not context.resilient_parsing:
        for warning in configure(context, config, os.environ):
            log.warning("%s", warning)
    for remark in _settings.remarks:
        log.info("%s", remark)


def _with(names: Iterable[str], inner: str = "") -> App:
    """The command line with some of its commands; of a group with the ``inner`` one alone, if it has that."""
    made = App(
        name="das2f-map",
        help="Land-cover maps from a multispectral and a panchromatic image with the DAS²F network.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_options)
    for name in names:
        module: Any = import_module(f"das2f_map.cli.{name}")
        if name in COMMANDS:
            # Typer cannot declare an option of `train`.
            own = {"cls": module.TrainCommand} if name == "train" else {}
            made.command(name, **own)(getattr(module, f"{name}_command"))
            continue
        group = module.app
        if only := [c for c in group.registered_commands if c.name == inner]:
            group = copy.copy(group)
            group.registered_commands = only
        made.add_typer(group, name=name)
    return made


@cache
def _whole() -> App:
    return _with((*COMMANDS, *GROUPS))


def __getattr__(name: str) -> App:
    """``app``, the command line with all commands, is made when it is asked for."""
    if name == "app":
        return _whole()
    raise AttributeError(name)


def main() -> None:
    """Entry point of the ``das2f-map`` command."""
    _prepare()
    try:
        _run()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            # All is tidied up. A second Ctrl-C while Python ends would print a traceback, or kill.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
    finally:
        try:
            # All is done: from here on the signal just ends the process.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        finally:
            # Also where it came only now: Python gives up its handlers before it ends, and an alarm kills.
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)


def _run() -> None:
    """Run the command; errors become a line on stderr and an exit code."""
    try:
        _needed(sys.argv[1:])(prog_name="das2f-map")
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _say("interrupted")
        failure = output_failure()
        if failure is not None and not end.code:
            if is_broken_pipe(failure):
                sys.exit(BROKEN_PIPE)
            _say(f"error: cannot print the result on standard output: {failure.strerror}")
            _say("hint: files that the command writes are complete; a result goes to a file with > FILE")
            sys.exit(OutputError.exit_code)
        raise
    except Das2fMapError as error:
        if _settings.debug:
            raise
        _say(f"error: {error.message}")
        if error.hint:
            _say(f"hint: {error.hint}")
        sys.exit(error.exit_code)
    except MemoryError as error:
        if _settings.debug:
            raise
        _say(f"error: out of memory: {error}")
        sys.exit(1)
    except Exception as error:  # a bug: the user gets a line and a hint, not a traceback
        if _settings.debug:
            raise
        if _torch_out_of_memory(error):
            _say(f"error: out of memory: {str(error).partition(chr(10))[0]}")
            sys.exit(1)
        _say(f"error: unexpected {type(error).__name__}: {error}")
        _say("hint: this is a bug; run again with `das2f-map --debug …` and report it")
        sys.exit(70)


def _needed(arguments: Sequence[str]) -> App:
    """The command line with the one command that the arguments begin with, or with all.

    It takes 0.2 s to import and build all. They are needed where values of options are configured, since
    these are compared with the options of every command, and where completion asks.
    """
    name, inner = ([a for a in arguments if a not in _FLAGS] + ["", ""])[:2]
    completing = any(variable.startswith("_DAS2F_MAP") for variable in os.environ)
    if name == "doctor" or completing or sets_options(os.environ):
        return _whole()
    return _with([name], inner) if name in COMMANDS or name in GROUPS else _whole()


def _prepare() -> None:
    """Set up signals, streams, and the environment of the libraries, which are imported later."""
    _settings.debug, _settings.end = False, None
    # Batch systems send SIGTERM when the time is up. It is raised as an exception, so that files which are
    # half written are removed.
    signal.signal(signal.SIGTERM, _terminate)
    open_streams()
    # Waiting threads sleep: OpenMP's default, spinning, slows a shared machine down several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Pydantic would look for plugins of its own in all packages that are installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _settings.remarks = use_own_data()
    keep_libtiff_quiet()
    if "--debug" not in sys.argv:
        # GDAL prints some messages itself. The process has two copies of it, and both obey this variable.
        os.environ.setdefault("CPL_LOG", os.devnull)


def _torch_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return False
    from das2f_map.engines.memory import out_of_memory

    return out_of_memory(error)


def _say(text: str) -> None:
    """Print a text on stderr as one line, even if it quotes a library's message of several lines."""
    print(" ".join(text.split()), file=sys.stderr)


def _terminate(number: int, _frame: object) -> None:
    if _settings.end is not None:
        return
    _settings.end = SystemExit(128 + number)
    # The signal may come while a line is being written: Python's streams refuse another one then. Or while a
    # full pipe is waited for, which nobody may ever read.
    lose_patience()
    with suppress(OSError, ValueError, RuntimeError):
        sys.stderr.flush()
    with suppress(OSError, ValueError):
        if takes_soon(sys.stderr.fileno()):
            os.write(sys.stderr.fileno(), b"terminated\n")
    private = sys.modules.get("das2f_map.outputs.private")
    if private is None or not private.has_begun():
        # Nothing is written yet, and an exception in the middle of an import may be lost or shown.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, RuntimeError):
                stream.flush()
        os._exit(128 + number)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _terminate_again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
    raise _settings.end


def _terminate_again(_number: int, _frame: object) -> None:
    """Raise the exception again if it got lost: some callbacks of libraries let none pass."""
    error = sys.exc_info()[1]
    while error is not None and error is not _settings.end:
        error = error.__context__
    if error is None and _settings.end is not None:
        raise _settings.end
