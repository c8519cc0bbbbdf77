"""The cameras' own motion on the map seen from above: beyond the paper, which leaves it in what it calls motion."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.detect_stream.config import NetworkConfig


def bev_motion(before: np.ndarray, now: np.ndarray) -> tuple[float, np.ndarray]:
    """How still things move on the ground between two poses of the camera.

    Args:
        before, now: 4x4 matrices from the rectified camera frame to a fixed world.

    Returns:
        A turn in radians and a shift along X and Y in metres: a place p of the frame before is now at R p + shift.
    """
    relative = np.linalg.inv(now) @ before
    # camera (x right, z forward) to ground (X forward, Y left)
    turn = float(np.arctan2(-relative[0, 2], relative[2, 2]))
    return turn, np.array([relative[2, 3], -relative[0, 3]])


def moved_map(bev: Tensor, turn: float, shift: np.ndarray, config: NetworkConfig) -> Tensor:
    """A map ``[1, C, Y, X]`` of the frame before on the ground of this one."""
    x, y = _places(config)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    dx, dy = x - float(shift[0]), y - float(shift[1])
    grid = _normal(cos * dx + sin * dy, cos * dy - sin * dx, config).to(bev)
    return F.grid_sample(bev, grid[None], align_corners=False)


def ego_flow(turn: float, shift: np.ndarray, config: NetworkConfig) -> Tensor:
    """What one such motion does to each cell, cells to the right (X) and down (Y), ``[1, 2, Y, X]``."""
    x, y = _places(config)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    # the flow is read where things arrive
    dx, dy = x - float(shift[0]), y - float(shift[1])
    cell_x, cell_y = config.cell
    from_x, from_y = cos * dx + sin * dy, cos * dy - sin * dx
    return torch.stack([(x - from_x) / cell_x, (y - from_y) / cell_y])[None]


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
