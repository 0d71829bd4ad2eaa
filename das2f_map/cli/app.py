"""The command line: registers the commands and turns errors into one clear line."""

from __future__ import annotations

import io
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from das2f_map._version import __version__
from das2f_map.cli import align, classify, doctor, evaluate, export, inspect, models, preview, train
from das2f_map.cli.console import setup_logging
from das2f_map.errors import Das2fMapError
from das2f_map.outputs.libtiff_messages import keep_libtiff_quiet

_INTERRUPTED = 130
"""Exit code of typer after Ctrl-C."""


@dataclass
class _Settings:
    debug: bool = False


_settings = _Settings()

app = typer.Typer(
    name="das2f-map",
    help="Land-cover maps from a multispectral and a panchromatic image with the DAS²F network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"das2f-map {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Say more; twice for everything.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors, no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    _settings.debug = debug
    context.obj = quiet
    setup_logging(-1 if quiet else verbose)


app.command("classify")(classify.classify_command)
app.command("train")(train.train_command)
app.command("inspect")(inspect.inspect_command)
app.command("align")(align.align_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("preview")(preview.preview_command)
app.command("export")(export.export_command)
app.command("doctor")(doctor.doctor_command)
app.add_typer(models.app, name="models")


def main() -> None:
    """Entry point of the ``das2f-map`` command."""
    # What batch systems send when time is up: an exception, so that nothing half-written stays behind.
    signal.signal(signal.SIGTERM, _terminate)
    # Threads that wait sleep: spinning ones, OpenMP's default, slow a shared machine down several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _settings.debug = False
    keep_libtiff_quiet()
    # A terminal that lacks a character shows a question mark; the work is done, the table should not fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="das2f-map")
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _say("interrupted")
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
    except Exception as error:  # the last resort: a user gets a line, not a traceback
        if _settings.debug:
            raise
        if _torch_out_of_memory(error):
            _say(f"error: out of memory: {str(error).partition(chr(10))[0]}")
            sys.exit(1)
        _say(f"error: unexpected {type(error).__name__}: {error}")
        _say("hint: this is a bug; run again with `das2f-map --debug …` and report it")
        sys.exit(70)


def _torch_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return False
    from das2f_map.engines.memory import out_of_memory

    return out_of_memory(error)


def _say(text: str) -> None:
    """One line on stderr, even where a library's message inside it has several."""
    print(" ".join(text.split()), file=sys.stderr)


def _terminate(number: int, _frame: object) -> None:
    _say("terminated")
    sys.exit(128 + number)
