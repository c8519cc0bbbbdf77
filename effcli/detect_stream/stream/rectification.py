"""Whether a pair is rectified: whether the same points are in the same rows."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.frame_fitting import FrameFit, fitted_pair

log = logging.getLogger(__name__)

_ROWS = 4
_BLOCK = 16
_LEAST_TEXTURE = 4.0
_MOST_ROWS_OFF = 1.0
_LEAST_SHARE = 0.75


def row_offset(left: Tensor, right: Tensor, n_disparities: int = 64) -> float:
    """How many rows the right picture is lower than the left one, by the best match of textured blocks.

    Args:
        left, right: uint8 ``[3, H, W]``, of the network's size.
        n_disparities: columns that are searched.

    Returns:
        The offset of the half of the picture where it is larger; 0 for pictures without texture.
    """
    a, b = (x.float().mean(0)[None, None] for x in (left, right))
    best: Tensor | None = None
    rows: Tensor | None = None
    for offset in range(-_ROWS, _ROWS + 1):
        moved = b.roll(-offset, 2)
        costs = [
            F.avg_pool2d((a[..., d:] - moved[..., : a.shape[3] - d]).abs(), _BLOCK)
            for d in range(0, n_disparities, 2)
        ]
        width = costs[-1].shape[3]
        cost = torch.stack([one[..., -width:] for one in costs]).amin(0)
        if best is None or rows is None:
            best, rows = cost, torch.full_like(cost, offset)
        else:
            better = cost < best
            best, rows = torch.where(better, cost, best), torch.where(better, float(offset), rows)
    assert rows is not None
    deviation = (F.avg_pool2d(a**2, _BLOCK) - F.avg_pool2d(a, _BLOCK) ** 2).clamp(min=0).sqrt()
    textured = deviation[..., -rows.shape[3] :] > _LEAST_TEXTURE
    halves = zip(rows.chunk(2, 3), textured.chunk(2, 3), strict=True)
    offsets = [float(half[mask].median()) for half, mask in halves if mask.sum() >= 4]
    return max(offsets, key=abs, default=0.0)


def warn_if_size_is_odd(size: tuple[int, int], config: NetworkConfig) -> None:
    """Log a hint if pictures of a height and width are much smaller than the network's, or upright."""
    height, width = size
    if width < _LEAST_SHARE * config.width:
        log.warning(
            "the pictures are %dx%d, the network sees %dx%d: in small pictures only near objects are found",
            *(width, height, config.width, config.height),
        )
    elif height > width:
        log.warning(
            "the pictures are %dx%d, upright: of %d rows the network sees %d; are they rotated by 90 degrees?",
            *(width, height, height, round(config.height * max(1.0, width / config.width))),
        )


def warn_if_not_rectified(frame: StereoFrame, fit: FrameFit, config: NetworkConfig) -> None:
    """Log a warning if the right picture of a frame is more than a row off, in the network's pixels."""
    offset = row_offset(*fitted_pair(frame, fit, config))
    if abs(offset) > _MOST_ROWS_OFF:
        rows = offset * frame.left.shape[0] / fit.scaled[0]
        log.warning(
            "left and right do not look rectified: the same points are about %.0f rows apart; distances will be wrong",
            abs(rows),
        )
