"""Decide what to do about a measured shift: correct it, leave it or refuse the pair."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from das2f_map.errors import InputError
from das2f_map.scene.common_grid.plan import NESTING_TOLERANCE
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.registration.kept import kept_shift
from das2f_map.scene.registration.measure import measure_shift
from das2f_map.scene.registration.report import CoregistrationReport, ShiftAction, ShiftReport
from das2f_map.scene.shift_choice import DEFAULT_MAX_SHIFT, DEFAULT_MODE, MODES, CoregisterMode

log = logging.getLogger(__name__)

AUTO_LIMIT = 0.3
"""PAN pixels over which ``auto`` corrects a shift."""

ALIGNED_LIMIT = 1.0
"""PAN pixels over which ``auto`` corrects a shift in a pair that :func:`das2f_map.align` wrote.

Such a pair is resampled already, and that resampling may leave a small shift, which is not worth a second
one. A larger shift arose later.
"""

_DECIMALS = 3
"""Decimals that a shift is rounded to before it is corrected; it is measured to 0.01 PAN pixel at best."""


@dataclass(frozen=True)
class Coregistration:
    """A pair as it shall be read, and why.

    Attributes
    ----------
    pair:
        The pair, with the shift corrected or as it was.
    mode:
        The mode that the user asked for.
    report:
        The measured shift; ``None`` if none was measured.
    corrected:
        Whether the pair's shift is corrected.
    warnings:
        Sentences that a user of the map should read.
    """

    pair: ScenePair
    mode: CoregisterMode
    report: ShiftReport | None
    corrected: bool
    warnings: tuple[str, ...]

    def log(self) -> None:
        """Log the finding, the pair's notices and the warnings."""
        if self.report is not None and self.report.verdict == "agree":
            done = "corrected" if self.corrected else "left as it is"
            log.info("%s; %s", self.report.sentence(), done)
        for notice in self.pair.notices:
            log.info("%s", notice)
        for warning in self.warnings:
            log.warning("%s", warning)

    def summary(self) -> CoregistrationReport:
        """The finding and whether it was corrected, without the single windows."""
        measured = None if self.report is None else self.report.summary()
        return CoregistrationReport(mode=self.mode, corrected=self.corrected, measured=measured)


@dataclass(frozen=True)
class Decision:
    """An action on a measured shift, with its reason.

    Attributes
    ----------
    action:
        ``correct`` the shift, ``leave`` the pair as it is, or ``refuse`` the pair.
    shift:
        The shift to correct, rounded; ``None`` for the other actions.
    because:
        Action and reason in a few words.
    warnings:
        Sentences that a user of the map should read.
    """

    action: ShiftAction
    shift: PanShift | None
    because: str
    warnings: tuple[str, ...]


def coregister(
    pair: ScenePair, mode: CoregisterMode = DEFAULT_MODE, *, max_shift: float = DEFAULT_MAX_SHIFT
) -> Coregistration:
    """The pair with the shift of its contents measured and, if need be, corrected.

    Parameters
    ----------
    pair:
        An open pair; it is not changed.
    mode:
        ``auto`` corrects a shift that enough windows agree on and that is over 0.3 PAN pixel (over 1 in a
        pair that :func:`das2f_map.align` wrote). ``on`` corrects any measured shift that improves the fit.
        ``off`` measures nothing.
    max_shift:
        Largest shift that is accepted, PAN pixels.

    Raises
    ------
    InputError
        The windows agree on a shift over ``max_shift``; or, in mode ``on``, no reliable shift is measured.
    ValueError
        ``mode`` is not one of the three, or ``max_shift`` is not positive and finite.
    """
    if mode not in MODES:
        raise ValueError(f"coregister is one of {', '.join(MODES)}, not {mode!r}")
    if not 0 < max_shift < math.inf:
        raise ValueError(f"max_shift must be positive and finite, got {max_shift}")
    if mode == "off":
        return Coregistration(pair, mode, None, False, ())
    report = kept_shift(pair, measure_shift)
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
    mode: CoregisterMode = DEFAULT_MODE,
    *,
    max_shift: float = DEFAULT_MAX_SHIFT,
    aligned: bool = False,
) -> Decision:
    """The action on a measured shift in mode ``auto`` or ``on``; see :func:`coregister`.

    ``aligned``: :func:`das2f_map.align` wrote the pair.
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
    # Rounded: platforms differ in the last digits, but a resumed training must find the same shift.
    applied = PanShift(round(shift.rows, _DECIMALS), round(shift.cols, _DECIMALS))
    usual = AUTO_LIMIT if mode == "auto" else 0.0
    limit = ALIGNED_LIMIT if mode == "auto" and aligned else usual
    if not applied.length > limit:
        because = f"not over {limit:g} PAN pixel: left as it is" if limit else "no shift: left as it is"
        if applied.length > usual:
            because = f"{because}, the pair was aligned before"
        return Decision("leave", None, because, tuple(warnings))
    # A resampling blurs; it is worth that only if the fit improves.
    before, after = report.fit_before, report.fit_after
    if before is not None and after is not None and not after > before:
        because = "correcting it would not improve the fit of PAN and MS: left as it is"
        return Decision("leave", None, because, tuple(warnings))
    # A pair that nests still nests after a shift by whole pixels, so nothing is resampled.
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
