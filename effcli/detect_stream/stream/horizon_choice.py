"""Which of its horizons a detector is asked for (docs/methods/streamdsgn.md, Several horizons)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import fmean

_RECENT = 10
_SLACK_FRAMES = 1e-6


class HorizonChoice:
    """Chooses, before a frame is looked at, the horizon of the frame that comes when its result is there.

    How old the result will be is foreseen: what the frame has waited, and the mean of the last ten latencies. Before
    the first latency is known the first horizon is chosen, and beyond the last one the last.

    Args:
        horizons: frames after the one that is looked at, increasing.
    """

    def __init__(self, horizons: Sequence[int]) -> None:
        self._horizons = horizons
        self._latencies_s: deque[float] = deque(maxlen=_RECENT)

    def took(self, latency_s: float) -> None:
        """Take in how long a frame took, seconds."""
        self._latencies_s.append(latency_s)

    def frames(self, waited_s: float, interval_s: float) -> int:
        """The horizon for a frame that has waited so long, where frames come every ``interval_s`` seconds."""
        if not self._latencies_s:
            return self._horizons[0]
        age_s = waited_s + fmean(self._latencies_s)
        due = math.ceil(age_s / interval_s - _SLACK_FRAMES)
        return next((one for one in self._horizons if one >= due), self._horizons[-1])
