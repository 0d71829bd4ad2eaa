"""Plots, tables and pages of the documentation, made from the results in docs/benchmarks.

    python benchmarks/render.py

Run it after a benchmark, as ``make benchmarks`` does. docs/benchmarks.md gets a summary of all results. The
tables of a machine go into its own page, docs/benchmarks/SUFFIX.md, which is made if it is missing. Results
without a suffix belong to avx512.md. In a page, a table replaces the lines between ``<!-- NAME -->`` and
``<!-- end of NAME -->``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adaptation
import breakdown
import common
import engines
import growth
import loader
import pipe
import real_scenes
import recipe
import registration
import scenes
import training
import worth_page

PAGE = common.ROOT / "docs" / "benchmarks.md"
BENCHMARKS = {module.NAME: module for module in (engines, growth, breakdown, training, scenes)}
TABLES = {**BENCHMARKS, engines.TWO_STAGES: engines}
"""What a place of a page may ask for."""
HEADINGS = {
    "engines": "Engines",
    "growth": "Growth",
    "breakdown": "Stage by stage",
    "training": "Training",
    "scenes": "Whole scenes",
}
"""Sections of a machine's page."""
EVIDENCE = {
    "registration-evidence.md": registration,
    "real-scenes.md": real_scenes,
    "recipe-evidence.md": recipe,
    "worth-evidence.md": worth_page,
    "train.md": loader,
    "scene.md": adaptation,
}
"""Pages other than docs/benchmarks.md that take all their tables from one result."""
GROWING = (recipe, worth_page)
"""Those whose result grows run by run: their pages say what is missing. They have plots of their own, too."""


def refresh_pages(page: Path = PAGE, folder: Path = common.DOCS) -> None:
    """Make all plots, and put all tables into the summary ``page`` and into the pages in ``folder``."""
    for suffix in suffixes(folder):
        own = machine_page(folder, suffix)
        if not own.exists():
            common.write_text(own, _new_page(suffix))
        refresh_page(own, folder, needed=[name + suffix for name in BENCHMARKS])
    refresh_page(page, folder, needed=["summary"])
    for name, module in EVIDENCE.items():
        result, own = folder / f"{module.NAME}.json", page.parent / name
        if not own.exists() or not (result.exists() or module in GROWING):
            continue
        record = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        common.fill(own, module.tables(record))
        if module in GROWING:
            module.plots(record, folder)


def refresh_page(page: Path, folder: Path = common.DOCS, needed: list[str] | None = None) -> None:
    """Put the tables of the results in ``folder`` into a page, wherever it has a place for one.

    Raises
    ------
    SystemExit
        If the page has no place for one of the ``needed`` tables.
    """
    text = page.read_text(encoding="utf-8")
    places = re.findall(r"<!-- (?!end of )(.+?) -->", text)
    found = {}
    for place in [*places, *(needed or [])]:
        content = _content(place, page, folder)
        if content is not None:
            found[place] = content
    common.fill(page, found)


def suffixes(folder: Path) -> list[str]:
    """Suffixes of the machines that have results: "" for the first one, then "-amx" and so on."""
    names = "|".join(BENCHMARKS)
    found = (re.fullmatch(rf"(?:{names})(|-[^.]+)\.json", path.name) for path in folder.iterdir())
    return sorted({match[1] for match in found if match})


def machine_page(folder: Path, suffix: str) -> Path:
    """Path of a machine's page."""
    return folder / f"{suffix[1:] or 'avx512'}.md"


def _new_page(suffix: str) -> str:
    """A machine's page without its tables."""
    parts = [f"# Benchmarks: {suffix[1:]}", "How these are measured: [Benchmarks](../benchmarks.md)."]
    for name, heading in HEADINGS.items():
        parts += [f"## {heading}", f"<!-- {name}{suffix} -->\n<!-- end of {name}{suffix} -->"]
    return "\n\n".join(parts) + "\n"


def _content(place: str, page: Path, folder: Path) -> str | None:
    """Text for a place of a page; None where this script has nothing for it."""
    name, dash, machine = place.partition("-")
    if name in TABLES:
        return _section(name, dash + machine, page, folder)
    if place == "summary":
        return _summary(page, folder)
    flow = folder / f"{pipe.NAME}.json"
    if place == pipe.NAME and flow.exists():
        return pipe.table(json.loads(flow.read_text(encoding="utf-8")))
    return None


def _section(name: str, suffix: str, page: Path, folder: Path) -> str:
    """Table and plot of a result; if there is no result, the command that makes it."""
    if not (folder / f"{name}{suffix}.json").exists():
        how = {"": "`", "-cuda": "` on a machine with CUDA"}.get(suffix, f" --suffix {suffix[1:]}`")
        again = "`python benchmarks/render.py` fills this in"
        script = "engines.py --stages 2" if name == engines.TWO_STAGES else f"{name}.py"
        return f"Not measured yet; `python benchmarks/{script}{how} measures it, {again}."
    text = common.render(name + suffix, folder, TABLES[name].table, TABLES[name].plot)
    picture = _relative(folder / f"{name}{suffix}.png", page)
    return f"{text}\n![{name}]({picture})"


def _relative(path: Path, page: Path) -> str:
    """A link from a page to a file."""
    return Path(os.path.relpath(path, page.parent)).as_posix()


# --- the summary -----------------------------------------------------------------------------------------

Line = tuple[str, str, str]
"""A line of the summary: what was measured, the result, and its comparison with a named baseline."""


def _summary(page: Path, folder: Path) -> str:
    rows = []
    machines = suffixes(folder)
    for name, lines in LINES.items():
        for suffix in machines:
            result = folder / f"{name}{suffix}.json"
            if not result.exists():
                continue
            record = json.loads(result.read_text(encoding="utf-8"))
            own = machine_page(folder, suffix)
            link = f"[{own.stem}]({_relative(own, page)}#{HEADINGS[name].lower().replace(' ', '-')})"
            rows += [[what, _machine(record), *rest, link] for what, *rest in lines(record)]
    if "-cuda" not in machines:
        rows.append(["all of these", "any CUDA card", "not measured", "–", "–"])
    return common.markdown(
        ["measured", "machine", "result", "against its baseline", "details"], rows, words=5
    )


def _machine(record: dict[str, Any]) -> str:
    m = record["machine"]
    if m["device"] == "cuda":
        return str(m["card"])
    cpu = re.sub(r"\((R|TM)\)|\s+Processor\b", "", m["cpu"])
    return f"{cpu}, {m['kernels']}, {m['cores']} cores"


def _engine_lines(record: dict[str, Any]) -> Iterator[Line]:
    shared = [w for w in record["ways"] if w["name"].startswith("`shared`")]
    for precision in ("fp32", "bf16"):
        own = [w for w in shared if w["name"].endswith("bf16") == (precision == "bf16")]
        if not own:
            continue
        best = max(own, key=lambda w: w["pixels_per_second"])
        ratios = ", ".join(f"{ratio:.1f} × loop, {family}" for family, ratio in best["ratios"].items())
        yield f"engine `shared`, {precision}", f"{best['pixels_per_second']:,.0f} pixels/s", ratios


def _growth_lines(record: dict[str, Any]) -> Iterator[Line]:
    sizes = record["sizes"]
    times = [s["microseconds_a_pixel"] for s in sizes]
    more = [100 * s["growth"] for s in sizes]
    yield (
        f"time a pixel, {sizes[0]['side']}² to {sizes[-1]['side']}² pixels",
        f"{min(times):,.0f} to {max(times):,.0f} µs",
        f"{min(more):+.1f} to {max(more):+.1f} % of a {record['reference']}² scene's",
    )


def _breakdown_lines(record: dict[str, Any]) -> Iterator[Line]:
    for kind in record["kinds"]:
        if kind["scan"] == "torch" and len(record["kinds"]) > 1:
            continue
        (whole,) = (s for s in kind["stages"] if s["stage"] == breakdown.WHOLE)
        took = whole["seconds_a_pixel"]
        ratio = took / breakdown.floors(record, kind)[breakdown.WHOLE]
        what = f"one block, `shared`, {kind['kind']}"
        yield what, f"{common.number(1e6 * took)} µs a pixel", f"{ratio:.1f} × the sum of its stages' floors"


def _training_lines(record: dict[str, Any]) -> Iterator[Line]:
    own = max(record["ways"], key=lambda w: w["samples_per_second"])
    rate = own["samples_per_second"]
    others = ", ".join(
        f"{rate / w['samples_per_second']:.1f} × `{w['backend']}`"
        for w in record["ways"]
        if w is not own and w["precision"] == own["precision"]
    )
    yield f"training, scan `{own['backend']}`", f"{rate:.1f} samples/s", others or "–"


def _scene_lines(record: dict[str, Any]) -> Iterator[Line]:
    for s in record["scenes"]:
        if s["measured"]:
            what = f"scene of {s['height']} × {s['width']} pixels, end to end"
            yield what, scenes.duration(s["seconds"]), "–"


LINES: dict[str, Callable[[dict[str, Any]], Iterator[Line]]] = {
    "engines": _engine_lines,
    "growth": _growth_lines,
    "breakdown": _breakdown_lines,
    "training": _training_lines,
    "scenes": _scene_lines,
}


if __name__ == "__main__":
    refresh_pages()
