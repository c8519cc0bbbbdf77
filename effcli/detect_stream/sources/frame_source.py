"""What a source of frames is: frames as they arrive, one after another; and a sequence as a source."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
from PIL import Image

from effcli.core.errors import InputError
from effcli.detect_stream.data.frame_times import say_missing, timeline_of
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence

log = logging.getLogger(__name__)

_SAME_SHAPE = 0.01
"""Share by which width over height may differ in pictures of one shape."""

_ALIKE = 1.05
"""Rates that differ by less are the same."""


@dataclass(frozen=True)
class Arrival:
    """A frame as it arrives.

    Attributes:
        number: by its name, or counted from 0; damaged frames have numbers too.
        frame: None where it is damaged.
        damage: what is wrong with it.
        pose: 4x4 matrix from the rectified camera frame to a fixed world; None where it is unknown.
        time_s: when it was taken, seconds after some moment that is the same for all; None: one frame every 1 / fps
            seconds, by their numbers.
        interval_s: seconds from frame to frame at this moment; None: 1 / fps.
    """

    number: int
    frame: StereoFrame | None
    damage: str | None = None
    pose: np.ndarray | None = None
    time_s: float | None = None
    interval_s: float | None = None

    def due_s(self, fps: float) -> float:
        """When it was taken, seconds."""
        return self.number / fps if self.time_s is None else self.time_s


class FrameSource(Protocol):
    """A stream of frames.

    Attributes:
        name: for people.
        calibration: of the cameras.
        fps: frames per second.
        n_frames: how many come; None where that is not known.
        is_live: frames arrive when their sender sends them; else one is due every 1 / fps seconds.
        sequence: labels and poses, where they are known.
    """

    name: str
    calibration: StereoCalibration
    fps: float
    n_frames: int | None
    is_live: bool
    sequence: StereoSequence | None

    def frames(self) -> Iterator[Arrival]:
        """All frames once."""


def has_labels(source: FrameSource) -> bool:
    """Whether the truth is known."""
    return source.sequence is not None and source.sequence.has_labels


def numbers_of(source: FrameSource) -> tuple[int, ...] | None:
    """Of all frames; None where they are not known before."""
    return None if source.sequence is None else timeline_of(source.sequence).numbers


def limited(arrivals: Iterator[Arrival], most: int | None) -> Iterator[Arrival]:
    """The first ``most`` frames; None: all."""
    return islice(arrivals, most)


class SequenceSource:
    """A labelled or unlabelled sequence; a damaged picture is named and left out."""

    is_live = False

    def __init__(self, sequence: StereoSequence, fps: float | None = None) -> None:
        self.name, self.calibration = sequence.name, sequence.calibration
        self._timeline = timeline_of(sequence)
        self.fps = fps or sequence.fps
        if fps is not None and self._timeline.fps is not None:
            self.fps = sequence.fps
            warn_if_rates_differ(self.name, "its timestamps say", self.fps, fps, "the timestamps are")
        say_missing(self.name, self._timeline, self.fps)
        self.n_frames: int | None = len(sequence)
        self.sequence: StereoSequence | None = sequence

    def frames(self) -> Iterator[Arrival]:
        """All frames."""
        assert self.sequence is not None
        moments = self._timeline.moments(self.fps)
        for i, (number, moment_s) in enumerate(zip(self._timeline.numbers, moments, strict=True)):
            try:
                frame = self.sequence.frame(i)
            except InputError as error:
                yield Arrival(number, None, str(error), time_s=moment_s)
            else:
                yield Arrival(number, frame, pose=self.sequence.pose(i), time_s=moment_s)


def warn_if_rates_differ(name: str, they_say: str, fps: float, option: float, used: str) -> None:
    """Log that frames come at another rate than ``--fps`` says, if they do."""
    if max(fps / option, option / fps) > _ALIKE:
        log.warning("%s: %s %.3g frames per second, --fps %.3g; %s used", name, they_say, fps, option, used)


def up_to_first_good(arrivals: Iterator[Arrival]) -> list[Arrival]:
    """Arrivals up to the first that could be read, which is the last of the list.

    Raises:
        InputError: there is none.
    """
    found = []
    for arrival in arrivals:
        found.append(arrival)
        if arrival.frame is not None:
            return found
    reason = f": {found[0].damage}" if found else ""
    raise InputError(f"no frame can be read{reason}", place="the stream")


def of_one_size(arrivals: Iterator[Arrival], size: tuple[int, int]) -> Iterator[Arrival]:
    """The same arrivals; pictures of another size than ``size`` are scaled to it, those of another shape damaged."""
    is_said = False
    for arrival in arrivals:
        frame = arrival.frame
        if frame is not None and frame.size != size:
            sizes = f"{frame.size[1]}x{frame.size[0]}, the first frame {size[1]}x{size[0]}"
            if abs(frame.size[1] * size[0] / (frame.size[0] * size[1]) - 1) > _SAME_SHAPE:
                yield replace(arrival, frame=None, damage=f"is {sizes}")
                continue
            if not is_said:
                log.warning("from frame %d on pictures are %s: they are scaled to it", arrival.number, sizes)
                is_said = True
            arrival = replace(arrival, frame=_scaled(frame, size))
        yield arrival


def _scaled(frame: StereoFrame, size: tuple[int, int]) -> StereoFrame:
    sides = (size[1], size[0]), Image.Resampling.BILINEAR
    return StereoFrame(
        *(np.asarray(Image.fromarray(one).resize(*sides)) for one in (frame.left, frame.right))
    )
