"""The gated feed-forward network of a wavelet Mamba block, in a form for training and a fused one for inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.nn.batch_norm import SyncedBatchNorm2d

EXPANSION = 2.66
HIDDEN_MULTIPLE = 16
"""Hidden channels that the compiled pass takes at once."""

_VIEWS = {torch.float32: torch.float32, torch.bfloat16: torch.int16}
"""What the compiled pass takes, and what NumPy, which has no bfloat16, sees of it."""


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

    The hidden channels are filled up with zeros to a multiple of 16. On a CPU both depthwise convolutions and their
    gates are one compiled pass (`feed_forward_cpu.py`).
    """

    taps: Tensor
    """Of p, then of q, [18, k]."""

    def __init__(self, trained: GatedFeedForward) -> None:
        super().__init__()
        kernel_3x3, bias_3x3 = trained.branch_3x3.fused()
        kernel_1x1, bias_1x1 = trained.branch_1x1.fused()
        identity = F.pad(torch.ones_like(kernel_3x3[..., :1, :1]), [1] * 4)
        lacking = -len(kernel_3x3) % HIDDEN_MULTIPLE
        self.project_in = _convolution(_longer(trained.project_in.weight, lacking))
        self.p = _convolution(
            _longer(kernel_3x3 + kernel_1x1 + identity, lacking), _longer(bias_3x3 + bias_1x1, lacking)
        )
        self.q = _convolution(_longer(trained.depthwise.weight, lacking))
        self.project_out = _convolution(F.pad(trained.project_out.weight, (0, 0, 0, 0, 0, lacking)))
        self.register_buffer(
            "taps", torch.cat([c.weight.flatten(1) for c in (self.p, self.q)], 1).detach().T.contiguous()
        )

    def forward(self, v: Tensor) -> Tensor:
        """v [B, c, h, w] -> the same shape; not differentiable."""
        out: Tensor = self.project_out(self._gated(self.project_in(v)))
        return out + v

    def _gated(self, a: Tensor) -> Tensor:
        """a [B, k, h, w] -> gelu(q) p + gelu(p) q, of the same shape."""
        if a.device.type != "cpu" or a.dtype not in _VIEWS:
            p, q = self.p(a), self.q(a)
            return F.gelu(q).mul_(p).addcmul_(F.gelu(p), q)
        from effcli.enhance.network.feed_forward_cpu import gate

        a = a.detach().permute(0, 2, 3, 1).contiguous()
        out = torch.empty_like(a)
        sources, results = (x.view(_VIEWS[a.dtype]).numpy() for x in (a, out))
        assert self.p.bias is not None
        for source, result in zip(sources, results, strict=True):
            gate(source, self.taps.numpy(), self.p.bias.numpy(), result, torch.get_num_threads())
        return out.permute(0, 3, 1, 2)


def _convolution(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """With this kernel: [n, 1, 3, 3] is depthwise, [m, n, 1, 1] between channels."""
    n_out, n_in, side, _ = weight.shape
    groups = n_out if side > 1 else 1
    made = nn.Conv2d(n_in * groups, n_out, side, padding=side // 2, groups=groups, bias=bias is not None)
    made.weight = nn.Parameter(weight.detach())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made


def _longer(x: Tensor, n: int) -> Tensor:
    """With n zeros behind the first axis."""
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, n))
