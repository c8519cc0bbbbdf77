"""The gated feed-forward network of a wavelet Mamba block, in a form for training and a fused one for inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.nn.batch_norm import SyncedBatchNorm2d

EXPANSION = 2.66


class DepthwiseNorm(nn.Module):
    """A depthwise convolution without bias, then batch normalisation."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
        )
        self.norm = SyncedBatchNorm2d(channels)

    def forward(self, a: Tensor) -> Tensor:
        """a [B, k, h, w] -> the same shape."""
        out: Tensor = self.norm(self.conv(a))
        return out

    def fused(self) -> tuple[Tensor, Tensor]:
        """The kernel [k, 1, 3, 3] and bias [k] that give the same output in evaluation mode."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        margin = (3 - self.conv.kernel_size[0]) // 2
        kernel = F.pad(self.conv.weight * scale[:, None, None, None], [margin] * 4)
        return kernel, norm.bias - norm.running_mean * scale


class GatedFeedForward(nn.Module):
    """FFN(v) = conv1x1(gelu(q) p + gelu(p) q) + v.

    Here a = conv1x1(v), p = a + BN(dw3x3(a)) + BN(dw1x1(a)) and q = dw3x3(a).
    Hidden width int(2.66 c), no biases, exact (erf) gelu (docs/methods/walmafa.md, Feed-forward network).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * EXPANSION)
        self.project_in = nn.Conv2d(channels, hidden, 1, bias=False)
        self.branch_3x3 = DepthwiseNorm(hidden, 3)
        self.branch_1x1 = DepthwiseNorm(hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        """v [B, c, h, w] -> the same shape."""
        a = self.project_in(v)
        p = a + self.branch_3x3(a) + self.branch_1x1(a)
        q = self.depthwise(a)
        out: Tensor = self.project_out(F.gelu(q) * p + F.gelu(p) * q) + v
        return out


class FusedGatedFeedForward(nn.Module):
    """A :class:`GatedFeedForward` for inference: the three terms of p are one depthwise convolution with a bias.

    The other convolutions are those of the trained network.
    """

    def __init__(self, trained: GatedFeedForward) -> None:
        super().__init__()
        hidden = trained.depthwise.weight.shape[0]
        kernel_3x3, bias_3x3 = trained.branch_3x3.fused()
        kernel_1x1, bias_1x1 = trained.branch_1x1.fused()
        identity = F.pad(torch.ones_like(kernel_3x3[..., :1, :1]), [1] * 4)
        self.project_in = trained.project_in
        self.p = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.p.weight = nn.Parameter((kernel_3x3 + kernel_1x1 + identity).detach())
        self.p.bias = nn.Parameter((bias_3x3 + bias_1x1).detach())
        self.q = trained.depthwise
        self.project_out = trained.project_out

    def forward(self, v: Tensor) -> Tensor:
        """v [B, c, h, w] -> the same shape; not differentiable."""
        a = self.project_in(v)
        p, q = self.p(a), self.q(a)
        gated = F.gelu(q).mul_(p).addcmul_(F.gelu(p), q)
        out: Tensor = self.project_out(gated)
        return out + v
