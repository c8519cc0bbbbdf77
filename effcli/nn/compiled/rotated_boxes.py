"""The compiled loop behind :func:`effcli.nn.rotated_boxes.rotated_nms`. This module imports numba."""

# The kernels are typed by numba, from the signature that they are compiled for.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math

import numba
import numpy as np

_MOST_CORNERS = 8


@numba.njit(nogil=True)
def _clipped(corners, n, axis, sign, limit, out):
    """Cut a convex polygon at ``sign * corner[axis] <= limit``; returns how many corners are left in ``out``."""
    kept = 0
    for i in range(n):
        j = (i + 1) % n
        a, b = limit - sign * corners[i, axis], limit - sign * corners[j, axis]
        if a >= 0:
            out[kept] = corners[i]
            kept += 1
        if (a > 0) != (b > 0) and a != b and min(a, b) < 0:
            out[kept] = corners[i] + a / (a - b) * (corners[j] - corners[i])
            kept += 1
    return kept


@numba.njit(nogil=True)
def _shared_area(p, q, corners, spare):
    """Area that two boxes share seen from above: the corners of ``p`` in the frame of ``q``, cut at its four sides."""
    cos, sin = math.cos(q[6]), math.sin(q[6])
    x, y = p[0] - q[0], p[1] - q[1]
    middle_x, middle_y = cos * x + sin * y, cos * y - sin * x
    cos, sin = math.cos(p[6] - q[6]), math.sin(p[6] - q[6])
    for i in range(4):
        along = p[3] / 2 if i in (0, 3) else -p[3] / 2
        across = p[4] / 2 if i < 2 else -p[4] / 2
        corners[i, 0] = middle_x + along * cos - across * sin
        corners[i, 1] = middle_y + along * sin + across * cos
    n = _clipped(corners, 4, 0, 1.0, q[3] / 2, spare)
    n = _clipped(spare, n, 0, -1.0, q[3] / 2, corners)
    n = _clipped(corners, n, 1, 1.0, q[4] / 2, spare)
    n = _clipped(spare, n, 1, -1.0, q[4] / 2, corners)
    area = 0.0
    for i in range(n):
        j = (i + 1) % n
        area += corners[i, 0] * corners[j, 1] - corners[i, 1] * corners[j, 0]
    return abs(area) / 2


def suppress(boxes, threshold, alive):
    """Greedy non-maximum suppression.

    Args:
        boxes: best first, ``[N, 7]``.
        threshold: boxes that overlap a kept one by more go.
        alive: result, all true at first, ``[N]``.
    """
    corners, spare = np.empty((2 * _MOST_CORNERS, 2)), np.empty((2 * _MOST_CORNERS, 2))
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        p = boxes[i]
        reach = math.hypot(p[3], p[4]) / 2
        for j in range(i + 1, len(boxes)):
            q = boxes[j]
            if not alive[j] or math.hypot(p[0] - q[0], p[1] - q[1]) > reach + math.hypot(q[3], q[4]) / 2:
                continue
            shared = _shared_area(p, q, corners, spare)
            if shared > threshold * (p[3] * p[4] + q[3] * q[4] - shared):
                alive[j] = False
