"""Pictures of other shapes keep their horizon, and those of KITTI the rows of the released code."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.network.config import FULL, TINY
from effcli.detect_stream.network.frame_fitting import (
    fit_of,
    fitted,
    fitted_depth,
    horizon_row,
    warn_if_horizon_is_off,
)


def camera(focal: float, cx: float, cy: float, baseline: float = 0.54) -> StereoCalibration:
    left = np.array([[focal, 0, cx, 0], [0, focal, cy, 0], [0, 0, 1, 0]], float)
    right = left.copy()
    right[0, 3] = -focal * baseline
    return StereoCalibration(left, right)


@pytest.mark.parametrize(
    ("size", "focal", "cy"),
    [
        ((375, 1242), 721.5377, 172.854),
        ((370, 1224), 707.0493, 180.5066),
        ((374, 1238), 718.3351, 181.5122),
        ((376, 1241), 718.856, 185.2157),
    ],
)
def test_kitti_keeps_its_bottom_rows(size: tuple[int, int], focal: float, cy: float) -> None:
    calibration = camera(focal, 600, cy)
    full, tiny = (fit_of(size, calibration, config) for config in (FULL, TINY))
    assert (full.top, full.height) == (size[0] - 320, 320)
    assert tiny.top == 0 and tiny.height == tiny.scaled[0]


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (960, 1280), (720, 1280), (1208, 1928)])
@pytest.mark.parametrize("moved", [-0.1, 0.0, 0.1])
def test_the_horizon_stays_in_the_picture(height: int, width: int, moved: float) -> None:
    """16:9, 4:3, and principal points that are not in the middle."""
    calibration = camera(0.6 * width, width / 2, (0.5 + moved) * height)
    fit = fit_of((height, width), calibration, TINY)
    row = fit.calibration.left[1, 2]
    wanted = horizon_row(fit.calibration.left[1, 1], TINY)
    assert fit.height == TINY.height and abs(row - wanted) <= 0.5
    assert 0.35 * TINY.height <= wanted <= 0.5 * TINY.height


def test_rows_pixels_and_depth_agree() -> None:
    """What a row shows is where its calibration says it is."""
    picture = np.broadcast_to(np.arange(312, dtype=np.uint16)[:, None, None] // 2, (312, 416, 3))
    depth = np.zeros((312, 416), np.float32)
    depth[150, 7] = 9.0
    depth[[0, 311]] = 5.0  # rows that are cut off
    fit = fit_of((312, 416), camera(240, 208, 156), TINY)
    rows = fitted(picture[None].astype(np.uint8), fit, TINY)[0, 0, :, 0]
    assert fit.calibration.left[1, 2] == 156 - fit.top
    assert rows.tolist() == [row // 2 for row in range(fit.top, fit.top + 128)]
    found = fitted_depth(depth, fit, TINY)
    assert found[150 - fit.top, 7] == 9.0 and int((found > 0).sum()) == 1


def test_a_horizon_that_was_cut_away_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_horizon_is_off(fit_of((375, 1242), camera(721.5, 609, 172.9), TINY), TINY)
        warn_if_horizon_is_off(fit_of((1080, 1920), camera(1100, 960, 540), TINY), TINY)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_if_horizon_is_off(fit_of((128, 416), camera(240, 208, -10), TINY), TINY)
    assert "the horizon, by the calibration, is at row -10" in caplog.text
