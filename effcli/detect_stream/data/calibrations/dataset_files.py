"""Calibrations of single data sets: Virtual KITTI 2 and Argoverse 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.calibrations.middlebury_text import pair_of
from effcli.detect_stream.data.stereo_calibration import StereoCalibration


def read_vkitti(text: str, path: Path) -> StereoCalibration:
    """``intrinsic.txt`` of Virtual KITTI 2, with ``extrinsic.txt`` beside it, which tells the baseline.

    Raises:
        InputError: something is missing, not a number, or changes from frame to frame.
    """
    inner = _table(text, 6, path)
    other = path.with_name("extrinsic.txt")
    if not other.is_file():
        raise InputError("is missing", place=str(other), hint="it holds the distance of the cameras")
    outer = _table(other.read_text(encoding="utf-8"), 18, other)
    if np.ptp(inner[:, 2:], axis=0).max() > 1e-6:
        raise InputError("the cameras change from frame to frame", place=str(path))
    shifts = [outer[outer[:, 1] == camera][:, 5] for camera in (0, 1)]
    if not len(shifts[0]) or len(shifts[0]) != len(shifts[1]):
        raise InputError("does not have both cameras, 0 and 1, in each frame", place=str(other))
    fx, fy, cx, cy = inner[0, 2:]
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return pair_of(matrix, matrix, float(np.median(shifts[0] - shifts[1])))


def _table(text: str, n_columns: int, path: Path) -> np.ndarray:
    try:
        rows = [[float(word) for word in line.split()] for line in text.splitlines()[1:] if line.strip()]
        table = np.array(rows, float).reshape(len(rows), n_columns)
    except ValueError:
        raise InputError(f"is not a table of {n_columns} numbers per line", place=str(path)) from None
    if not len(table):
        raise InputError("holds no frames", place=str(path))
    return table


def read_argoverse(text: str, path: Path) -> StereoCalibration:
    """``vehicle_calibration_stereo_info.json`` of Argoverse 1: the cameras whose names begin with ``stereo_front``.

    Raises:
        InputError: they are not there, or their lenses distort.
    """
    try:
        cameras = {one["key"]: one["value"] for one in json.loads(text)["camera_data_"]}
        found = [
            next(value for key, value in cameras.items() if f"stereo_front_{side}" in key)
            for side in ("left", "right")
        ]
        matrices = [_matrix_of(one) for one in found]
        distorts = any(np.any(np.array(one.get("distortion_coefficients_", 0), float)) for one in found)
        places = [np.array(one["vehicle_SE3_camera_"]["translation"], float) for one in found]
    except (ValueError, KeyError, TypeError, StopIteration):
        raise InputError(
            "is not a calibration of Argoverse with stereo_front_left and stereo_front_right", place=str(path)
        ) from None
    if distorts:
        raise InputError(
            "states lens distortion, so it describes pictures that are not rectified",
            place=str(path),
            hint="use stereo_front_left_rect and stereo_front_right_rect with vehicle_calibration_stereo_info.json",
        )
    return pair_of(matrices[0], matrices[1], float(np.linalg.norm(places[0] - places[1])))


def _matrix_of(camera: dict[str, Any]) -> np.ndarray:
    fx, fy, cx, cy = (
        float(camera[f"{name}_px_"])
        for name in ("focal_length_x", "focal_length_y", "focal_center_x", "focal_center_y")
    )
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
