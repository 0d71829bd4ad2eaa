"""The documentation against the program: every option in the reference, no dead link, no invented option."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from typer.main import get_command

from das2f_map.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".github", "benchmarks", "das2f_map", "docs", "examples", "models", "tests")
PAGES = sorted({*ROOT.glob("*.md"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.md"))})
LONGEST_LINE = 200
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)|<img[^>]*\ssrc=\"([^\"]+)\"")
OPTION = re.compile(r"`(--?[a-z][a-z-]*)`")


def _commands(command: Any, path: str) -> dict[str, Any]:
    found = {path: command}
    for name, inner in getattr(command, "commands", {}).items():
        found |= _commands(inner, f"{path} {name}")
    return found


COMMANDS = _commands(get_command(app), "das2f-map")


def _sections(page: Path) -> dict[str, str]:
    """Text below each second-level heading, by heading."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return kept.replace(" ", "-")


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _own_options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option"]


# A group without options of its own, such as `models`, is described by its commands.
@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if c.params])
def test_reference_has_every_option(name: str) -> None:
    sections = _sections(ROOT / "docs" / "cli.md")
    assert name in sections, f"docs/cli.md has no section '## {name}'"
    # The rows of the table, by the option's long name.
    rows = [line for line in sections[name].splitlines() if line.startswith("| `-")]
    documented = {option for row in rows for option in OPTION.findall(row.split(" | ")[0])}
    expected = {o for p in _own_options(COMMANDS[name]) for o in p.opts}
    if name == "das2f-map":
        expected |= {"-h", "--help"}
    assert documented == expected
    for parameter in _own_options(COMMANDS[name]):
        (row,) = [r for r in rows if f"`{parameter.opts[-1]}`" in r.split(" | ")[0]]
        assert parameter.help in row, f"docs/cli.md tells something else about {parameter.opts[-1]}"
        if parameter.required:
            assert row.endswith("| required |")
        elif not parameter.is_flag and parameter.default and not getattr(parameter, "count", False):
            assert row.endswith(f"| `{parameter.default}` |")


def test_reference_has_no_command_that_does_not_exist() -> None:
    assert {s for s in _sections(ROOT / "docs" / "cli.md") if s.startswith("das2f-map")} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_named_anywhere_exist(page: Path) -> None:
    known = {o for c in COMMANDS.values() for p in c.params for o in p.opts} | {"-h", "--help"}
    text = page.read_text(encoding="utf-8")
    # A long option after the program's name on one line, or at the start of inline code.
    commands = re.sub(r"\\\n", " ", text)
    lines = [line for line in commands.splitlines() if re.search(r"(^|[$`] ?)das2f-map ", line)]
    named = {o for line in lines for o in re.findall(r"(?<= )--[a-z][a-z-]*", line)}
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    dead = []
    for inline, image in LINK.findall(_without_code(page.read_text(encoding="utf-8"))):
        link = unquote(inline or image)
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists():
            dead.append(link)
        elif anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", _without_code(file.read_text(encoding="utf-8")), re.MULTILINE)
            if anchor not in {_slug(h) for h in headings}:
                dead.append(link)
    assert not dead, f"{page.name} links to what is not there: {', '.join(dead)}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_pages_are_all_that_are_tracked() -> None:
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--", "*.md"]
    tracked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {ROOT / name for name in tracked.split("\0") if name and (ROOT / name).exists()} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_line_is_too_long_to_read(page: Path) -> None:
    """Tables, generated ones included: an editor and a terminal show them unbroken."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [n for n, line in enumerate(lines, start=1) if len(line) > LONGEST_LINE] == []
