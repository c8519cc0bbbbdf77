"""Folders of KITTI Tracking: stereo sequences with calibration, labels, depth and poses; reading and writing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from effcli.core.errors import InputError
from effcli.core.files import make_folder
from effcli.core.text import counted
from effcli.data.images import check_picture, read_grey_samples
from effcli.data.picture_folders import is_hidden, say_once
from effcli.detect_stream.data.boxes3d import ImageView, project
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.frame_objects import UNKNOWN_2D, FrameObjects, no_objects
from effcli.detect_stream.data.frame_times import timeline_of_pictures
from effcli.detect_stream.data.gps_poses import oxts_row, poses_of_file, poses_of_folder
from effcli.detect_stream.data.kitti_labels import read_tracking_labels, tracking_lines
from effcli.detect_stream.data.label_check import check_labels
from effcli.detect_stream.data.picture_pairs import paired_pictures
from effcli.detect_stream.data.stereo_calibration import (
    StereoCalibration,
    write_calibration,
)
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame, StereoSequence

LEFT, RIGHT = "image_02", "image_03"


class KittiSequence:
    """One sequence on the disk.

    Args:
        root: the folder with ``image_02``, ``calib`` and so on, or the one above with ``training``.
        name: of the sequence, ``0000``.
        strict: refuse one in which a picture of one eye is missing; else only its frame cannot be read.

    Raises:
        InputError: pictures or calibration are not there, left and right are not the same frames, the calibration is
            for pictures of another shape, or labels are of other frames or of another form.
    """

    def __init__(self, root: Path, name: str, *, strict: bool = True) -> None:
        self.root, self.name, self._strict = training_folder(root), name, strict
        self.calibration: StereoCalibration = read_calibration(self.root / "calib" / f"{name}.txt")
        self.pairs = paired_pictures(self.root / LEFT / name, self.root / RIGHT / name, strict=strict)
        stems, places = (
            [pair.stem for pair in self.pairs],
            (self.root / LEFT / name, self.root / "oxts" / name),
        )
        self.timeline = timeline_of_pictures(stems, places)
        self.numbers, self.fps = self.timeline.numbers, self.timeline.fps or FPS
        labels = self.root / "label_02" / f"{name}.txt"
        self._labels = read_tracking_labels(labels) if labels.is_file() else None
        if self._labels and not self._labels.keys() & set(self.numbers):
            raise InputError(
                f"is of frames {min(self._labels)} to {max(self._labels)}, the pictures are {self.numbers[0]} to "
                f"{self.numbers[-1]}",
                place=str(labels),
            )
        self._size = self._first_size()
        if self._size is not None:
            self.calibration = self.calibration.for_pictures(self._size, name)
            check_labels(
                (self._labels or {}).values(), ImageView(self.calibration.left, self._size), str(labels)
            )
        if beyond := sorted((self._labels or {}).keys() - set(self.numbers)):
            say_once(
                f"{labels}: labels of {counted(len(beyond), 'frame')} without pictures are not used: "
                f"{beyond[0]} to {beyond[-1]}"
            )
        self._poses: dict[int, np.ndarray] | None = None

    @property
    def has_labels(self) -> bool:
        """Whether there is a label file."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self.pairs)

    def frame(self, i: int) -> StereoFrame:
        """The pair.

        Raises:
            InputError: a picture is missing or damaged, the two have not the same size, or, if that is strict, it is
                not that of the first frame.
        """
        frame = self.pairs[i].read()
        if self._strict and self._size not in (None, frame.size):
            first = self._size or frame.size
            raise InputError(
                f"is {frame.size[1]}x{frame.size[0]}, the first frame {first[1]}x{first[0]}",
                place=str(self.pairs[i].left),
                hint="make a sequence of its own of the frames of each size",
            )
        return frame

    def _first_size(self) -> tuple[int, int] | None:
        """Height and width of the first left picture; None where it cannot be read."""
        left = next((pair.left for pair in self.pairs if pair.left is not None), None)
        try:
            return None if left is None else check_picture(left)
        except InputError:
            return None

    def objects(self, i: int) -> FrameObjects:
        """Labels of the frame; 2D boxes that are not given (-1 -1 -1 -1) are those of the 3D boxes."""
        found = (self._labels or {}).get(self.numbers[i], no_objects())
        unknown = (found.image_boxes == UNKNOWN_2D).all(1) & (np.array(found.kinds) != "DontCare")
        left = self.pairs[i].left
        if left is None or not unknown.any():
            return found
        seen = ImageView(self.calibration.left, check_picture(left)).image_boxes(found.boxes)
        return replace(found, image_boxes=np.where(unknown[:, None], seen, found.image_boxes))

    def depth(self, i: int) -> np.ndarray | None:
        """Of the LiDAR's points in the left picture: ``velodyne/*.bin``, or ``depth_02/*.png`` (metres times 256)."""
        stem = self.pairs[i].stem
        flat = self.root / "depth_02" / self.name / f"{stem}.png"
        if flat.is_file():
            return read_grey_samples(flat).astype(np.float32) / 256
        scan = self.root / "velodyne" / self.name / f"{stem}.bin"
        if not scan.is_file():
            return None
        points = np.fromfile(scan, np.float32)
        if len(points) % 4:
            raise InputError("not a LiDAR scan: its size is not a multiple of 16 bytes", place=str(scan))
        left = self.pairs[i].left
        if left is None:
            return None
        return depth_of_points(points.reshape(-1, 4)[:, :3], self.calibration, check_picture(left))

    def pose(self, i: int) -> np.ndarray | None:
        """From the GPS/IMU file ``oxts/0000.txt``, or the files of ``oxts/0000/``, where they are."""
        if self._poses is None:
            self._poses = self._read_poses()
        return self._poses.get(self.numbers[i], self._poses.get(-1 - i))

    def _read_poses(self) -> dict[int, np.ndarray]:
        """Of one file, or of one per frame in a folder, as KITTI raw has them."""
        file = self.root / "oxts" / f"{self.name}.txt"
        if file.is_file():
            return poses_of_file(file, self.calibration)
        stems = [pair.stem for pair in self.pairs]
        for folder in (file.with_suffix("") / "data", file.with_suffix("")):
            found = poses_of_folder(folder, stems, self.calibration)
            if any(pose is not None for pose in found):
                return {
                    number: pose for number, pose in zip(self.numbers, found, strict=True) if pose is not None
                }
        return {}


def training_folder(root: Path) -> Path:
    """The folder with ``image_02``: ``root`` or ``root/training``.

    Raises:
        InputError: neither has it.
    """
    for folder in (root, root / "training"):
        if (folder / LEFT).is_dir():
            return folder
    raise InputError(
        "not a folder of KITTI Tracking", place=str(root), hint="it holds image_02/, image_03/ and calib/"
    )


def sequence_names(root: Path) -> list[str]:
    """Names of all sequences in order."""
    inside = (training_folder(root) / LEFT).iterdir()
    return sorted(path.name for path in inside if path.is_dir() and not is_hidden(path.name))


def depth_of_points(points: np.ndarray, calibration: StereoCalibration, size: tuple[int, int]) -> np.ndarray:
    """Depth of LiDAR points ``[N, 3]`` in the left picture, the nearest of each pixel, 0 elsewhere, ``[H, W]``."""
    camera = points @ calibration.velo_to_camera[:3, :3].T + calibration.velo_to_camera[:3, 3]
    camera = camera[camera[:, 2] > 0.1]
    pixels = np.rint(project(camera, calibration.left)).astype(int)
    height, width = size
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    flat = np.full(height * width, np.inf, np.float32)
    np.minimum.at(flat, pixels[inside, 1] * width + pixels[inside, 0], camera[inside, 2].astype(np.float32))
    flat[np.isinf(flat)] = 0
    return flat.reshape(height, width)


def write_sequence(root: Path, name: str, sequence: StereoSequence) -> Iterable[int]:
    """Write a sequence with labels, every fourth pixel's depth as LiDAR, and poses; yields each frame written.

    Args:
        root: the folder above ``training``.
        name: of the sequence.
        sequence: what to write.
    """
    base = root / "training"
    for folder in (f"{LEFT}/{name}", f"{RIGHT}/{name}", f"velodyne/{name}", "calib", "label_02", "oxts"):
        make_folder(base / folder)
    write_calibration(base / "calib" / f"{name}.txt", sequence.calibration)
    lines: list[str] = []
    poses = []
    for i in range(len(sequence)):
        frame = sequence.frame(i)
        Image.fromarray(frame.left).save(base / LEFT / name / f"{i:06d}.png")
        Image.fromarray(frame.right).save(base / RIGHT / name / f"{i:06d}.png")
        lines += tracking_lines(i, sequence.objects(i))
        depth, pose = sequence.depth(i), sequence.pose(i)
        if depth is not None:
            points = _points_of_depth(depth, sequence.calibration)
            points.astype(np.float32).tofile(base / "velodyne" / name / f"{i:06d}.bin")
        if pose is not None:
            poses.append(oxts_row(pose, sequence.calibration))
        yield i
    (base / "label_02" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    if poses:
        (base / "oxts" / f"{name}.txt").write_text("".join(f"{line}\n" for line in poses))


def _points_of_depth(depth: np.ndarray, calibration: StereoCalibration) -> np.ndarray:
    """Every fourth pixel with a depth as x, y, z of the LiDAR and a reflectance of 0, ``[N, 4]``."""
    rows, columns = np.nonzero(depth[::4, ::4] > 0)
    rows, columns = rows * 4, columns * 4
    z = depth[rows, columns].astype(float)
    p = calibration.left
    scale = z + p[2, 3]
    x = ((columns * scale - p[0, 3]) - p[0, 2] * z) / p[0, 0]
    y = ((rows * scale - p[1, 3]) - p[1, 2] * z) / p[1, 1]
    inverse = np.linalg.inv(calibration.velo_to_camera)
    points = np.stack([x, y, z], 1) @ inverse[:3, :3].T + inverse[:3, 3]
    return np.concatenate([points, np.zeros((len(points), 1))], 1)
