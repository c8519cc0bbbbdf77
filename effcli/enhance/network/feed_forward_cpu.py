"""The compiled middle of the feed-forward network: two depthwise convolutions and their gates in one pass (numba).

Sixteen channels travel together; a pixel's nine neighbours are read once for both convolutions, and what they give is
gated before it leaves the registers. Arrays are [H, W, C], C a multiple of 16, of float32, or of bfloat16 as int16;
sums are float32.

This module imports numba; it is imported when the first picture is brightened on a CPU.
"""

# The kernel is typed by numba, from the signatures that it is compiled for.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types

from effcli.nn.compiled.lane_functions import copysign_lanes, max_lanes, store_float_lanes
from effcli.nn.compiled.lanes import LANES, exp2_lanes, load_float_lanes, load_lanes, spread_lanes
from effcli.nn.compiled.numba_threads import compile_cached, in_shares

_LOG2E = math.log2(math.e)
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_ERF_AT = 0.3275911 * math.sqrt(0.5)


@numba.njit
def _tail(x, t):
    """Twice the upper tail of the normal distribution at |x|, with t = 1 / (1 + 0.2316 |x|).

    Abramowitz and Stegun, 7.1.26: absolute error below 1.5e-7.
    """
    series = t * (_ERF[0] + t * (_ERF[1] + t * (_ERF[2] + t * (_ERF[3] + t * _ERF[4]))))
    return series * exp2_lanes(x * x * (-0.5 * _LOG2E))


@numba.njit
def _gated(p, q):
    """gelu(q) p + gelu(p) q = p q (F(p) + F(q)), F the normal distribution's function."""
    nil = spread_lanes(np.float32(0.0))
    from_p, from_q = max_lanes(p, nil - p) * _ERF_AT + 1.0, max_lanes(q, nil - q) * _ERF_AT + 1.0
    inverse = 1.0 / (from_p * from_q)
    erf_p = copysign_lanes(1.0 - _tail(p, from_q * inverse), p)
    erf_q = copysign_lanes(1.0 - _tail(q, from_p * inverse), q)
    return p * q * (1.0 + (erf_p + erf_q) * 0.5)


@numba.njit
def _column(a, rows, inside, x, k):
    """A pixel and those above and below it, zeros where the map has ended."""
    above, here, below = rows
    over, within, under = inside
    return (
        load_float_lanes(a, (above, x, k)) * over,
        load_float_lanes(a, (here, x, k)) * within,
        load_float_lanes(a, (below, x, k)) * under,
    )


@numba.njit
def _convolved(total, taps, first, k, left, middle, right):
    for i in range(3):
        at = first + 3 * i
        total = total + left[i] * load_lanes(taps, (at, k))
        total = total + middle[i] * load_lanes(taps, (at + 1, k))
        total = total + right[i] * load_lanes(taps, (at + 2, k))
    return total


def _gate_rows(first, last, a, taps, bias, out):
    """Rows of a map; taps are nine of p, then nine of q, [18, C]."""
    height, width, channels = a.shape
    one, nil = np.float32(1.0), np.float32(0.0)
    for y in range(first, last):
        rows = max(y - 1, 0), y, min(y + 1, height - 1)
        inside = one if y > 0 else nil, one, one if y < height - 1 else nil
        for k in range(0, channels, LANES):
            shift = load_lanes(bias, (k,))
            left, middle = _column(a, rows, (nil, nil, nil), 0, k), _column(a, rows, inside, 0, k)
            for x in range(width):
                if x + 1 == width:
                    inside = nil, nil, nil
                right = _column(a, rows, inside, min(x + 1, width - 1), k)
                p = _convolved(shift, taps, 0, k, left, middle, right)
                q = _convolved(shift * nil, taps, 9, k, left, middle, right)
                store_float_lanes(out, (y, x, k), _gated(p, q))
                left, middle = middle, right
            inside = one if y > 0 else nil, one, one if y < height - 1 else nil


@cache
def _compiled(dtype: str) -> Callable[..., None]:
    maps = types.Array(getattr(types, dtype), 3, "C")
    taps, bias = types.Array(types.float32, 2, "C"), types.Array(types.float32, 1, "C")
    signature = types.void(types.intp, types.intp, maps, taps, bias, maps)
    return compile_cached(_gate_rows, signature, parallel=False)


def gate(a: np.ndarray, taps: np.ndarray, bias: np.ndarray, out: np.ndarray, n_threads: int) -> None:
    """gelu(q) p + gelu(p) q with p = conv3x3(a) + bias and q = conv3x3(a), depthwise, zeros around the map.

    Args:
        a: [H, W, C], float32 or bfloat16 as int16.
        taps: of p, then of q, row by row, float32 [18, C].
        bias: float32 [C].
        out: the result, as ``a``.
        n_threads: at most; the result does not depend on it.
    """
    kernel = _compiled(str(a.dtype))
    in_shares(a.shape[0], n_threads, lambda first, last: kernel(first, last, a, taps, bias, out))
