"""Output on the terminal: data on stdout; progress, notices and errors on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from das2f_map.progress import Progress

_WHOLE_NAME = 30
"""Characters of the first column of a table that are never folded."""

_PLAIN_INTERVAL_S = 10.0
"""Seconds between progress lines where there is no terminal to draw a bar on."""


def setup_logging(verbosity: int) -> None:
    """Send log messages to stderr: errors alone at -1 (quiet), notes at 0, details at 1, everything at 2."""
    level = {-1: logging.ERROR, 0: logging.INFO, 1: logging.DEBUG}.get(verbosity, logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LevelFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Other libraries log only at higher verbosity: their errors are raised anyway, and printed as one line.
    root.setLevel({2: logging.DEBUG, 1: logging.WARNING}.get(min(verbosity, 2), logging.CRITICAL))
    logging.getLogger("das2f_map").setLevel(level)
    if verbosity < 2:  # rasterio logs GDAL's messages; GDAL's errors are raised anyway
        logging.getLogger("rasterio").setLevel(logging.CRITICAL)
        sys.unraisablehook = _show_unless_of_a_log
        sys.excepthook = _show_unless_of_text
        if not sys.warnoptions:  # libraries' advice to programmers; `python -W` still shows it
            warnings.simplefilter("ignore")


def _show_unless_of_a_log(unraisable: sys.UnraisableHookArgs) -> None:
    """Show an exception that Python could not raise, unless rasterio met it when it logged GDAL's message.

    That is a message which is not UTF-8; the failure that it is about is raised, too.
    """
    if "log_error" not in str(unraisable.object):
        sys.__unraisablehook__(unraisable)


def _show_unless_of_text(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """The same for the traceback that goes before it; no error of a command gets here, each is a line."""
    if not issubclass(kind, UnicodeDecodeError):
        sys.__excepthook__(kind, error, trace)


class _LevelFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def progress_for(quiet: bool) -> Progress:
    """A progress reporter for stderr: a bar on a terminal, else a line every 10 seconds; none if quiet."""
    if quiet:
        from das2f_map.progress import silent

        return silent
    return _bar if sys.stderr.isatty() else _plain


@contextmanager
def _bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda n: progress.advance(task, n)


@contextmanager
def _plain(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    begin = last = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= _PLAIN_INTERVAL_S:
            last = now
            spent = now - begin
            if total:
                left = spent / done * (total - done) if done else float("nan")
                text = (
                    f"{description}: {100 * done / total:.0f} % after {spent:.0f} s, about {left:.0f} s left"
                )
            else:
                text = f"{description}: {done} after {spent:.0f} s"
            print(text, file=sys.stderr, flush=True)

    yield advance


def in_hours(seconds: float) -> str:
    """A time for people: ``90 s``, ``12 min``, ``3.5 h``."""
    if seconds > 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def print_json(data: Any) -> None:
    """Print a JSON document on stdout."""
    # If stdout's encoding lacks characters, all beyond ASCII are escaped.
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    json.dump(data, sys.stdout, indent=2, ensure_ascii=not unicode)
    sys.stdout.write("\n")


def print_table(
    title: str, columns: Mapping[str, str], rows: Sequence[Sequence[str]], swatches: Sequence[str] = ()
) -> None:
    """Print a table on stdout.

    Parameters
    ----------
    title:
        Line above the table.
    columns:
        Heading → alignment, ``left`` or ``right``; if all headings are blank, the table has no heading row.
    rows:
        Cells, as text.
    swatches:
        A ``#rrggbb`` colour for each row's first cell, if given.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=any(heading.strip() for heading in columns))
    for i, (heading, justify) in enumerate(columns.items()):
        # In a narrow terminal long cells are folded, not cut, and the names in the first column stay whole.
        table.add_column(
            heading,
            justify="right" if justify == "right" else "left",
            overflow="fold",
            min_width=min(_WHOLE_NAME, max((len(row[0]) for row in rows), default=0)) if i == 0 else None,
        )
    for i, row in enumerate(rows):
        cells = [Text(cell) for cell in row]
        if i < len(swatches):
            cells[0] = Text.assemble(("■ ", swatches[i]), row[0])
        table.add_row(*cells)
    # In a file or pipe, lines of 160 characters leave room for all cells.
    console = Console(width=None if sys.stdout.isatty() else 160)
    # The table would break its title at the table's width, and paths are long: print the title on its own.
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)
