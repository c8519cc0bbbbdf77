"""Two folders of pictures, left and right, as a sequence without labels."""

from __future__ import annotations

from pathlib import Path

from effcli.core.errors import InputError
from effcli.data.images import read_rgb
from effcli.data.picture_folders import list_pictures, say_left_out
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects
from effcli.detect_stream.data.frame_times import numbers_in, timeline_of_pictures
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame


class FolderPair:
    """Two folders of pictures as a sequence without labels."""

    has_labels = False

    def __init__(self, left: Path, right: Path, calibration: StereoCalibration) -> None:
        self.name, self.calibration = left.parent.name or "stream", calibration
        self.left, self.right = paired_pictures(left, right)
        stems = [path.stem for path in self.left]
        self.timeline = timeline_of_pictures(stems, (left, left.parent, left.parent / "oxts"))
        self.fps = self.timeline.fps or FPS

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


def paired_pictures(left: Path, right: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of two folders by name, in order.

    Raises:
        InputError: a folder is missing or empty, or they do not hold the same names.
    """
    found = []
    for folder in (left, right):
        if not folder.is_dir():
            raise InputError("no such folder of pictures", place=str(folder))
        listed = list_pictures(folder, recursive=False)
        say_left_out(listed)
        pictures = list(listed.files)
        numbers = numbers_in([path.stem for path in pictures])
        if numbers is not None:
            pictures = [path for _, path in sorted(zip(numbers, pictures, strict=True))]
        if not pictures:
            raise InputError("holds no pictures", place=str(folder))
        found.append(pictures)
    stems = [[path.stem for path in pictures] for pictures in found]
    if stems[0] != stems[1]:
        odd = sorted(set(stems[0]) ^ set(stems[1])) or ["(in another order)"]
        raise InputError(
            f"left has {len(stems[0])} pictures and right {len(stems[1])}; not in both: {', '.join(odd[:5])}",
            place=str(right),
        )
    return found[0], found[1]


def read_pair(left: Path, right: Path) -> StereoFrame:
    """Two pictures as one frame.

    Raises:
        InputError: one is damaged, or they have not the same size.
    """
    pictures = [read_rgb(path) for path in (left, right)]
    if pictures[0].shape != pictures[1].shape:
        sizes = [f"{one.shape[1]}x{one.shape[0]}" for one in pictures]
        raise InputError(f"is {sizes[1]}, its left picture {sizes[0]}", place=str(right))
    return StereoFrame(pictures[0], pictures[1])
