"""Many scenes in one run of `das2f-map classify`: from the arguments to the table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from das2f_map.cli.console import in_hours, print_json, print_table, progress_for
from das2f_map.errors import ScenesFailedError
from das2f_map.running.resources import in_words

if TYPE_CHECKING:
    from das2f_map.running.many import PairsForecast, PairsReport

_FILES: Final = ("vectors", "confidence", "probabilities", "entropy")
"""Options with an output: in a list of scenes they are columns."""


def many_scenes(
    ms: str | None,
    pan: str | None,
    output: Path | None,
    listed: Path | None,
    options: Mapping[str, Any],
) -> tuple[Any, dict[str, Any]] | None:
    """The scenes and the options for all of them; ``None`` if the command is about a single scene.

    Parameters
    ----------
    ms, pan, output:
        Paths, or patterns of paths.
    listed:
        The list of scenes.
    options:
        Those of `classify`, by their names in Python.
    """
    if listed is not None:
        from das2f_map.scene.paths import exists

        if "{" in str(listed) and not exists(listed):
            raise typer.BadParameter(
                "patterns take the place of the images: "
                "das2f-map classify '{date}_ms.tif' '{date}_pan.tif' -o 'maps/{date}.tif'",
                param_hint="--pairs",
            )
        if ms is not None or pan is not None or output is not None:
            raise typer.BadParameter("MS, PAN and --output are columns of the file", param_hint="--pairs")
        for name in _FILES:
            if isinstance(options[name], Path):
                raise typer.BadParameter(f"{name} is a column of the --pairs file", param_hint=f"--{name}")
        return listed, dict(options)
    paths = {name: options[name] for name in (*_FILES, "aoi", "mask") if options[name] is not None}
    if ms is None or "{" not in f"{ms}{pan}{output}{[*paths.values()]}":
        return None
    from das2f_map.scene.pair_list import is_pattern, refuse_fields

    if not is_pattern(ms):
        refuse_fields(ms, {"pan": pan, "output": output, **paths})
        return None
    if output is None:
        raise typer.BadParameter("it names the maps, such as 'maps/{date}.tif'", param_hint="--output")
    return {"ms": ms, "pan": pan, "output": output, **paths}, dict(options)


def run_many(
    pairs: Any,
    options: dict[str, Any],
    summary: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Classify many scenes and print the outcome of each.

    Raises
    ------
    ScenesFailedError
        Some could not be mapped, or not be planned.
    """
    if summary is not None and dry_run:
        raise typer.BadParameter(
            "a dry run has no outcomes to write; --json prints its plans", param_hint="--summary"
        )
    from das2f_map.scene.pair_list import refuse_fields
    from das2f_map.workflows.classify import classify_pairs, forecast_pairs

    refuse_fields("one file for all scenes", {"summary": summary})
    report: PairsForecast | PairsReport
    if dry_run:
        report = plans = forecast_pairs(pairs, **options)
        if not as_json:
            _print_plans(plans)
    else:
        report = made = classify_pairs(pairs, summary=summary, progress=progress_for(quiet), **options)
        if not as_json:
            _print_outcomes(made)
    if as_json:
        print_json(report.model_dump(mode="json"))
    if report.failed:
        raise ScenesFailedError(
            f"{report.failed} of {len(report.scenes)} scenes failed",
            "the scenes' own lines have the reasons"
            + ("" if dry_run else "; the same command with --resume tries them again and skips the others"),
        )


def _print_outcomes(report: PairsReport) -> None:
    """A line for each scene, and the sums."""
    rows = []
    for scene in report.scenes:
        known = "" if scene.pixels is None else f"{scene.pixels:,}"
        said = scene.error or _counted(len(scene.warnings))
        time = "" if scene.seconds is None or scene.state == "skipped" else in_hours(scene.seconds)
        rows.append((scene.output, scene.state, known, time, scene.model or "", said))
    print_table(
        f"{len(report.scenes)} scenes: {report.done} done, {report.skipped} skipped, "
        f"{report.failed} failed, in {in_hours(report.seconds)}",
        {"Map": "left", "": "left", "Pixels": "right", "Time": "right", "Model": "left", "About it": "left"},
        rows,
    )


def _counted(warnings: int) -> str:
    return f"{warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""


def _print_plans(plans: PairsForecast) -> None:
    """A line for each scene, and a table of sums."""
    rows: list[tuple[str, ...]] = []
    for scene in plans.scenes:
        plan = scene.plan
        if plan is None:
            rows.append((scene.output, scene.state, "", "", "", scene.error or "finished already"))
            continue
        exists = sum(o.exists for o in plan.outputs)
        time = "" if plan.seconds is None else in_hours(plan.seconds)
        size = in_words(sum(o.bytes for o in plan.outputs))
        parts = [f"{plan.finished_blocks:,} of {plan.blocks:,} blocks done"] if plan.finished_blocks else []
        parts += [f"{exists} files exist"] if exists else []
        pixels = f"{plan.rows * plan.columns:,}"
        rows.append((scene.output, plan.model, pixels, time, size, "; ".join(parts)))
    print_table(
        "Plan; nothing is written",
        {"Map": "left", "": "left", "Pixels": "right", "Time": "right", "Size": "right", "About it": "left"},
        rows,
    )
    facts = {
        "Scenes": f"{plans.planned} to map, {plans.skipped} finished, {plans.failed} that cannot be planned",
        "Pixels": f"{plans.pixels:,}",
        "Time": "not known" if plans.seconds is None else f"about {in_hours(plans.seconds)} on this machine",
        "Memory": in_words(plans.memory_bytes),
        "Disk": f"{in_words(plans.output_bytes)}, and {in_words(plans.work_bytes)} until a run is over",
    }
    print_table("All together", {"": "left", " ": "left"}, list(facts.items()))
