"""What is kept from standard error, and what is not; in a process of its own, whose it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from das2f_map.outputs.libtiff_messages import keep_libtiff_quiet, libtiff_kept_quiet
keep_libtiff_quiet()
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
from das2f_map.outputs.libtiff_messages import keep_libtiff_quiet, libtiff_kept_quiet
keep_libtiff_quiet()
with libtiff_kept_quiet():
    print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


START = """
import os, sys, tempfile
from das2f_map.outputs import libtiff_messages as module
module.keep_libtiff_quiet()
"""


def test_a_library_leaves_standard_error_alone() -> None:
    script = (
        START.replace("module.keep_libtiff_quiet()\n", "")
        + """
before = os.fstat(2).st_ino
with module.libtiff_kept_quiet():
    os.write(2, b"_tiffWriteProc: seen\\n")
    assert os.fstat(2).st_ino == before
"""
    )
    assert _stderr(script) == "_tiffWriteProc: seen\n"


@pytest.mark.parametrize(
    "call", ["os.memfd_create" if hasattr(os, "memfd_create") else "tempfile.TemporaryFile", "os.dup2"]
)
def test_what_cannot_be_held_back_is_shown(call: str) -> None:
    script = (
        START
        + f"""
def fails(*_):
    raise OSError("no room")
whole, {call} = {call}, fails
files = len(os.listdir("/dev/fd"))
with module.libtiff_kept_quiet():
    os.write(2, b"_tiffWriteProc: seen\\n")
    {call} = whole
assert len(os.listdir("/dev/fd")) == files
"""
    )
    assert _stderr(script) == "_tiffWriteProc: seen\n"


def test_the_real_error_survives_a_closed_pipe() -> None:
    """Nothing reads what was held back: the error of the write is still the one that comes."""
    script = (
        START
        + """
end, pipe = os.pipe()
os.dup2(pipe, 2)
os.close(end)
files = len(os.listdir("/dev/fd"))
try:
    with module.libtiff_kept_quiet():
        os.write(2, b"never read")
        raise ValueError("the disk is full")
except ValueError as error:
    print(error)
assert len(os.listdir("/dev/fd")) == files
"""
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "the disk is full\n"


def test_all_is_passed_on_where_writes_are_partial() -> None:
    script = (
        START
        + """
write = os.write
def partly(file, data):
    return write(file, data[:1000])
with module.libtiff_kept_quiet():
    write(2, b"x" * 4500)
    os.write = partly
"""
    )
    assert _stderr(script) == "x" * 4500
