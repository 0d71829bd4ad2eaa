"""Tables and plots of the results that are there, and the figures of docs/benchmarks.md.

    python benchmarks/render.py

Every benchmark does this for itself when it is done. In docs/benchmarks.md what stands between
``<!-- NAME -->`` and ``<!-- end of NAME -->`` is replaced, of further machines ``<!-- NAME-SUFFIX -->``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import breakdown
import common
import engines
import growth
import scenes
import training

PAGE = common.ROOT / "docs" / "benchmarks.md"
BENCHMARKS = {module.NAME: module for module in (engines, growth, breakdown, training, scenes)}


def refresh_page(page: Path = PAGE, folder: Path = common.DOCS) -> None:
    """Put the tables into the page."""
    text = page.read_text(encoding="utf-8")
    for name, module in BENCHMARKS.items():
        for suffix in {"", *re.findall(f"<!-- {name}(-.*?) -->", text)}:
            text = _replaced(text, name + suffix, _section(module, name, suffix, folder))
    accuracy = folder / "gulf_accuracy.json"
    if accuracy.exists():
        text = _replaced(text, "accuracy", _accuracy(json.loads(accuracy.read_text(encoding="utf-8"))))
    common.write_text(page, text)


def _section(module: Any, name: str, suffix: str, folder: Path) -> str:
    """Table and plot; where there is no result, how to get it."""
    if not (folder / f"{name}{suffix}.json").exists():
        how = {"": "`", "-cuda": "` on a machine with CUDA"}.get(suffix, f" --suffix {suffix[1:]}`")
        return f"Not measured yet; `python benchmarks/{name}.py{how} measures it and fills this in."
    text = common.render(name + suffix, folder, module.table, module.plot)
    return f"{text}\n![{name}]({folder.name}/{name}{suffix}.png)"


def _replaced(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE.name} has no place '{begin} … {end}'")
    return pattern.sub(lambda _: f"{begin}\n{content.strip()}\n{end}", text)


def _accuracy(record: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{100 * r['overall_accuracy']:.1f} %",
            f"{100 * r['average_accuracy']:.1f} %",
            f"{r['kappa']:.3f}",
        ]
        for name, r in record["results"].items()
    ]
    tested = sum(record["test_pixels"].values())
    return common.markdown([f"on {tested:,} held-out test pixels", "OA", "AA", "kappa"], rows)


if __name__ == "__main__":
    refresh_page()
