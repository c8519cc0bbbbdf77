"""Two folders of pictures, left and right, as a sequence without labels."""

from __future__ import annotations

from pathlib import Path

from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects
from effcli.detect_stream.data.kitti_tracking import paired_pictures, read_pair
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame


class FolderPair:
    """Two folders of pictures as a sequence without labels."""

    has_labels = False

    def __init__(self, left: Path, right: Path, calibration: StereoCalibration) -> None:
        self.name, self.calibration, self.fps = left.parent.name or "stream", calibration, FPS
        self.left, self.right = paired_pictures(left, right)

    def __len__(self) -> int:
        return len(self.left)

    def frame(self, i: int) -> StereoFrame:
        """The pair."""
        return read_pair(self.left[i], self.right[i])

    def objects(self, i: int) -> FrameObjects:
        """Nothing is known."""
        return no_objects()

    def depth(self, i: int) -> None:
        """Nothing is known."""

    def pose(self, i: int) -> None:
        """Nothing is known."""
