"""The command line's entry point: registers the commands and prints an error as one clear line."""

from __future__ import annotations

import io
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from das2f_map._version import __version__
from das2f_map.cli import (
    align,
    classify,
    doctor,
    evaluate,
    export,
    inspect,
    labels,
    models,
    preview,
    report,
    train,
)
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
app.command("train", cls=train.TrainCommand)(train.train_command)
app.command("inspect")(inspect.inspect_command)
app.command("align")(align.align_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("preview")(preview.preview_command)
app.command("report")(report.report_command)
app.command("export")(export.export_command)
app.command("doctor")(doctor.doctor_command)
app.add_typer(models.app, name="models")
app.add_typer(labels.app, name="labels")


def main() -> None:
    """Entry point of the ``das2f-map`` command."""
    # Batch systems send SIGTERM when the time is up. It is raised as an exception, so that files which are
    # half written are removed.
    signal.signal(signal.SIGTERM, _terminate)
    # Waiting threads sleep: OpenMP's default, spinning, slows a shared machine down several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _settings.debug = False
    keep_libtiff_quiet()
    # A character that the terminal lacks becomes a question mark: printing a result must not fail.
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
    except Exception as error:  # a bug: the user gets a line and a hint, not a traceback
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
    """Print a text on stderr as one line, even if it quotes a library's message of several lines."""
    print(" ".join(text.split()), file=sys.stderr)


def _terminate(number: int, _frame: object) -> None:
    _say("terminated")
    sys.exit(128 + number)
