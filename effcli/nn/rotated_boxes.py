"""Overlap of upright boxes that are turned about the vertical axis, seen from above and in 3D; and their NMS.

A box is ``(X, Y, Z, l, w, h, theta)``: centre, length, width, height, angle of the length from X towards Y. All of it
is vectorised torch, differentiable almost everywhere, except for NMS on CPUs, which is a compiled loop. The overlap of
two rectangles is a convex polygon; its corners are among 24 candidates: the corners of each that lie in the other, and
the crossings of their edges.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

_EPS = 1e-6


def bev_corners(boxes: Tensor) -> Tensor:
    """Corners seen from above, counter-clockwise: ``[..., 7]`` to ``[..., 4, 2]``."""
    signs = boxes.new_tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    offsets = signs * boxes[..., None, 3:5] / 2
    cos, sin = boxes[..., 6:7].cos(), boxes[..., 6:7].sin()
    x = offsets[..., 0] * cos - offsets[..., 1] * sin
    y = offsets[..., 0] * sin + offsets[..., 1] * cos
    return torch.stack([x, y], -1) + boxes[..., None, :2]


def intersection_area(a: Tensor, b: Tensor) -> Tensor:
    """Area that two boxes share seen from above, pair by pair: ``[..., 7]`` twice, of the same or broadcast shape."""
    a, b = torch.broadcast_tensors(a, b)
    centre = b[..., :2].detach()
    a = torch.cat([a[..., :2] - centre, a[..., 2:]], -1)  # near the origin float32 is exact enough
    b = torch.cat([b[..., :2] - centre, b[..., 2:]], -1)
    pa, pb = bev_corners(a), bev_corners(b)
    crossings, crosses = _crossings(pa, pb)
    points = torch.cat([pa, pb, crossings], -2)
    valid = torch.cat([_inside(pa, b), _inside(pb, a), crosses], -1)
    return _polygon_area(points, valid)


def _inside(points: Tensor, box: Tensor) -> Tensor:
    """Whether points ``[..., 4, 2]`` are in a box ``[..., 7]``, its edge included."""
    delta = points - box[..., None, :2]
    cos, sin = box[..., 6:7].cos(), box[..., 6:7].sin()
    along = delta[..., 0] * cos + delta[..., 1] * sin
    across = delta[..., 1] * cos - delta[..., 0] * sin
    half = box[..., None, 3:5] / 2 + _EPS * (1 + box[..., None, 3:5])
    return (along.abs() <= half[..., 0]) & (across.abs() <= half[..., 1])


def _crossings(pa: Tensor, pb: Tensor) -> tuple[Tensor, Tensor]:
    """Where the edges of two rectangles cross: points ``[..., 16, 2]``, and whether they do ``[..., 16]``."""
    a0, b0 = pa[..., :, None, :], pb[..., None, :, :]
    a = _following(pa)[..., :, None, :] - a0
    b = _following(pb)[..., None, :, :] - b0
    start = b0 - a0
    denominator = _cross(a, b)
    parallel = denominator.abs() < 1e-9
    safe = torch.where(parallel, torch.ones_like(denominator), denominator)
    s, t = _cross(start, b) / safe, _cross(start, a) / safe
    valid = (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1) & ~parallel
    points = a0 + s[..., None] * a
    return points.flatten(-3, -2), valid.flatten(-2)


def _following(corners: Tensor) -> Tensor:
    """For each corner ``[..., N, 2]`` the next one; not by ``roll``, which no exporter does for unknown counts."""
    return torch.cat([corners[..., 1:, :], corners[..., :1, :]], -2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _polygon_area(points: Tensor, valid: Tensor) -> Tensor:
    """Area of the convex polygon of those of ``points`` ``[..., 24, 2]`` that are valid, by the shoelace formula."""
    count = valid.sum(-1, keepdim=True)
    weights = valid.to(points.dtype)[..., None]
    mean = (points.detach() * weights).sum(-2, keepdim=True) / count[..., None].clamp(min=1)
    centred = points - mean
    angles = torch.atan2(centred[..., 1], centred[..., 0]).detach()
    order = angles.masked_fill(~valid, 10.0).argsort(-1)
    ordered = centred.gather(-2, order[..., None].expand_as(centred))
    kept = valid.gather(-1, order)
    first = ordered[..., :1, :]
    ordered = torch.where(kept[..., None], ordered, first)  # what is left over adds edges without area
    area = _cross(ordered, _following(ordered)).sum(-1) / 2
    return torch.where(count[..., 0] >= 3, area.clamp(min=0), torch.zeros_like(area))


def bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union seen from above, pair by pair, in 0..1."""
    shared = intersection_area(a, b)
    union = a[..., 3] * a[..., 4] + b[..., 3] * b[..., 4] - shared
    return shared / union.clamp(min=_EPS)


def iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of volumes, pair by pair, in 0..1; differentiable in both."""
    shared = intersection_area(a, b) * _shared_height(a, b)
    union = a[..., 3:6].prod(-1) + b[..., 3:6].prod(-1) - shared
    return shared / union.clamp(min=_EPS)


def _shared_height(a: Tensor, b: Tensor) -> Tensor:
    top = torch.minimum(a[..., 2] + a[..., 5] / 2, b[..., 2] + b[..., 5] / 2)
    bottom = torch.maximum(a[..., 2] - a[..., 5] / 2, b[..., 2] - b[..., 5] / 2)
    return (top - bottom).clamp(min=0)


def near_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of those pairs of ``[N, 7]`` and ``[M, 7]`` that are near enough to overlap."""
    reach = (a[:, 3:5].norm(dim=1)[:, None] + b[:, 3:5].norm(dim=1)[None]) / 2
    distance = (a[:, None, :2] - b[None, :, :2]).norm(dim=2)
    rows, columns = (distance <= reach).nonzero(as_tuple=True)
    return rows, columns


def pairwise(measure: str, a: Tensor, b: Tensor) -> Tensor:
    """A matrix ``[N, M]`` of ``bev`` or ``3d`` intersection over union, or the ``shared`` share of ``a``'s area."""
    rows, columns = near_pairs(a, b)
    matrix = a.new_zeros(len(a), len(b))
    if len(rows):
        one, other = a[rows], b[columns]
        if measure == "shared":
            values = intersection_area(one, other) / (one[:, 3] * one[:, 4]).clamp(min=_EPS)
        else:
            values = (bev_iou if measure == "bev" else iou_3d)(one, other)
        matrix[rows, columns] = values
    return matrix


def rotated_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Numbers of the boxes that are kept, best first: none overlaps a better one by more than ``threshold`` (BEV).

    Args:
        boxes: ``[N, 7]``.
        scores: ``[N]``.
        threshold: intersection over union seen from above.
    """
    order = scores.argsort(descending=True, stable=True)
    if boxes.device.type == "cpu":
        kept = np.ones(len(order), bool)
        _suppress()(boxes[order].double().numpy(), threshold, kept)
        return order[torch.from_numpy(kept)]
    return order[kept_of_overlaps(pairwise("bev", boxes[order], boxes[order]) > threshold)]


def kept_of_overlaps(overlaps: Tensor) -> Tensor:
    """Which boxes are kept, best first, where ``overlaps`` ``[N, N]`` says which are too near each other."""
    overlapping = overlaps.cpu().numpy()
    alive = np.ones(len(overlapping), bool)
    for i in range(len(alive)):
        if alive[i]:
            alive[i + 1 :] &= ~overlapping[i, i + 1 :]
    return torch.from_numpy(alive).to(overlaps.device)


@cache
def _suppress() -> Callable[..., None]:
    from numba import types

    from effcli.nn.compiled.numba_threads import compile_cached
    from effcli.nn.compiled.rotated_boxes import suppress

    signature = types.void(types.float64[:, ::1], types.float64, types.boolean[::1])
    return compile_cached(suppress, signature, parallel=False)
