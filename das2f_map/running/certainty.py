"""How sure a map is of its classes: how that is computed from the logits, and what is kept of it.

The command line reads its option here, so nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from das2f_map.settings import check_settings, setting


@dataclass(frozen=True)
class Certainty:
    """Treatment of the logits besides the choice of the class.

    Attributes
    ----------
    temperature:
        Logits are divided by it before the softmax.
    reject:
        Pixels whose class has a lower probability get the class ``unsure``; ``None`` for none.
    smooth:
        Probabilities are averaged over so many pixels around, see :mod:`das2f_map.running.smoothing`;
        ``None`` for none.
    probabilities, entropy:
        Whether the probability of every class, and the entropy, are computed.

    Raises
    ------
    InputError
        ``reject`` is not between 0 and 1, or ``smooth`` is no such number.
    """

    temperature: float = 1.0
    reject: float | None = setting(
        None,
        kind=float,
        gt=0,
        lt=1,
        help="Give pixels whose class has a lower probability to the class unsure; over 0, under 1.",
    )
    smooth: int | None = setting(
        None,
        kind=int,
        ge=1,
        le=8,
        help="Average probabilities over so many pixels around, less across edges that PAN shows; 1 to 8.",
    )
    probabilities: bool = False
    entropy: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "No map can be made with")
