"""Losses that relate the rows of a batch to each other, when the rows are distributed over ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks in the order of the ranks, ``[world B, ...]``; each has as many, ``[B, ...]``.

    For a loss that every rank computes on all rows alike: with the gradients averaged over the ranks, as DDP does, the
    step is that of one process with the whole batch.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    gathered: Tensor = _GatherRows.apply(x)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.n_rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The own rows' part; each of ``world`` ranks adds its rows' once, and DDP divides by ``world``."""
        start = dist.get_rank() * ctx.n_rows
        return gradients[0][start : start + ctx.n_rows] * dist.get_world_size()
