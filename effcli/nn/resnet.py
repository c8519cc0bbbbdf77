"""ResNet-18 for small images: a 3x3 stem without pooling, then four stages of two basic blocks.

He et al., Deep Residual Learning, CVPR 2016, in the form that continual learning uses
(docs/methods/clfd.md, Backbone). The channel counts of each block are free, so a narrow subnet of a wide network is a
network of the same class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from effcli.nn.batch_norm import SyncedBatchNorm2d

STRIDES = (1, 2, 2, 2)
BLOCKS_PER_STAGE = 2

_LEAST_CHANNELS = 8


@dataclass(frozen=True)
class Widths:
    """Channel counts.

    Attributes:
        outs: of the four stages; the stem has those of the first.
        mids: between the two convolutions of each of the eight blocks.
    """

    outs: tuple[int, ...]
    mids: tuple[int, ...]

    @classmethod
    def of(cls, width: int) -> Widths:
        """The common network: ``width`` channels in the first stage, twice as many in each one after it."""
        outs = tuple(width * 2**stage for stage in range(4))
        return cls(outs, tuple(out for out in outs for _ in range(BLOCKS_PER_STAGE)))

    def blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """Channels in, between and out, and the stride, of each block in order."""
        before = self.outs[0]
        for number, mid in enumerate(self.mids):
            stage, inner = divmod(number, BLOCKS_PER_STAGE)
            out = self.outs[stage]
            yield before, mid, out, STRIDES[stage] if inner == 0 else 1
            before = out


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """``F.conv2d`` without bias.

    For a 1x1 convolution of fewer than 8 channels the pixels of the stride are picked first: oneDNN's gradient of such
    weights writes outside its memory on CPUs that have AVX2 and not AVX-512 (PyTorch 2.14).

    Args:
        x: ``[B, C, H, W]``.
        weight: ``[C', C, k, k]``.
        stride, padding: of rows and columns.
    """
    if weight.shape[1] < _LEAST_CHANNELS and weight.shape[2:] == (1, 1) and max(stride) > 1:
        return F.conv2d(x[:, :, :: stride[0], :: stride[1]], weight)
    return F.conv2d(x, weight, None, stride, padding)


class ShortcutConv(nn.Conv2d):
    """A 1x1 convolution with a stride, without bias."""

    def __init__(self, before: int, out: int, stride: int) -> None:
        super().__init__(before, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, before, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        return convolve(x, self.weight, self.stride, (0, 0))


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, mid: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(before, mid, 3, stride, 1, bias=False)
        self.bn1 = SyncedBatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, out, 3, 1, 1, bias=False)
        self.bn2 = SyncedBatchNorm2d(out)
        self.shortcut = (
            nn.Sequential()
            if stride == 1 and before == out
            else nn.Sequential(ShortcutConv(before, out, stride), SyncedBatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, before, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(inner + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """The network up to the averaged features.

    Args:
        widths: channel counts.
        in_channels: of the images.

    Attributes:
        dim: how many features it gives.
    """

    def __init__(self, widths: Widths, in_channels: int = 3) -> None:
        super().__init__()
        self.widths = widths
        self.dim = widths.outs[-1]
        self.conv = nn.Conv2d(in_channels, widths.outs[0], 3, 1, 1, bias=False)
        self.bn = SyncedBatchNorm2d(widths.outs[0])
        self.blocks = nn.ModuleList(Block(*shape) for shape in widths.blocks())

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, in_channels, H, W]`` of any size to features ``[B, dim]``."""
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))
