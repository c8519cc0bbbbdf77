"""The search for the range of each row of weights, compiled (numba): coarse to fine, and no sum longer than it must be.

For each row the shrinkages r = 1, 0.99, ..., 0.21 of its range compete by the sum of |x - Q(x)|^2.4. Every eighth goes
first, then the others from the best outwards; a sum that exceeds the best one is not finished. So the winner is that
of the full search, for a fraction of the work.

This module imports numba; it is imported when the first range is searched.
"""

# The kernels are typed by numba, from the signature in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from numba import types
from torch import Tensor

from effcli.nn.compiled.lanes import (
    LANES,
    clamp_lanes,
    exp2_lanes,
    load_lanes,
    log2_lanes,
    magnitude_lanes,
    nearest_lanes,
    spread_lanes,
    sum_lanes,
)
from effcli.nn.compiled.numba_threads import compile_cached, threads

_N_SHRINKAGES = 80
_EXPONENT = 2.4
_COARSE = 8
_BLOCK = 512
"""Elements after which a sum is compared with the best one."""
_MANY = 1 << 13
"""Elements from which more than one thread pays."""
_NIL = np.float32(0)
_REST = np.float32(_EXPONENT - 2)


@numba.njit
def _block_error(x, r, first, last, inverse, zero, top):
    """Sum of |x / d - (q - z)|^2.4 over x[r, first:last], a multiple of 16 elements."""
    total = spread_lanes(_NIL)
    for k in range(first, last, LANES):
        steps = load_lanes(x, (r, k)) * inverse
        away = magnitude_lanes(steps + zero - clamp_lanes(nearest_lanes(steps) + zero, _NIL, top))
        total = total + away * away * exp2_lanes(log2_lanes(away) * _REST)
    return sum_lanes(total)


@numba.njit
def _error(x, r, scale, zero, top, best):
    """Sum of |x - Q(x)|^2.4 over a row; any number above ``best`` where it exceeds that."""
    n = x.shape[1]
    n_whole = n - n % LANES
    inverse, unit = np.float32(1) / scale, np.float64(scale) ** _EXPONENT
    total = 0.0
    for k in range(n_whole, n):
        steps = x[r, k] * inverse
        code = min(max(np.rint(steps) + zero, _NIL), top)
        total += np.float64(abs(steps + zero - code)) ** _EXPONENT
    for first in range(0, n_whole, _BLOCK):
        total += _block_error(x, r, first, min(first + _BLOCK, n_whole), inverse, zero, top)
        if total * unit > best:
            break
    return total * unit


@numba.njit
def _search_row(r, x, shrinkages, top, smallest):
    low, high = x[r, 0], x[r, 0]
    for k in range(x.shape[1]):
        low, high = min(low, x[r, k]), max(high, x[r, k])
    best, winner, centre, n_coarse = np.inf, 0, 0, _N_SHRINKAGES // _COARSE
    for n in range(n_coarse + 2 * _N_SHRINKAGES):
        if n < n_coarse:
            i = n * _COARSE
        else:
            if n == n_coarse:
                centre = winner
            away = (n - n_coarse) // 2 + 1
            i = centre + away if n % 2 else centre - away
            if i < 0 or i >= _N_SHRINKAGES or i % _COARSE == 0:
                continue
        scale = max((high - low) * shrinkages[i] / top, smallest)
        zero = np.rint(-low * shrinkages[i] / scale)
        error = _error(x, r, scale, zero, top, best)
        if error < best or (error == best and i < winner):
            best, winner = error, i
    return winner


def _search_serial(x, shrinkages, top, smallest, chosen):
    for r in range(x.shape[0]):
        chosen[r] = _search_row(r, x, shrinkages, top[r], smallest)


def _search_parallel(x, shrinkages, top, smallest, chosen):
    for r in numba.prange(x.shape[0]):
        chosen[r] = _search_row(r, x, shrinkages, top[r], smallest)


@cache
def _compiled(parallel: bool) -> Callable[..., None]:
    table, vector = types.Array(types.float32, 2, "C"), types.Array(types.float32, 1, "C")
    arguments = (table, vector, vector, types.float32, types.Array(types.int64, 1, "C"))
    return compile_cached(
        _search_parallel if parallel else _search_serial, types.void(*arguments), parallel=parallel
    )


def best_shrinkages(rows: Tensor, shrinkages: Tensor, top: Tensor, smallest: float) -> Tensor:
    """The shrinkage of least error for each row.

    Args:
        rows: float32 ``[R, K]``, contiguous, on the CPU.
        shrinkages: float32 ``[80]``, descending.
        top: L, float32 ``[R]``.
        smallest: d is at least this.

    Returns:
        indices into ``shrinkages``, int64 ``[R]``; of equals the first.
    """
    chosen = torch.empty(len(rows), dtype=torch.int64)
    n_threads = torch.get_num_threads() if rows.numel() >= _MANY and len(rows) > 1 else 1
    arrays = (rows.numpy(), shrinkages.numpy(), top.contiguous().numpy(), smallest, chosen.numpy())
    kernel = _compiled(n_threads > 1)
    if n_threads == 1:
        kernel(*arrays)
        return chosen
    with threads(n_threads):
        kernel(*arrays)
    return chosen
