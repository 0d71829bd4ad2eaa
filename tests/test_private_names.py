"""Tests go through public names: the private ones of the package (``_x``) may change at any time."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = "das2f_map"
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}
"""Public in spite of their names."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in (*NAMED_TUPLE, "_repr_html_")


def private_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each private name that the code takes from elsewhere.

    An object's class is not known here. So every ``x._y`` counts, unless ``x`` is ``self``, ``cls`` or an
    import from outside the package.
    """
    foreign = {"self", "cls"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign |= {
                a.asname or a.name.split(".")[0] for a in node.names if a.name.split(".")[0] != PACKAGE
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != PACKAGE:
            foreign |= {a.asname or a.name for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            names = [*(node.module or "").split("."), *(a.name for a in node.names)]
            yield from ((node.lineno, name) for name in names if is_private(name))
        elif isinstance(node, ast.Import):
            parts = [p for a in node.names for p in a.name.split(".") if a.name.split(".")[0] == PACKAGE]
            yield from ((node.lineno, part) for part in parts if is_private(part))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in foreign):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, name) for name in _names_in_text(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno, name) for name in _names_in_script(node.value))


def _names_in_text(call: ast.Call) -> Iterator[str]:
    """Private names that a call of ``setattr``, ``getattr`` or ``delattr``, of any object, gets as text."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called in {"setattr", "getattr", "delattr"}:
        for given in call.args:
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                yield from (part for part in given.value.split(".") if is_private(part))


def _names_in_script(text: str) -> Iterator[str]:
    """Private names in a text that is a script for another process."""
    if PACKAGE in text and "\n" in text:
        try:
            tree = ast.parse(textwrap.dedent(text))
        except SyntaxError:
            return
        yield from (name for _, name in private_uses(tree))


def test_no_test_takes_a_private_name() -> None:
    files = sorted(set(TESTS.rglob("*.py")) - {Path(__file__).resolve()})
    assert len(files) > 50
    found = [
        f"{path.relative_to(TESTS.parent)}:{line}: {name} is private: test what it does through public names"
        for path in files
        for line, name in private_uses(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "from das2f_map.scene.pair import _x",
        "from das2f_map.scene import _x as y",
        "import das2f_map.scene._x",
        "from das2f_map.scene._x import y",
        "from das2f_map.scene import pair\npair._x()",
        "import das2f_map.scene.pair\ndas2f_map.scene.pair._x",
        "engine._x.run()",
        "monkeypatch.setattr(pair, '_x', 1)",
        "monkeypatch.setattr('das2f_map.scene.pair._x', 1)",
        "getattr(pair, '_x')",
        "script = '''\nfrom das2f_map import scene\nscene._x\n'''",
    ],
)
def test_ways_to_a_private_name(code: str) -> None:
    assert {name for _, name in private_uses(ast.parse(code))} == {"_x"}


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(1)",
        "from rasterio import _env",
        "self._x = 1",
        "row._replace(a=1)",
        "pair.__dict__",
        "monkeypatch.setattr(pair, 'x', 1)",
        "_x = 1\nprint(_x)",
        "text = 'das2f_map\\n_x is not code ._x ('",
    ],
)
def test_names_that_may_be_used(code: str) -> None:
    assert not list(private_uses(ast.parse(code)))
