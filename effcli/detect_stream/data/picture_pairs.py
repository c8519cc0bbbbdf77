"""Pairs of picture files: which picture of one eye belongs to which of the other; and pairs as a sequence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.errors import InputError
from effcli.data.images import read_rgb
from effcli.data.picture_folders import list_pictures, say_left_out
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects
from effcli.detect_stream.data.frame_times import Timeline, numbers_in, timeline_of_pictures
from effcli.detect_stream.data.gps_poses import poses_of_folder
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame, halves

log = logging.getLogger(__name__)

_MOST_NAMED = 5


@dataclass(frozen=True)
class PicturePair:
    """The pictures of one frame; both eyes in one file where there is only a left one and it is side by side.

    Attributes:
        left, right: files; None where there is none.
    """

    left: Path | None
    right: Path | None
    side_by_side: bool = False

    @property
    def stem(self) -> str:
        """The name of the frame."""
        return next(path.stem for path in (self.left, self.right) if path is not None)

    def read(self) -> StereoFrame:
        """Both pictures.

        Raises:
            InputError: one is missing or damaged, or they have not the same size.
        """
        if self.side_by_side and self.left is not None:
            return halves(read_rgb(self.left), str(self.left))
        if self.left is None or self.right is None:
            there, side = (self.right, "left") if self.left is None else (self.left, "right")
            raise InputError(f"its {side} picture is missing", place=str(there))
        return read_pair(self.left, self.right)


class PairSequence:
    """Pairs of files as a sequence without labels, or with those of some frames.

    Args:
        name: of the sequence.
        pairs: in the order of their frames.
        calibration: of the cameras.
        time_folders: where a file of timestamps may be.
        labels: objects by the place of their frame; None where there are no labels.
        poses: folder of GPS/IMU files, one per frame, as KITTI raw has them.
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[PicturePair],
        calibration: StereoCalibration,
        time_folders: Sequence[Path] = (),
        labels: Sequence[FrameObjects] | None = None,
        poses: Path | None = None,
    ) -> None:
        self.name, self.calibration, self.pairs = name, calibration, pairs
        self.timeline: Timeline = timeline_of_pictures([one.stem for one in pairs], time_folders)
        self.fps = self.timeline.fps or FPS
        self._labels = labels
        self._poses = _poses_in(poses, self.pairs, calibration)

    @property
    def has_labels(self) -> bool:
        """Whether objects are known."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self.pairs)

    def frame(self, i: int) -> StereoFrame:
        """The pair.

        Raises:
            InputError: a picture is missing or damaged, or they have not the same size.
        """
        return self.pairs[i].read()

    def objects(self, i: int) -> FrameObjects:
        """Labels, where there are any."""
        return no_objects() if self._labels is None else self._labels[i]

    def depth(self, i: int) -> None:
        """Nothing is known."""

    def pose(self, i: int) -> np.ndarray | None:
        """From the frame's GPS/IMU file, where there is one."""
        return self._poses[i]


def _poses_in(
    folder: Path | None, pairs: Sequence[PicturePair], calibration: StereoCalibration
) -> list[np.ndarray | None]:
    if folder is None or not folder.is_dir():
        return [None] * len(pairs)
    if np.array_equal(calibration.imu_to_camera, np.eye(4)):
        log.warning(
            "%s: is not read, because the position of the GPS/IMU is unknown: "
            "calib_imu_to_velo.txt and calib_velo_to_cam.txt are missing",
            folder,
        )
        return [None] * len(pairs)
    return poses_of_folder(folder, [one.stem for one in pairs], calibration)


def folder_pair(
    left: Path,
    right: Path,
    calibration: StereoCalibration,
    name: str | None = None,
    poses: Path | None = None,
) -> PairSequence:
    """Two folders of pictures as a sequence; timestamps beside the pictures, beside the folder or in ``oxts``.

    Args:
        left, right: the folders.
        calibration: of the cameras.
        name: of the sequence; None takes the folder's.
        poses: as of :class:`PairSequence`.

    Raises:
        InputError: as of :func:`paired_pictures`.
    """
    root = left.parent.parent if left.name == "data" else left.parent
    times = (left, left.parent, root, root / "oxts")
    pairs = paired_pictures(left, right)
    return PairSequence(name or root.name or "stream", pairs, calibration, times, poses=poses)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers, or names.

    Raises:
        InputError: it is missing or empty.
    """
    if not folder.is_dir():
        raise InputError("no such folder of pictures", place=str(folder))
    listed = list_pictures(folder, recursive=False)
    say_left_out(listed)
    pictures = list(listed.files)
    if not pictures:
        raise InputError("holds no pictures", place=str(folder))
    numbers = numbers_in([path.stem for path in pictures])
    return pictures if numbers is None else [path for _, path in sorted(zip(numbers, pictures, strict=True))]


def paired_pictures(left: Path, right: Path, *, strict: bool = False) -> list[PicturePair]:
    """The pictures of two folders by the numbers of their names, else by their names, in order.

    What only one folder has is said; its frame cannot be read.

    Args:
        left, right: folders.
        strict: refuse folders that do not hold the same frames.

    Raises:
        InputError: a folder is missing or empty, or they have no frame in common.
    """
    sides = [pictures_in(folder) for folder in (left, right)]
    stems = [[path.stem for path in side] for side in sides]
    keys: list[Any] = list(stems)
    numbers = [numbers_in(side) for side in stems]
    if numbers[0] is not None and numbers[1] is not None:
        keys = [numbers[0], numbers[1]]
    by_key: list[dict[Any, Path]] = [
        dict(zip(names, side, strict=True)) for names, side in zip(keys, sides, strict=True)
    ]
    for folder, named, side in zip((left, right), by_key, sides, strict=True):
        if len(named) < len(side):
            raise InputError("has several pictures with the same name", place=str(folder))
    single = sorted(by_key[0].keys() ^ by_key[1].keys())
    if single and (strict or not by_key[0].keys() & by_key[1].keys()):
        raise InputError(
            f"left has {len(stems[0])} pictures and right {len(stems[1])}; not in both: "
            f"{', '.join(map(str, single[:_MOST_NAMED]))}",
            place=str(right),
        )
    if single:
        log.warning(
            "%s: left has %d pictures and right %d; frames without one of them are left out: %s%s",
            *(right.parent, len(stems[0]), len(stems[1]), ", ".join(map(str, single[:_MOST_NAMED]))),
            " and others" if len(single) > _MOST_NAMED else "",
        )
    return [
        PicturePair(by_key[0].get(key), by_key[1].get(key))
        for key in sorted(by_key[0].keys() | by_key[1].keys())
    ]


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
