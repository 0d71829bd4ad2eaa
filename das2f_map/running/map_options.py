"""The options of a map that change its pixels or its polygons."""

from __future__ import annotations

import math
from dataclasses import dataclass

from das2f_map.errors import InputError
from das2f_map.products.polygons import check_tolerance
from das2f_map.running.certainty import Certainty


@dataclass(frozen=True)
class MapOptions:
    """The options of a map that change its pixels or its polygons, besides model, engine and area.

    Attributes
    ----------
    min_area_m2:
        Regions smaller than this are merged into their neighbours; ``None`` for none.
    simplify_m:
        Polygons are simplified by so many metres; ``None`` for exact outlines.
    reject:
        Pixels whose class has a lower probability get the class ``unsure``; ``None`` for none.
    smooth:
        Probabilities are averaged over so many pixels around; ``None`` for none.
    every:
        K for a draft: one MS pixel of each K × K is classified; 1 for all.
    """

    min_area_m2: float | None = None
    simplify_m: float | None = None
    reject: float | None = None
    smooth: int | None = None
    every: int = 1

    def check(self) -> None:
        """Raise :class:`InputError` for a value that cannot be used, or two that do not go together."""
        if self.min_area_m2 is not None and not 0 <= self.min_area_m2 < math.inf:
            raise InputError(
                f"a smallest area of {self.min_area_m2:g} m² cannot be used", "give a number from 0 on"
            )
        check_tolerance(self.simplify_m)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"every {self.every!r} cannot be used", "give a whole number from 1 on")
        Certainty(reject=self.reject, smooth=self.smooth)
        if self.smooth is not None and self.every > 1:
            raise InputError(
                "a draft cannot be smoothed: its pixels are not next to each other", "leave out --smooth"
            )
