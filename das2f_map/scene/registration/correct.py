"""What to do about a measured shift."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

from das2f_map.errors import InputError
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.registration.measure import measure_shift
from das2f_map.scene.registration.report import ShiftReport
from das2f_map.scene.shift import PanShift

log = logging.getLogger(__name__)

CoregisterMode = Literal["auto", "on", "off"]
MODES: tuple[CoregisterMode, ...] = ("auto", "on", "off")

AUTO_LIMIT = 0.3
"""PAN pixels over which ``auto`` corrects a shift."""

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

    def describe(self) -> dict[str, Any]:
        """For a run report: everything but the single windows, plain JSON types."""
        measured = None if self.report is None else self.report.model_dump(mode="json", exclude={"windows"})
        return {"mode": self.mode, "corrected": self.corrected, "measured": measured}


def coregister(
    pair: ScenePair, mode: CoregisterMode = "auto", *, max_shift: float = DEFAULT_MAX_SHIFT
) -> Coregistration:
    """Measure the shift of a pair's contents and correct it if need be.

    Parameters
    ----------
    pair:
        An open pair; stays as it is.
    mode:
        ``auto`` corrects a shift over 0.3 PAN pixel that enough windows agree on, ``on`` whatever is measured
        and improves the fit, ``off`` measures nothing.
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
    warnings: list[str] = []
    shift = report.shift
    refuse_large_shift(pair, report, max_shift)
    if shift is None or (report.verdict != "agree" and (mode == "auto" or shift.length > max_shift)):
        if mode == "on":
            raise InputError(
                f"{report.sentence()} (MS {pair.ms_path}, PAN {pair.pan_path})",
                "--coregister off takes the georeferencing at its word",
            )
        warnings.append(f"{report.sentence()}; the pair is left as it is")
        return Coregistration(pair, mode, report, False, tuple(warnings))
    if report.verdict != "agree":
        warnings.append(f"{report.sentence()}; corrected all the same")
    if report.varies and report.variation is not None:
        warnings.append(
            f"the shift between MS and PAN changes over the scene, by {report.variation.range:.1f} PAN "
            "pixels: one shift cannot correct it all"
        )
    # Where nothing is gained, a resampling would only cost.
    gains = report.fit_before is None or report.fit_after is None or report.fit_after > report.fit_before
    # Platforms differ in the last digits of a measurement; a resumed training has to find the same shift.
    applied = PanShift(round(shift.rows, _DECIMALS), round(shift.cols, _DECIMALS))
    wanted = applied.length > (AUTO_LIMIT if mode == "auto" else 0.0) and gains
    return Coregistration(pair.shifted(applied) if wanted else pair, mode, report, wanted, tuple(warnings))


def refuse_large_shift(pair: ScenePair, report: ShiftReport, max_shift: float) -> None:
    """Raise :class:`InputError` if enough windows agree on a shift over ``max_shift`` PAN pixels."""
    shift = report.shift
    if shift is None or report.verdict != "agree" or shift.length <= max_shift:
        return
    raise InputError(
        f"PAN {pair.pan_path} lies {shift.length:.1f} PAN pixels ({report.length_m:.1f} m) from "
        f"MS {pair.ms_path}, more than {max_shift:g}",
        "check that they belong together; --max-shift allows more",
    )
