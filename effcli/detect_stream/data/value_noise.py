"""The noise that compiled renderers look textures up in. Imports numba."""

# The kernels are typed by numba, from the signatures of those that call them.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math

import numba

HELPER = numba.njit(nogil=True, fastmath=True, error_model="numpy")
"""Of a function that compiled kernels call."""


@HELPER
def noise(table, x, y):
    """Value noise in -1..1 of a periodic table whose sides are powers of two, bilinear."""
    last = table.shape[0] - 1
    fx, fy = math.floor(x), math.floor(y)
    ix, iy = int(fx) & last, int(fy) & last
    jx, jy = (ix + 1) & last, (iy + 1) & last
    u, v = x - fx, y - fy
    top = table[iy, ix] * (1 - u) + table[iy, jx] * u
    low = table[jy, ix] * (1 - u) + table[jy, jx] * u
    return top * (1 - v) + low * v
