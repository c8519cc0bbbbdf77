"""Weighted sums of rows of a table: interpolation on CPUs, several times faster than ``grid_sample`` for few channels.

A trilinear sample of a volume is a weighted sum of eight rows of a table, one row per cell of the volume: a bag of
embeddings. Its gradient adds the same rows up again, which a compiled loop does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_LANES = 8


class WeightedRows(NamedTuple):
    """The rows and weights of N weighted sums.

    Attributes:
        rows: row indices, int64 ``[N, K]``.
        weights: weight of each row, float32 ``[N, K]``.
    """

    rows: Tensor
    weights: Tensor


def corners_of(
    where: Tensor, size: tuple[int, int, int], *, align_corners: bool, seen: Tensor | None = None
) -> WeightedRows:
    """The eight cells around each point of a volume, whose sums are those of ``grid_sample`` up to rounding.

    Cells are numbered layer by layer and row by row; those outside of the volume weigh 0.

    Args:
        where: column, row and layer as for ``grid_sample``, -1..1, ``[..., 3]``.
        size: layers D, rows H, columns W.
        align_corners: whether -1 and 1 are the middles of the outermost cells, or their edges.
        seen: points with False are 0, ``[...]``.
    """
    sides = torch.tensor(size[::-1], dtype=torch.float32, device=where.device)
    flat = where.reshape(-1, 3).float()
    at = (flat + 1) / 2 * (sides - 1) if align_corners else ((flat + 1) * sides - 1) / 2
    low = at.floor()
    share = at - low
    weights, rows = [], []
    strides = (1, size[2], size[1] * size[2])
    for corner in range(8):
        weight = torch.ones(len(flat), device=where.device)
        row = torch.zeros(len(flat), dtype=torch.long, device=where.device)
        for axis, stride in enumerate(strides):
            upper = corner >> axis & 1
            place = low[:, axis] + upper
            inside = (place >= 0) & (place <= sides[axis] - 1)
            weight = weight * (share[:, axis] if upper else 1 - share[:, axis]) * inside
            row += place.clamp(0).minimum(sides[axis] - 1).long() * stride
        weights.append(weight)
        rows.append(row)
    stacked = torch.stack(weights, 1)
    if seen is not None:
        stacked = stacked * seen.reshape(-1, 1)
    return WeightedRows(torch.stack(rows, 1), stacked)


def sample(table: Tensor, chosen: WeightedRows) -> Tensor:
    """Weighted sums ``[N, C]`` of rows of a table ``[M, C]``; differentiable in the table."""
    found: Tensor = _Sample.apply(table, chosen.rows, chosen.weights)
    return found


def samples(tables: Tensor, chosen: Sequence[WeightedRows]) -> Tensor:
    """Of every table ``[B, M, C]`` the sums that belong to it, ``[B, N, C]``."""
    found = [sample(*one) for one in zip(tables, chosen, strict=True)]
    return torch.stack(found) if len(found) > 1 else found[0][None]


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.shape, ctx.dtype = table.shape, table.dtype
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights.to(table.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = ctx.saved_tensors
        gradient = gradients[0].float().contiguous()
        channels = gradient.shape[1]
        padded = F.pad(gradient, (0, -channels % _LANES)).contiguous()
        total = torch.zeros(ctx.shape[0], padded.shape[1])
        from effcli.nn.compiled.numba_threads import threads

        with threads(torch.get_num_threads()):
            _scatter()(padded.numpy(), rows.numpy(), weights.numpy(), total.numpy())
        return total[:, :channels].to(ctx.dtype), None, None


@cache
def _scatter() -> Callable[..., None]:
    from numba import types

    from effcli.nn.compiled.numba_threads import compile_cached
    from effcli.nn.compiled.weighted_rows import add_rows

    flat = types.float32[:, ::1]
    return compile_cached(add_rows, types.void(flat, types.int64[:, ::1], flat, flat), parallel=True)
