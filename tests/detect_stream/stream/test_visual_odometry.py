"""Visual odometry: its operators against slow or closed forms, and poses against those of drives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.network.ego_motion import bev_motion
from effcli.detect_stream.stream.stereo_points import Camera, corners, disparities, sampled, smoothed
from effcli.detect_stream.stream.visual_odometry import (
    VisualOdometry,
    alignment_jacobian,
    planar_motion,
    rotation,
)
from effcli.detect_stream.training.posed_sequences import PosedByPictures


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise, 0..255."""
    noise = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (1, 1, height // 3, width // 3)))
    large = F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
    return large[0, 0].clamp(0, 255).float().numpy()


def pair(drive: Drive, i: int) -> tuple[Tensor, Tensor]:
    frame = drive.frame(i)
    left, right = (
        torch.from_numpy(np.ascontiguousarray(one.transpose(2, 0, 1))) for one in (frame.left, frame.right)
    )
    return left, right


def followed(
    drive: Drive, numbers: Sequence[int], odometry: VisualOdometry | None = None
) -> list[np.ndarray]:
    odometry = odometry or VisualOdometry(drive.calibration, (128, 416), drive.fps)
    return [odometry.track(*pair(drive, i), i) for i in numbers]


def test_sampling_is_bilinear() -> None:
    picture = texture(20, 30)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 27.9, (5, 7)), rng.uniform(1, 17.9, (5, 7))
    grid = torch.from_numpy(np.stack([2 * x / 29 - 1, 2 * y / 19 - 1], -1))[None].float()
    expected = F.grid_sample(torch.from_numpy(picture)[None, None], grid, align_corners=True)[0, 0]
    found, inside = sampled(picture, x, y)
    assert inside.all()
    np.testing.assert_allclose(found, expected.numpy(), atol=0.02)
    assert not sampled(picture, np.array([-3.0, 29.5]), np.array([5.0, 5.0]))[1].any()


def test_disparities_are_found_between_pixels() -> None:
    left = texture(64, 200)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(80, 180, 9), np.arange(12, 52, 8)))
    for shift in (3.0, 10.3, 25.75):
        columns = np.broadcast_to(np.arange(200) + shift, left.shape).clip(1, 197)
        right = sampled(left, columns, np.broadcast_to(np.arange(64)[:, None], left.shape).clip(1, 61))[0]
        found, is_clear = disparities(smoothed(left), smoothed(right.astype(np.float32)), x, y)
        assert is_clear.mean() > 0.8
        assert np.abs(found[is_clear] - shift).mean() < 0.12


def test_corners_are_where_texture_is() -> None:
    picture = np.full((64, 96), 100, np.float32)
    picture[30:40, 40:52] = 200
    x, y = corners(smoothed(picture))
    assert len(x)
    near_x, near_y = (np.minimum(abs(v - a), abs(v - b)) for v, a, b in ((x, 40, 52), (y, 30, 40)))
    assert (near_x <= 3).all() and (near_y <= 3).all()
    assert len(corners(np.full((64, 96), 100, np.float32))[0]) == 0


def test_the_jacobian_is_the_derivative() -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform((-4, -1, 5), (4, 1.5, 30), (40, 3))
    slope_x, slope_y = rng.normal(size=40), rng.normal(size=40)
    camera = Camera(240.0, (208.0, 60.0), 128.0)

    def brightness(step: np.ndarray) -> np.ndarray:  # of a picture that is a plane around each place
        moved = places @ rotation(step[3:]).T + step[:3]
        return camera.focal * (slope_x * moved[:, 0] + slope_y * moved[:, 1]) / moved[:, 2]

    numeric = [(brightness(h) - brightness(-h)) / 2e-6 for h in np.eye(6) * 1e-6]
    found = alignment_jacobian(places, slope_x, slope_y, camera.focal)
    np.testing.assert_allclose(found, np.stack(numeric, 1), rtol=1e-5, atol=1e-4)


def test_a_planar_motion_is_that_of_poses() -> None:
    drive = Drive(3, 4, "turn")
    relative = np.linalg.inv(drive.pose(2)) @ drive.pose(1)
    back = np.linalg.inv(planar_motion(1.5, 0.02))
    assert bev_motion(np.eye(4), back) == pytest.approx([0.02, -1.5, -0.03], abs=1e-3)
    turn = np.arctan2(np.linalg.inv(relative)[0, 2], np.linalg.inv(relative)[2, 2])
    assert planar_motion(0, turn)[:3, :3] == pytest.approx(relative[:3, :3], abs=1e-9)


@pytest.mark.parametrize("preset", ["fast-ego", "turn", "crowded", "static"])
def test_poses_of_drives(preset: str) -> None:
    drive = Drive(910, 7, preset)  # type: ignore[arg-type]
    poses = followed(drive, range(7))
    for i in range(1, 7):
        found, true = bev_motion(poses[i - 1], poses[i]), bev_motion(drive.pose(i - 1), drive.pose(i))
        assert abs(found[0] - true[0]) < 0.0015
        assert np.abs(found[1:] - true[1:]).max() < (0.01 if preset == "static" else 0.08)


def test_frames_may_be_left_out_and_the_exposure_may_change() -> None:
    drive = Drive(911, 8, "turn")
    odometry = VisualOdometry(drive.calibration, (128, 416), drive.fps)
    poses = {}
    for i in (0, 1, 3, 6, 7):
        left, right = pair(drive, i)
        if i >= 3:
            left, right = (one.clamp(0, 235) + 12 for one in (left, right))
        poses[i] = odometry.track(left, right, i)
    for a, b in ((0, 1), (1, 3), (3, 6), (6, 7)):
        found, true = bev_motion(poses[a], poses[b]), bev_motion(drive.pose(a), drive.pose(b))
        assert abs(found[0] - true[0]) < 0.003
        assert np.abs(found[1:] - true[1:]).max() < 0.12


def test_large_pictures_are_made_smaller() -> None:
    drive = Drive(912, 3, "street")
    large = VisualOdometry(drive.calibration.scaled(3), (384, 1248), drive.fps)
    small = followed(drive, range(3))
    for i in range(3):
        left, right = (one.repeat_interleave(3, 1).repeat_interleave(3, 2) for one in pair(drive, i))
        found = large.track(left, right, i)
        np.testing.assert_allclose(found, small[i], atol=1e-3)


def test_what_is_not_recognised_moves_on_as_before() -> None:
    drive, other = Drive(913, 6, "fast-ego"), Drive(950, 6, "crowded")
    odometry = VisualOdometry(drive.calibration, (128, 416), drive.fps)
    first, second = followed(drive, range(2), odometry)
    cut = odometry.track(*pair(other, 2), 2)
    before, after = bev_motion(first, second), bev_motion(second, cut)
    assert before[1] < -1
    assert after == pytest.approx(before, abs=0.02)
    black = torch.zeros(3, 128, 416, dtype=torch.uint8)
    assert np.isfinite(odometry.track(black, black, 3)).all()
    poses = followed(other, range(4, 6), odometry)  # found again
    true = bev_motion(other.pose(4), other.pose(5))
    assert bev_motion(*poses) == pytest.approx(true, abs=0.05)


def test_a_sequence_without_poses_gets_them() -> None:
    drive = Drive(914, 4, "street")
    posed = PosedByPictures(drive, TINY)
    assert (posed.name, len(posed), posed.has_labels) == (drive.name, 4, True)
    np.testing.assert_allclose(posed.pose(3), followed(drive, range(4))[3])
