"""A model as a page: its accuracy, its classes, how it was trained, how to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from das2f_map.assess.confusion_matrix import percent
from das2f_map.bundle.card import ModelCard
from das2f_map.pages.accuracy import accuracy_part, overall_tiles, reliability_part
from das2f_map.pages.charts import Bar, Line, bar, line_chart
from das2f_map.pages.citation import citation
from das2f_map.pages.document import Page
from das2f_map.pages.elements import Html, el, facts, join, name, notes, swatch, table, tiles
from das2f_map.pages.evaluation import EvaluationFigures, figures_of
from das2f_map.pages.numbers import share

_MOST_LINES = 6
"""Trainings that the chart of the learning shows."""


def model_page(card: ModelCard, record: Mapping[str, Any] | None = None) -> Page:
    """The page of a model.

    Parameters
    ----------
    card:
        Of the model.
    record:
        Content of its ``training.json``; ``None`` where it has none. Parts that are not as this package
        writes them are left out.
    """
    figures = _figures(card)
    network = card.network
    stages = f"{network.stages} stage{'s' if network.stages > 1 else ''}"
    return Page(
        "Land-cover model",
        card.name,
        join(
            [
                f"DAS²F network with {stages}, {len(card.legend)} classes, {len(card.ms_bands)} bands + PAN",
                *([". ", name(card.description)] if card.description else []),
            ]
        ),
        (
            ("Accuracy on held-out ground", "accuracy", _accuracy(card, figures)),
            ("Random pixels and held-out ground", "split", _random_split(card)),
            ("Reliability of the confidence", "reliability", _reliability(card)),
            ("Classes", "classes", _classes(card)),
            ("Bands", "bands", _bands(card)),
            ("Learning", "learning", _learning(record)),
            ("How it was trained", "training", _training(card)),
            ("How to cite", "cite", citation(card.software_version) if card.software_version else citation()),
        ),
        summary=_summary(card, figures),
    )


def _figures(card: ModelCard) -> EvaluationFigures | None:
    """The figures of the card's test; ``None`` where it has none that can be read."""
    try:
        return figures_of(card.metrics["test"], card.legend)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _summary(card: ModelCard, figures: EvaluationFigures | None) -> Html:
    found: list[tuple[object, object, object]] = []
    if figures is not None:
        found += overall_tiles(figures, f"{figures.matrix.total:,} held-out pixels")
    if card.verdict is not None and card.verdict.forest_accuracy is not None:
        found.append(("Random forest", percent(card.verdict.forest_accuracy), "on the same pixels"))
    if card.domain is not None:
        low, high = card.domain.ms_gsd_m
        found.append(("For MS pixels of", f"{low:.3g} – {high:.3g} m", card.domain.sensor or None))
    verdict = None
    if card.verdict is not None:
        verdict = notes(
            [join(["Verdict: ", name(card.verdict.text)])], "note" if card.verdict.usable else "bad"
        )
    return join([tiles(found), verdict])


def _accuracy(card: ModelCard, figures: EvaluationFigures | None) -> Html:
    if figures is None:
        return el("p", "No ground was held out: the accuracy of this model is not known.")
    test = card.metrics["test"]
    said = el(
        "p",
        "The figures are of networks that did not see the ground where they were measured. The model itself "
        "has learnt from all labels. They hold for the training's scenes, not for other regions or days.",
    )
    each = [percent(a) for a in _numbers(test.get("overall_accuracy_of_each"))]
    lacking = [str(n) for n in test.get("not_assessed") or ()]
    rows = [
        ("Overall accuracy of each fold", ", ".join(each) if len(each) > 1 else None),
        ("Average accuracy", percent(figures.overall["average_accuracy"].value)),
        ("Mean F1", percent(figures.overall["mean_f1"].value)),
    ]
    why = "Not tested, with labels too few or in too few places: "
    warned = notes([join([why, name(", ".join(lacking))])], "warning")
    return join([said, facts(rows), warned if lacking else None, accuracy_part(figures, "held-out pixels")])


def _numbers(given: object) -> list[float]:
    listed = given if isinstance(given, (list, tuple)) else []
    return [float(v) for v in listed if isinstance(v, (int, float)) and not isinstance(v, bool)]


def _random_split(card: ModelCard) -> Html:
    found = card.training.split.get("random_split")
    if not isinstance(found, Mapping):
        return Html("")
    keys = ("optimism", "overall_accuracy_on_random_pixels", "overall_accuracy_on_held_out_ground")
    values = _numbers([found.get(k) for k in keys])
    if len(values) != len(keys):
        return Html("")
    optimism, random, spatial = values
    return el(
        "p",
        f"A test on random pixels would flatter: the {found.get('stand_in', 'stand-in')} reaches "
        f"{percent(random)} there and {percent(spatial)} on held-out ground, a difference of "
        f"{100 * optimism:+.1f} points. Neighbours of a random test pixel are among the training pixels.",
    )


def _reliability(card: ModelCard) -> Html:
    if card.calibration is None:
        return el("p", "This model is not calibrated: its confidence may be too high or too low.")
    return reliability_part(card.calibration, ["this model"])


def _classes(card: ModelCard) -> Html:
    shares = card.shares
    rows = []
    largest = max((0.0 if shares is None else max(shares.scenes.values(), default=0.0)), 1e-9)
    for c in card.legend.each():
        labelled = None if shares is None else shares.labels.get(c.name)
        mapped = None if shares is None else shares.scenes.get(c.name)
        rows.append(
            [
                join([swatch(c.color), name(c.name)]),
                c.id,
                Html("") if mapped is None else bar(Bar(mapped, c.color), largest),
                "–" if labelled is None else share(labelled),
                "–" if mapped is None else share(mapped),
            ]
        )
    caption = "Share of each class among the labels, and in the scenes as the model maps them (bars)"
    return table(caption, ["Class", "Id", "", "Labels", "Scenes"], rows, kinds="tnbnn")


def _bands(card: ModelCard) -> Html:
    rows = [
        [name(b.name), *(f"{v:,.5g}" for v in (b.mean, b.std, b.p01, b.p99))]
        for b in (*card.ms_bands, card.pan_band)
    ]
    caption = "Bands in their order, PAN last, with the statistics of the training scenes in file units"
    return table(caption, ["Band", "Mean", "Std", "1 %", "99 %"], rows)


def _learning(record: Mapping[str, Any] | None) -> Html:
    checks = record.get("checks") if isinstance(record, Mapping) else None
    if not isinstance(checks, Mapping):
        return Html("")
    accuracy = _lines(checks, "held_out_overall_accuracy")
    loss = _lines(checks, "loss")
    charts = []
    if accuracy:
        charts.append(line_chart(accuracy, "Overall accuracy on held-out ground, by step", percent=True))
    if loss:
        charts.append(line_chart(loss, "Loss on training patches, by step", percent=False))
    return el("div", *charts, class_="pair") if charts else Html("")


def _lines(checks: Mapping[str, Any], key: str) -> list[Line]:
    found = []
    for training, history in checks.items():
        if not isinstance(history, Sequence) or isinstance(history, str):
            continue
        points = [(h.get("steps"), h.get(key)) for h in history if isinstance(h, Mapping)]
        kept = [pair for pair in points if len(_numbers(pair)) == 2]
        if kept:
            steps, values = zip(*kept, strict=True)
            found.append(Line(str(training), steps, values))
    return found[:_MOST_LINES]


def _training(card: ModelCard) -> Html:
    record, settings, split = card.training, card.training.settings, card.training.split
    counted = split.get("pixels_per_class")
    pixels = (
        ", ".join(f"{k} {v:,}" for k, v in counted.items() if isinstance(v, int))
        if isinstance(counted, Mapping)
        else None
    )
    gap = split.get("gap_ms_pixels")
    chosen = (
        "steps_done",
        "batch_size",
        "learning_rate",
        "balance",
        "dropout",
        "statistics",
        "distillation",
        "jitter",
        "haze",
        "seed",
        "head",
    )
    listed = ", ".join(f"{k} {settings[k]}" for k in chosen if settings.get(k) is not None)
    low_high = None if card.domain is None else "{:.3g} – {:.3g}".format(*card.domain.ratio)
    return facts(
        [
            ("Trained on", name(record.data) if record.data else None),
            ("Labelled pixels", None if pixels is None else name(pixels)),
            ("Held out", None if "method" not in split else name(str(split["method"]))),
            ("Gap", None if gap is None else f"{gap} MS pixels between training and held-out pixels"),
            ("Settings", name(listed) if listed else None),
            ("Started from", name(str(settings["started_from"])) if settings.get("started_from") else None),
            ("MS : PAN", low_high),
            (
                "Device",
                name(f"{settings['device']}, {settings.get('precision', '')}")
                if "device" in settings
                else None,
            ),
            ("Notes", name(record.notes) if record.notes else None),
            ("Licence", name(card.licence) if card.licence else None),
            ("Software", f"das2f-map {card.software_version}" if card.software_version else None),
        ]
    )
