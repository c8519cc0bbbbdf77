"""What a source of frames is: frames as they arrive, one after another; and a sequence as a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence


@dataclass(frozen=True)
class Arrival:
    """A frame as it arrives.

    Attributes:
        number: from 0; numbers of damaged frames are used up.
        frame: None where it is damaged.
        damage: what is wrong with it.
        pose: 4x4 matrix from the rectified camera frame to a fixed world; None where it is unknown.
    """

    number: int
    frame: StereoFrame | None
    damage: str | None = None
    pose: np.ndarray | None = None


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


def limited(arrivals: Iterator[Arrival], most: int | None) -> Iterator[Arrival]:
    """Only frames with numbers below ``most``; None: all."""
    for arrival in arrivals:
        if most is not None and arrival.number >= most:
            return
        yield arrival


class SequenceSource:
    """A labelled or unlabelled sequence; a damaged picture is named and left out."""

    is_live = False

    def __init__(self, sequence: StereoSequence, fps: float | None = None) -> None:
        self.name, self.calibration = sequence.name, sequence.calibration
        self.fps = fps or sequence.fps
        self.n_frames: int | None = len(sequence)
        self.sequence: StereoSequence | None = sequence

    def frames(self) -> Iterator[Arrival]:
        """All frames."""
        assert self.sequence is not None
        for i in range(len(self.sequence)):
            try:
                frame = self.sequence.frame(i)
            except InputError as error:
                yield Arrival(i, None, str(error))
            else:
                yield Arrival(i, frame, pose=self.sequence.pose(i))


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
    """The same arrivals; pictures of another height and width than ``size`` count as damaged."""
    for arrival in arrivals:
        shape = None if arrival.frame is None else arrival.frame.left.shape[:2]
        if shape is not None and shape != size:
            reason = f"is {shape[1]}x{shape[0]}, the first frame {size[1]}x{size[0]}"
            arrival = Arrival(arrival.number, None, reason)
        yield arrival
