"""ATSS against a loop over objects (Zhang et al., algorithm 1)."""

from __future__ import annotations

import statistics

import pytest
import torch

from effcli.continual.egor.detectors.assignment import assign, pairwise_iou
from effcli.continual.egor.detectors.detector import Targets


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_assign(
    centres: list[list[float]], sides: list[float], levels: list[int], boxes: list[list[float]]
) -> list[int]:
    anchors = [[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for (x, y), s in zip(centres, sides, strict=True)]
    best: list[tuple[float, int]] = [(-1.0, -1)] * len(anchors)
    for number, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates, first = [], 0
        for n in levels:
            places = range(first, first + n)
            far = {i: (centres[i][0] - middle[0]) ** 2 + (centres[i][1] - middle[1]) ** 2 for i in places}
            candidates += sorted(places, key=far.__getitem__)[:9]
            first += n
        overlaps = [iou(anchors[i], box) for i in candidates]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for i, overlap in zip(candidates, overlaps, strict=True):
            x, y = centres[i]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap >= threshold and inside and overlap > best[i][0]:
                best[i] = (overlap, number)
    return [number for _, number in best]


@pytest.mark.parametrize("seed", range(6))
def test_against_a_loop(seed: int) -> None:
    torch.manual_seed(seed)
    centres: list[list[float]] = []
    sides, levels = [], []
    for stride in (8, 16, 32):
        n = 128 // stride
        centres += [[x * stride, y * stride] for y in range(n) for x in range(n)]
        sides += [4.0 * stride] * n**2
        levels.append(n**2)
    corners = torch.rand(2, 5, 2) * 90
    boxes = torch.cat([corners, corners + 5 + torch.rand(2, 5, 2) * 60], -1)  # no two distances alike
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    found = assign(
        torch.tensor(centres).float(),
        torch.tensor(sides),
        levels,
        Targets(boxes, torch.zeros(2, 5, dtype=torch.long), valid),
    )
    for row, n in ((0, 5), (1, 2)):
        expected = slow_assign(centres, sides, levels, boxes[row, :n].tolist())
        assert found[row].tolist() == expected
        assert max(expected) >= 0


def test_iou_of_pairs() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [2, 2, 3, 3]])
    b = torch.tensor([[2.0, 0, 6, 4], [9, 9, 9, 9]])
    assert pairwise_iou(a, b).tolist() == [[pytest.approx(1 / 3), 0], [pytest.approx(1 / 16), 0]]
