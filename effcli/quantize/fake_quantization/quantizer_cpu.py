"""The fake quantizer in one compiled pass each way, for float32 on CPUs (numba).

Arrays are [R, K], a row for each (d, z, L). Sums run over a row in an order that does not depend on the number of
threads.

This module imports numba; it is imported when the first tensor is quantized.
"""

# The kernels are typed by numba, from the signatures in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from torch import Tensor

from effcli.nn.compiled.numba_threads import compile_cached, threads

_MANY = 1 << 15
"""Elements from which more than one thread pays."""


@numba.njit(fastmath={"reassoc", "contract"})
def _forward_row(r, x, scale, zero, top, out):
    """Q(x) = (clip(round(x / d) + z, 0, L) - z) d"""
    d, z, high, nil = scale[r], zero[r], top[r], np.float32(0)
    for k in range(x.shape[1]):
        out[r, k] = (min(max(np.rint(x[r, k] / d) + z, nil), high) - z) * d


@numba.njit(fastmath={"reassoc", "contract"})
def _backward_row(r, x, scale, zero, top, gradient, grad_x, grad_scale, grad_zero):
    """dQ/dx = [inside];  dQ/dd = q - z - [inside] x / d;  dQ/dz = -[outside] d"""
    d, z, high, nil = scale[r], zero[r], top[r], np.float32(0)
    sum_scale, sum_zero = nil, nil
    for k in range(x.shape[1]):
        g, steps = gradient[r, k], x[r, k] / d
        whole = np.rint(steps)
        code = min(max(whole + z, nil), high)
        inside = code == whole + z
        grad_x[r, k] = g if inside else nil
        sum_scale += g * (whole - steps if inside else code - z)
        sum_zero += nil if inside else g
    grad_scale[r], grad_zero[r] = sum_scale, -sum_zero * d


def _forward_serial(x, scale, zero, top, out):
    for r in range(x.shape[0]):
        _forward_row(r, x, scale, zero, top, out)


def _forward_parallel(x, scale, zero, top, out):
    for r in numba.prange(x.shape[0]):
        _forward_row(r, x, scale, zero, top, out)


def _backward_serial(x, scale, zero, top, gradient, grad_x, grad_scale, grad_zero):
    for r in range(x.shape[0]):
        _backward_row(r, x, scale, zero, top, gradient, grad_x, grad_scale, grad_zero)


def _backward_parallel(x, scale, zero, top, gradient, grad_x, grad_scale, grad_zero):
    for r in numba.prange(x.shape[0]):
        _backward_row(r, x, scale, zero, top, gradient, grad_x, grad_scale, grad_zero)


_TABLE, _VECTOR = types.Array(types.float32, 2, "C"), types.Array(types.float32, 1, "C")
_ROW_FORMAT = (_TABLE, _VECTOR, _VECTOR, _VECTOR)
_KERNELS: dict[str, tuple[Callable[..., None], Callable[..., None], tuple[Any, ...]]] = {
    "forward": (_forward_serial, _forward_parallel, (*_ROW_FORMAT, _TABLE)),
    "backward": (_backward_serial, _backward_parallel, (*_ROW_FORMAT, _TABLE, _TABLE, _VECTOR, _VECTOR)),
}


@cache
def _compiled(direction: str, parallel: bool) -> Callable[..., None]:
    serial, threaded, arguments = _KERNELS[direction]
    return compile_cached(threaded if parallel else serial, types.void(*arguments), parallel=parallel)


def _run(direction: str, x: Tensor, *others: Tensor) -> None:
    n_threads = torch.get_num_threads() if x.numel() >= _MANY and len(x) > 1 else 1
    kernel = _compiled(direction, n_threads > 1)
    arrays = [tensor.numpy() for tensor in (x, *others)]
    if n_threads == 1:
        kernel(*arrays)
        return
    with threads(n_threads):
        kernel(*arrays)


def fake_quantize_rows(x: Tensor, scale: Tensor, zero: Tensor, top: Tensor) -> Tensor:
    """Q(x) of float32 ``[R, K]`` with d, z and L ``[R]``, all contiguous."""
    out = torch.empty_like(x)
    _run("forward", x, scale, zero, top, out)
    return out


def gradients_of_rows(
    x: Tensor, scale: Tensor, zero: Tensor, top: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x ``[R, K]``, d and z ``[R]`` from the one of Q(x)."""
    grad_x, grad_scale, grad_zero = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(zero)
    _run("backward", x, scale, zero, top, gradient, grad_x, grad_scale, grad_zero)
    return grad_x, grad_scale, grad_zero
