"""Networks on the bird's-eye-view map: LKBB and the baseline's hourglass.

See docs/methods/streamdsgn.md, Large-kernel backbone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.image_network import conv_bn
from effcli.nn.batch_norm import SyncedBatchNorm2d


class CellLayerNorm(nn.Module):
    """Layer norm over the channels of each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5).permute(0, 3, 1, 2)


class LargeKernelAttention(nn.Module):
    """A map multiplied by what it is within seven cells: two depth-wise convolutions, one of them dilated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 1)
        self.near = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.far = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        u = F.gelu(self.enter(x))
        y: Tensor = self.leave(u * self.mix(self.far(self.near(u)))) + x
        return y


class LargeKernelFeedForward(nn.Module):
    """Twice as many channels, a depth-wise 3x3 convolution, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        y: Tensor = self.narrow(F.gelu(self.depthwise(self.wide(x))))
        return y


class LargeKernelBlock(nn.Module):
    """Attention and feed-forward, each after batch norm and scaled channel by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = SyncedBatchNorm2d(channels), SyncedBatchNorm2d(channels)
        self.attention, self.feed_forward = LargeKernelAttention(channels), LargeKernelFeedForward(channels)
        self.scale1 = nn.Parameter(torch.full((channels,), 0.01))
        self.scale2 = nn.Parameter(torch.full((channels,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        x = x + self.scale1[:, None, None] * self.attention(self.norm1(x))
        y: Tensor = x + self.scale2[:, None, None] * self.feed_forward(self.norm2(x))
        return y


class LargeKernelNetwork(nn.Module):
    """LKBB: two stages at a half and a quarter of the cells, and up again."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        (width1, width2), (n1, n2), (up1, up2) = config.bev_widths, config.bev_blocks, config.bev_up
        self.stem = conv_bn(channels, config.bev_stem, 1)
        self.down1 = _down(config.bev_stem, width1)
        self.blocks1 = nn.Sequential(*(LargeKernelBlock(width1) for _ in range(n1)))
        self.norm1 = CellLayerNorm(width1)
        self.down2 = _down(width1, width2)
        self.blocks2 = nn.Sequential(*(LargeKernelBlock(width2) for _ in range(n2)))
        self.norm2 = CellLayerNorm(width2)
        self.up1, self.up2 = _up(width2, up1), _up(up1, up2)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H, W]``."""
        half = self.norm1(self.blocks1(self.down1(F.relu(self.stem(x)))))
        quarter = self.norm2(self.blocks2(self.down2(half)))
        y: Tensor = F.relu(self.up2(F.relu(self.up1(quarter)) + half))
        return y


class SmallKernelNetwork(nn.Module):
    """The baseline's: a 3x3 convolution and a 2D hourglass of 3x3 convolutions."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        narrow, wide = config.bev_up[1], 2 * config.bev_up[1]
        self.stem = conv_bn(channels, narrow, 3)
        self.down1, self.same1 = conv_bn(narrow, wide, 3, 2), conv_bn(wide, wide, 3)
        self.down2, self.same2 = conv_bn(wide, wide, 3, 2), conv_bn(wide, wide, 3)
        self.up1, self.up2 = _up_3x3(wide, wide), _up_3x3(wide, narrow)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H, W]``."""
        x = F.relu(self.stem(x))
        half = F.relu(self.same1(F.relu(self.down1(x))))
        quarter = F.relu(self.same2(F.relu(self.down2(half))))
        y: Tensor = self.up2(F.relu(self.up1(quarter) + half)) + x
        return F.relu(y)


def bev_network(config: NetworkConfig, channels: int) -> nn.Module:
    """The one of a configuration; its result has ``config.bev_up[1]`` channels."""
    kinds = {"large-kernel": LargeKernelNetwork, "hourglass": SmallKernelNetwork}
    return kinds[config.bev](config, channels)


def _down(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, 2, 1), SyncedBatchNorm2d(c_out))


def _up(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(c_in, c_out, 2, 2, bias=False), SyncedBatchNorm2d(c_out))


def _up_3x3(c_in: int, c_out: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(c_in, c_out, 3, 2, 1, output_padding=1, bias=False)
    return nn.Sequential(conv, SyncedBatchNorm2d(c_out))
