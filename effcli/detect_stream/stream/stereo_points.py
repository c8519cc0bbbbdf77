"""Corners of a picture whose distance is known from the other eye: what visual odometry holds on to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PATTERN = np.array([(0, 0), (-2, 0), (2, 0), (0, -2), (0, 2), (-1, -1), (1, 1), (1, -1), (-1, 1)], np.float32)
"""Pixels of a point that are compared, x and y around it (as in Direct Sparse Odometry, Engel et al. 2018)."""

CELL = 16
N_DISPARITIES = 64

_BORDER = 8
_LEAST_CORNER = 20.0
_HALF_BLOCK = 3
_LEAST_DISPARITY = 2
_MOST_COST = 12.0
_UNIQUE = 0.7


@dataclass(frozen=True)
class Camera:
    """The left camera of a rectified pair.

    Attributes:
        focal: pixels.
        centre: principal point, x and y, pixels.
        focal_baseline: disparity times depth, pixels times metres.
    """

    focal: float
    centre: tuple[float, float]
    focal_baseline: float


@dataclass(frozen=True)
class StereoPoints:
    """Corners of a frame.

    Attributes:
        places: of the pixels of :data:`PATTERN` around each, all as far as the corner, in the camera frame, metres,
            float32 ``[N, K, 3]``.
        brightness: of these pixels, float32 ``[N, K]``.
    """

    places: np.ndarray
    brightness: np.ndarray


def smoothed(picture: np.ndarray) -> np.ndarray:
    """Float32 ``[H, W]`` filtered with 1, 2, 1 in both directions."""
    padded = np.pad(picture, 1, mode="edge")
    across = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    both: np.ndarray = (across[:-2] + 2 * across[1:-1] + across[2:]) / 4
    return both


def gradients(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along x and y, by central differences; 0 at the border."""
    along_x, along_y = np.zeros_like(picture), np.zeros_like(picture)
    along_x[:, 1:-1] = (picture[:, 2:] - picture[:, :-2]) / 2
    along_y[1:-1] = (picture[2:] - picture[:-2]) / 2
    return along_x, along_y


def sampled(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear values of a picture at places of any one shape, and which of them are inside it."""
    height, width = picture.shape
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    inside = (column >= 1) & (row >= 1) & (column < width - 2) & (row < height - 2)
    first = np.where(inside, row * width + column, 0)
    right, down = np.where(inside, x - column, 0), np.where(inside, y - row, 0)
    flat = picture.reshape(-1)
    upper = flat[first] + right * (flat[first + 1] - flat[first])
    lower = flat[first + width] + right * (flat[first + width + 1] - flat[first + width])
    return upper + down * (lower - upper), inside


def stereo_points(left: np.ndarray, right: np.ndarray, camera: Camera) -> StereoPoints:
    """The corners of a pair, of which the same place is found in both.

    Args:
        left, right: float32 ``[H, W]``, 0..255, smoothed.
        camera: the left one.
    """
    x, y = corners(left)
    disparity, is_clear = disparities(left, right, x, y)
    x, y, depth = x[is_clear], y[is_clear], camera.focal_baseline / disparity[is_clear]
    across, down = x[:, None] + PATTERN[:, 0], y[:, None] + PATTERN[:, 1]
    rays = [(across - camera.centre[0]) / camera.focal, (down - camera.centre[1]) / camera.focal]
    places = np.stack([*rays, np.ones_like(across)], -1) * depth[:, None, None]
    return StereoPoints(places.astype(np.float32), sampled(left, across, down)[0])


def corners(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the strongest corner of each cell of the picture that has one.

    Strong is what has texture in all directions (Shi and Tomasi 1994), and most of all along rows, where it is matched.
    """
    along_x, along_y = gradients(picture)
    xx, xy, yy = (_box(a * b) for a, b in ((along_x, along_x), (along_x, along_y), (along_y, along_y)))
    least = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    strength = np.minimum(4 * least, xx)
    inner = np.zeros_like(strength, bool)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    strength = np.where(inner, strength, 0)
    n_rows, n_columns = picture.shape[0] // CELL, picture.shape[1] // CELL
    cells = strength[: n_rows * CELL, : n_columns * CELL].reshape(n_rows, CELL, n_columns, CELL)
    flat = cells.transpose(0, 2, 1, 3).reshape(-1, CELL * CELL)
    best = flat.argmax(1)
    row, column = np.divmod(np.arange(len(flat)), n_columns)
    keep = flat.max(1) > _LEAST_CORNER
    return (column * CELL + best % CELL)[keep], (row * CELL + best // CELL)[keep]


def _box(values: np.ndarray, radius: int = 2) -> np.ndarray:
    """Means over squares around each place; 0 at the border."""
    size = 2 * radius + 1
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    squares = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return np.pad(squares, radius) / size**2


def disparities(
    left: np.ndarray, right: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels farther left each corner is in the right picture, and whether that is clear.

    The least mean absolute difference of blocks without their means, with a parabola between whole pixels. It is clear
    where no other place is nearly as good.
    """
    half, width = _HALF_BLOCK, left.shape[1]
    down, across = np.mgrid[-half : half + 1, -half : half + 1]
    block = (y[:, None] + down.ravel()) * width + x[:, None] + across.ravel()
    shifts = np.arange(N_DISPARITIES)
    inside = x[:, None] - shifts >= half
    there = np.where(inside[..., None], block[:, None] - shifts[:, None], 0)
    wanted, found = left.reshape(-1)[block], right.reshape(-1)[there]
    wanted = wanted - wanted.mean(1, keepdims=True)
    found = found - found.mean(2, keepdims=True)
    cost = np.where(inside, np.abs(wanted[:, None] - found).mean(2), np.inf)
    best = cost.argmin(1).clip(1, N_DISPARITIES - 2)
    rows = np.arange(len(x))
    before, here, after = (cost[rows, best + step] for step in (-1, 0, 1))
    elsewhere = np.where(np.abs(shifts - best[:, None]) > 2, cost, np.inf).min(1, initial=np.inf)
    is_clear = (here < _UNIQUE * elsewhere) & (here < _MOST_COST) & (best >= _LEAST_DISPARITY)
    is_clear &= np.isfinite(before) & np.isfinite(after)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (before - after) / (2 * (before + after - 2 * here))
    return best + np.nan_to_num(between).clip(-0.5, 0.5), is_clear
