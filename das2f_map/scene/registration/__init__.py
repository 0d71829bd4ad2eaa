"""How far the contents of MS and PAN lie apart, measured to a fraction of a pixel, and corrected."""

from das2f_map.scene.registration.correct import CoregisterMode, Coregistration, coregister
from das2f_map.scene.registration.measure import measure_shift
from das2f_map.scene.registration.report import ShiftReport, ShiftVariation, WindowShift

__all__ = [
    "CoregisterMode",
    "Coregistration",
    "ShiftReport",
    "ShiftVariation",
    "WindowShift",
    "coregister",
    "measure_shift",
]
