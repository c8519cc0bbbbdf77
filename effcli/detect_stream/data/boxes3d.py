"""Upright boxes on the ground: frames of reference, corners, and what a camera sees of them.

A box is ``(X, Y, Z, l, w, h, theta)`` in the *ground frame* of a camera: X forward, Y left, Z up, metres, the centre
of the box; theta is the angle of its length from X towards Y. The rectified camera frame of KITTI has x right, y down,
z forward; its labels name the centre of the bottom face and ``rotation_y``. The two differ by the order of the axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR_M = 0.1
"""Corners nearer to the camera than this are cut off before they are projected."""

_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))


def from_camera(xyz: np.ndarray, hwl: np.ndarray, rotation_y: np.ndarray) -> np.ndarray:
    """Boxes of KITTI's labels in the ground frame.

    Args:
        xyz: centres of bottom faces in the rectified camera frame, metres, ``[N, 3]``.
        hwl: heights, widths and lengths, metres, ``[N, 3]``.
        rotation_y: radians, ``[N]``; 0 looks along x.

    Returns:
        Boxes ``[N, 7]``.
    """
    height, width, length = hwl.T
    x, y, z = xyz.T
    return np.stack([z, -x, height / 2 - y, length, width, height, -(rotation_y + np.pi / 2)], 1)


def to_camera(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse of :func:`from_camera`; ``rotation_y`` is within -pi and pi."""
    forward, left, up, length, width, height, theta = boxes.T
    xyz = np.stack([-left, height / 2 - up, forward], 1)
    return xyz, np.stack([height, width, length], 1), wrap_angle(-theta - np.pi / 2)


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """The same direction in [-pi, pi)."""
    wrapped: np.ndarray = (angle + np.pi) % (2 * np.pi) - np.pi
    return wrapped


def corners(boxes: np.ndarray) -> np.ndarray:
    """The eight corners in the ground frame, bottom face first, each face in turn: ``[N, 8, 3]``."""
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    along, across = (boxes[:, None, 3:5] / 2 * signs[None]).transpose(2, 0, 1)
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x = boxes[:, 0:1] + along * cos - across * sin
    y = boxes[:, 1:2] + along * sin + across * cos
    half = boxes[:, 5:6] / 2
    faces = [np.stack([x, y, np.broadcast_to(boxes[:, 2:3] + z, x.shape)], 2) for z in (-half, half)]
    return np.concatenate(faces, 1)


def ground_to_camera(points: np.ndarray) -> np.ndarray:
    """Points ``[..., 3]`` of the ground frame in the rectified camera frame."""
    return np.stack([-points[..., 1], -points[..., 2], points[..., 0]], -1)


def project(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Pixels ``[..., 2]`` of points ``[..., 3]`` of the rectified camera frame, by a 3x4 matrix."""
    homogeneous = points @ projection[:, :3].T + projection[:, 3]
    pixels: np.ndarray = homogeneous[..., :2] / homogeneous[..., 2:]
    return pixels


def image_boxes(boxes: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """The smallest boxes around what a camera sees, not cut at the image: left, top, right, bottom, ``[N, 4]``.

    Edges that pass the camera's plane are cut there. A box behind the camera is NaN.
    """
    return image_boxes_of_corners(ground_to_camera(corners(boxes)), projection)


def image_boxes_of_corners(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """The same of any eight corners in the order of :func:`corners`, in the rectified camera frame, ``[N, 8, 3]``."""
    found = np.full((len(points), 4), np.nan)
    whole = (points[..., 2] >= NEAR_M).all(1)
    pixels = project(points[whole], projection)
    found[whole] = np.concatenate([pixels.min(1), pixels.max(1)], 1)
    for i in np.nonzero(~whole)[0]:
        found[i] = _image_box_cut(points[i], projection)
    return found


def _image_box_cut(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Of the part of a box ``[8, 3]`` that is in front of the camera."""
    visible = [points[points[:, 2] >= NEAR_M]]
    for a, b in _EDGES:
        near, far = sorted((points[a], points[b]), key=lambda point: float(point[2]))
        if near[2] < NEAR_M < far[2]:
            share = (NEAR_M - near[2]) / (far[2] - near[2])
            visible.append((near + share * (far - near))[None])
    seen = np.concatenate(visible)
    if not len(seen):
        return np.full(4, np.nan)
    pixels = project(seen, projection)
    return np.concatenate([pixels.min(0), pixels.max(0)])


def cut_to_image(image_boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes ``[N, 4]`` cut at the edges of an image; pixel centres are whole numbers."""
    cut: np.ndarray = np.clip(image_boxes, 0, [width - 1, height - 1, width - 1, height - 1])
    return cut


@dataclass(frozen=True)
class ImageView:
    """What a camera sees of boxes.

    Attributes:
        projection: 3x4 matrix.
        size: height and width of its pictures.
    """

    projection: np.ndarray
    size: tuple[int, int]

    def image_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """As :func:`image_boxes`, cut at the image ``[N, 4]``; zeros for what is behind the camera."""
        boxes_2d: np.ndarray = np.nan_to_num(cut_to_image(image_boxes(boxes, self.projection), *self.size))
        return boxes_2d
