"""Which number a frame has and when it was taken: by its name, or by a file of timestamps."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.stereo_sequence import StereoSequence

log = logging.getLogger(__name__)

TIME_FILES = ("timestamps.txt", "times.txt")
"""A line per frame: seconds, a moment since 1970 (``_STAMP_UNITS``), or ``2011-09-26 13:02:25.594360375``."""

_LAST_NUMBER = re.compile(r"(.*?)(\d+)$", re.DOTALL)
_DATED = re.compile(r"\d{4}(?:-\d\d){5}-\d{3}$")
"""The end of DrivingStereo's names: ``2018-07-11-14-50-08-769``."""

_STAMP_UNITS = {13: 3, 16: 6, 18: 9, 19: 9}
"""Digits of a moment, and the power of ten of its units in a second: milli-, micro- and nanoseconds since 1970."""

_SECONDS = re.compile(r"\d{10}[._]\d{3,9}$")
"""Names that are seconds since 1970: ``1305031102.175304``."""

LEAST_FPS, MOST_FPS = 0.1, 1000.0
"""Rates beyond are not those of a camera, but of times in another unit than seconds."""


@dataclass(frozen=True)
class Timeline:
    """Numbers and moments of the frames of a sequence.

    Attributes:
        numbers: increasing; where some are missing, frames are.
        times_s: seconds after the first frame, increasing; None: as the numbers say.
    """

    numbers: tuple[int, ...]
    times_s: tuple[float, ...] | None = None

    def moments(self, fps: float) -> list[float]:
        """Seconds after the first frame; without times one frame is due every 1 / ``fps`` seconds."""
        if self.times_s is not None:
            return list(self.times_s)
        return [(number - self.numbers[0]) / fps for number in self.numbers]

    @property
    def n_missing(self) -> int:
        """Numbers between the first and the last frame that no frame has."""
        return self.numbers[-1] - self.numbers[0] + 1 - len(self.numbers) if self.numbers else 0

    @property
    def fps(self) -> float | None:
        """Frames per second, the median of what the times say; None without times."""
        if self.times_s is None or len(self.times_s) < 2:
            return None
        return float(1 / np.median(np.diff(self.times_s)))

    def part(self, start: int, n_frames: int) -> Timeline:
        """Of some frames in a row."""
        chosen = slice(start, start + n_frames)
        times = None if self.times_s is None else self.times_s[chosen]
        moved = None if times is None else tuple(time - times[0] for time in times)
        return Timeline(self.numbers[chosen], moved)


def timeline_of(sequence: StereoSequence) -> Timeline:
    """What a sequence says of its frames; one that says nothing counts from 0."""
    found = getattr(sequence, "timeline", None)
    return found if isinstance(found, Timeline) else Timeline(tuple(range(len(sequence))))


def frame_counts(sequence: StereoSequence) -> list[int]:
    """How many frames each frame of a sequence comes after the first, missing ones counted, by numbers or times."""
    steps = np.rint(np.diff(timeline_of(sequence).moments(sequence.fps)) * sequence.fps).astype(int)
    return [0, *np.cumsum(steps).tolist()][: len(sequence)]


def numbers_in(stems: Sequence[str]) -> list[int] | None:
    """The numbers at the end of names that are alike before them; None where names have no such numbers."""
    parts = [_LAST_NUMBER.match(stem) for stem in stems]
    if not stems or len({part and part[1] for part in parts}) != 1 or _DATED.search(stems[0]):
        return None
    numbers = [int(part[2]) for part in parts if part]
    return numbers if len(set(numbers)) == len(stems) else None


def timeline_by_names(stems: Sequence[str]) -> Timeline:
    """Of names in the order of their frames: numbers, moments (milliseconds and finer, seconds, a date), or neither."""
    if stems and all(_SECONDS.match(stem) for stem in stems):
        return _timeline_of_seconds(stems)
    dates = [_DATED.search(stem) for stem in stems]
    if stems and all(dates):
        moments = [datetime.strptime(date[0] + "000", "%Y-%m-%d-%H-%M-%S-%f") for date in dates if date]
        seconds = tuple((moment - moments[0]).total_seconds() for moment in moments)
        if all(later > earlier for earlier, later in itertools.pairwise(seconds)):
            return Timeline(tuple(range(len(stems))), seconds)
    numbers = numbers_in(stems)
    if numbers is None or sorted(numbers) != numbers:
        return Timeline(tuple(range(len(stems))))
    power = _STAMP_UNITS.get(len(str(numbers[0])))
    if power is None:
        return Timeline(tuple(numbers))
    times = tuple((number - numbers[0]) / 10**power for number in numbers)
    return Timeline(tuple(range(len(stems))), times)


def _timeline_of_seconds(stems: Sequence[str]) -> Timeline:
    """Of names such as ``1305031102.175304``, counted from 0 where the moments do not increase."""
    moments = [_moment(stem.replace("_", "."), stem) for stem in stems]
    times = tuple((whole - moments[0][0]) + (rest - moments[0][1]) for whole, rest in moments)
    is_ordered = all(later > earlier for earlier, later in itertools.pairwise(times))
    return Timeline(tuple(range(len(stems))), times if is_ordered else None)


def timeline_of_pictures(stems: Sequence[str], places: Sequence[Path]) -> Timeline:
    """By a file of timestamps in one of some folders, where there is one; else by names.

    Raises:
        InputError: such a file cannot be understood, or is not about these frames.
    """
    named = timeline_by_names(stems)
    file = next((place / name for place in places for name in TIME_FILES if (place / name).is_file()), None)
    if file is None:
        return named
    times = read_times(file)
    if len(times) != len(stems):
        first_is_0 = named.times_s is None and named.numbers[-1] < len(times)
        if not first_is_0:
            raise InputError(f"has {len(times)} timestamps for {len(stems)} frames", place=str(file))
        times = [times[number] for number in named.numbers]
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise InputError("its timestamps do not increase from frame to frame", place=str(file))
    found = Timeline(named.numbers, tuple(time - times[0] for time in times))
    if found.fps is not None and not LEAST_FPS <= found.fps <= MOST_FPS:
        raise InputError(
            f"its frames are {1 / found.fps:.3g} s apart, read as seconds",
            place=str(file),
            hint="write seconds; timestamps since 1970 of 13, 16 or 19 digits are milli-, micro- and nanoseconds",
        )
    return found


def read_times(file: Path) -> list[float]:
    """Seconds of each line of a file of timestamps, after the first line's moment.

    Raises:
        InputError: it cannot be read, is empty, or a line is neither a number nor a date and time.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", place=str(file)) from None
    found = [
        _moment(line.strip(), f"{file}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    if not found:
        raise InputError("holds no timestamps", place=str(file))
    return [(whole - found[0][0]) + (rest - found[0][1]) for whole, rest in found]


def _moment(text: str, place: str) -> tuple[float, float]:
    """Whole seconds and the rest, apart, as both together have more digits than a float."""
    if text.isdigit() and len(text) in _STAMP_UNITS:
        one = 10 ** _STAMP_UNITS[len(text)]
        return float(int(text) // one), int(text) % one / one
    whole, _, rest = text.partition(".")
    if whole.isdigit() and rest.isdigit():
        return float(whole), float(f"0.{rest}")
    try:
        value = float(text)
        if np.isfinite(value):
            return 0.0, value
    except ValueError:
        pass
    date, _, rest = text.partition(".")
    try:
        fraction = float(f"0.{rest or 0}")
        return datetime.fromisoformat(f"{date}+00:00").timestamp(), fraction
    except ValueError:
        raise InputError(
            f"{text!r} is not a timestamp", place=place, hint="seconds, or 2011-09-26 13:02:25.594360375"
        ) from None


def say_missing(name: str, timeline: Timeline, fps: float) -> None:
    """Log how many frames are missing, by the numbers of those that are there."""
    if timeline.times_s is None and timeline.n_missing:
        first, last = timeline.numbers[0], timeline.numbers[-1]
        log.warning(
            "%s: %d frames are missing between %d and %d, by the numbers of the others; their time is kept, "
            "%g frames per second",
            name,
            timeline.n_missing,
            first,
            last,
            fps,
        )
