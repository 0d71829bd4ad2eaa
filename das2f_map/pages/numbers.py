"""Numbers as pages print them."""

from __future__ import annotations

from das2f_map.assess.confusion_matrix import percent
from das2f_map.pages.evaluation import Estimate

_HECTARE, _KM2 = 10_000.0, 1_000_000.0
_LARGE = 1_000 * _KM2
"""Area of a map, m², from which areas are in km²."""


class AreaUnit:
    """The unit of all areas of a page: m² for a small map, hectares, or km² for a large one."""

    def __init__(self, total_m2: float) -> None:
        if total_m2 >= _LARGE:
            self.name, self._size = "km²", _KM2
        elif total_m2 >= _HECTARE:
            self.name, self._size = "ha", _HECTARE
        else:
            self.name, self._size = "m²", 1.0

    def number(self, area_m2: float) -> str:
        """An area without its unit, with a digit after the point where it is small."""
        value = area_m2 / self._size
        return (
            f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 1 else f"{value:.2g}"
        )

    def text(self, area_m2: float) -> str:
        """An area with its unit."""
        return f"{self.number(area_m2)} {self.name}"


def share(value: float) -> str:
    """A share of a map; a small one is not shown as none."""
    return "< 0.1 %" if 0 < value < 0.001 else percent(value)


def interval(found: Estimate) -> str | None:
    """The interval of a share in percent, ``exact`` for one without a width, ``None`` without one."""
    if found.interval is None:
        return None
    if found.is_exact:
        return "exact"
    low, high = found.interval
    return f"{100 * low:.1f} – {100 * high:.1f} %"


def size(count: int) -> str:
    """A number of bytes."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError  # the loop returns at its last unit
