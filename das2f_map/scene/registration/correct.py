"""What to do about a measured shift."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from das2f_map.errors import InputError
from das2f_map.scene.common_grid.plan import NESTING_TOLERANCE
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.registration.measure import measure_shift
from das2f_map.scene.registration.report import CoregisterMode, CoregistrationReport, ShiftAction, ShiftReport

log = logging.getLogger(__name__)

MODES: tuple[CoregisterMode, ...] = ("auto", "on", "off")

AUTO_LIMIT = 0.3
"""PAN pixels over which ``auto`` corrects a shift."""

ALIGNED_LIMIT = 1.0
"""The same for a pair that :func:`das2f_map.align` wrote: it is resampled already, which is not done twice
for what resampling itself leaves of a shift. What is more came later."""

DEFAULT_MAX_SHIFT = 8.0
"""PAN pixels over which a shift is refused: the files hardly belong together."""

_DECIMALS = 3
"""Of a shift that is corrected, PAN pixels; it is measured to a hundredth at best."""


@dataclass(frozen=True)
class Coregistration:
    """A pair as it shall be read, and why.

    Attributes
    ----------
    pair:
        With the shift corrected, or as it was.
    report:
        ``None`` if nothing was measured.
    corrected:
        Whether a shift is.
    warnings:
        What a user of the map should know, a sentence each.
    """

    pair: ScenePair
    mode: CoregisterMode
    report: ShiftReport | None
    corrected: bool
    warnings: tuple[str, ...]

    def log(self) -> None:
        """Tell what was found, and what the pair has to tell."""
        if self.report is not None and self.report.verdict == "agree":
            done = "corrected" if self.corrected else "left as it is"
            log.info("%s; %s", self.report.sentence(), done)
        for notice in self.pair.notices:
            log.info("%s", notice)
        for warning in self.warnings:
            log.warning("%s", warning)

    def summary(self) -> CoregistrationReport:
        """What was found and done, without the single windows."""
        measured = None if self.report is None else self.report.summary()
        return CoregistrationReport(mode=self.mode, corrected=self.corrected, measured=measured)


@dataclass(frozen=True)
class Decision:
    """What is done about a measured shift.

    Attributes
    ----------
    action:
        ``correct`` it, ``leave`` the pair as it is, or ``refuse`` the pair.
    shift:
        What is corrected, rounded; ``None`` unless that is the action.
    because:
        Action and reason in a few words.
    warnings:
        What a user of the map should know, a sentence each.
    """

    action: ShiftAction
    shift: PanShift | None
    because: str
    warnings: tuple[str, ...]


def coregister(
    pair: ScenePair, mode: CoregisterMode = "auto", *, max_shift: float = DEFAULT_MAX_SHIFT
) -> Coregistration:
    """Measure the shift of a pair's contents and correct it if need be.

    Parameters
    ----------
    pair:
        An open pair; stays as it is.
    mode:
        ``auto`` corrects a shift over 0.3 PAN pixel that enough windows agree on (over 1 in a pair that
        :func:`das2f_map.align` wrote), ``on`` whatever is measured and improves the fit, ``off`` measures
        nothing.
    max_shift:
        PAN pixels.

    Raises
    ------
    InputError
        The windows agree on a shift over ``max_shift``; or none can be measured, in mode ``on``.
    ValueError
        The mode is none, or ``max_shift`` is not positive.
    """
    if mode not in MODES:
        raise ValueError(f"coregister is one of {', '.join(MODES)}, not {mode!r}")
    if not max_shift > 0:
        raise ValueError(f"max_shift must be positive, got {max_shift}")
    if mode == "off":
        return Coregistration(pair, mode, None, False, ())
    report = measure_shift(pair)
    decision = decide(report, mode, max_shift=max_shift, aligned=pair.aligned)
    refuse_large_shift(pair, report, max_shift)
    if decision.action == "refuse":
        raise InputError(
            f"{report.sentence()} (MS {pair.ms_path}, PAN {pair.pan_path})",
            "--coregister off takes the georeferencing at its word",
        )
    done = pair if decision.shift is None else pair.shifted(decision.shift)
    return Coregistration(done, mode, report, decision.shift is not None, decision.warnings)


def decide(
    report: ShiftReport,
    mode: CoregisterMode = "auto",
    *,
    max_shift: float = DEFAULT_MAX_SHIFT,
    aligned: bool = False,
) -> Decision:
    """What is done about a measured shift in a mode, ``auto`` or ``on``; see :func:`coregister`.

    ``aligned``: the pair is one that :func:`das2f_map.align` wrote.
    """
    shift = report.shift
    agree = report.verdict == "agree"
    if shift is not None and agree and shift.length > max_shift:
        return Decision("refuse", None, f"over {max_shift:g} PAN pixels: classify stops", ())
    if shift is None or (not agree and (mode == "auto" or shift.length > max_shift)):
        if mode == "on":
            return Decision("refuse", None, "not reliable: classify stops", ())
        told = f"{report.sentence()}; the pair is left as it is"
        return Decision("leave", None, "the pair is left as it is", (told,))
    warnings = [] if agree else [f"{report.sentence()}; corrected all the same"]
    if report.varies and report.variation is not None:
        warnings.append(
            f"the shift between MS and PAN changes over the scene, by {report.variation.range:.1f} PAN "
            "pixels: one shift cannot correct it all"
        )
    # Platforms differ in the last digits of a measurement; a resumed training has to find the same shift.
    applied = PanShift(round(shift.rows, _DECIMALS), round(shift.cols, _DECIMALS))
    usual = AUTO_LIMIT if mode == "auto" else 0.0
    limit = ALIGNED_LIMIT if mode == "auto" and aligned else usual
    if not applied.length > limit:
        because = f"not over {limit:g} PAN pixel: left as it is" if limit else "no shift: left as it is"
        if applied.length > usual:
            because = f"{because}, the pair was aligned before"
        return Decision("leave", None, because, tuple(warnings))
    # Where nothing is gained, a resampling would only cost.
    before, after = report.fit_before, report.fit_after
    if before is not None and after is not None and not after > before:
        because = "correcting it would not improve the fit of PAN and MS: left as it is"
        return Decision("leave", None, because, tuple(warnings))
    # By whole pixels, a pair that nests still nests: then nothing is resampled.
    whole = all(abs(v - round(v)) <= NESTING_TOLERANCE for v in (applied.rows, applied.cols))
    if report.varies is None:
        warnings.append(
            "too few windows to tell whether the shift between MS and PAN changes over the scene: one shift "
            "is corrected all the same"
        )
    because = "corrected, by whole PAN pixels" if whole else "corrected in the one resampling"
    return Decision("correct", applied, because, tuple(warnings))


def refuse_large_shift(pair: ScenePair, report: ShiftReport, max_shift: float) -> None:
    """Raise :class:`InputError` if enough windows agree on a shift over ``max_shift`` PAN pixels."""
    shift = report.shift
    if shift is None or decide(report, max_shift=max_shift).action != "refuse":
        return
    raise InputError(
        f"PAN {pair.pan_path} lies {shift.length:.1f} PAN pixels ({report.length_m:.1f} m) from "
        f"MS {pair.ms_path}, more than {max_shift:g}",
        "check that they belong together; --max-shift allows more",
    )
