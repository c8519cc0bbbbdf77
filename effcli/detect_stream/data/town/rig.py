"""The cameras of a drive: lenses, how they are mounted, and how they shake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import FPS

HEIGHT, WIDTH = 128, 416
"""Of all pictures of the town, pixels."""

_KITTI = (240.0, 0.533, 1.65)  # focal length, baseline, height
_BELOW_PER_FOCAL, _BELOW = 0.28, (64.0, 83.0)  # rows below the horizon: what the network keeps
_AXES = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], float)  # velodyne to camera


@dataclass(frozen=True)
class Rig:
    """Two cameras side by side.

    Attributes:
        focal_px: focal length, pixels.
        centre_px: principal point, column and row.
        baseline_m: distance of the cameras.
        height_m, pitch, roll: at each frame, metres and radians (up and clockwise are positive), ``[T]``.
    """

    focal_px: float
    centre_px: tuple[float, float]
    baseline_m: float
    height_m: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray

    @property
    def calibration(self) -> StereoCalibration:
        """In KITTI's form."""
        f, (cx, cy) = self.focal_px, self.centre_px
        left = np.array([[f, 0, cx, 0], [0, f, cy, 0], [0, 0, 1, 0]], float)
        right = left.copy()
        right[0, 3] = -f * self.baseline_m
        velo = np.eye(4)
        velo[:3, :3] = _AXES
        return StereoCalibration(left, right, velo)


def random_rig(varies: bool, n_frames: int, rng: np.random.Generator) -> Rig:
    """Cameras of one drive; KITTI's at a third of its pixels, level and still, where nothing varies.

    A third of the rigs are near KITTI's. Focal lengths are 155 to 380 pixels of 416 columns (106 to 57 degrees),
    baselines 0.12 to 0.8 m, heights 1.1 to 1.9 m, pitch within 3 degrees, roll within 2.
    """
    focal, baseline, height = _KITTI
    if not varies:
        still = np.zeros(n_frames)
        return Rig(focal, (208.0, 60.0), baseline, still + height, still, still)
    if rng.random() < 0.33:
        focal, baseline = focal * rng.uniform(0.93, 1.07), baseline * rng.uniform(0.95, 1.05)
        height = rng.uniform(1.55, 1.75)
    else:
        focal = float(np.exp(rng.uniform(np.log(155), np.log(380))))
        baseline = float(np.exp(rng.uniform(np.log(0.12), np.log(0.8))))
        height = rng.uniform(1.1, 1.9)
    pitch = np.deg2rad(np.clip(rng.normal(0, 1.2), -2.8, 2.8))
    roll = np.deg2rad(np.clip(rng.normal(0, 0.8), -1.9, 1.9))
    below = float(np.clip(_BELOW_PER_FOCAL * focal, *_BELOW))
    row = (
        HEIGHT - below + float(np.clip(rng.normal(0, 6), -14, 14)) + focal * np.tan(pitch) * rng.uniform(0, 1)
    )
    centre = (208.0 + float(np.clip(rng.normal(0, 8), -20, 20)), float(np.clip(row, 30, 90)))
    return Rig(
        float(focal),
        centre,
        float(baseline),
        height + _shaking(n_frames, 0.02, rng),
        pitch + _shaking(n_frames, np.deg2rad(0.4), rng),
        roll + _shaking(n_frames, np.deg2rad(0.25), rng),
    )


def _shaking(n_frames: int, most: float, rng: np.random.Generator) -> np.ndarray:
    """Two oscillations of 0.4 to 2.5 Hz, ``most`` in all at the most."""
    time_s = np.arange(n_frames) / FPS
    found = np.zeros(n_frames)
    for _ in range(2):
        found += np.sin(2 * np.pi * (rng.uniform(0.4, 2.5) * time_s + rng.random())) * rng.uniform(
            0, most / 2
        )
    return found
