"""Calibration of a rectified pair of cameras, as KITTI writes it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from effcli.core.errors import InputError

_SIZES = {"P0": 12, "P1": 12, "P2": 12, "P3": 12, "R_rect": 9, "Tr_velo_cam": 12, "Tr_imu_velo": 12}
_ALIASES = {"R0_rect": "R_rect", "Tr_velo_to_cam": "Tr_velo_cam", "Tr_imu_to_velo": "Tr_imu_velo"}


def _identity() -> np.ndarray:
    return np.eye(4)


@dataclass(frozen=True)
class StereoCalibration:
    """Where the pixels of a rectified pair look.

    Attributes:
        left: 3x4 matrix from the rectified frame of camera 0 to pixels of the left image (KITTI's P2).
        right: the same of the right image (P3).
        velo_to_camera: 4x4 matrix from the LiDAR to the rectified frame.
        imu_to_velo: 4x4 matrix from the GPS/IMU to the LiDAR.
    """

    left: np.ndarray
    right: np.ndarray
    velo_to_camera: np.ndarray = field(default_factory=_identity)
    imu_to_velo: np.ndarray = field(default_factory=_identity)

    @property
    def focal_baseline(self) -> float:
        """f times the distance of the cameras, pixels times metres: disparity is this over depth."""
        return float(abs(self.left[0, 3] - self.right[0, 3]))

    @property
    def imu_to_camera(self) -> np.ndarray:
        """4x4 matrix from the GPS/IMU to the rectified frame."""
        product: np.ndarray = self.velo_to_camera @ self.imu_to_velo
        return product

    def scaled(self, factor: float) -> StereoCalibration:
        """Of images resized by a factor; the centre of the first pixel stays where half pixels put it."""
        change = np.diag([factor, factor, 1.0])
        change[:2, 2] = (factor - 1) / 2
        return replace(self, left=change @ self.left, right=change @ self.right)

    def moved(self, left_px: float, top_px: float) -> StereoCalibration:
        """Of images without their first columns and rows."""
        change = np.eye(3)
        change[:2, 2] = (-left_px, -top_px)
        return replace(self, left=change @ self.left, right=change @ self.right)

    def mirrored(self, width: int) -> StereoCalibration:
        """Of mirrored images that have changed places: the scene's left and right are exchanged."""
        flip = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
        world = np.diag([-1.0, 1, 1, 1])
        return replace(self, left=flip @ self.right @ world, right=flip @ self.left @ world)


def read_calibration(path: Path) -> StereoCalibration:
    """Read a calibration of KITTI's Tracking, Object or raw form; keys may end with a colon or not.

    Raises:
        InputError: it is not there, P2 or P3 is missing, a key has another count of numbers than it should, or the
            cameras are not side by side.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", place=str(path)) from None
    found = {}
    for number, line in enumerate(lines, 1):
        name, _, rest = line.strip().partition(" ")
        key = _ALIASES.get(name.rstrip(":"), name.rstrip(":"))
        if key in _SIZES:
            found[key] = _numbers(rest, key, f"{path}:{number}")
    for key in ("P2", "P3"):
        if key not in found:
            raise InputError(
                f"has no {key}", place=str(path), hint="a line `P2: ` with 12 numbers, and one for P3"
            )
    calibration = StereoCalibration(
        found["P2"].reshape(3, 4),
        found["P3"].reshape(3, 4),
        _square(found.get("R_rect")) @ _square(found.get("Tr_velo_cam")),
        _square(found.get("Tr_imu_velo")),
    )
    if calibration.focal_baseline < 1e-6 or not calibration.left[0, 0] > 0:
        raise InputError(
            "P2 and P3 are not two cameras side by side: the fourth number of their first rows must differ",
            place=str(path),
        )
    return calibration


def write_calibration(path: Path, calibration: StereoCalibration) -> None:
    """Write it in the form of KITTI Tracking; the rectifying rotation is part of Tr_velo_cam."""
    rows = [(f"{key}:", calibration.left) for key in ("P0", "P1", "P2")]
    rows += [("P3:", calibration.right), ("R_rect", np.eye(3))]
    rows += [("Tr_velo_cam", calibration.velo_to_camera[:3]), ("Tr_imu_velo", calibration.imu_to_velo[:3])]
    path.write_text(
        "".join(f"{name} {' '.join(f'{value:.12e}' for value in matrix.flat)}\n" for name, matrix in rows)
    )


def _numbers(text: str, key: str, place: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        raise InputError(f"{key} holds something that is not a number", place=place) from None
    if len(values) != _SIZES[key] or not np.isfinite(values).all():
        raise InputError(f"{key} has {len(values)} numbers, not {_SIZES[key]} finite ones", place=place)
    return values


def _square(values: np.ndarray | None) -> np.ndarray:
    """A 4x4 matrix of 9 or 12 numbers; identity of none."""
    full = np.eye(4)
    if values is not None:
        rows = values.reshape(3, -1)
        full[:3, : rows.shape[1]] = rows
    return full
