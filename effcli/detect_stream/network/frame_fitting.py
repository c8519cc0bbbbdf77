"""Pictures as the network takes them: scaled to its width, cut to the rows around the horizon, padded.

See docs/methods/streamdsgn.md, Input images and Deviations without a switch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.network.config import NetworkConfig

log = logging.getLogger(__name__)

BELOW_PER_FOCAL = 0.28
"""Rows below the horizon over the focal length: what KITTI's pictures have, 202 of 721."""

BELOW = (0.5, 0.65)
"""Least and largest share of the network's rows that lie below the horizon."""

_MOST_OFF = 0.25
"""Share of the network's rows by which the horizon may be off before a warning."""


@dataclass(frozen=True)
class FrameFit:
    """How pictures of one size become those of the network.

    Attributes:
        scaled: height and width after scaling.
        top: rows cut off above; those beyond the network's height are cut off below.
        height, width: of what is picture in the end, at the upper left.
        calibration: of these pictures.
    """

    scaled: tuple[int, int]
    top: int
    height: int
    width: int
    calibration: StereoCalibration

    def matrices(self) -> Tensor:
        """Projections of the left and the right camera, float32 ``[2, 3, 4]``."""
        both = np.stack([self.calibration.left, self.calibration.right])
        return torch.from_numpy(both).float()


def fit_of(size: tuple[int, int], calibration: StereoCalibration, config: NetworkConfig) -> FrameFit:
    """The fit of pictures of a height and width: never enlarged, cut where they are too high.

    The rows that stay reach as far below the horizon, the row of the principal point, as KITTI's do, by angle.
    """
    factor = min(1.0, config.width / size[1])
    height, width = round(size[0] * factor), min(round(size[1] * factor), config.width)
    scaled = calibration if factor == 1 else calibration.scaled(factor)
    top = round(float(scaled.left[1, 2]) - horizon_row(float(scaled.left[1, 1]), config))
    top = min(max(0, top), max(0, height - config.height))
    return FrameFit((height, width), top, min(height, config.height), width, scaled.moved(0, top))


def horizon_row(focal_px: float, config: NetworkConfig) -> float:
    """Where the horizon should be, rows below the network's upper edge."""
    least, most = (share * config.height for share in BELOW)
    return config.height - min(max(BELOW_PER_FOCAL * focal_px, least), most)


def warn_of_horizons(sequences: Sequence[StereoSequence], config: NetworkConfig) -> None:
    """Log a warning, once for all sequences whose pictures and cameras are alike, where the horizon is off."""
    cameras = {id(one.calibration): one for one in sequences}
    fits = [fit_of(one.frame(0).size, one.calibration, config) for one in cameras.values()]
    rows = {(fit.height, fit.width, round(float(fit.calibration.left[1, 2]))): fit for fit in fits}
    for fit in rows.values():
        warn_if_horizon_is_off(fit, config)


def warn_if_horizon_is_off(fit: FrameFit, config: NetworkConfig) -> None:
    """Log a warning if the horizon is not where the network expects it, as in pictures that were cut before."""
    row = float(fit.calibration.left[1, 2])
    wanted = horizon_row(float(fit.calibration.left[1, 1]), config)
    if abs(row - wanted) > _MOST_OFF * config.height:
        log.warning(
            "the horizon, by the calibration, is at row %.0f of the %d that the network sees and should be near row "
            "%.0f; the pictures have no further rows, so expect fewer detections",
            row,
            fit.height,
            wanted,
        )


def fitted(pictures: np.ndarray, fit: FrameFit, config: NetworkConfig) -> Tensor:
    """Pictures uint8 ``[B, H, W, 3]`` as ``[B, 3, height, width]``."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    if tuple(x.shape[2:]) != fit.scaled:
        x = F.interpolate(x, fit.scaled, mode="bilinear", antialias=True)
    x = x[:, :, fit.top : fit.top + fit.height]
    return F.pad(x, (0, config.width - x.shape[3], 0, config.height - x.shape[2]))


def fitted_pair(frame: StereoFrame, fit: FrameFit, config: NetworkConfig) -> tuple[Tensor, Tensor]:
    """Left and right uint8 ``[3, height, width]``."""
    both = fitted(np.stack([frame.left, frame.right]), fit, config)
    return both[0], both[1]


def fitted_depth(depth: np.ndarray, fit: FrameFit, config: NetworkConfig) -> Tensor:
    """Depth ``[H, W]`` for the network's pixels: of those that fall together the nearest; 0 stays unknown."""
    rows, columns = np.nonzero(depth > 0)
    factor_y, factor_x = fit.scaled[0] / depth.shape[0], fit.scaled[1] / depth.shape[1]
    y = np.minimum((rows + 0.5) * factor_y, fit.scaled[0] - 1).astype(int) - fit.top
    x = np.minimum((columns + 0.5) * factor_x, fit.scaled[1] - 1).astype(int)
    values = depth[rows, columns].astype(np.float32)
    keep = (y >= 0) & (y < fit.height)
    flat = np.full(config.height * config.width, np.inf, np.float32)
    np.minimum.at(flat, (y * config.width + x)[keep], values[keep])
    flat[np.isinf(flat)] = 0
    return torch.from_numpy(flat.reshape(config.height, config.width))
