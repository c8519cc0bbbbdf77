"""The compiled loop behind the gradient of :func:`effcli.nn.weighted_rows.sample`. This module imports numba."""

# The kernel is typed by numba, from the signature that it is compiled for.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numba

_LANES = 8


def add_rows(gradient, rows, weights, total):
    """Add weighted rows to the rows of a table; each thread has its own eight channels: the order is always the same.

    Args:
        gradient: ``[N, C]``, C a multiple of 8.
        rows: ``[N, K]``.
        weights: ``[N, K]``.
        total: result, ``[M, C]``.
    """
    for block in numba.prange(gradient.shape[1] // _LANES):
        first = block * _LANES
        for i in range(rows.shape[0]):
            for k in range(rows.shape[1]):
                weight = weights[i, k]
                if weight != 0.0:
                    row = rows[i, k]
                    for lane in range(_LANES):
                        total[row, first + lane] += weight * gradient[i, first + lane]
