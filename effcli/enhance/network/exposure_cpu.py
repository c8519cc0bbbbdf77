"""The compiled form of :func:`effcli.enhance.network.exposure_head.render`, with its blurs and the maps' spreading.

One pass over the picture, in tiles that stay in the cache with their blurred forms, 16 neighbouring pixels of a row at
a time. The arithmetic is that of `exposure_head.py`, function by function; results agree to rounding.

This module imports numba; it is imported when the first picture is rendered on a CPU. numba's cache on
disk looks at the content of this file alone, so a change of the constants that come from `exposure_head.py` must change
CONSTANTS_SHA256 here.
"""

# The kernels are typed by numba, from the signature that they are compiled for.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types

from effcli.enhance.network.exposure_head import (
    BLACK_SPREAD,
    BLUR_ROWS,
    FIRST_BLACK,
    FIRST_SCALE,
    LEAST,
    LEAST_SATURATION,
    MOST_BLACK,
    MOST_BY_CHANNEL,
    MOST_GAIN,
    MOST_SATURATION,
    MOST_TINT,
    N_MAPS,
    N_SCALES,
    SATURATION_KEPT_FROM,
    SHARPNESS,
)
from effcli.nn.compiled.lane_functions import log1m_lanes, max_lanes, min_lanes
from effcli.nn.compiled.lanes import LANES, exp2_lanes, load_lanes, log1p_lanes, spread_lanes, store_lanes
from effcli.nn.compiled.numba_threads import compile_cached, in_shares

CONSTANTS_SHA256 = "7d456c4cb2c0"
"""Of the constants of `exposure_head.py`, in the order of their import; its first digits."""
_LOG2E = math.log2(math.e)
_MOST_V = 1 - 1e-6
_LOW, _HIGH = SATURATION_KEPT_FROM

_ROWS, _COLUMNS = 64, 256
"""Of a tile."""
_MARGIN = 16
"""Columns of a buffer before those of its tile, and, of whole vectors, twice as many after them."""
_WIDE = _COLUMNS + 3 * _MARGIN
_HIGH_ROWS = _ROWS + 2 * BLUR_ROWS


@numba.njit
def _exp(x):
    return exp2_lanes(x * _LOG2E)


@numba.njit
def _sigmoid(x):
    return 1.0 / (exp2_lanes(x * -_LOG2E) + 1.0)


@numba.njit
def _tanh(x):
    return 1.0 - 2.0 / (exp2_lanes(x * (2 * _LOG2E)) + 1.0)


@numba.njit
def _softplus(x):
    positive = _at_least(x, 0.0)
    return positive + log1p_lanes(exp2_lanes((positive + positive - x) * -_LOG2E))


@numba.njit
def _at_least(x, least):
    return max_lanes(x, spread_lanes(np.float32(least)))


@numba.njit
def _at_most(x, most):
    return min_lanes(x, spread_lanes(np.float32(most)))


@numba.njit
def _curve(v, up, down):
    """The curve of a gain whose parts above and below 1 are ``up`` and ``down``."""
    dark = log1m_lanes(_at_most(_at_least(v, 0.0), _MOST_V))
    return (1.0 - exp2_lanes(up * dark * _LOG2E)) * down


@numba.njit
def _largest(r, g, b):
    return max_lanes(max_lanes(r, g), b)


@numba.njit
def _smallest(r, g, b):
    return min_lanes(min_lanes(r, g), b)


@numba.njit
def _ratio(r, g, b):
    most = _largest(r, g, b)
    return r / most, g / most, b / most


@numba.njit
def _weights(maps, first):
    """Four weights of the scales, the softmax of the maps from ``first`` on."""
    a = load_lanes(maps, (first, 0)) + FIRST_SCALE
    b, c = load_lanes(maps, (first + 1, 0)), load_lanes(maps, (first + 2, 0))
    d = load_lanes(maps, (first + 3, 0))
    most = max_lanes(_largest(a, b, c), d)
    a, b, c, d = _exp(a - most), _exp(b - most), _exp(c - most), _exp(d - most)
    total = a + b + c + d
    return a / total, b / total, c / total, d / total


@numba.njit
def _pixel(scales, k, row, column):
    return (
        load_lanes(scales, (k, 0, row, column)),
        load_lanes(scales, (k, 1, row, column)),
        load_lanes(scales, (k, 2, row, column)),
    )


@numba.njit
def _value(scales, row, column, maps):
    """The brightness of each pixel: the largest channel of the scales, in the mean."""
    w0, w1, w2, w3 = _weights(maps, 0)
    v0, v1 = _largest(*_pixel(scales, 0, row, column)), _largest(*_pixel(scales, 1, row, column))
    v2, v3 = _largest(*_pixel(scales, 2, row, column)), _largest(*_pixel(scales, 3, row, column))
    return w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3


@numba.njit
def _source(scales, row, column, maps):
    """The colour of each pixel: the scales in the mean."""
    w0, w1, w2, w3 = _weights(maps, N_SCALES)
    r0, g0, b0 = _pixel(scales, 0, row, column)
    r1, g1, b1 = _pixel(scales, 1, row, column)
    r2, g2, b2 = _pixel(scales, 2, row, column)
    r3, g3, b3 = _pixel(scales, 3, row, column)
    return (
        w0 * r0 + w1 * r1 + w2 * r2 + w3 * r3,
        w0 * g0 + w1 * g1 + w2 * g2 + w3 * g3,
        w0 * b0 + w1 * b1 + w2 * b2 + w3 * b3,
    )


@numba.njit
def _gain(own, common):
    """The parts above and below 1 of the common and a pixel's own gain together; both given as logarithms."""
    floor = min(common, np.float32(0.0))
    bounded = _tanh(own * (1.0 / MOST_GAIN)) * MOST_GAIN
    gain = _softplus((bounded + (common - floor)) * SHARPNESS) * (1.0 / SHARPNESS) + floor
    return _exp(_at_least(gain, 0.0)), _exp(_at_most(gain, 0.0))


@numba.njit
def _colours(r, g, b, own, maps):
    """Each channel over the largest, corrected; ``own`` is the smallest of them before that."""
    first = 2 * N_SCALES + 1
    saturation = 1.0 - own
    coloured = saturation / (saturation + 0.03)
    black = _sigmoid(load_lanes(maps, (first + 4, 0)) - FIRST_BLACK) * MOST_BLACK
    uneven = coloured * BLACK_SPREAD
    r, g, b = _ratio(
        r + LEAST + black * (1.0 + uneven * _tanh(load_lanes(maps, (first + 5, 0)))),
        g + LEAST + black * (1.0 + uneven * _tanh(load_lanes(maps, (first + 6, 0)))),
        b + LEAST + black * (1.0 + uneven * _tanh(load_lanes(maps, (first + 7, 0)))),
    )
    saturation = 1.0 - _smallest(r, g, b)
    factor = _exp(_tanh(load_lanes(maps, (first, 0))) * MOST_SATURATION)
    factor = min_lanes(factor, 1.0 / _at_least(saturation, 1e-3))
    tint = coloured * (1.0 - saturation * 0.5) * MOST_TINT
    return _ratio(
        (1.0 - factor * (1.0 - r)) * _exp(tint * _tanh(load_lanes(maps, (first + 1, 0)))),
        (1.0 - factor * (1.0 - g)) * _exp(tint * _tanh(load_lanes(maps, (first + 2, 0)))),
        (1.0 - factor * (1.0 - b)) * _exp(tint * _tanh(load_lanes(maps, (first + 3, 0)))),
    )


@numba.njit
def _stretch(r, g, b, own, v):
    """By how much the differences from the largest channel grow, so that saturation is kept."""
    rise = _at_most(_at_least((v - _LOW) * (1.0 / (_HIGH - _LOW)), 0.0), 1.0)
    kept = rise * rise * (3.0 - rise * 2.0) * LEAST_SATURATION
    most = _largest(r, g, b)
    saturation = _at_least(1.0 - _smallest(r, g, b) / _at_least(most, 1e-4), 1e-3)
    return most, _at_least(kept * (1.0 - own) / saturation, 1.0)


@numba.njit
def _render_pixels(scales, row, column, maps, common, out):
    """Sixteen pixels, whose maps are [N_MAPS, 16], into ``out`` [3, wide]."""
    v = _value(scales, row, column, maps)
    r, g, b = _source(scales, row, column, maps)
    own = _smallest(*_ratio(r + LEAST, g + LEAST, b + LEAST))
    up, down = _gain(load_lanes(maps, (2 * N_SCALES, 0)), common)
    r, g, b = _colours(r, g, b, own, maps)
    share = _sigmoid(load_lanes(maps, (N_MAPS - 1, 0))) * MOST_BY_CHANNEL
    whole = _curve(v, up, down)
    r = whole * r + share * (_curve(v * r, up, down) - whole * r)
    g = whole * g + share * (_curve(v * g, up, down) - whole * g)
    b = whole * b + share * (_curve(v * b, up, down) - whole * b)
    most, stretch = _stretch(r, g, b, own, v)
    store_lanes(out, (0, column), most - (most - r) * stretch)
    store_lanes(out, (1, column), most - (most - g) * stretch)
    store_lanes(out, (2, column), most - (most - b) * stretch)


@numba.njit
def _blur(scales, k, channel, tile, size, line):
    """Scale k of one channel from the one before, as far as a tile needs it; replicated at the picture's ends."""
    top, bottom, left, right = tile
    height, width = size
    step = 1 << (k - 1)
    before = BLUR_ROWS - 2 * (step - 1)
    after = before - 2 * step
    first, last = max(left - before, 0) - left + _MARGIN, min(right + before, width) - left + _MARGIN
    low, high = max(left - after, 0) - left + _MARGIN, min(right + after, width) - left + _MARGIN
    shift = BLUR_ROWS - top
    for y in range(max(top - after, 0), min(bottom + after, height)):
        far, near = max(y - 2 * step, 0) + shift, max(y - step, 0) + shift
        near_2, far_2 = min(y + step, height - 1) + shift, min(y + 2 * step, height - 1) + shift
        for c in range(first, last, LANES):
            outer = load_lanes(scales, (k - 1, channel, far, c)) + load_lanes(
                scales, (k - 1, channel, far_2, c)
            )
            inner = load_lanes(scales, (k - 1, channel, near, c)) + load_lanes(
                scales, (k - 1, channel, near_2, c)
            )
            middle = load_lanes(scales, (k - 1, channel, y + shift, c))
            store_lanes(line, (c,), (outer + inner * 4.0 + middle * 6.0) * (1 / 16))
        if left <= before:
            for c in range(first - 2 * step, first):
                line[c] = line[first]
        if right + before >= width:
            for c in range(last, last + 2 * step):
                line[c] = line[last - 1]
        for c in range(low, high, LANES):
            outer = load_lanes(line, (c - 2 * step,)) + load_lanes(line, (c + 2 * step,))
            inner = load_lanes(line, (c - step,)) + load_lanes(line, (c + step,))
            blurred = (outer + inner * 4.0 + load_lanes(line, (c,)) * 6.0) * (1 / 16)
            store_lanes(scales, (k, channel, y + shift, c), blurred)


@numba.njit
def _load(x, tile, scales):
    """The tile and what its blurs look at, planar."""
    top, bottom, left, right = tile
    low, high = max(left - BLUR_ROWS, 0), min(right + BLUR_ROWS, x.shape[2])
    for channel in range(3):
        for y in range(max(top - BLUR_ROWS, 0), min(bottom + BLUR_ROWS, x.shape[1])):
            for c in range(low, high):
                scales[0, channel, y - top + BLUR_ROWS, c - left + _MARGIN] = x[channel, y, c]


@numba.njit
def _between(n_small, n_full, at):
    """The two neighbours in the small axis of a position of the full one, and the way from the first to the second."""
    place = min(max((at + 0.5) * (n_small / n_full) - 0.5, 0.0), n_small - 1.0)
    before = int(place)
    return before, min(before + 1, n_small - 1), np.float32(place - before)


@numba.njit
def _widen(cells, row, left, right, width, wide):
    """One row of cells [2 N_MAPS, h, w] brought to the columns of a tile, in the even or the odd half of ``wide``."""
    for c in range(left, right):
        a, b, way = _between(cells.shape[2], width, c)
        for m in range(cells.shape[0]):
            value = cells[m, row, a]
            wide[row % 2, m, c - left + _MARGIN] = value + (cells[m, row, b] - value) * way


@numba.njit
def _maps_of_pixels(scales, row, column, wide, at, gain, maps):
    """The maps of sixteen pixels, slope times guide plus offset, between two widened rows of cells."""
    above, below, way = at
    up, down = gain
    value = _largest(*_pixel(scales, 1, row, column))
    guide = _curve(value, spread_lanes(up), spread_lanes(down))
    for m in range(N_MAPS):
        slope, offset = load_lanes(wide, (above, m, column)), load_lanes(wide, (above, m + N_MAPS, column))
        slope = slope + (load_lanes(wide, (below, m, column)) - slope) * way
        offset = offset + (load_lanes(wide, (below, m + N_MAPS, column)) - offset) * way
        store_lanes(maps, (m, 0), slope * guide + offset)


@numba.njit
def _render_tile(x, tile, common, cells, space, out):
    """The rows of a tile, whose maps lie between two widened rows of cells."""
    top, bottom, left, right = tile
    scales, _, result, wide, maps = space
    gain = np.float32(math.exp(max(common, 0.0))), np.float32(math.exp(min(common, 0.0)))
    even = odd = -1
    for y in range(top, bottom):
        above, below, way = _between(cells.shape[1], x.shape[1], y)
        for row in range(above, below + 1):
            if row != (odd if row % 2 else even):
                _widen(cells, row, left, right, x.shape[2], wide)
                even, odd = (even, row) if row % 2 else (row, odd)
        row = y - top + BLUR_ROWS
        for column in range(_MARGIN, _MARGIN + right - left, LANES):
            _maps_of_pixels(scales, row, column, wide, (above % 2, below % 2, way), gain, maps)
            _render_pixels(scales, row, column, maps, common, result)
        for channel in range(3):
            for c in range(left, right):
                out[channel, y, c] = result[channel, c - left + _MARGIN]


def _render_bands(first, last, x, common, cells, scales, line, result, wide, maps, out):
    """Rows of a picture, 64 by 64, tile by tile."""
    height, width = x.shape[1], x.shape[2]
    for band in range(first, last):
        for left in range(0, width, _COLUMNS):
            tile = band * _ROWS, min((band + 1) * _ROWS, height), left, min(left + _COLUMNS, width)
            _load(x, tile, scales)
            for k in range(1, N_SCALES):
                for channel in range(3):
                    _blur(scales, k, channel, tile, (height, width), line)
            _render_tile(x, tile, common, cells, (scales, line, result, wide, maps), out)


@cache
def _compiled() -> Callable[..., None]:
    picture, cells = types.Array(types.float32, 3, "A"), types.Array(types.float32, 3, "C")
    space = [types.Array(types.float32, part.ndim, "C") for part in _work_space()]
    signature = types.void(types.intp, types.intp, picture, types.float32, cells, *space, picture)
    return compile_cached(_render_bands, signature, parallel=False)


def _work_space() -> tuple[np.ndarray, ...]:
    """Of one thread: the scales, one line of them, one of the result, two rows of widened cells, maps of 16 pixels."""
    shapes = (N_SCALES, 3, _HIGH_ROWS, _WIDE), (_WIDE,), (3, _WIDE), (2, 2 * N_MAPS, _WIDE), (N_MAPS, LANES)
    return tuple(np.zeros(shape, np.float32) for shape in shapes)


def render_picture(
    x: np.ndarray, log_gain: float, cells: np.ndarray, out: np.ndarray, n_threads: int
) -> None:
    """Brighten one picture by maps that were fitted to it.

    Args:
        x: [3, H, W] in 0..1, float32, of any strides.
        log_gain: log of the gain that all pixels share.
        cells: slopes, then offsets, float32 [2 N_MAPS, h, w], spread over the picture by bilinear interpolation.
        out: the result, float32 [3, H, W] of any strides, not ``x``.
        n_threads: at most; the result does not depend on it.
    """
    kernel = _compiled()

    def render_bands(first: int, last: int) -> None:
        kernel(first, last, x, log_gain, cells, *_work_space(), out)

    in_shares(-(-x.shape[1] // _ROWS), n_threads, render_bands)
