"""How far the contents of MS and PAN lie apart, measured to a fraction of a pixel, and corrected."""

from das2f_map.scene.registration.correct import (
    AUTO_LIMIT,
    Coregistration,
    Decision,
    coregister,
    decide,
    refuse_large_shift,
)
from das2f_map.scene.registration.measure import measure_shift
from das2f_map.scene.registration.report import (
    CoregistrationReport,
    ShiftAction,
    ShiftReport,
    ShiftSummary,
    ShiftVariation,
    WindowShift,
)
from das2f_map.scene.shift_choice import DEFAULT_MAX_SHIFT, CoregisterMode

__all__ = [
    "AUTO_LIMIT",
    "DEFAULT_MAX_SHIFT",
    "CoregisterMode",
    "Coregistration",
    "CoregistrationReport",
    "Decision",
    "ShiftAction",
    "ShiftReport",
    "ShiftSummary",
    "ShiftVariation",
    "WindowShift",
    "coregister",
    "decide",
    "measure_shift",
    "refuse_large_shift",
]
