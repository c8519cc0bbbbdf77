"""The residual networks for CIFAR of He et al., Deep Residual Learning, CVPR 2016, section 4.2: 6n + 2 layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from effcli.core.recipe import Section

STAGES = (16, 32, 64)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CifarResNetConfig(Section):
    """The architecture."""

    channels: int = Field(3, ge=3, le=3)
    side: int = Field(32, ge=4, le=2**14, multiple_of=4)
    depth: int = Field(20, ge=8, le=1202)
    n_classes: int = Field(10, ge=1, le=2**24)

    @model_validator(mode="after")
    def _has_whole_blocks(self) -> CifarResNetConfig:
        if (self.depth - 2) % 6:
            raise ValueError(f"depth: {self.depth} is not 6n + 2")
        return self


class PlainBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without weights (option A): strided, with zeros as further channels.

    Args:
        before: channels in.
        out: channels out; half of what is added before the shortcut's channels, half behind them.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, before: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self._stride, self._added = stride, (out - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """``[B, before, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        hidden: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self._stride, :: self._stride]
        return (hidden + F.pad(shortcut, (0, 0, 0, 0, self._added, self._added))).relu()


def _stage(before: int, out: int, n: int) -> nn.Sequential:
    first = PlainBlock(before, out, 1 if out == before else 2)
    return nn.Sequential(first, *(PlainBlock(out, out, 1) for _ in range(n - 1)))


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of n blocks, an average over the map and one layer.

    Args:
        config: input ``[B, 3, side, side]`` in -1..1, which is normalised as ImageNet's images are; the map has 64
            channels at a quarter of the side.

    Attributes:
        n_features: 64.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.n_features = STAGES[-1]
        self.conv1 = nn.Conv2d(config.channels, STAGES[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0])
        n = (config.depth - 2) // 6
        self.layer1 = _stage(STAGES[0], STAGES[0], n)
        self.layer2 = _stage(STAGES[0], STAGES[1], n)
        self.layer3 = _stage(STAGES[1], STAGES[2], n)
        self.linear = nn.Linear(self.n_features, config.n_classes)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def feature_map(self, images: Tensor) -> Tensor:
        """``[B, 64, side / 4, side / 4]``, after the last ReLU."""
        return self.feature_maps(images)[-1]

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The map of each stage, after its last ReLU; the last is :meth:`feature_map`'s."""
        x = ((images + 1) / 2 - self.mean) / self.deviation
        maps = [self.bn1(self.conv1(x)).relu()]
        for stage in (self.layer1, self.layer2, self.layer3):
            maps.append(stage(maps[-1]))
        return maps[1:]

    def features(self, images: Tensor) -> Tensor:
        """The map's mean, ``[B, 64]``."""
        return self.feature_map(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, n_classes]``."""
        out: Tensor = self.linear(self.features(images))
        return out
