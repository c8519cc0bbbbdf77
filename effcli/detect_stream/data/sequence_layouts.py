"""The layouts of a sequence on disk that are understood; a new one is a row of the table, or a case here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from effcli.core.errors import InputError, UsageError
from effcli.core.progress import NOTICE
from effcli.data.picture_folders import list_pictures
from effcli.detect_stream.data.calibrations.kitti_text import COLOUR, GREY, Cameras
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.kitti_labels import read_object_labels
from effcli.detect_stream.data.kitti_tracking import LEFT, KittiSequence, sequence_names
from effcli.detect_stream.data.picture_pairs import PairSequence, PicturePair, folder_pair
from effcli.detect_stream.data.stereo_sequence import StereoSequence

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Layout:
    """A folder with a folder of pictures for each eye.

    Attributes:
        left, right: below the folder.
        calibrations: where it is looked for, from the folder.
        cameras: which of the file's.
        unread: labels and the like of the data set that may lie beside the pictures and are not read.
    """

    left: str
    right: str
    calibrations: tuple[str, ...]
    cameras: Cameras = COLOUR
    unread: tuple[str, ...] = ()


_PLAIN = ("calib.txt", "calib.yml", "calib.yaml", "left.yaml")
_KITTI_RAW = ("calib_cam_to_cam.txt", "../calib_cam_to_cam.txt")
_RAW_UNREAD = ("tracklet_labels.xml", "velodyne_points")
_LAYOUTS = (
    _Layout("left", "right", _PLAIN),
    _Layout("image_02", "image_03", _PLAIN),
    _Layout("image_2", "image_3", _PLAIN),
    _Layout("image_02/data", "image_03/data", _KITTI_RAW, unread=_RAW_UNREAD),
    _Layout(
        "frames/rgb/Camera_0",
        "frames/rgb/Camera_1",
        ("intrinsic.txt",),
        unread=("bbox.txt", "info.txt", "pose.txt", "frames/depth"),
    ),
    _Layout(
        "stereo_front_left_rect",
        "stereo_front_right_rect",
        ("vehicle_calibration_stereo_info.json", "vehicle_calibration_info.json"),
        unread=("per_sweep_annotations_amodal", "poses", "lidar"),
    ),
    _Layout("image_00", "image_01", _PLAIN, GREY),
    _Layout("image_0", "image_1", _PLAIN, GREY),
    _Layout("image_00/data", "image_01/data", _KITTI_RAW, GREY, unread=_RAW_UNREAD),
)
_PAIR = ("im0.png", "im1.png")
_OBJECT = ("image_2", "image_3", "calib", "label_2")


def open_sequence(path: Path, calibration: str | None) -> StereoSequence:
    """The sequence that a path names.

    Args:
        path: a folder with a folder for each eye (left/ and right/, KITTI raw and odometry, Virtual KITTI 2,
            Argoverse 1), a scene of Middlebury or ETH3D, a folder of KITTI Tracking with one sequence, or ROOT/0000
            of KITTI Tracking, or ROOT/000007 of KITTI Object.
        calibration: its file, where that is not where the layout has it.

    Raises:
        InputError: there is nothing, or a layout that is not understood.
        UsageError: there are several sequences.
    """
    found = _of_folders(path, calibration) or _of_two_files(path, calibration) or _of_kitti(path)
    if found is not None:
        return found
    if not path.exists():
        raise InputError("no such folder", place=str(path))
    if path.is_file() or _holds_pictures(path):
        raise InputError(
            "has the pictures of one camera, and a stereo detector needs both",
            place=str(path),
            hint="name those of the right camera after it, and --calib FILE; or --side-by-side if each "
            "picture has both views",
        )
    raise InputError(
        "is neither a sequence of KITTI Tracking nor a folder with left/ and right/",
        place=str(path),
        hint="name ROOT/0000, a folder with left/, right/ and calib.txt, or two folders and --calib FILE; "
        "docs/tasks/detect-stream.md lists the layouts that are read",
    )


def _of_folders(path: Path, calibration: str | None) -> StereoSequence | None:
    for layout in _LAYOUTS:
        left, right = path / layout.left, path / layout.right
        if (path / "calib").is_dir() or not _holds_pictures(left) or not right.is_dir():
            continue
        if layout.left.endswith("/data") and path.name.endswith("_extract"):
            raise InputError(
                "holds pictures that are not rectified", place=str(path), hint="take KITTI raw's *_sync"
            )
        candidates = [path / name for name in layout.calibrations]
        beside = next((one for one in candidates if one.is_file()), candidates[0])
        file = Path(calibration) if calibration else beside
        unread = [name for name in layout.unread if (path / name).exists()]
        if unread:
            log.log(NOTICE, "%s: %s beside the pictures are not read", path, ", ".join(unread))
        known = read_calibration(file, layout.cameras)
        return folder_pair(left, right, known, path.name or "stream", path / "oxts" / "data")
    return None


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and bool(list_pictures(folder, recursive=False).files)


def _of_two_files(path: Path, calibration: str | None) -> StereoSequence | None:
    """A scene of Middlebury or ETH3D."""
    files = [path / name for name in _PAIR]
    if not all(file.is_file() for file in files):
        return None
    known = read_calibration(Path(calibration) if calibration else path / "calib.txt")
    return PairSequence(path.name, [PicturePair(files[0], files[1])], known)


def _of_kitti(path: Path) -> StereoSequence | None:
    if any((folder / LEFT).is_dir() for folder in (path, path / "training")):
        names_there = sequence_names(path)
        if len(names_there) != 1:
            raise UsageError(
                f"holds {len(names_there)} sequences",
                place=str(path),
                hint=f"name one: {path}/{names_there[0]}" if names_there else None,
            )
        return KittiSequence(path, names_there[0], strict=False)
    for root in (path.parent, path.parent.parent, path.parent.parent.parent):
        if any((folder / LEFT / path.name).is_dir() for folder in (root, root / "training")):
            return KittiSequence(root, path.name, strict=False)
    for folder in (path, path / "training"):
        if all((folder / name).is_dir() for name in _OBJECT[:3]):
            raise UsageError(
                "is KITTI Object: its pictures are not a stream",
                place=str(path),
                hint=f"name one: {path}/000000",
            )
    for folder in (path.parent, path.parent / "training"):
        if (folder / _OBJECT[0]).is_dir() and (folder / _OBJECT[2] / f"{path.name}.txt").is_file():
            return _kitti_object(folder, path.name)
    return None


def _kitti_object(folder: Path, name: str) -> StereoSequence:
    """One frame of KITTI Object, with its labels where they are."""
    left, right, calib, label = (folder / one for one in _OBJECT)
    files = [next((f for f in sorted(side.glob(f"{name}.*")) if f.is_file()), None) for side in (left, right)]
    labels = label / f"{name}.txt"
    return PairSequence(
        name,
        [PicturePair(files[0], files[1])],
        read_calibration(calib / f"{name}.txt"),
        labels=[read_object_labels(labels)] if labels.is_file() else None,
    )
