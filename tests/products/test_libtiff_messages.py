"""What is kept from standard error, and what is not; in a process of its own, whose it is."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
from das2f_map.products.libtiff_messages import libtiff_kept_quiet
with libtiff_kept_quiet():
    os.write(2, b"first\\n_tiffWriteProc: No space left on device.\\n")
    with libtiff_kept_quiet():
        print("second", file=sys.stderr)
        os.write(2, b"_tiffSeekProc: Bad.\\nnot at the start: _tiffSeekProc: Bad.\\n")
os.write(2, b"_tiffWriteProc: later\\n")
try:
    with libtiff_kept_quiet():
        os.write(2, b"third")
        raise ValueError
except ValueError:
    print(" and caught", file=sys.stderr)
"""


def _stderr(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stderr


def test_only_lines_of_libtiff_are_left_out() -> None:
    lines = ["first", "second", "not at the start: _tiffSeekProc: Bad.", "_tiffWriteProc: later"]
    assert _stderr(SCRIPT).splitlines() == [*lines, "third and caught"]


def test_without_standard_error() -> None:
    """As under some service managers: nothing to hold back, and nothing fails."""
    script = """
import os
os.close(2)
from das2f_map.products.libtiff_messages import libtiff_kept_quiet
with libtiff_kept_quiet():
    print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
