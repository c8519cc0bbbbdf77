"""The plane sweep: left features beside right ones shifted by each depth's disparity.

See docs/methods/streamdsgn.md, Cost volume.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.image_network import ROW_STEP
from effcli.nn.weighted_rows import WeightedRows, samples


def plane_depths(config: NetworkConfig) -> np.ndarray:
    """Depths of the planes, the middles of equal steps, metres ``[K]``."""
    depths: np.ndarray = config.depth[0] + config.depth_step * (np.arange(config.n_planes) + 0.5)
    return depths


def window_starts(disparities: np.ndarray, n_channels: int, window: int) -> np.ndarray:
    """First channel that each plane sees: near planes low channels, far planes high ones, ``[K]``.

    The disparities, to the power of 0.1, decide how far the window moves on from plane to plane.
    """
    n_planes, span = len(disparities), n_channels - window
    if not span:
        return np.zeros(n_planes, int)
    points = span + 1
    at = np.linspace(0, n_planes - 1, points)
    u = np.interp(at, np.arange(n_planes), disparities) ** 0.1
    u = points * u / (u.max() - u.min())
    u -= u.min()
    starts = span - np.clip(np.floor(u), 0, span)
    chosen = np.floor(np.arange(n_planes) / max(1, n_planes - 1) * points * (1 - 1e-6)).astype(int)
    found: np.ndarray = starts[np.clip(chosen, 0, span)].astype(int)
    return found


def channels_of_planes(config: NetworkConfig) -> np.ndarray:
    """The channels that each plane sees, at the place at which it sees them, ``[K, C']``.

    Windows follow from ratios of the disparities, so they are the same for all cameras.
    """
    assert config.window is not None
    starts = window_starts(1 / plane_depths(config), config.stereo_channels, config.window)[:, None]
    found: np.ndarray = starts + (np.arange(config.window) - starts) % config.window
    return found


@lru_cache(maxsize=16)
def _starts(config: NetworkConfig, focal_baseline: float) -> tuple[int, ...]:
    """First channel that each plane sees."""
    assert config.window is not None
    starts = window_starts(focal_baseline / plane_depths(config), config.stereo_channels, config.window)
    return tuple(starts.tolist())


def cost_volume(left: Tensor, right: Tensor, focal_baseline: Tensor, config: NetworkConfig) -> Tensor:
    """Left and shifted right features on every plane.

    Args:
        left: at every fourth row and column of the picture, ``[B, C, h, w]``.
        right: at every fourth row and every column, ``[B, C, h, 4 w]``.
        focal_baseline: focal length times distance of the cameras, pixels metres, ``[B]``.

    Returns:
        ``[B, K, 2 C', h, w]`` with C' the window, or C without one; right features that are not in the picture are 0.
    """
    if config.window is None:
        return _whole(left, right, focal_baseline, config)
    found = [_windowed(left[i], right[i], float(focal_baseline[i]), config) for i in range(len(left))]
    return torch.stack(found).permute(0, 1, 4, 2, 3)


def matched_planes(
    left: Tensor,
    right: Tensor,
    focal_baseline: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    config: NetworkConfig,
) -> Tensor:
    """A 1x1x1 convolution of the plain volume that is never made, on CPUs.

    The convolution is a sum of one of the left features, which are the same on every plane, and one of the right ones,
    which may as well be convolved before they are moved. So a value is a weighted sum of three rows of a table.

    Args:
        left: as of :func:`cost_volume`.
        right: likewise.
        focal_baseline: likewise.
        weight: ``[C', 2 C, 1, 1, 1]``.
        bias: ``[C']``.
        config: without a window.

    Returns:
        ``[B, K, C', h, w]``; channels lie together in memory.
    """
    channels, height, width = left.shape[1:]
    still = F.conv2d(left, weight[:, :channels, :, :, 0], bias)
    moving = F.conv2d(right, weight[:, channels:, :, :, 0])
    tables = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in (moving, still)], 1)
    chosen = [_matches(float(one), right.shape[3], height, width, config) for one in focal_baseline]
    found: Tensor = samples(tables, chosen).unflatten(1, (config.n_planes, height, width))
    return found.permute(0, 1, 4, 2, 3)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept serves trainings, too
def _matches(
    focal_baseline: float, n_columns: int, height: int, width: int, config: NetworkConfig
) -> WeightedRows:
    """Of every value of the planes: the two right features between which it lies, and the left one behind them."""
    low, high, share, inside = _places(focal_baseline, n_columns, width, config)
    row = torch.arange(height)[:, None]
    right = [(row * n_columns + columns[:, None]) for columns in (low, high)]
    left = (height * n_columns + row * width + torch.arange(width)).expand_as(right[0])
    weights = [(part[:, None]).expand(right[0].shape) for part in ((1 - share) * inside, share * inside)]
    return WeightedRows(
        torch.stack([*right, left], -1).flatten(0, 2),
        torch.stack([*weights, torch.ones(right[0].shape)], -1).flatten(0, 2),
    )


def _whole(left: Tensor, right: Tensor, focal_baseline: Tensor, config: NetworkConfig) -> Tensor:
    """Each plane sees all channels: one product with the matrices that shift and interpolate the rows."""
    n, channels, height, width = left.shape
    rows = right.flatten(1, 2)  # [B, C h, 4 w]
    shift = torch.stack([_shift_matrix(float(one), right.shape[3], width, config) for one in focal_baseline])
    swept = torch.bmm(rows, shift.to(rows)).reshape(n, channels, height, config.n_planes, width)
    still = left[:, None].expand(n, config.n_planes, channels, height, width)
    return torch.cat([still, swept.permute(0, 3, 1, 2, 4).to(left.dtype)], 2)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept serves trainings, too
def _shift_matrix(focal_baseline: float, n_columns: int, width: int, config: NetworkConfig) -> Tensor:
    """From the columns of the right features to the places of all planes, ``[4 w, K w]``."""
    low, high, share, inside = _places(focal_baseline, n_columns, width, config)
    matrix = torch.zeros(n_columns, len(low) * width)
    target = torch.arange(matrix.shape[1])
    matrix[low.flatten(), target] += ((1 - share) * inside).flatten()
    matrix[high.flatten(), target] += (share * inside).flatten()
    return matrix


def _places(
    focal_baseline: float, n_columns: int, width: int, config: NetworkConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two columns between which each place is on each plane, the share of the second, and whether it is there.

    All ``[K, w]``.
    """
    shifts = torch.from_numpy(focal_baseline / plane_depths(config)).float()
    at = ROW_STEP * torch.arange(width)[None] - shifts[:, None]
    inside = (at >= 0) & (at <= n_columns - 1)
    first = at.floor().clamp(0, n_columns - 1)
    low = first.long()
    return low, (low + 1).clamp(max=n_columns - 1), (at - first) * inside, inside.float()


def _windowed(left: Tensor, right: Tensor, focal_baseline: float, config: NetworkConfig) -> Tensor:
    """Each plane sees a window of the channels (DPS), channel c at place c modulo the window: ``[K, h, w, 2 C']``."""
    assert config.window is not None
    places = _places(focal_baseline, right.shape[2], left.shape[2], config)
    low, high = (part.to(right.device) for part in places[:2])
    share, inside = (part.to(right)[..., None] for part in places[2:])
    left, right = (x.permute(1, 2, 0).contiguous() for x in (left, right))  # a place's channels lie together
    planes = []
    for k, start in enumerate(_starts(config, focal_baseline)):
        turn = config.window - start % config.window
        seen = slice(start, start + config.window)
        first, second = (right[:, :, seen].index_select(1, columns[k]) for columns in (low, high))
        swept = torch.lerp(first, second, share[k]) * inside[k]
        still = left[:, :, seen]
        parts = (still[..., turn:], still[..., :turn], swept[..., turn:], swept[..., :turn])
        planes.append(torch.cat(parts, -1))
    return torch.stack(planes)
