"""YAML: OpenCV's FileStorage with P1 and P2 of ``stereoRectify``, and ROS camera_info, one file per eye."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from effcli.core.errors import InputError
from effcli.detect_stream.data.stereo_calibration import LARGEST_BASELINE_M, StereoCalibration

log = logging.getLogger(__name__)

_DISTORTIONS = ("D1", "D2", "distortion_coefficients", "D")
"""What OpenCV's samples and ROS call the coefficients of the lenses."""

_UNRECTIFIED = (
    "rectify the pictures (OpenCV: stereoRectify, initUndistortRectifyMap, remap) and give its P1 and P2"
)


class _Loader(yaml.SafeLoader):
    """With the matrices of OpenCV."""


def _opencv_matrix(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _opencv_matrix)


def parse_opencv(text: str, path: Path) -> StereoCalibration:
    """P1 and P2 are the left and the right camera.

    Raises:
        InputError: it is not such a file, has no P1 and P2, or its lengths are not metres.
    """
    lines = text.splitlines()
    content = _loaded("\n".join(lines[1:] if lines and lines[0].startswith("%YAML") else lines), path)
    if not {"P1", "P2"} <= content.keys():
        raise InputError(
            f"has no P1 and P2, but {', '.join(map(str, content)) or 'nothing'}",
            place=str(path),
            hint=_UNRECTIFIED,
        )
    left, right = (_matrix(content[key], key, path) for key in ("P1", "P2"))
    _say_distortion([content], path)
    return _in_metres(StereoCalibration(left, right, size=_size(content)), path)


def read_ros_pair(text: str, path: Path) -> StereoCalibration:
    """``left.yaml`` and ``right.yaml``, whichever is named; the projections are those of the rectified pictures.

    Raises:
        InputError: one is missing or has no projection matrix, or lengths are not metres.
    """
    name = path.name
    left_name, right_name = (name.replace(*pair) for pair in (("right", "left"), ("left", "right")))
    if left_name == right_name:
        raise InputError(
            "is the calibration of one camera; the name of the other is not known",
            place=str(path),
            hint="call them left.yaml and right.yaml, or give a YAML file of OpenCV with P1 and P2",
        )
    found, contents = [], []
    for one in (path.with_name(left_name), path.with_name(right_name)):
        if not one.is_file():
            raise InputError("is missing", place=str(one), hint=f"it describes the other camera of {name}")
        content = _loaded(text if one == path else one.read_text(encoding="utf-8-sig"), one)
        contents.append(content)
        projection = next((content[key] for key in ("projection_matrix", "P", "p") if key in content), None)
        if projection is None:
            raise InputError("has no projection_matrix", place=str(one), hint=_UNRECTIFIED)
        found.append((_matrix(projection, "projection_matrix", one), _size(content)))
    if found[0][1] != found[1][1]:
        raise InputError(f"is for pictures of another size than {left_name}", place=right_name)
    _say_distortion(contents, path)
    return _in_metres(StereoCalibration(found[0][0], found[1][0], size=found[0][1]), path)


def _say_distortion(contents: Sequence[dict[str, Any]], path: Path) -> None:
    """Log that lenses distort, if the file says so: then its projections are not those of raw pictures."""
    values = [content[key] for content in contents for key in _DISTORTIONS if key in content]
    plain = [value.get("data") if isinstance(value, dict) else value for value in values]
    try:
        distorts = any(np.any(np.array(one, float)) for one in plain if isinstance(one, list))
    except (TypeError, ValueError, OverflowError):
        raise InputError("its distortion coefficients are not numbers", place=str(path)) from None
    if distorts:
        log.warning(
            "%s: the lenses distort; its projections are for the rectified pictures, so use those (ROS: "
            "image_rect), not the raw ones",
            path,
        )


def _loaded(text: str, path: Path) -> dict[str, Any]:
    try:
        content = next(iter(yaml.load_all(text, Loader=_Loader)), None)
    except yaml.YAMLError as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"not a YAML file of OpenCV or ROS: {reason}", place=str(path)) from None
    if not isinstance(content, dict):
        raise InputError("not a YAML file of OpenCV or ROS: it has no keys", place=str(path))
    return content


def _matrix(value: Any, key: str, path: Path) -> np.ndarray:
    data = value.get("data") if isinstance(value, dict) else value
    try:
        matrix = np.array(data, float).ravel()
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if len(matrix) != 12 or not np.isfinite(matrix).all():
        raise InputError(f"{key} is not a 3x4 matrix", place=str(path))
    return matrix.reshape(3, 4)


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    for height, width in (("image_height", "image_width"), ("height", "width")):
        values = content.get(height), content.get(width)
        if all(isinstance(value, int) and value > 0 for value in values):
            return int(values[0] or 0), int(values[1] or 0)
    return None


def _in_metres(calibration: StereoCalibration, path: Path) -> StereoCalibration:
    baseline = calibration.focal_baseline / max(float(calibration.left[0, 0]), 1e-9)
    if baseline > LARGEST_BASELINE_M:
        raise InputError(
            f"the cameras are {baseline:.4g} apart; that cannot be metres",
            place=str(path),
            hint="calibrate with the board's squares in metres, or divide the fourth number of the right camera's "
            "first row (by 1000 for millimetres)",
        )
    return calibration
