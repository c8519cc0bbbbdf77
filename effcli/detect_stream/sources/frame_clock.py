"""When the frames of a live stream were taken."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from effcli.detect_stream.data.frame_times import LEAST_FPS, MOST_FPS
from effcli.detect_stream.data.stereo_sequence import FPS
from effcli.detect_stream.sources.frame_source import Arrival

log = logging.getLogger(__name__)

_RECENT = 10
_ALIKE = 1.25
"""Rates that differ by less are the same: arrivals are never quite regular."""

_FASTEST = 200.0
"""No camera sends more frames per second."""


class FrameClock:
    """Gives frames their moments: their sender's ``ts``, else the rate of ``--fps``, else those of their arrival.

    Args:
        name: of the stream, for messages.
        fps: of ``--fps``; None where it is not given.
        now: seconds.

    Attributes:
        fps: frames per second, the median of the last ten; until two frames have come ``--fps``, else 10.
    """

    def __init__(
        self, name: str, fps: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._option, self._now = name, fps, now
        self._has_ts: bool | None = None
        self._last_s: float | None = None
        self._arrived_s: float | None = None
        self._intervals: deque[float] = deque(maxlen=_RECENT)
        self._arrivals: deque[float] = deque(maxlen=_RECENT)
        self._is_compared = False
        self._is_unit_said = False
        self.fps = fps or FPS

    def stamped(self, arrival: Arrival, ts: float | None) -> Arrival:
        """A frame with its moment; damaged where its ``ts`` is missing or not later than the one before."""
        now = self._now()
        if self._arrived_s is not None:
            self._arrivals.append(now - self._arrived_s)
        self._arrived_s = now
        if self._has_ts is None:
            self._has_ts = ts is not None
        if (ts is not None) != self._has_ts:
            reason = (
                "it has no ts, as the first frame has" if ts is None else "it has a ts, the first frame none"
            )
            return replace(arrival, frame=None, damage=reason)
        if ts is None and self._option is not None:
            self._compare("frames arrive at", self._arrivals, "--fps is")
            return arrival
        moment = now if ts is None else ts
        if self._last_s is not None and moment <= self._last_s:
            reason = f"its ts, {moment:g}, is not later than that of the frame before, {self._last_s:g}"
            return replace(arrival, frame=None, damage=reason)
        if self._last_s is not None:
            self._intervals.append(moment - self._last_s)
            self.fps = float(1 / np.median(self._intervals))
        self._last_s = moment
        if ts is None:
            self._say_if_too_fast()
        else:
            self._say_if_not_seconds()
            self._compare("its ts say", self._intervals, "ts is")
        return replace(arrival, time_s=moment, interval_s=1 / self.fps)

    def _compare(self, they_say: str, intervals: deque[float], used: str) -> None:
        """Say once if frames come at another rate than ``--fps`` says."""
        if self._option is None or self._is_compared or len(intervals) < _RECENT:
            return
        self._is_compared = True
        fps = 1 / max(float(np.median(intervals)), 1e-6)
        if max(fps / self._option, self._option / fps) > _ALIKE:
            log.warning(
                "%s: %s %.3g frames per second, --fps %.3g; %s used",
                self._name,
                they_say,
                fps,
                self._option,
                used,
            )

    def _say_if_not_seconds(self) -> None:
        """Say once if the first three frames have a ``ts`` in another unit."""
        if not self._is_unit_said and len(self._intervals) == 2:
            self._is_unit_said = True
            if not LEAST_FPS <= self.fps <= MOST_FPS:
                log.warning(
                    "%s: by their ts frames are %.3g s apart: ts is in seconds, in another unit speeds are wrong",
                    self._name,
                    1 / self.fps,
                )

    def _say_if_too_fast(self) -> None:
        if not self._is_compared and len(self._intervals) == _RECENT:
            self._is_compared = True
            if self.fps > _FASTEST:
                log.warning(
                    "%s: frames arrive at %.0f per second, as from a file: speeds are wrong unless --fps, or a ts "
                    "with each frame, says when they were taken",
                    self._name,
                    self.fps,
                )
