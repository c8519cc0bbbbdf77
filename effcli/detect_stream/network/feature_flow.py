"""Feature-flow fusion (FFF): how the bird's-eye-view map moved, and where it will be next.

See docs/methods/streamdsgn.md, Feature-flow fusion.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.image_network import conv_bn

POOL = 2
_STILL_BONUS = 1e-4


def shift_similarities(now: Tensor, before: Tensor, reach: int) -> Tensor:
    """Cosine of each cell of ``now`` with the cell of ``before`` from which each shift would have brought it.

    Args:
        now, before: ``[B, C, H, W]``; beyond the edges is zero.
        reach: farthest shift.

    Returns:
        ``[B, (2 reach + 1)^2, H, W]``.
    """
    height, width = now.shape[2:]
    a, b = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-6) for x in (now, before))
    padded = F.pad(b, (reach,) * 4)
    found = []
    steps = range(-reach, reach + 1)
    for down, right in itertools.product(steps, steps):  # row by row
        top, left = reach - down, reach - right
        found.append((a * padded[:, :, top : top + height, left : left + width]).sum(1))
    return torch.stack(found, 1)


@torch.no_grad()
def feature_flow(now: Tensor, before: Tensor, reach: int, *, first_wins: bool = False) -> Tensor:
    """How far each cell moved since ``before``; without gradient.

    Args:
        now, before: maps ``[B, C, H, W]``.
        reach: farthest shift, in pooled cells.
        first_wins: among equal similarities the first shift wins, not the zero shift.

    Returns:
        Cells to the right and down, ``[B, 2, H, W]``.
    """
    pooled, pooled_before = (_pooled(x).float().contiguous() for x in (now, before))
    similarities = shift_similarities(pooled, pooled_before, reach)
    n_shifts = similarities.shape[1]
    certain = similarities.softmax(1).max(1).values > 1 / (0.8 * n_shifts)
    if not first_wins:
        similarities[:, n_shifts // 2] += _STILL_BONUS
    best = similarities.argmax(1)
    best = torch.where(certain, best, torch.full_like(best, n_shifts // 2))
    n_steps = 2 * reach + 1
    flow = torch.stack([best % n_steps - reach, best // n_steps - reach], 1).to(torch.float32)
    return POOL * F.interpolate(flow, scale_factor=float(POOL), mode="bilinear", align_corners=False)


def _pooled(x: Tensor) -> Tensor:
    """The largest of two by two cells; on CPUs an order of magnitude faster than ``max_pool2d``."""
    rows = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def warp(x: Tensor, flow: Tensor, *, drifting: bool = False) -> Tensor:
    """A map moved by a flow: each cell takes what is at its place minus the flow; 0 from outside.

    Args:
        x: ``[B, C, H, W]``.
        flow: cells to the right and down, ``[B, 2, H, W]``.
        drifting: zero flow moves the map by up to half a cell at its edges, as in the released code.
    """
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device, dtype=flow.dtype)
    columns = torch.arange(width, device=x.device, dtype=flow.dtype)
    at_x, at_y = columns - flow[:, 0], rows[:, None] - flow[:, 1]
    grid = torch.stack([2 * at_x / max(width - 1, 1) - 1, 2 * at_y / max(height - 1, 1) - 1], -1)
    aligned = not drifting
    moved = F.grid_sample(x, grid.to(x.dtype), align_corners=aligned)
    inside = F.grid_sample(torch.ones_like(flow[:, :1]), grid, align_corners=aligned)
    return moved * (inside >= (1.0 if drifting else 0.999)).to(x.dtype)


class FlowFusion(nn.Module):
    """The maps of the last and this moment, and one of the next that continues the motion, side by side."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.narrow = conv_bn(channels, config.fusion_channels, 1)

    def forward(self, now: Tensor, before: Tensor, flow: Tensor) -> Tensor:
        """One map of two.

        Args:
            now: of this frame, ``[B, C, H, W]``.
            before: of the frame before.
            flow: motion from this frame to the next, cells to the right and down, ``[B, 2, H, W]``.
        """
        after = warp(now, flow, drifting=self.config.compat)
        parts = [F.relu(self.narrow(x)) for x in (before, now, after)]
        return torch.cat(parts, 1) + now


class ConcatFusion(nn.Module):
    """The maps of the last and this moment side by side, without any motion: what FFF is compared with."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.before = conv_bn(channels, channels // 2, 1)
        self.now = conv_bn(channels, channels - channels // 2, 1)

    def forward(self, now: Tensor, before: Tensor, flow: Tensor) -> Tensor:
        """As of :class:`FlowFusion`; the flow is not used."""
        return torch.cat([F.relu(self.before(before)), F.relu(self.now(now))], 1) + now
