"""The report of a map as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from das2f_map.assess.confusion_matrix import percent
from das2f_map.assess.error_places import ErrorPlaces
from das2f_map.bundle.card import ModelCard
from das2f_map.legend import Legend
from das2f_map.pages.accuracy import accuracy_part, overall_tiles, reliability_part
from das2f_map.pages.charts import Bar, bar, ramp
from das2f_map.pages.citation import citation
from das2f_map.pages.document import Page
from das2f_map.pages.elements import Html, el, facts, join, name, notes, swatch, table, tiles
from das2f_map.pages.evaluation import AreaEstimate, EvaluationFigures
from das2f_map.pages.numbers import AreaUnit, interval, share, size
from das2f_map.pages.pictures import (
    CONFIDENCE_RAMP,
    MapPicture,
    class_picture,
    has_nodata,
    places_over,
    value_picture,
)
from das2f_map.products.class_areas import ClassArea
from das2f_map.products.report import RunReport
from das2f_map.scene.grid import Grid
from das2f_map.types import Float32, UInt8


@dataclass(frozen=True)
class InputFile:
    """A file that a run read.

    Attributes
    ----------
    role:
        ``MS image``, ``mask`` and so on.
    path:
        As the run was given it.
    size:
        Bytes; ``None`` where the file is not found now, or lies elsewhere.
    sha256:
        Hexadecimal; ``None`` where it was not asked for.
    """

    role: str
    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, eq=False)
class Confidence:
    """A raster of confidence: its path, and its values (h, w) on a reduced grid, NaN for nodata."""

    path: str
    values: Float32
    grid: Grid
    full: Grid


@dataclass(frozen=True, eq=False)
class MapFacts:
    """Everything that the report of a map shows.

    Attributes
    ----------
    path, title:
        The map's file, and the heading of its report.
    classes, grid, full:
        Class ids uint8 (h, w) at reduced size, their grid, the file's grid.
    legend:
        With every class that occurs; ``None`` for a map without any.
    areas:
        Class id → pixels and area, counted in the whole map.
    unsure:
        Id of the class of rejected pixels; ``None`` without one.
    run:
        Report of the run that made the map; ``None`` where it is not known.
    card:
        Of the model; ``None`` where the model is not found.
    inputs:
        Files that the run read, and the map.
    evaluation, places:
        Accuracies, and where the errors lie; ``None`` without a reference.
    confidence:
        ``None`` without such a raster.
    notices:
        Sentences on what is missing from the page.
    """

    path: str
    title: str
    classes: UInt8
    grid: Grid
    full: Grid
    legend: Legend | None
    areas: Mapping[int, ClassArea]
    unsure: int | None = None
    run: RunReport | None = None
    card: ModelCard | None = None
    inputs: tuple[InputFile, ...] = ()
    evaluation: EvaluationFigures | None = None
    places: ErrorPlaces | None = None
    confidence: Confidence | None = None
    notices: tuple[str, ...] = ()

    @property
    def unit(self) -> AreaUnit:
        """The unit of the map's areas."""
        return AreaUnit(sum(a.area_m2 for a in self.areas.values()))


def map_page(facts_: MapFacts) -> Page:
    """The page of a map."""
    picture = MapPicture.of(facts_.grid, facts_.full)
    made = [] if facts_.run is None else [", made by ", name(facts_.run.model.name)]
    return Page(
        "Land-cover map",
        facts_.title,
        join([picture.words, *made]),
        (
            ("Map", "map", _map(facts_, picture)),
            ("Areas", "areas", _areas(facts_)),
            ("Accuracy", "accuracy", _accuracy(facts_)),
            ("Where the errors lie", "errors", _errors(facts_, picture)),
            ("Confidence", "confidence", _confidence(facts_)),
            ("How the map was made", "run", _run(facts_)),
            ("How to cite", "cite", _cite(facts_, picture)),
        ),
        summary=_summary(facts_),
    )


def _summary(facts_: MapFacts) -> Html:
    total = sum(a.area_m2 for a in facts_.areas.values())
    occurring = sum(a.pixels > 0 for a in facts_.areas.values())
    pixels = sum(a.pixels for a in facts_.areas.values())
    found: list[tuple[object, object, object]] = [
        ("Mapped area", facts_.unit.text(total), f"{pixels:,} pixels"),
        ("Classes", occurring, None if not facts_.legend else f"of {len(facts_.legend)} in the legend"),
    ]
    if facts_.evaluation is not None:
        found += overall_tiles(facts_.evaluation, facts_.evaluation.basis)
    verdict = None
    if facts_.card is not None and facts_.card.verdict is not None and not facts_.card.verdict.usable:
        verdict = notes([facts_.card.verdict.text], "bad")
    warned = [] if facts_.run is None else facts_.run.warnings
    return join([tiles(found), verdict, notes(warned, "warning"), notes(facts_.notices)])


def _map(facts_: MapFacts, picture: MapPicture) -> Html:
    total = sum(a.area_m2 for a in facts_.areas.values()) or 1.0
    shown = [c for c in facts_.legend.each() if facts_.areas[c.id].pixels] if facts_.legend else []
    items = [
        el("li", swatch(c.color), name(c.name), el("span", share(facts_.areas[c.id].area_m2 / total)))
        for c in shown
    ]
    if has_nodata(facts_.classes):
        items.append(el("li", _hatch(), el("span", "no data"), el("span")))
    largest = sorted(shown, key=lambda c: -facts_.areas[c.id].area_m2)[:3]
    parts = ", ".join(f"{c.name} {share(facts_.areas[c.id].area_m2 / total)}" for c in largest)
    figure = picture.figure(
        class_picture(facts_.classes, facts_.legend), f"Land-cover map. Largest classes: {parts or 'none'}."
    )
    return el("div", figure, el("ul", *items, class_="key"), class_="with-key") if items else figure


def _hatch() -> Html:
    lines = [el("path", d="M-2 8 L8 -2 M2 14 L14 2", stroke="#8a949e", stroke_width="1.4")]
    frame = el("rect", x="0.5", y="0.5", width="11", height="11", rx="2", fill="none", stroke="#39424c")
    return el(
        "svg",
        *lines,
        frame,
        class_="swatch",
        viewBox="0 0 12 12",
        width="12",
        height="12",
        aria_hidden="true",
    )


def _areas(facts_: MapFacts) -> Html:
    if not facts_.legend:
        return Html("")
    unit = facts_.unit
    total = sum(a.area_m2 for a in facts_.areas.values()) or 1.0
    found = facts_.evaluation.areas if facts_.evaluation is not None else {}
    classes = [c for c in facts_.legend.each() if facts_.areas[c.id].pixels or c.name in found]
    bars = {c.id: _bar(facts_.areas[c.id], c.color, found.get(c.name)) for c in classes}
    largest = max((b.reach for b in bars.values()), default=1.0)
    header: list[object] = ["Class", "", f"Counted, {unit.name}"]
    if found:
        header.append(f"Estimated, {unit.name}")
    rows = []
    for c in classes:
        area = facts_.areas[c.id].area_m2
        row: list[object] = [
            join([swatch(c.color), name(c.name)]),
            bar(bars[c.id], largest),
            join([unit.number(area), el("small", share(area / total))]),
        ]
        if found:
            row.append(_estimated(found.get(c.name), unit))
        rows.append(row)
    caption = (
        "Bars: area counted from the map's pixels, with its share of the map. Ticks: estimated area ± its "
        "standard error, with its 95 % interval."
        if found
        else "Area of each class, counted from the map's pixels on the ellipsoid, and its share of the map"
    )
    said = (
        "The estimated areas correct the bias that the map's errors give to counted pixels. They are the "
        "ones to publish."
        if found
        else "Areas counted from pixels are biased by every error of the map. For areas with intervals, draw "
        "a probability sample, label it, and evaluate the map with it."
    )
    return join([table(caption, header, rows, kinds="tbnn"[: len(header)]), el("p", said)])


def _bar(area: ClassArea, color: str, found: AreaEstimate | None) -> Bar:
    if found is None:
        return Bar(area.area_m2, color)
    return Bar(area.area_m2, color, found.estimated.value, found.estimated.interval)


def _estimated(found: AreaEstimate | None, unit: AreaUnit) -> object:
    if found is None or found.estimated.value is None:
        return "–"
    limits, error = found.estimated.interval, found.estimated.error
    shown = None if limits is None else f"{unit.number(limits[0])} – {unit.number(limits[1])}"
    if found.estimated.is_exact:
        shown = "exact"
    around = "" if error is None else f" ± {unit.number(error)}"
    small = None if shown is None else el("small", shown)
    return join([f"{unit.number(found.estimated.value)}{around}", small])


def _accuracy(facts_: MapFacts) -> Html:
    found = facts_.evaluation
    if found is None:
        return Html("")
    against = [] if not found.reference else [("Reference", name(found.reference))]
    design = [] if not found.design else [("Sampling design", found.design)]
    numbers = [
        ("Average accuracy", percent(found.overall["average_accuracy"].value)),
        ("Mean F1", percent(found.overall["mean_f1"].value)),
    ]
    without = None
    told = any(n.startswith(("Not a probability sample", "No intervals")) for n in found.notices)
    if not (found.areas or found.has_intervals or told):
        without = (
            "These figures have no intervals: the reference is not a probability sample, "
            "or its design is not "
            "known."
        )
    return join(
        [
            facts([*against, *design, *((k, v) for k, v in numbers if v != "–")]),
            notes([*found.notices, *filter(None, [without])]),
            accuracy_part(found),
        ]
    )


def _errors(facts_: MapFacts, picture: MapPicture) -> Html:
    places = facts_.places
    if places is None or not places.places:
        return Html("")
    share_wrong = places.wrong / (places.right + places.wrong)
    alt = (
        f"Map with {len(places.places):,} circles at reference pixels; {places.wrong:,} of "
        f"{places.right + places.wrong:,} pixels are wrong."
    )
    figure = picture.figure(
        class_picture(facts_.classes, facts_.legend, pale=True),
        alt,
        f"Reference pixels in squares of {places.side} × {places.side} map pixels. The larger a circle, the "
        "more pixels. Blue: all right. Yellow to red: some to all are wrong.",
        over=places_over(places, picture),
    )
    said = el(
        "p",
        f"{places.wrong:,} of {places.right + places.wrong:,} reference pixels are wrong "
        f"({percent(share_wrong)}).",
    )
    return join([said, figure])


def _confidence(facts_: MapFacts) -> Html:
    parts: list[Html | None] = []
    confidence, card = facts_.confidence, facts_.card
    if confidence is not None:
        picture = MapPicture.of(confidence.grid, confidence.full)
        low = 1 / max(2, len(facts_.legend or ()))
        drawn = picture.figure(
            value_picture(confidence.values, low, 1.0),
            "Map of the confidence, from low (purple) to high (green).",
            "Probability of each pixel's class, ",
            name(confidence.path),
        )
        scale = ramp(CONFIDENCE_RAMP, f"{low:.0%}".replace("%", " %"), "100 %")
        means = [
            el("li", swatch(c.color), name(c.name), el("span", percent(mean)))
            for c in (facts_.legend.each() if facts_.legend else ())
            if (mean := facts_.areas[c.id].mean_confidence) is not None
        ]
        key = [el("p", "Mean confidence"), el("ul", *means, class_="key")] if means else []
        parts.append(el("div", drawn, el("div", scale, *key), class_="with-key"))
    if card is not None and card.calibration is not None:
        parts.append(reliability_part(card.calibration, ["the model ", name(card.name)]))
    elif card is not None and confidence is not None:
        parts.append(
            el(
                "p",
                "The model ",
                name(card.name),
                " is not calibrated: confidence may be higher or lower than the share that is right.",
            )
        )
    return join(parts)


def _run(facts_: MapFacts) -> Html:
    run = facts_.run
    rows: list[tuple[object, object]] = []
    for f in facts_.inputs:
        shown = "not found now" if f.size is None else size(f.size)
        digest = None if f.sha256 is None else el("code", "SHA-256 ", f.sha256)
        rows.append(
            (f.role, join([name(f.path), f" ({shown})", None if digest is None else el("br"), digest]))
        )
    if run is None:
        return join(
            [
                facts(rows),
                el("p", "No report of the run lies next to the map, so nothing more is known about it."),
            ]
        )
    model = run.model
    settings = run.settings
    bands = ", ".join(f"{b.role} = band {b.band} ({b.name})" for b in run.scene.ms.used)
    shift = run.coregistration
    calibrated = "not calibrated" if model.temperature is None else f"temperature {model.temperature:.3f}"
    rows += [
        ("Model", join([name(model.name), f", {calibrated}"])),
        ("MS bands", name(bands)),
        ("MS : PAN", f"{run.scene.ratio:.3g}; {_strategy(run.scene.strategy)}"),
        ("Shift MS – PAN", "corrected" if shift.corrected else f"not corrected (mode {shift.mode})"),
        ("Values", f"normalised with the statistics of the {run.radiometry.statistics}"),
        ("Area of interest", None if run.aoi is None else name(run.aoi)),
        ("Nodata", None if run.scene.nodata is None else f"{run.scene.nodata:g} (given)"),
        ("Mask", None if run.scene.mask is None else name(run.scene.mask.path)),
        ("Least probability", None if settings.reject is None else f"{settings.reject:g}"),
        (
            "Probabilities smoothed",
            None if settings.smooth is None else f"over {settings.smooth} pixels around",
        ),
        ("Smallest region", None if settings.min_area_m2 is None else f"{settings.min_area_m2:g} m²"),
        ("Polygons simplified", None if settings.simplify_m is None else f"by {settings.simplify_m:g} m"),
        ("Engine", f"{run.engine} on {run.device} in {run.precision}, {_turns(run.turns)}"),
        ("Software", f"das2f-map {run.software_version}, PyTorch {run.torch_version}"),
        ("Time", f"{sum(run.seconds.values()):,.0f} s"),
        ("Warnings", "none" if not run.warnings else f"{len(run.warnings)}, at the top of this page"),
    ]
    return facts(rows)


def _strategy(strategy: str) -> str:
    return {
        "native": "both images are read as they are",
        "ms-to-pan-grid": "MS is resampled to 4 × 4 PAN pixels",
        "pan-to-quarter-ms": "PAN is resampled to a quarter of the MS pixel",
    }[strategy]


def _turns(turns: int) -> str:
    return "one turn" if turns == 1 else f"mean over {turns} turns"


def _cite(facts_: MapFacts, picture: MapPicture) -> Html:
    run = facts_.run
    version = None if run is None else run.software_version
    cited = citation() if version is None else citation(version)
    if run is None:
        return cited
    sentences = [
        f"The land-cover map ({picture.words}) was made with das2f-map {run.software_version}, which "
        f"implements the DAS²F network (Ma et al. 2025), by the model {run.model.name} "
        f"from a multispectral image of "
        f"{run.scene.ms.gsd_m:.3g} m and a panchromatic image of {run.scene.pan.gsd_m:.3g} m."
    ]
    found = facts_.evaluation
    if found is not None and (accuracy := found.overall["overall_accuracy"]).value is not None:
        limits = interval(accuracy)
        between = "" if limits is None or accuracy.is_exact else f" (95 % interval {limits})"
        basis = (
            f"On {found.matrix.total:,} reference pixels"
            if found.units is None
            else f"From a probability sample of {found.units:,} units ({found.design})"
        )
        sentences.append(f"{basis}, its overall accuracy is {percent(accuracy.value)}{between}.")
    return join(
        [cited, el("h3", "For a methods section"), el("blockquote", el("p", name(" ".join(sentences))))]
    )
