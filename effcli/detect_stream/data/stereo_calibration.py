"""Calibration of a rectified pair of cameras; ``calibrations/`` reads it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from effcli.core.errors import InputError

log = logging.getLogger(__name__)

MOST_COLUMNS_APART_PX = 0.1
"""Columns by which the principal points of a rectified pair may differ: so much every disparity is wrong."""

_MOST_ROWS_APART_PX = 1.0

LEAST_FOCAL_PX = 1.0
LARGEST_BASELINE_M = 5.0
"""Cameras farther apart are not on one rig: lengths are in another unit than metres."""

_MOST_OFF_CENTRE = 0.2
"""Share of the width by which the principal point may be off the middle before a warning; KITTI's are 0.01 off."""


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
        size: height and width of the pictures that it is for; None where it does not say.
    """

    left: np.ndarray
    right: np.ndarray
    velo_to_camera: np.ndarray = field(default_factory=_identity)
    imu_to_velo: np.ndarray = field(default_factory=_identity)
    size: tuple[int, int] | None = None

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
        return replace(self, left=change @ self.left, right=change @ self.right, size=None)

    def for_pictures(self, size: tuple[int, int], place: str) -> StereoCalibration:
        """Of pictures of a height and width, which may be smaller or larger than those that it was made for.

        Where it does not say which those are, a principal point far from the middle is a warning.

        Raises:
            InputError: they have another shape, or the principal point is outside them.
        """
        if self.size is None:
            self._check_principal_point(size, place)
        if self.size is None or self.size == size:
            return self
        factors = size[0] / self.size[0], size[1] / self.size[1]
        if abs(factors[0] / factors[1] - 1) > 0.01:
            raise InputError(
                f"the pictures are {size[1]}x{size[0]}, the calibration is for {self.size[1]}x{self.size[0]}",
                place=place,
            )
        log.warning(
            "%s: the pictures are %dx%d, the calibration is for %dx%d: it is scaled",
            *(place, size[1], size[0], self.size[1], self.size[0]),
        )
        return self.scaled(factors[1])

    def _check_principal_point(self, size: tuple[int, int], place: str) -> None:
        column, row = float(self.left[0, 2]), float(self.left[1, 2])
        words = (
            f"by the calibration the principal point is at column {column:.0f}, row {row:.0f} of pictures of "
            f"{size[1]}x{size[0]}"
        )
        if not (0 <= column < size[1] - 1 and row < size[0] - 1):
            raise InputError(words, place=place, hint="it is for larger pictures, or for others")
        if abs(column / size[1] - 0.5) > _MOST_OFF_CENTRE:
            log.warning("%s: %s: is it for pictures of another size?", place, words)

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


def require_rectified(calibration: StereoCalibration, place: str) -> StereoCalibration:
    """The calibration, if it is one of a rectified pair, left and right as they should be.

    Raises:
        InputError: the cameras are at one place, exchanged, or do not look the same way.
    """
    left, right = calibration.left, calibration.right
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InputError("holds a number that is not finite", place=place)
    if calibration.focal_baseline < 1e-6 or not min(left[0, 0], right[0, 0]) > LEAST_FOCAL_PX:
        raise InputError(
            "P2 and P3 are not two cameras side by side: the fourth number of their first rows must differ",
            place=place,
        )
    shift_m = float(right[0, 3] / right[0, 0] - left[0, 3] / left[0, 0])
    if shift_m > 0:
        raise InputError(
            f"the right camera is {shift_m:.3g} m to the left of the left one",
            place=place,
            hint="swap P2 and P3: the fourth number of their first rows is -f times the x of the camera",
        )
    if -shift_m > LARGEST_BASELINE_M:
        raise InputError(
            f"the cameras are {-shift_m:.4g} apart; that cannot be metres",
            place=place,
            hint="divide the fourth number of the right camera's first row (by 1000 for millimetres)",
        )
    for name, row, column, most in (
        ("focal lengths", 0, 0, 0.005 * left[0, 0]),
        ("principal points' columns", 0, 2, MOST_COLUMNS_APART_PX),
        ("principal points' rows", 1, 2, _MOST_ROWS_APART_PX),
    ):
        values = float(left[row, column]), float(right[row, column])
        if abs(values[0] - values[1]) > most:
            raise InputError(
                f"the {name} of the two cameras differ: {values[0]:g} and {values[1]:g}",
                place=place,
                hint="rectify the pictures to one camera matrix (OpenCV: stereoRectify with CALIB_ZERO_DISPARITY)",
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
