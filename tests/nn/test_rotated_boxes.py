"""Overlap of turned boxes: closed forms, a slow polygon clipper, gradients, non-maximum suppression."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from effcli.nn.rotated_boxes import (
    bev_corners,
    bev_iou,
    intersection_area,
    iou_3d,
    kept_of_overlaps,
    pairwise,
    rotated_nms,
)


def box(
    x: float, y: float, length: float, width: float, theta: float, z: float = 0.0, h: float = 1.0
) -> Tensor:
    return torch.tensor([x, y, z, length, width, h, theta], dtype=torch.float64)


def clipped_area(subject: list[tuple[float, float]], clip: list[tuple[float, float]]) -> float:
    """Sutherland and Hodgman, then the shoelace formula."""
    points = subject
    for i in range(4):
        (ax, ay), (bx, by) = clip[i], clip[(i + 1) % 4]
        side = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in points]
        kept = []
        for k, (x, y) in enumerate(points):
            nx, ny = points[(k + 1) % len(points)]
            s, t = side[k], side[(k + 1) % len(points)]
            if s >= 0:
                kept.append((x, y))
            if s * t < 0:
                kept.append((x + (nx - x) * s / (s - t), y + (ny - y) * s / (s - t)))
        points = kept
        if not points:
            return 0.0
    return abs(sum(x * points[(k + 1) % len(points)][1] - points[(k + 1) % len(points)][0] * y
                   for k, (x, y) in enumerate(points))) / 2  # fmt: skip


@pytest.mark.parametrize("quarter", [0.0, math.pi / 2])
def test_as_boxes_along_the_axes(quarter: float) -> None:
    a, b = box(0, 0, 4, 2, quarter), box(1, 0.5, 4, 2, quarter)
    shared = 3 * 1.5 if quarter == 0 else 1 * 3.5
    assert float(bev_iou(a, b)) == pytest.approx(shared / (16 - shared))


def test_a_square_and_itself_turned_by_an_eighth() -> None:
    assert float(bev_iou(box(0, 0, 1, 1, 0), box(0, 0, 1, 1, math.pi / 4))) == pytest.approx(0.7071, abs=1e-4)


def test_as_a_slow_clipper() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(300, 7, dtype=torch.float64), torch.rand(300, 7, dtype=torch.float64)
    for boxes in (a, b):
        boxes[:, :2] = boxes[:, :2] * 3 + 50
        boxes[:, 3:5] = boxes[:, 3:5] * 3 + 0.3
        boxes[:, 6] = boxes[:, 6] * 8 - 4
    found = intersection_area(a, b)
    for i in range(300):
        pa, pb = ([(float(x), float(y)) for x, y in bev_corners(one[i])] for one in (a, b))
        assert float(found[i]) == pytest.approx(clipped_area(pa, pb), abs=1e-6)


def test_equal_boxes_and_boxes_inside_others() -> None:
    torch.manual_seed(1)
    boxes = torch.rand(50, 7) * 4 + 0.5
    torch.testing.assert_close(iou_3d(boxes, boxes), torch.ones(50), rtol=0, atol=1e-4)
    small = boxes.clone()
    small[:, 3:6] *= 0.5
    torch.testing.assert_close(iou_3d(boxes, small), torch.full((50,), 0.125), rtol=0, atol=1e-4)


def test_the_gradient_is_that_of_differences() -> None:
    torch.manual_seed(2)
    a = torch.stack(
        [box(0.1, 0.2, 4, 1.7, 0.3, 0.1, 1.5), box(5.0, 1.0, 0.9, 0.6, 2.0, 0.0, 1.7)]
    ).requires_grad_()
    b = torch.stack([box(0.6, 0.0, 3.8, 1.6, 0.5, 0.0, 1.6), box(5.1, 1.1, 0.8, 0.6, 1.7, 0.1, 1.8)])
    (found,) = torch.autograd.grad(iou_3d(a, b).sum(), a)
    step = 1e-5
    for i in range(2):
        for k in range(7):
            up, down = a.detach().clone(), a.detach().clone()
            up[i, k] += step
            down[i, k] -= step
            slope = float((iou_3d(up, b) - iou_3d(down, b)).sum() / (2 * step))
            assert float(found[i, k]) == pytest.approx(slope, abs=1e-3)


def test_pairs_that_are_far_apart_are_zero() -> None:
    a, b = torch.stack([box(0, 0, 4, 2, 0), box(30, 0, 4, 2, 0)]), torch.stack([box(0, 0, 4, 2, 0)])
    torch.testing.assert_close(pairwise("bev", a, b), torch.tensor([[1.0], [0.0]], dtype=torch.float64))


@pytest.mark.parametrize("threshold", [0.05, 0.25, 0.6])
def test_the_compiled_nms_keeps_what_the_matrix_of_overlaps_keeps(threshold: float) -> None:
    generator = torch.Generator().manual_seed(1)
    n = 200
    boxes = torch.rand(n, 7, generator=generator, dtype=torch.float64)
    boxes[:, :2] *= 20
    boxes[:, 3] = 1 + 4 * boxes[:, 3]
    boxes[:, 4] = 0.5 + 2 * boxes[:, 4]
    boxes[:, 6] = (boxes[:, 6] - 0.5) * 7
    boxes[:20, 6] = boxes[20:40, 6] + torch.pi / 2  # parallel sides and equal boxes, too
    boxes[40:50] = boxes[50:60]
    scores = torch.rand(n, generator=generator)
    order = scores.argsort(descending=True)
    expected = order[kept_of_overlaps(pairwise("bev", boxes[order], boxes[order]) > threshold)]
    assert rotated_nms(boxes, scores, threshold).tolist() == expected.tolist()
    assert 10 < len(expected) < n


def test_nms_keeps_the_best_of_each_heap() -> None:
    boxes = torch.stack(
        [box(0, 0, 4, 2, 0), box(0.3, 0, 4, 2, 0.1), box(10, 0, 4, 2, 0), box(0.1, 0, 4, 2, 3.1)]
    )
    assert rotated_nms(boxes, torch.tensor([0.5, 0.9, 0.3, 0.8]), 0.25).tolist() == [1, 2]
    assert rotated_nms(boxes[:0], torch.zeros(0), 0.25).tolist() == []
