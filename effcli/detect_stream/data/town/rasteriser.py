"""A compiled rasteriser with a depth buffer: which triangle each sample sees, and how near it is.

Triangles are cut at the near plane; leaves and fences have holes. This module imports numba; it is imported when the
first picture is drawn.
"""

# The kernels are typed by numba, from the signature in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import types

from effcli.detect_stream.data.value_noise import HELPER, noise
from effcli.nn.compiled.numba_threads import compile_cached

SOLID, LEAVES, BARS = 0, 1, 2
_NEAR_M = 0.15


@HELPER
def _is_hole(kind, a, b, c, table):
    if kind == BARS:
        along = a * 6.0 - math.floor(a * 6.0)
        rail = abs(b - 0.25) < 0.05 or abs(b - 0.75) < 0.05
        return along > 0.55 and not rail
    fine = noise(table, a * 9.0 + c * 3.1, b * 9.0 - c * 2.3) + noise(
        table, c * 9.0 + 31.0, b * 9.0 + a * 2.7
    )
    coarse = noise(table, a * 2.6 + 7.0 + c * 1.3, b * 2.6 - c)
    return fine + 1.1 * coarse < -0.35


@HELPER
def _fill(x, y, q, w, local, number, owner, kind, table, nearness, winner, stamp, covered):
    """One triangle: places x and y, nearness q, weights w and local coordinates of its corners."""
    height, width = nearness.shape
    x0, y0 = x[0], y[0]
    ax, ay, bx, by = x[1] - x0, y[1] - y0, x[2] - x0, y[2] - y0
    area = ax * by - bx * ay
    if abs(area) < 1e-9:
        return
    low, high = min(y0, y[1], y[2]), max(y0, y[1], y[2])
    left, right = min(x0, x[1], x[2]), max(x0, x[1], x[2])
    if right < 0 or left > width - 1 or high < 0 or low > height - 1:
        return
    step1, step2 = by / area, -ay / area
    step0 = -(step1 + step2)
    counts = stamp.shape[0] == height
    for i in range(max(0, math.ceil(low)), min(height - 1, math.floor(high)) + 1):
        v = i - y0
        at1, at2 = (-x0 * by - bx * v) / area, (ax * v + x0 * ay) / area
        at0 = 1.0 - at1 - at2
        first, last = max(0.0, left), min(width - 1.0, right)
        for at, step in ((at0, step0), (at1, step1), (at2, step2)):
            if step > 1e-14:
                first = max(first, -at / step)
            elif step < -1e-14:
                last = min(last, -at / step)
            elif at < 0:
                last = -1.0
        start, slope = at0 * q[0] + at1 * q[1] + at2 * q[2], step0 * q[0] + step1 * q[1] + step2 * q[2]
        for j in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1):
            near = start + slope * j
            if not counts and near <= nearness[i, j]:
                continue
            if kind != SOLID:
                l1, l2 = at1 + step1 * j, at2 + step2 * j
                m0, m1, m2 = (1.0 - l1 - l2) * w[0], l1 * w[1], l2 * w[2]
                m = 1.0 / (m0 + m1 + m2)
                a = (m0 * local[0, 0] + m1 * local[1, 0] + m2 * local[2, 0]) * m
                b = (m0 * local[0, 1] + m1 * local[1, 1] + m2 * local[2, 1]) * m
                c = (m0 * local[0, 2] + m1 * local[1, 2] + m2 * local[2, 2]) * m
                if _is_hole(kind, a, b, c, table):
                    continue
            if counts and stamp[i, j] != owner:
                stamp[i, j] = owner
                covered[owner] += 1
            if near > nearness[i, j]:
                nearness[i, j] = near
                winner[i, j] = number


@HELPER
def _cut(corners, local, poly, poly_local):
    """Cut a triangle at the near plane; the number of corners that it has then."""
    n = 0
    for k in range(3):
        m = (k + 1) % 3
        z, z_next = corners[k, 2], corners[m, 2]
        if z >= _NEAR_M:
            poly[n] = corners[k]
            poly_local[n] = local[k]
            n += 1
        if (z >= _NEAR_M) != (z_next >= _NEAR_M):
            share = (_NEAR_M - z) / (z_next - z)
            poly[n] = corners[k] + share * (corners[m] - corners[k])
            poly[n, 2] = _NEAR_M
            poly_local[n] = local[k] + share * (local[m] - local[k])
            n += 1
    return n


def _raster(triangles, local, owners, kinds, lens, table, nearness, winner, stamp, covered):
    """Draw triangles ``[T, 3, 3]`` in camera coordinates; ``lens`` is f, cx, cy, or f = 0 for parallel rays."""
    x, y, q, w = np.empty(3), np.empty(3), np.empty(3), np.ones(3)
    poly, poly_local, part = np.empty((4, 3)), np.empty((4, 3)), np.empty((3, 3))
    f, cx, cy = lens[0], lens[1], lens[2]
    for t in range(triangles.shape[0]):
        if f == 0.0:
            for k in range(3):
                x[k], y[k], q[k] = triangles[t, k, 0], triangles[t, k, 1], triangles[t, k, 2]
            _fill(x, y, q, w, local[t], t, owners[t], kinds[t], table, nearness, winner, stamp, covered)
            continue
        n = _cut(triangles[t], local[t], poly, poly_local)
        for k in range(1, n - 1):
            for slot in range(3):
                corner = 0 if slot == 0 else k + slot - 1
                q[slot] = 1.0 / poly[corner, 2]
                w[slot] = q[slot]
                x[slot] = f * poly[corner, 0] * q[slot] + cx
                y[slot] = f * poly[corner, 1] * q[slot] + cy
                part[slot] = poly_local[corner]
            _fill(x, y, q, w, part, t, owners[t], kinds[t], table, nearness, winner, stamp, covered)


@cache
def _compiled() -> Callable[..., None]:
    deep, flat = types.float64[:, :, ::1], types.float64[::1]
    numbers, map32 = types.int32[::1], types.float32[:, ::1]
    signature = types.void(
        deep, deep, numbers, numbers, flat, map32, map32, types.int32[:, ::1], types.int32[:, ::1],
        types.int64[::1],
    )  # fmt: skip
    return compile_cached(_raster, signature, parallel=False)


@dataclass(frozen=True)
class Raster:
    """What samples see.

    Attributes:
        nearness: one over the depth in metres, 0 for nothing, float32 ``[H, W]``.
        winner: number of the triangle, -1 for none, int32 ``[H, W]``.
        covered: pixels that each owner would cover alone, ``[B]``; empty where they were not counted.
    """

    nearness: np.ndarray
    winner: np.ndarray
    covered: np.ndarray


def rasterise(
    triangles: np.ndarray,
    local: np.ndarray,
    owners: np.ndarray,
    kinds: np.ndarray,
    lens: tuple[float, float, float],
    table: np.ndarray,
    size: tuple[int, int],
    *,
    n_owners: int = 0,
    farthest: float = 0.0,
) -> Raster:
    """Draw triangles.

    Args:
        triangles: in camera coordinates, ``[T, 3, 3]``; with parallel rays columns, rows and nearness.
        local: the same corners in coordinates of their own thing, ``[T, 3, 3]``.
        owners: number of their thing, int32 ``[T]``, those of one thing together.
        kinds: ``SOLID``, ``LEAVES`` or ``BARS``, int32 ``[T]``.
        lens: focal length and principal point, pixels; focal length 0 for parallel rays.
        table: noise, float32 ``[n, n]``.
        size: height and width.
        n_owners: how many things there are, if pixels are to be counted.
        farthest: the nearness of nothing.
    """
    stamp = np.full(size if n_owners else (0, 0), -1, np.int32)
    found = Raster(
        np.full(size, farthest, np.float32), np.full(size, -1, np.int32), np.zeros(n_owners, np.int64)
    )
    _compiled()(
        triangles, local, owners, kinds, np.array(lens, float), table,
        found.nearness, found.winner, stamp, found.covered,
    )  # fmt: skip
    return found
