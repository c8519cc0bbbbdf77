"""What a stereo sequence is, wherever it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.stereo_calibration import StereoCalibration

FPS = 10.0
"""Of KITTI, and of what is made here."""


@dataclass(frozen=True)
class StereoFrame:
    """A rectified pair.

    Attributes:
        left, right: uint8 ``[H, W, 3]``.
    """

    left: np.ndarray
    right: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.left.shape[0], self.left.shape[1]


def halves(picture: np.ndarray, place: str) -> StereoFrame:
    """A picture ``[H, W, 3]`` of both eyes side by side, the left one at the left.

    Raises:
        InputError: its width is odd.
    """
    width = picture.shape[1]
    if width % 2:
        raise InputError(
            f"is {width} pixels wide, an odd number, so it cannot hold two pictures side by side", place=place
        )
    left, right = (np.ascontiguousarray(one) for one in (picture[:, : width // 2], picture[:, width // 2 :]))
    return StereoFrame(left, right)


class StereoSequence(Protocol):
    """Frames one after another, with what is known about them.

    Attributes:
        name: of the sequence.
        calibration: of its cameras.
        fps: frames per second.
        has_labels: whether :meth:`objects` knows anything.
    """

    name: str
    calibration: StereoCalibration
    fps: float

    @property
    def has_labels(self) -> bool: ...  # noqa: D102

    def __len__(self) -> int: ...

    def frame(self, i: int) -> StereoFrame:
        """The pair with number ``i``, from 0."""

    def objects(self, i: int) -> FrameObjects:
        """Its labelled objects; empty where there are none or no labels."""

    def depth(self, i: int) -> np.ndarray | None:
        """Depth of the left image's pixels, metres, 0 where unknown, float32 ``[H, W]``; None without any."""

    def pose(self, i: int) -> np.ndarray | None:
        """4x4 matrix from the rectified camera frame of frame ``i`` to a fixed world; None where unknown."""
