"""The level that a picture is to reach, as people ask for it: ``auto``, ``0.45``, ``+1EV``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

LEVEL_OF_A_STOP = 2 ** (1 / 2.2)
"""What twice the light does to a level in sRGB values, to which gamma 2.2 is close."""
LARGEST_LEVEL = 0.95

_STOPS = re.compile(r"([+-]\d+(?:\.\d+)?)\s*ev", re.IGNORECASE)


@dataclass(frozen=True)
class Brightness:
    """A level, or stops beyond the level that the method chooses.

    Attributes:
        level: mean grey level to reach, above 0 and below 1; None lets the method choose.
        stops: how many times the light is to be doubled beyond what the method chooses; only without a level.
    """

    level: float | None = None
    stops: float = 0.0

    def beyond(self, chosen: float) -> float:
        """The level so many stops from a chosen one."""
        return min(chosen * float(LEVEL_OF_A_STOP**self.stops), LARGEST_LEVEL)

    def __str__(self) -> str:
        if self.level is not None:
            return f"{self.level:g}"
        return f"{self.stops:+g}EV" if self.stops else "auto"


AUTO = Brightness()


@dataclass(frozen=True)
class Target:
    """What one picture is to become.

    Attributes:
        level: mean grey level of the result, 0..1; None where the network chooses it while it paints.
        share: share of the result in the blend with the picture as it is, 0..1.
    """

    level: float | None = None
    share: float = 1.0


def parse_brightness(value: Any) -> Brightness:
    """Read ``auto``, a level above 0 and up to 0.95, or stops such as ``+1EV``.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Brightness):
        return value
    text = str(value).strip()
    if text.lower() == "auto":
        return AUTO
    if stops := _STOPS.fullmatch(text):
        if abs(float(stops[1])) > 5:
            raise ValueError("at most 5 stops up or down")
        return Brightness(stops=float(stops[1]))
    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not 0 < level <= LARGEST_LEVEL:
        raise ValueError(f"auto, a level above 0 and up to {LARGEST_LEVEL}, or stops such as +1EV or -0.5EV")
    return Brightness(level)


BrightnessField = Annotated[
    Brightness, BeforeValidator(parse_brightness), PlainSerializer(str, return_type=str)
]
"""A key of a recipe."""
