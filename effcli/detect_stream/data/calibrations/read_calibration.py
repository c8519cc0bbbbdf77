"""From a file or folder to a calibration, whatever form it has. A new form is a reader beside this, and a case here."""

from __future__ import annotations

from pathlib import Path

from effcli.core.errors import InputError
from effcli.detect_stream.data.calibrations.dataset_files import read_argoverse, read_vkitti
from effcli.detect_stream.data.calibrations.kitti_text import COLOUR, Cameras, parse_kitti
from effcli.detect_stream.data.calibrations.middlebury_text import is_middlebury, parse_middlebury
from effcli.detect_stream.data.calibrations.yaml_files import parse_opencv, read_ros_pair
from effcli.detect_stream.data.stereo_calibration import StereoCalibration, require_rectified


def read_calibration(path: Path, cameras: Cameras = COLOUR) -> StereoCalibration:
    """Read the calibration of a rectified pair.

    Args:
        path: a file: KITTI (Tracking, Object, raw ``calib_cam_to_cam.txt``), DrivingStereo, Middlebury or ETH3D,
            OpenCV's YAML with P1 and P2, ROS camera_info of one eye with the other beside it, Virtual KITTI 2's
            ``intrinsic.txt``, Argoverse's ``vehicle_calibration*.json``.
        cameras: the names of its projections, of files with several pairs.

    Raises:
        InputError: it is not there, of another form, incomplete, or not of a rectified pair.
    """
    return require_rectified(_read(path, cameras), str(path))


def _read(path: Path, cameras: Cameras) -> StereoCalibration:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", place=str(path)) from None
    ending = path.suffix.lower()
    if ending == ".conf" or "[LEFT_CAM_" in text:
        raise InputError(
            "is a ZED file that describes the lenses, for pictures that are not rectified",
            place=str(path),
            hint="rectify them, and give P1 and P2 of the rectified pair in a YAML file of OpenCV",
        )
    if ending == ".json":
        return read_argoverse(text, path)
    if text.startswith("%YAML") or "opencv-matrix" in text:
        return parse_opencv(text, path)
    if ending in (".yaml", ".yml"):
        return read_ros_pair(text, path)
    if is_middlebury(text):
        return parse_middlebury(text, path)
    if text.split()[:2] == ["frame", "cameraID"]:
        return read_vkitti(text, path)
    return parse_kitti(text, path, cameras)
