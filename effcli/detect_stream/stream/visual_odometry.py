"""The cameras' own motion from the pictures alone, where no GPS/IMU tells it.

Direct alignment (as in Direct Sparse Odometry, Engel et al. 2018) of a stereo pair: corners of the frame before, whose
depth is known from their disparity, are moved and projected into this frame, where they should be as bright as they
were. A grid over speed and turn gives a first motion, Gauss-Newton over all six degrees of freedom the rest; what moves
by itself is outvoted.

Symbols: p a place in the camera frame before, (R, t) the motion, R p + t the place in the camera frame now; r how much
brighter it is there.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.stream.stereo_points import (
    Camera,
    StereoPoints,
    gradients,
    sampled,
    smoothed,
    stereo_points,
)

WIDTH = 416
"""Pictures are made smaller by whole factors until they are about this wide."""

SPEEDS_M_S, SPEED_STEP_M = (-6.0, 42.0), 0.1
TURN_RAD_S, TURN_STEP_RAD = 0.6, 0.005
SPEED_CHANGE_M_S, TURN_CHANGE_RAD_S = 5.0, 0.3
"""In one frame more or less than in the one before."""

_NEAREST_M = 1.0
_HUBER = 6.0
_OUTLIER = 20.0
_ITERATIONS = 10
_DAMPING = 1e-3
_SMALL_STEP = 1e-4
_LEAST_POINTS = 12
_LEAST_ALIKE = 0.5


class VisualOdometry:
    """Follows one camera pair, frame after frame.

    Args:
        calibration: of its pictures.
        size: height and width of what is picture in them, from the upper left.
        fps: frames per second.
    """

    def __init__(self, calibration: StereoCalibration, size: tuple[int, int], fps: float) -> None:
        self._factor = max(1, round(size[1] / WIDTH))
        self._size, self._fps = size, fps
        smaller = calibration.scaled(1 / self._factor)
        focal, centre = float(smaller.left[0, 0]), (float(smaller.left[0, 2]), float(smaller.left[1, 2]))
        self._camera = Camera(focal, centre, smaller.focal_baseline)
        self.reset()

    def reset(self) -> None:
        """Forget everything: another stream begins."""
        self._points: StereoPoints | None = None
        self._number = 0
        self._speed: tuple[float, float] | None = None
        self._pose = np.eye(4)

    def track(self, left: Tensor, right: Tensor, number: int) -> np.ndarray:
        """The pose of a frame; where too little is recognised, the cameras have moved on as before.

        Args:
            left, right: uint8 ``[3, H, W]``.
            number: of the frame, larger than that of the one before.

        Returns:
            4x4 matrix from the camera frame to a fixed world, which is the first frame's.
        """
        picture = self._grey(left)
        if self._points is not None:
            n_frames = number - self._number
            motion = self._motion_to(picture, self._points, n_frames)
            if motion is None:
                ahead, turn = self._speed or (0.0, 0.0)
                motion = planar_motion(ahead * n_frames, turn * n_frames)
                self._speed = None
            else:
                back = np.linalg.inv(motion)
                self._speed = back[2, 3] / n_frames, float(np.arctan2(back[0, 2], back[2, 2])) / n_frames
            self._pose = self._pose @ np.linalg.inv(motion)
        self._points, self._number = stereo_points(picture, self._grey(right), self._camera), number
        return self._pose.copy()

    def _grey(self, picture: Tensor) -> np.ndarray:
        n_rows, n_columns = (n // self._factor for n in self._size)
        inner = picture[:, : n_rows * self._factor, : n_columns * self._factor]
        blocks = inner.float().numpy().reshape(3, n_rows, self._factor, n_columns, self._factor)
        return smoothed(blocks.mean((0, 2, 4)))

    def _motion_to(self, picture: np.ndarray, points: StereoPoints, n_frames: int) -> np.ndarray | None:
        """4x4 from the camera frame before; None where too little is recognised."""
        if len(points.places) < _LEAST_POINTS:
            return None
        start = search(picture, points, self._camera, *self._candidates(n_frames))
        motion, alike = refine(picture, points, self._camera, start)
        return motion if alike >= _LEAST_ALIKE else None

    def _candidates(self, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Metres ahead and radians of turn: as fast as before, more or less; or all that a car can do."""
        seconds = n_frames / self._fps
        if self._speed is None:
            return (
                np.arange(SPEEDS_M_S[0] * seconds, SPEEDS_M_S[1] * seconds, SPEED_STEP_M),
                np.arange(-TURN_RAD_S * seconds, TURN_RAD_S * seconds, TURN_STEP_RAD),
            )
        ahead, turn = self._speed
        return (
            _around(ahead * n_frames, SPEED_CHANGE_M_S * seconds, SPEED_STEP_M),
            _around(turn * n_frames, TURN_CHANGE_RAD_S * seconds, TURN_STEP_RAD),
        )


def _around(middle: float, reach: float, step: float) -> np.ndarray:
    n = int(np.ceil(reach / step))
    return middle + step * np.arange(-n, n + 1)


def planar_motion(ahead: float, turn: float) -> np.ndarray:
    """What still places do, 4x4, when the camera goes metres ahead and then turns to the right by radians."""
    motion = np.eye(4)
    motion[:3, :3] = rotation(np.array([0.0, -turn, 0.0]))
    motion[:3, 3] = motion[:3, :3] @ np.array([0.0, 0.0, -ahead])
    return motion


def search(
    picture: np.ndarray, points: StereoPoints, camera: Camera, ahead: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """The best of all motions straight ahead and then around the vertical, 4x4.

    Args:
        picture: this frame, float32 ``[H, W]``.
        points: of the frame before.
        camera: of both.
        ahead: metres.
        turns: radians, to the right.
    """
    shift, turn = (one.ravel().astype(np.float32) for one in np.meshgrid(ahead, turns, indexing="ij"))
    x, y, z = np.moveaxis(points.places, -1, 0)
    z = z - shift[:, None, None]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    columns, rows, in_front = _projected(cos * x - sin * z, y, sin * x + cos * z, camera)
    found, inside = sampled(picture, columns, rows)
    different = np.abs(found - points.brightness).clip(max=_OUTLIER)
    cost = np.where(inside & in_front, different, _OUTLIER).mean((1, 2))
    best = int(cost.argmin())
    return planar_motion(float(shift[best]), float(turn[best]))


def refine(
    picture: np.ndarray, points: StereoPoints, camera: Camera, motion: np.ndarray
) -> tuple[np.ndarray, float]:
    """Gauss-Newton from a motion on; also the share of what is in view that is as bright as before."""
    places, before = points.places.reshape(-1, 3).astype(float), points.brightness.ravel()
    slopes = gradients(picture)
    motion, alike = motion.copy(), 0.0
    for _ in range(_ITERATIONS):
        now = places @ motion[:3, :3].T + motion[:3, 3]
        x, y, z = now.T
        columns, rows, in_front = _projected(x, y, z, camera)
        found, inside = sampled(picture, columns, rows)
        seen = inside & in_front
        if seen.sum() < _LEAST_POINTS:
            return motion, 0.0
        r = found - before
        r = r - np.median(r[seen])  # the exposure may have changed
        size = np.abs(r)
        alike = float((size[seen] < 2 * _HUBER).mean())
        weights = np.where(size < _HUBER, 1, _HUBER / size.clip(min=_HUBER)) * seen * (size < _OUTLIER)
        along_x, along_y = (sampled(slope, columns, rows)[0] for slope in slopes)
        jacobian = alignment_jacobian(now, along_x, along_y, camera.focal)
        weighted = jacobian * weights[:, None]
        normal = weighted.T @ jacobian + _DAMPING * len(r) * np.eye(6)
        step = np.linalg.solve(normal, -weighted.T @ r)
        change = np.eye(4)
        change[:3, :3], change[:3, 3] = rotation(step[3:]), step[:3]
        motion = change @ motion
        if np.abs(step).max() < _SMALL_STEP:
            break
    return motion, alike


def alignment_jacobian(
    places: np.ndarray, along_x: np.ndarray, along_y: np.ndarray, focal: float
) -> np.ndarray:
    """How r changes with a small shift and turn of the places ``[N, 3]`` in this camera frame, ``[N, 6]``.

    Args:
        places: where they are now.
        along_x, along_y: slopes of the picture there, ``[N]``.
        focal: pixels.
    """
    x, y, z = places.T
    z = z.clip(min=_NEAREST_M)
    by_x, by_y = focal * along_x / z, focal * along_y / z
    by_z = -(by_x * x + by_y * y) / z
    turns = (y * by_z - z * by_y, z * by_x - x * by_z, x * by_y - y * by_x)
    return np.stack([by_x, by_y, by_z, *turns], 1)


def rotation(vector: np.ndarray) -> np.ndarray:
    """3x3 matrix of a turn around a vector by its length in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: np.ndarray = np.eye(3) + cross
    if angle > 1e-9:
        turn = np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    return turn


def _projected(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns and rows of places, and whether they are in front of the camera."""
    in_front = z > _NEAREST_M
    scale = camera.focal / z.clip(min=_NEAREST_M)
    return x * scale + camera.centre[0], y * scale + camera.centre[1], in_front
