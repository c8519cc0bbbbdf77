"""From a picture to the features that are matched (docs/methods/streamdsgn.md, Image network)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.detect_stream.network.config import NetworkConfig
from effcli.nn.batch_norm import SyncedBatchNorm2d

_STRIDES, _DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)
ROW_STEP = 4
"""The volume has every fourth row and column of the picture."""


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution without bias, and batch norm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, SyncedBatchNorm2d(c_out))


class ResidualBlock(nn.Module):
    """ResNet's basic block without the last ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.first = conv_bn(c_in, c_out, 3, stride, dilation)
        self.second = conv_bn(c_out, c_out, 3, 1, dilation)
        changes = stride != 1 or c_in != c_out
        self.skip = conv_bn(c_in, c_out, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H / stride, W / stride]``."""
        y: Tensor = self.second(F.relu(self.first(x))) + self.skip(x)
        return y


class ImageNetwork(nn.Module):
    """Shared by the left and the right picture; no max-pooling after the stem."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = config.widths
        self.stem = conv_bn(3, widths[0], config.stem_kernel, 2)
        self.stages = nn.ModuleList()
        c_in = widths[0]
        for width, stride, dilation in zip(widths, _STRIDES, _DILATIONS, strict=True):
            blocks = [ResidualBlock(c_in, width, stride, dilation)]
            blocks += [ResidualBlock(width, width, 1, dilation) for _ in range(config.blocks - 1)]
            self.stages.append(nn.Sequential(*blocks))
            c_in = width
        self.pool_sides = config.pool_sides
        self.pools = nn.ModuleList(conv_bn(widths[3], config.pool_channels, 1) for _ in self.pool_sides)
        up, up_half = config.up_channels
        n_joined = sum(widths[1:]) + len(self.pool_sides) * config.pool_channels
        self.to_half = conv_bn(n_joined, up, 1)
        self.half_skip = conv_bn(widths[0], up, 3)
        self.to_full = conv_bn(up, up_half, 3)
        self.full_skip = conv_bn(3, up_half, 3)
        self.last = conv_bn(up_half, config.neck_channels, 3)
        self.features = nn.Conv2d(config.neck_channels, config.stereo_channels, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Features ``[B, stereo_channels, H, W]`` of a normalised picture ``[B, 3, H, W]``."""
        return self.read(self.neck(image))

    def neck(self, image: Tensor) -> Tensor:
        """What is before the last convolutions, ``[B, up_channels, H, W]``."""
        x = F.relu(self.stem(image))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        size = x.shape[2:]
        pooled = [
            F.interpolate(F.relu(conv(F.avg_pool2d(x, side))), size, mode="bilinear", align_corners=True)
            for side, conv in zip(self.pool_sides, self.pools, strict=True)
        ]
        half = _twice_as_large(self.to_half(torch.cat([*found[1:], *pooled], 1)))
        half = F.relu(half + self.half_skip(found[0]))
        full = _twice_as_large(self.to_full(half))
        return F.relu(full + self.full_skip(image))

    def read(self, neck: Tensor, stride: tuple[int, int] = (1, 1)) -> Tensor:
        """Features of a neck in every so many rows and columns; they are not computed elsewhere."""
        conv = self.last[0]
        assert isinstance(conv, nn.Conv2d)
        y = convolved_where_read(neck, conv, stride)
        if len(self.last) > 1:  # batch norm is part of the weights of a folded network
            y = self.last[1](y)
        features: Tensor = self.features(F.relu(y))
        return features


def _twice_as_large(x: Tensor) -> Tensor:
    """Bilinear, in float32 whatever the type: on CPUs that is faster than in bfloat16."""
    return F.interpolate(x.float(), scale_factor=2.0, mode="bilinear").to(x.dtype)


def convolved_where_read(x: Tensor, conv: nn.Conv2d, stride: tuple[int, int]) -> Tensor:
    """A 3x3 convolution with padding 1, only in every so many rows and columns.

    In bfloat16 rows are picked first and lie as channels: with a stride of (4, 1) and 16 or 32 channels oneDNN's kernel
    for AMX writes outside its memory (PyTorch 2.14).
    """
    down, right = stride
    is_half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled(x.device.type)
    if down == right or right != 1 or not is_half:
        return F.conv2d(x, conv.weight, conv.bias, stride, 1)
    n_rows = -(-x.shape[2] // down)
    padded = F.pad(x, (0, 0, 1, 1))
    rows = [padded[:, :, i : i + (n_rows - 1) * down + 1 : down] for i in range(3)]
    weight = torch.cat([conv.weight[:, :, i : i + 1] for i in range(3)], 1)
    return F.conv2d(torch.cat(rows, 1), weight, conv.bias, 1, (0, 1))
