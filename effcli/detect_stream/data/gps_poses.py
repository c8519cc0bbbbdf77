"""Poses of the cameras from GPS/IMU rows as KITTI has them (``oxts``): reading and writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.stereo_calibration import StereoCalibration

_EARTH_M = 6378137.0
_ORIGIN_DEG = (49.0, 8.4)
_N_COLUMNS = 30


def poses_of_file(file: Path, calibration: StereoCalibration) -> dict[int, np.ndarray]:
    """Frame -> pose of the camera; without a column of frame numbers the keys are -1, -2, ... in order.

    Raises:
        InputError: it is not such a file.
    """
    rows = _rows_of(file)
    if rows.shape[1] not in (_N_COLUMNS, _N_COLUMNS + 1):
        raise InputError(f"has {rows.shape[1]} columns, not {_N_COLUMNS}", place=str(file))
    has_numbers = rows.shape[1] > _N_COLUMNS
    numbers = [int(row[0]) for row in rows] if has_numbers else [-1 - i for i in range(len(rows))]
    return dict(zip(numbers, _poses(rows[:, -_N_COLUMNS:], calibration), strict=True))


def poses_of_folder(
    folder: Path, stems: Sequence[str], calibration: StereoCalibration
) -> list[np.ndarray | None]:
    """Poses of frames from a file of one row each, ``0000000049.txt``, as KITTI raw has them; None without a file.

    Raises:
        InputError: a file holds no such row.
    """
    rows = {}
    for i, stem in enumerate(stems):
        file = folder / f"{stem}.txt"
        if file.is_file():
            row = _rows_of(file)
            if row.shape != (1, _N_COLUMNS):
                raise InputError(f"holds {row.size} numbers, not {_N_COLUMNS}", place=str(file))
            rows[i] = row[0]
    if not rows:
        return [None] * len(stems)
    found = dict(zip(rows, _poses(np.stack(list(rows.values())), calibration), strict=True))
    return [found.get(i) for i in range(len(stems))]


def _rows_of(file: Path) -> np.ndarray:
    try:
        return np.loadtxt(file, ndmin=2)
    except ValueError as error:
        raise InputError(f"not a GPS/IMU file: {error}", place=str(file)) from None


def _poses(rows: np.ndarray, calibration: StereoCalibration) -> list[np.ndarray]:
    scale = np.cos(np.deg2rad(rows[0, 0]))
    from_imu = np.linalg.inv(calibration.imu_to_camera)
    return [_imu_pose(row, scale) @ from_imu for row in rows]


def _imu_pose(row: np.ndarray, scale: float) -> np.ndarray:
    latitude, longitude, altitude, roll, pitch, yaw = row[:6]
    pose = np.eye(4)
    pose[:3, 3] = (
        scale * _EARTH_M * np.deg2rad(longitude),
        scale * _EARTH_M * np.log(np.tan(np.pi / 4 + np.deg2rad(latitude) / 2)),
        altitude,
    )
    pose[:3, :3] = _turn(yaw, 2) @ _turn(pitch, 1) @ _turn(roll, 0)
    return pose


def _turn(angle: float, axis: int) -> np.ndarray:
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def oxts_row(pose: np.ndarray, calibration: StereoCalibration) -> str:
    """The GPS/IMU row of a camera pose whose world has x right, y down, z forward; forward is east."""
    east_of_camera = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
    imu = east_of_camera @ pose @ calibration.imu_to_camera
    scale = np.cos(np.deg2rad(_ORIGIN_DEG[0]))
    north_0 = scale * _EARTH_M * np.log(np.tan(np.pi / 4 + np.deg2rad(_ORIGIN_DEG[0]) / 2))
    latitude = np.rad2deg(2 * np.arctan(np.exp((imu[1, 3] + north_0) / (scale * _EARTH_M))) - np.pi / 2)
    longitude = _ORIGIN_DEG[1] + np.rad2deg(imu[0, 3] / (scale * _EARTH_M))
    yaw = np.arctan2(imu[1, 0], imu[0, 0])
    pitch = np.arctan2(-imu[2, 0], np.hypot(imu[0, 0], imu[1, 0]))
    roll = np.arctan2(imu[2, 1], imu[2, 2])
    row = [latitude, longitude, imu[2, 3], roll, pitch, yaw, *([0.0] * 19), 4, 11, 4, 4, 0]
    return " ".join(f"{value:.12g}" for value in row)
