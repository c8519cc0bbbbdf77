"""Compiled passes between integer layers on CPUs (numba): quantize, and GroupNorm + SiLU + quantize in one.

Arrays are [B, L, C], L positions of a channels-last image and C channels, a multiple of 16. Floats are float32, or
bfloat16 as int16. Sums are added in an order that does not depend on the number of threads.

This module imports numba; it is imported when the first integer layer runs.
"""

# The kernels are typed by numba, from the signatures in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from torch import Tensor, nn

from effcli.nn.compiled.lanes import (
    LANES,
    clamp_lanes,
    exp2_lanes,
    load_float_lanes,
    load_lanes,
    round_lanes,
    spread_lanes,
    store_byte_lanes,
    store_lanes,
)
from effcli.nn.compiled.numba_threads import compile_cached, threads

_LOG2E = np.float32(1.4426950408889634)
_ONE = np.float32(1.0)
_NIL = np.float32(0.0)


@numba.njit
def _codes(value, multiplier, zero, top):
    """clip(round(value multiplier) + zero, 0, top)"""
    return clamp_lanes(round_lanes(value * multiplier) + zero, _NIL, top)


@numba.njit
def _normalise(unit, width, x, shift, gamma, beta, group, eps, silu, multiplier, zero, top, out):
    """GroupNorm + SiLU + quantize of one block of channels (whole groups) of one image."""
    length, n_blocks = x.shape[1], x.shape[2] // width
    b, first = unit // n_blocks, (unit % n_blocks) * width
    slope, offset = np.empty(width, np.float32), np.empty(width, np.float32)
    sums, squares, pivots = np.empty((3, width), np.float32)
    for k in range(0, width, LANES):
        pivot = load_float_lanes(x, (b, 0, first + k))
        total, square = spread_lanes(_NIL), spread_lanes(_NIL)
        for i in range(length):
            distance = load_float_lanes(x, (b, i, first + k)) - pivot
            total = total + distance
            square = square + distance * distance
        store_lanes(sums, (k,), total)
        store_lanes(squares, (k,), square)
        store_lanes(pivots, (k,), pivot + load_lanes(shift, (b, first + k)))
    for start in range(0, width, group):
        mean, spread = 0.0, 0.0
        for k in range(start, start + group):
            mean += pivots[k] + sums[k] / length
        mean /= group
        for k in range(start, start + group):
            away = pivots[k] - mean
            spread += squares[k] + 2.0 * sums[k] * away + length * away * away
        scale = 1.0 / math.sqrt(max(spread, 0.0) / (length * group) + eps)
        for k in range(start, start + group):
            slope[k] = gamma[first + k] * scale
            offset[k] = beta[first + k] + (shift[b, first + k] - mean) * slope[k]
    for k in range(0, width, LANES):
        a, o, m = load_lanes(slope, (k,)), load_lanes(offset, (k,)), load_lanes(multiplier, (first + k,))
        for i in range(length):
            y = load_float_lanes(x, (b, i, first + k)) * a + o
            if silu:
                y = y / (exp2_lanes(y * -_LOG2E) + _ONE)
            store_byte_lanes(out, (b, i, first + k), _codes(y, m, zero, top))


@numba.njit
def _quantize_row(unit, x, multiplier, zero, top, out):
    b, i = unit // x.shape[1], unit % x.shape[1]
    for k in range(0, x.shape[2], LANES):
        m = load_lanes(multiplier, (k,))
        store_byte_lanes(out, (b, i, k), _codes(load_float_lanes(x, (b, i, k)), m, zero, top))


def _normalise_serial(n, width, x, shift, gamma, beta, group, eps, silu, multiplier, zero, top, out):
    for unit in range(n):
        _normalise(unit, width, x, shift, gamma, beta, group, eps, silu, multiplier, zero, top, out)


def _normalise_parallel(n, width, x, shift, gamma, beta, group, eps, silu, multiplier, zero, top, out):
    for unit in numba.prange(n):
        _normalise(unit, width, x, shift, gamma, beta, group, eps, silu, multiplier, zero, top, out)


def _quantize_serial(n, x, multiplier, zero, top, out):
    for unit in range(n):
        _quantize_row(unit, x, multiplier, zero, top, out)


def _quantize_parallel(n, x, multiplier, zero, top, out):
    for unit in numba.prange(n):
        _quantize_row(unit, x, multiplier, zero, top, out)


_X3 = {kind: types.Array(getattr(types, kind), 3, "C") for kind in ("float32", "int16", "uint8")}
_VECTOR, _TABLE, _FLOAT = (
    types.Array(types.float32, 1, "C"),
    types.Array(types.float32, 2, "C"),
    types.float32,
)
_FORMAT = (_VECTOR, _FLOAT, _FLOAT, _X3["uint8"])


@cache
def _compiled(name: str, dtype: str, parallel: bool) -> Callable[..., None]:
    """A kernel for ``float32`` or ``int16`` (bfloat16) input."""
    x = _X3[dtype]
    kernels: tuple[Callable[..., None], Callable[..., None]]
    arguments: tuple[Any, ...]
    if name == "quantize":
        kernels, arguments = (_quantize_serial, _quantize_parallel), (x, *_FORMAT)
    else:
        kernels = (_normalise_serial, _normalise_parallel)
        arguments = (types.intp, x, _TABLE, _VECTOR, _VECTOR, types.intp, _FLOAT, types.boolean, *_FORMAT)
    return compile_cached(kernels[parallel], types.void(types.intp, *arguments), parallel=parallel)


def _run(name: str, dtype: str, n_units: int, *arguments: Any) -> None:
    n_threads = min(torch.get_num_threads(), n_units)
    kernel = _compiled(name, dtype, n_threads > 1)
    if n_threads == 1:
        kernel(n_units, *arguments)
        return
    with threads(n_threads):
        kernel(n_units, *arguments)


def fits(n_channels: int) -> bool:
    """Whether the kernels take so many channels."""
    return n_channels % LANES == 0


def quantize(x: Tensor, multiplier: Tensor, zero: float, top: float) -> Tensor:
    """clip(round(x multiplier) + zero, 0, top) of each channel.

    Args:
        x: float32 or bfloat16 ``[..., C]``, C a multiple of 16; of images the channels-last view.
        multiplier: delta / d, float32 ``[C]``.
        zero, top: z and L.

    Returns:
        uint8 of the shape of ``x``.
    """
    rows = _array(x.reshape(1, -1, x.shape[-1]))
    out = np.empty(rows.shape, np.uint8)
    _run("quantize", str(rows.dtype), rows.shape[1], rows, multiplier.numpy(), zero, top, out)
    return torch.from_numpy(out).view(x.shape)


def group_norm_quantize(
    x: Tensor, shift: Tensor, norm: nn.GroupNorm, silu: bool, multiplier: Tensor, zero: float, top: float
) -> Tensor:
    """The codes of SiLU(GroupNorm(x + shift)), which never exists as floats.

    Args:
        x: float32 or bfloat16 ``[B, C, H, W]``, C a multiple of 16.
        shift: float32 ``[B, C]``, added to every pixel: the projected time embedding.
        norm: with learned scale and shift.
        silu: whether SiLU follows.
        multiplier, zero, top: as of :func:`quantize`.

    Returns:
        uint8 ``[B, C, H, W]``, channels last.
    """
    n_images, n_channels, height, width = x.shape
    rows = _array(channels_last(x).reshape(n_images, height * width, n_channels))
    out = np.empty(rows.shape, np.uint8)
    group = n_channels // norm.num_groups
    block = math.lcm(LANES, group)
    if n_channels % block:
        block = n_channels
    gamma, beta = norm.weight.detach().float().numpy(), norm.bias.detach().float().numpy()
    n_units = n_images * (n_channels // block)
    _run(
        "group_norm", str(rows.dtype), n_units, block, rows, shift.contiguous().numpy(), gamma, beta, group, norm.eps,
        silu, multiplier.numpy(), zero, top, out,
    )  # fmt: skip
    return torch.from_numpy(out).view(n_images, height, width, n_channels).permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` as contiguous ``[B, H, W, C]``; a view where the memory is so already."""
    return x.permute(0, 2, 3, 1).contiguous()


def _array(x: Tensor) -> np.ndarray:
    x = x.contiguous()
    array: np.ndarray = (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()
    return array
