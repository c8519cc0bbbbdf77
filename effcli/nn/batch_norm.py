"""Batch normalisation over the global batch, on any backend (gloo on CPU included).

``nn.SyncBatchNorm`` refuses CPU tensors. This one reduces with ordinary collectives, so that N processes
holding 1/N of a batch each compute what one process computes on the whole of it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics are those of the batch over all processes.

    Same parameters, buffers and state-dict keys as ``nn.BatchNorm2d``; in evaluation mode, or in a single
    process, the same operation. Input and output [B, C, H, W]; processes may hold batches of different sizes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, H, W] per channel; the dtype is kept, the statistics are float32."""
        if not self.training or not _several_processes():
            return super().forward(x)
        count, mean, centred, var = _global_statistics(x.float())
        self._update_running_statistics(count, mean, var)
        scale = torch.rsqrt(var + self.eps)
        if self.affine:
            scale = scale * self.weight
        out = centred * scale[:, None, None]  # centred first: gradients of large means would cancel
        if self.affine:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, count: Tensor, mean: Tensor, var: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * (count / (count - 1)), momentum)


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values per channel, their mean, x without it, and biased variance [C], over the batches of all processes."""
    local_count = x.new_tensor([x.numel() / x.shape[1]])
    sums = _sum_over_processes(torch.cat([x.sum((0, 2, 3)), local_count]))
    count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
    centred = x - mean[:, None, None]
    var = _sum_over_processes(centred.square().sum((0, 2, 3))) / count
    return count, mean, centred, var


def _sum_over_processes(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)
    return total


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce; its gradient is all-reduced too, because each process's loss depends on every input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total
