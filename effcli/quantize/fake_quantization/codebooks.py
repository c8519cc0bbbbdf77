"""Codebooks: each row (output channel) has levels of its own, at any distance, instead of equal steps.

A code of b bits is a place in a table of 2^b entries t, whole numbers of 8 bits around 128, so that products of layers
with codebooks are integer products like any other (docs/methods/mpq-dm.md, Codebooks)::

    Q(x) = (t_q - 128) d          q(x): the nearest
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effcli.quantize.fake_quantization.quantizer import SMALLEST_SCALE

MIDDLE = 128
"""The entry that is 0."""

MOST_BITS = 5
"""Of a row with a codebook: those of N = 4 bits may get one more."""

_LARGEST = 127


_LEAST_IMPORTANCE = 1e-3
"""Of an input channel, against the mean."""


def column_scale(weight: Tensor) -> Tensor:
    """delta of layers without quantized activations: how large an input channel's weights are in rows of equal size.

    Args:
        weight: ``[c_out, c_in, ...]``.

    Returns:
        ``[c_in]``, of mean square 1; 1 for a channel without weights.
    """
    squares = weight.detach().flatten(2).square().mean(2) if weight.ndim > 2 else weight.detach().square()
    by_row = squares.mean(1, keepdim=True)
    scale = torch.where(by_row > 0, squares / by_row, 0).mean(0).sqrt()
    return torch.where(scale > 0, scale, 1)


def find_codebook(rows: Tensor, bits: int, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The table and scale of each row: the levels of least squared error, rounded to 8 bits.

    Args:
        rows: ``[R, K]``.
        bits: b, 1 to :data:`MOST_BITS`.
        importance: of the input channels, ``[c_in]``, which errors are weighted by; None: all are equal. K is a
            multiple of c_in.

    Returns:
        t, uint8 ``[R, 2^b]``, ascending; d, float32 ``[R]``, at least 1e-8.
    """
    from effcli.quantize.fake_quantization.best_levels import best_levels

    n_rows, n_columns = rows.shape
    plain = rows.detach().to("cpu", torch.float32).contiguous()
    weights = torch.ones(n_columns)
    if importance is not None:
        shares = importance.detach().to("cpu", torch.float32)
        shares = (shares / shares.mean().clamp(min=1e-30)).clamp(min=_LEAST_IMPORTANCE)
        weights = shares.repeat_interleave(n_columns // len(shares)).contiguous()
    levels = best_levels(plain, weights, torch.full((n_rows,), 2**bits)).to(rows.device)
    scale = (levels.abs().amax(1) / _LARGEST).clamp(min=SMALLEST_SCALE)
    table = (levels / scale[:, None]).round() + MIDDLE
    return table.to(torch.uint8), scale


def nearest_places(x: Tensor, scale: Tensor, table: Tensor, top: Tensor) -> Tensor:
    """q(x): places in the table, int64 ``[R, K]``.

    Args:
        x: ``[R, K]``.
        scale, table: of :func:`find_codebook`, for each row.
        top: 2^b - 1 of each row, ``[R]``; its further entries repeat the last.
    """
    levels = table.float() - MIDDLE
    ends = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
    return torch.minimum(torch.searchsorted(ends, x / scale[:, None]), top[:, None].long())


def quantize_by_table(x: Tensor, scale: Tensor, table: Tensor, top: Tensor) -> Tensor:
    """Q(x), differentiable in x and d: straight through the choice of the level, as of the uniform quantizer.

    Beyond half a cell outside of the levels no gradient passes to x.

    Args:
        x: ``[R, K]``.
        scale, table, top: as of :func:`nearest_places`.
    """
    out: Tensor = _QuantizeByTable.apply(x, scale, table, top)
    return out


class _QuantizeByTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, table: Tensor, top: Tensor) -> Tensor:
        levels = (table.float() - MIDDLE).gather(1, nearest_places(x, scale, table, top))
        ctx.save_for_backward(x, scale, table, top)
        return levels * scale[:, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, table, top = ctx.saved_tensors
        (gradient,) = gradients
        levels = table.float() - MIDDLE
        steps = x / scale[:, None]
        reach = (levels[:, -1:] - levels[:, :1]) / top[:, None] / 2
        inside = (steps >= levels[:, :1] - reach) & (steps <= levels[:, -1:] + reach)
        chosen = levels.gather(1, nearest_places(x, scale, table, top))
        by_scale = (gradient * (chosen - torch.where(inside, steps, 0))).sum(1)
        return torch.where(inside, gradient, 0), by_scale, None, None
