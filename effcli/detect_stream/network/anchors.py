"""Anchors, which object each of them is to find, and the code of a box relative to an anchor.

See docs/methods/streamdsgn.md, Anchors and box code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from effcli.detect_stream.network.config import CLASSES, NetworkConfig

SIZES = ((3.9, 1.6, 1.56), (0.8, 0.6, 1.73), (1.76, 0.6, 1.73))
BOTTOMS_M = (-1.78, -0.6, -0.6)
POSITIVE_IOU, NEGATIVE_IOU = (0.6, 0.5, 0.5), (0.45, 0.35, 0.35)
ROTATIONS = (0.0, 1.57)
PER_CELL = len(CLASSES) * len(ROTATIONS)
CODE_SIZE = 7
GROUND_M = -1.65
"""Where feet and wheels are, below the cameras; the released bottoms of the two thin classes are one metre higher."""

_DIRECTION_OFFSET = 0.78539


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # what is kept serves trainings, too
def anchors_of(config: NetworkConfig) -> Tensor:
    """All anchors, row by row, class by class and rotation by rotation: ``[Y * X * 6, 7]``."""
    _, n_y, n_x = config.grid.cells
    x, y = (_places(*axis, n, config.compat) for axis, n in ((config.grid.x, n_x), (config.grid.y, n_y)))
    found = torch.zeros(n_y, n_x, len(CLASSES), len(ROTATIONS), CODE_SIZE)
    found[..., 0], found[..., 1] = x[None, :, None, None], y[:, None, None, None]
    sizes = torch.tensor(SIZES)
    bottoms = torch.tensor(BOTTOMS_M if config.compat else (GROUND_M,) * len(CLASSES))
    found[..., 2] = (bottoms + sizes[:, 2] / 2)[:, None]
    found[..., 3:6] = sizes[:, None]
    found[..., 6] = torch.tensor(ROTATIONS)
    return found.reshape(-1, CODE_SIZE)


def _places(low: float, high: float, n: int, from_edge_to_edge: bool) -> Tensor:
    if from_edge_to_edge:
        return torch.linspace(low, high, n)
    return low + (high - low) * (torch.arange(n) + 0.5) / n


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes relative to anchors, ``[..., 7]``."""
    diagonal = anchors[..., 3:5].norm(dim=-1)
    return torch.stack(
        [
            (boxes[..., 0] - anchors[..., 0]) / diagonal,
            (boxes[..., 1] - anchors[..., 1]) / diagonal,
            (boxes[..., 2] - anchors[..., 2]) / anchors[..., 5],
            *(boxes[..., 3:6] / anchors[..., 3:6]).log().unbind(-1),
            boxes[..., 6] - anchors[..., 6],
        ],
        -1,
    )


def decode(code: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of :func:`encode`; sizes are kept within e^±3 of the anchor's."""
    diagonal = anchors[..., 3:5].norm(dim=-1)
    return torch.stack(
        [
            code[..., 0] * diagonal + anchors[..., 0],
            code[..., 1] * diagonal + anchors[..., 1],
            code[..., 2] * anchors[..., 5] + anchors[..., 2],
            *(code[..., 3:6].clamp(-3, 3).exp() * anchors[..., 3:6]).unbind(-1),
            code[..., 6] + anchors[..., 6],
        ],
        -1,
    )


def direction_bin(theta: Tensor) -> Tensor:
    """Which half turn a direction is in: 0 or 1."""
    return ((theta - _DIRECTION_OFFSET) % (2 * math.pi) / math.pi).floor().long().clamp(0, 1)


def with_direction(theta: Tensor, bins: Tensor) -> Tensor:
    """A direction known up to half turns, in the half turn of its bin."""
    return (theta - _DIRECTION_OFFSET) % math.pi + _DIRECTION_OFFSET + math.pi * bins


@dataclass(frozen=True)
class Assignment:
    """What the anchors of one frame are to find.

    Attributes:
        classes: number of the class, -1 for nothing, -2 for anchors that do not count, ``[A]``.
        objects: number of the object, 0 where there is none, ``[A]``.
    """

    classes: Tensor
    objects: Tensor


def assign(anchors: Tensor, boxes: Tensor, labels: Tensor) -> Assignment:
    """Give objects to anchors of their class by overlap in bird's-eye view, headings snapped to quarter turns.

    An anchor is positive above its class's upper threshold or if no other overlaps an object more, negative below the
    lower one, and else does not count.

    Args:
        anchors: as of :func:`anchors_of`.
        boxes: ``[G, 7]``.
        labels: numbers of their classes, ``[G]``.
    """
    shaped = anchors.reshape(-1, len(CLASSES), len(ROTATIONS), CODE_SIZE)
    classes = torch.full(shaped.shape[:3], -1, device=anchors.device)
    objects = torch.zeros_like(classes)
    for number in range(len(CLASSES)):
        own = (labels == number).nonzero()[:, 0]
        if not len(own):
            continue
        flat = shaped[:, number].reshape(-1, CODE_SIZE)
        overlaps = _aligned_iou(flat, boxes[own])
        best, which = overlaps.max(1)
        found = torch.full_like(which, -1)
        found[(best >= NEGATIVE_IOU[number]) & (best < POSITIVE_IOU[number])] = -2
        found[best >= POSITIVE_IOU[number]] = number
        most = overlaps.max(0).values
        forced_rows, forced = ((overlaps == most) & (most > 0)).nonzero(as_tuple=True)
        found[forced_rows], which[forced_rows] = number, forced
        classes[:, number] = found.reshape(-1, len(ROTATIONS))
        objects[:, number] = own[which].reshape(-1, len(ROTATIONS))
    return Assignment(classes.reshape(-1), objects.reshape(-1))


def _aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    one, other = _aligned(a), _aligned(b)
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (one, other)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp(min=1e-6)


def _aligned(boxes: Tensor) -> Tensor:
    """Left, bottom, right, top in bird's-eye view, of boxes turned to the nearest quarter turn."""
    quarter = (boxes[:, 6] % math.pi - math.pi / 2).abs() < math.pi / 4
    size = torch.where(quarter[:, None], boxes[:, [4, 3]], boxes[:, [3, 4]])
    return torch.cat([boxes[:, :2] - size / 2, boxes[:, :2] + size / 2], 1)
