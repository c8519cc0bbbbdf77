"""The cameras' own motion on the bird's-eye-view map: beyond the paper, which leaves it in what it calls motion."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.network.config import NetworkConfig

EgoSetting: TypeAlias = bool | Literal["pictures"] | None
"""Use the cameras' own motion or not; ``pictures``: as seen in them, even where poses are known; None: as trained."""

EgoMotion: TypeAlias = Literal["unused", "poses", "pictures"]
"""Where the cameras' own motion is taken from."""


def ego_motion_of(setting: EgoSetting, is_trained: bool, first_pose: np.ndarray | None) -> EgoMotion:
    """What a setting means for a stream whose first pose is this, or unknown, and a detector trained with it or not."""
    if not (is_trained if setting is None else setting):
        return "unused"
    return "pictures" if setting == "pictures" or first_pose is None else "poses"


def bev_motion(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """How still things move on the ground between two poses of the camera.

    Args:
        before, now: 4x4 matrices from the rectified camera frame to a fixed world.

    Returns:
        A turn in radians and a shift along X and Y in metres, float32 ``[3]``: what was at p is now at R p + shift.
    """
    relative = np.linalg.inv(now) @ before
    # camera (x right, z forward) to ground (X forward, Y left)
    turn = np.arctan2(-relative[0, 2], relative[2, 2])
    return np.array([turn, relative[2, 3], -relative[0, 3]], np.float32)


def moved_map(bev: Tensor, motion: Tensor, config: NetworkConfig) -> Tensor:
    """Maps ``[B, C, Y, X]`` of the frame before on the ground of this one, after motions ``[B, 3]``."""
    from_x, from_y = _origins(motion, config)
    return F.grid_sample(bev, _normal(from_x, from_y, config).to(bev), align_corners=False)


def ego_flow(motion: Tensor, config: NetworkConfig) -> Tensor:
    """What motions ``[B, 3]`` do to each cell, cells to the right (X) and down (Y), ``[B, 2, Y, X]``."""
    from_x, from_y = _origins(motion, config)
    x, y = _places(config)
    cell_x, cell_y = config.cell
    return torch.stack([(x.to(from_x) - from_x) / cell_x, (y.to(from_y) - from_y) / cell_y], 1)


def _origins(motion: Tensor, config: NetworkConfig) -> tuple[Tensor, Tensor]:
    """Where what is in each cell was before, X and Y ``[B, Y, X]``."""
    x, y = (places.to(motion) for places in _places(config))
    turn, shift_x, shift_y = motion[:, :, None, None].unbind(1)
    dx, dy = x - shift_x, y - shift_y
    cos, sin = turn.cos(), turn.sin()
    return cos * dx + sin * dy, cos * dy - sin * dx


def _places(config: NetworkConfig) -> tuple[Tensor, Tensor]:
    """X and Y of all cells, ``[Y, X]`` each."""
    _, n_y, n_x = config.grid.cells
    cell_x, cell_y = config.cell
    x = config.grid.x[0] + cell_x * (torch.arange(n_x) + 0.5)
    y = config.grid.y[0] + cell_y * (torch.arange(n_y) + 0.5)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return columns, rows


def _normal(x: Tensor, y: Tensor, config: NetworkConfig) -> Tensor:
    (x0, x1), (y0, y1) = config.grid.x, config.grid.y
    return torch.stack([2 * (x - x0) / (x1 - x0) - 1, 2 * (y - y0) / (y1 - y0) - 1], -1)
