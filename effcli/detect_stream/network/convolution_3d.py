"""3D convolutions as 2D ones: several times faster on CPUs, whose 2D convolutions are much better than their 3D ones.

A volume is a stack of layers here, ``[B, D, C, H, W]``: so layers are a batch of maps without any copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.nn.batch_norm import SyncedBatchNorm2d


def conv3d_as_2d(layers: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """A 3x3x3 or 1x1x1 convolution, padded to keep the size at stride 1; equals ``torch.conv3d`` up to rounding.

    Each layer sees itself and its two neighbours as channels.

    Args:
        layers: ``[B, D, C, H, W]``.
        weight: ``[C', C, k, k, k]`` with k 1 or 3.
        bias: ``[C']``.
        stride: 1 or 2, along all three; 1 with a kernel of 1.
    """
    if weight.shape[2] == 1:
        return _flatly(layers, weight[:, :, 0], bias, 1, 0)
    depth = layers.shape[1]
    x, channels = _as_stored(layers)
    nothing = torch.zeros_like(x[:, :1])
    padded = torch.cat([nothing, x, nothing], 1)
    stacked = torch.cat([padded[:, i : i + depth : stride] for i in range(3)], channels).movedim(channels, 2)
    flat_weight = weight.transpose(1, 2).reshape(len(weight), -1, 3, 3)
    return _flatly(stacked, flat_weight, bias, stride, 1)


def transposed_conv3d_as_2d(layers: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A transposed 3x3x3 convolution of stride 2, padding 1, output padding 1: twice the size.

    Even layers of the result come from one layer, odd ones from it and the next.

    Args:
        layers: ``[B, D, C, H, W]``.
        weight: ``[C, C', 3, 3, 3]``.
        bias: ``[C']``.
    """
    n, depth = layers.shape[:2]
    x, channels = _as_stored(layers)
    both = torch.cat([x, torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)], channels).movedim(channels, 2)
    even = _up(layers.flatten(0, 1), weight[:, :, 1], bias)
    odd = _up(both.flatten(0, 1), torch.cat([weight[:, :, 2], weight[:, :, 0]], 0), bias)
    pairs = torch.stack([y.movedim(1, channels - 1) for y in (even, odd)], 1)
    return pairs.reshape(n, 2 * depth, *pairs.shape[2:]).movedim(channels, 2)


def _as_stored(layers: Tensor) -> tuple[Tensor, int]:
    """Layers, and which dimension is that of the channels: the last, where these lie together in memory, else 2."""
    return (layers.movedim(2, 4), 4) if layers.stride(2) == 1 else (layers, 2)


def _flatly(layers: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    flat = F.conv2d(layers.flatten(0, 1), weight, bias, stride, padding)
    return flat.reshape(*layers.shape[:2], *flat.shape[1:])


def _up(flat: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv_transpose2d(flat, weight, bias, stride=2, padding=1, output_padding=1)


class Conv3d(nn.Module):
    """A 3D convolution of layers; folded on CPUs.

    Args:
        c_in: channels in.
        c_out: channels out.
        kernel: 1 or 3.
        stride: 1 or 2.
        bias: whether there is one.
        transposed: twice the size instead.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        bias: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        shape = (c_in, c_out) if transposed else (c_out, c_in)
        self.weight = nn.Parameter(torch.empty(*shape, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.stride, self.transposed, self.folded = stride, transposed, True
        nn.init.normal_(self.weight, 0.0, (2 / (kernel**3 * c_out)) ** 0.5)

    def forward(self, layers: Tensor) -> Tensor:
        """``[B, D, C, H, W]`` to ``[B, D', C', H', W']``."""
        if self.folded and layers.device.type == "cpu":
            if self.transposed:
                return transposed_conv3d_as_2d(layers, self.weight, self.bias)
            return conv3d_as_2d(layers, self.weight, self.bias, self.stride)
        volume = layers.transpose(1, 2)
        if self.transposed:
            up = F.conv_transpose3d(volume, self.weight, self.bias, stride=2, padding=1, output_padding=1)
            return up.transpose(1, 2)
        return F.conv3d(volume, self.weight, self.bias, self.stride, self.weight.shape[2] // 2).transpose(
            1, 2
        )


class ConvBn3d(nn.Module):
    """A 3D convolution of layers, and batch norm of its channels; arguments as of :class:`Conv3d`."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, *, transposed: bool = False
    ) -> None:
        super().__init__()
        self.conv = Conv3d(c_in, c_out, kernel, stride, transposed=transposed)
        self.norm: nn.Module = SyncedBatchNorm2d(c_out)

    def forward(self, layers: Tensor) -> Tensor:
        """``[B, D, C, H, W]`` to ``[B, D', C', H', W']``."""
        return self.normed(self.conv(layers))

    def normed(self, convolved: Tensor) -> Tensor:
        """What follows the convolution."""
        flat = convolved.flatten(0, 1)
        if self.training:  # statistics on CPUs are slow in channels-last, and sums of all values in a row
            flat = flat.contiguous()
        found: Tensor = self.norm(flat)
        return found.reshape(convolved.shape)
