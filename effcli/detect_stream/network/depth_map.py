"""The depth of the left picture, from the volume and the depth head that training uses.

See docs/methods/streamdsgn.md, Depth loss and Depth maps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.frame_fitting import FrameFit
from effcli.detect_stream.network.space_volume import frustum_cells
from effcli.detect_stream.network.streamdsgn import DepthHead, StreamDsgn

_ENLARGED = 4
"""The loss enlarges the logits so many times along the planes, with both ends aligned (``depth_loss``)."""

LEAST_SHARE = 0.5
"""Least probability of the likeliest plane and its neighbours; a pixel with less has no depth."""

_NEVER = -1e4


def has_learned_depth(network: StreamDsgn) -> bool:
    """Whether its depth head was ever trained: the first batch norm's shift is 0 until it has had a gradient."""
    head = network.depth_head
    shift = None if head is None else getattr(head.first.norm, "bias", None)
    return shift is not None and bool(shift.any())


def likeliest_depth(logits: Tensor, config: NetworkConfig) -> Tensor:
    """The depth of each pixel: the mean of what lies within a plane's distance of the likeliest plane.

    So an edge between near and far is not blurred into what is between them, as the mean over all planes would be.
    Between planes logits are linear, as in the loss.

    Args:
        logits: of pixels and planes, ``[H, W, K]``.
        config: of the network.

    Returns:
        Metres ``[H, W]``, 0 where the likeliest plane and its neighbours have together less than :data:`LEAST_SHARE`.
    """
    top, best = logits.max(2, keepdim=True)
    apart = logits - top
    around = F.pad(apart, (1, 1), value=_NEVER).gather(2, best + torch.arange(3, device=best.device))
    share = around.exp().sum(2) / apart.exp().sum(2)
    offsets, depths = (table.to(logits.device)[best[..., 0]] for table in _bins_around(config))
    before, after = around[..., :1] * (-offsets).clamp(min=0), around[..., 2:] * offsets.clamp(min=0)
    weights = (before + after).exp() * (offsets.abs() < 1)
    found: Tensor = (weights * depths).sum(2) / weights.sum(2) * (share >= LEAST_SHARE)
    return found


@lru_cache(maxsize=4)
def _bins_around(config: NetworkConfig) -> tuple[Tensor, Tensor]:
    """The bins next to each plane: how many planes farther they are, and their depths, metres, both ``[K, 9]``."""
    n_planes = config.n_planes
    n_bins = _ENLARGED * n_planes
    planes = torch.arange(n_planes)[:, None]
    bins = (planes * (n_bins - 1) / (n_planes - 1)).round() + torch.arange(-_ENLARGED, _ENLARGED + 1)
    depths = config.depth[0] + (config.depth[1] - config.depth[0]) / n_bins * (bins + 0.5)
    offsets = bins * (n_planes - 1) / (n_bins - 1) - planes
    offsets[(bins < 0) | (bins >= n_bins)] = n_planes
    return offsets, depths


class DepthView:
    """Depth maps of one camera pair.

    Args:
        fit: how its pictures become those of the network.
        size: height and width of its pictures.
        config: of the network.
        device: where the network is.
    """

    def __init__(
        self, fit: FrameFit, size: tuple[int, int], config: NetworkConfig, device: torch.device
    ) -> None:
        self.fit, self.size, self.config = fit, size, config
        projection = fit.matrices()[:1].to(device)
        self._cells = frustum_cells(config, projection, torch.eye(3, device=device)[None])
        self._pixels = _fitted_pixels(fit, size)

    def logits(self, head: DepthHead, volume: Tensor) -> Tensor:
        """Logits of the planes ``[1, K, h, w]`` from the volume ``[1, Z, C, Y, X]``."""
        found: Tensor = head(self._cells.sample(volume))
        return found

    def depth(self, logits: Tensor) -> np.ndarray:
        """The depth of every pixel of the picture, metres, float32 ``[H, W]``.

        It is 0, unknown, where the network did not see the picture, where it is not sure enough, and where what it
        found is outside its volume.
        """
        fitted = self._fitted_depth(logits[0].float())
        rows, columns, seen = self._pixels
        whole: np.ndarray = fitted.cpu().numpy()[rows[:, None], columns]
        whole[~seen] = 0
        return whole

    def _fitted_depth(self, logits: Tensor) -> Tensor:
        """Of the pixels that the network sees, ``[height, width]``."""
        config, fit = self.config, self.fit
        size = (config.height, config.width)
        planes = F.interpolate(logits[None], size, mode="bilinear", align_corners=True)
        depth = likeliest_depth(planes[0, :, : fit.height, : fit.width].permute(1, 2, 0), config)
        return depth * _in_volume(depth, fit, config)


def _in_volume(depth: Tensor, fit: FrameFit, config: NetworkConfig) -> Tensor:
    """Whether pixels with these depths ``[height, width]`` are inside the network's volume."""
    p, grid = fit.calibration.left, config.grid
    scale = depth + float(p[2, 3])
    u = torch.arange(depth.shape[1], device=depth.device)
    v = torch.arange(depth.shape[0], device=depth.device)[:, None]
    x = (u * scale - float(p[0, 3]) - float(p[0, 2]) * depth) / float(p[0, 0])
    y = (v * scale - float(p[1, 3]) - float(p[1, 2]) * depth) / float(p[1, 1])
    inside = [
        (low <= axis) & (axis <= high) for axis, (low, high) in ((depth, grid.x), (-x, grid.y), (-y, grid.z))
    ]
    return inside[0] & inside[1] & inside[2]


def _fitted_pixels(fit: FrameFit, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the rows ``[H]`` and columns ``[W]`` of a picture those of the network, and the rows that it sees.

    The same pixels as of :func:`~effcli.detect_stream.network.frame_fitting.fitted_depth`.
    """
    places = [
        np.minimum((np.arange(n) + 0.5) * scaled / n, scaled - 1).astype(int)
        for n, scaled in zip(size, fit.scaled, strict=True)
    ]
    rows = places[0] - fit.top
    seen = (rows >= 0) & (rows < fit.height)
    return np.clip(rows, 0, fit.height - 1), np.clip(places[1], 0, fit.width - 1), seen
