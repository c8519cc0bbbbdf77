"""NanoDet-m (RangiLyu, 2020): ShuffleNetV2, a path aggregation network without convolutions, and heads as GFL's.

Batch norm is folded into the convolutions, as in released files for inference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.egor.detectors.detector import Raw
from effcli.continual.egor.detectors.edge_distributions import EdgeDistributions, by_place

PRIOR = 0.01
SLOPE = 0.1
"""Of the leaky ReLUs."""

_STEM, _WIDTHS, _REPEATS = 24, (116, 232, 464), (4, 8, 4)
_CHANNELS, _HEAD_CONVS = 96, 2


class NanoDetM(EdgeDistributions):
    """Of 0.95 million parameters for 80 classes.

    Args:
        n_classes: how many.
    """

    strides = (8, 16, 32)
    reg_max = 7
    anchor_scale = 5
    offset = 0.5

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.backbone = ShuffleNetV2()
        self.laterals = nn.ModuleList(nn.Conv2d(width, _CHANNELS, 1) for width in _WIDTHS)
        self.towers = nn.ModuleList(_tower() for _ in _WIDTHS)
        self.cls = nn.ModuleList(nn.Conv2d(_CHANNELS, n_classes, 1) for _ in _WIDTHS)
        self.reg = nn.ModuleList(nn.Conv2d(_CHANNELS, 4 * (self.reg_max + 1), 1) for _ in _WIDTHS)
        self.to(memory_format=torch.channels_last)

    @property
    def n_classes(self) -> int:
        """How many classes it knows."""
        return int(self.cls[0].out_channels)  # type: ignore[arg-type]

    def grow(self, n_new: int) -> None:
        """Have ``n_new`` more classes: rows ~ N(0, 0.01^2) with bias -log((1 - 0.01) / 0.01); old rows stay."""
        self.cls = nn.ModuleList(_grown(conv, n_new) for conv in self.cls)

    def renew(self, n_new: int) -> None:
        """Have ``n_new`` new classes in place of all."""
        self.cls = nn.ModuleList(_grown(conv, n_new, keep=False) for conv in self.cls)

    @property
    def trunk(self) -> tuple[nn.Module, ...]:
        """The backbone and what makes the pyramid of it."""
        return self.backbone, self.laterals

    def heads(self, levels: Sequence[Tensor]) -> Raw:
        """What is said of a pyramid."""
        logits, edges, features = [], [], []
        for i, level in enumerate(levels):
            tower = self.towers[i](level)
            features.append(tower)
            logits.append(by_place(self.cls[i](tower)))
            edges.append(by_place(self.reg[i](tower)))
        return Raw(torch.cat(logits, 1).float(), torch.cat(edges, 1).float(), tuple(features), tuple(levels))

    def pyramid(self, images: Tensor) -> Sequence[Tensor]:
        """Features of strides 8, 16 and 32, 96 channels each: added from the coarsest down, then back up.

        Sides of images are multiples of 32.
        """
        sides = zip(self.laterals, self.backbone(images), strict=True)
        fine, middle, coarse = (lateral(level) for lateral, level in sides)
        middle = middle + _resized(coarse, middle)
        fine = fine + _resized(middle, fine)
        middle = middle + _resized(fine, middle)
        return [fine, middle, coarse + _resized(middle, coarse)]


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 1.0x (Ma et al., ECCV 2018) without its last convolution; gives strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, _STEM, 3, 2, 1), nn.LeakyReLU(SLOPE), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        before = _STEM
        for width, n in zip(_WIDTHS, _REPEATS, strict=True):
            units = [ShuffleUnit(before if i == 0 else width, width, 2 if i == 0 else 1) for i in range(n)]
            self.stages.append(nn.Sequential(*units))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` to the outputs of the three stages."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class ShuffleUnit(nn.Module):
    """One unit: half of the channels goes through convolutions, then both halves are interleaved.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        stride: 2 where the other half is made from the whole input, too.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        half = n_out // 2
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut = nn.Sequential(_depthwise(n_in, 2), nn.Conv2d(n_in, half, 1), nn.LeakyReLU(SLOPE))
        self.convs = nn.Sequential(
            nn.Conv2d(n_in if stride == 2 else half, half, 1),
            nn.LeakyReLU(SLOPE),
            _depthwise(half, stride),
            nn.Conv2d(half, half, 1),
            nn.LeakyReLU(SLOPE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, n_in, H, W]`` to ``[B, n_out, H / stride, W / stride]``."""
        kept, changed = (x, x) if self.stride == 2 else x.chunk(2, 1)
        both = torch.cat([self.shortcut(kept), self.convs(changed)], 1)
        shuffled: Tensor = both.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return shuffled


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels)


def _tower() -> nn.Sequential:
    """Two depthwise-separable convolutions."""
    layers: list[nn.Module] = []
    for _ in range(_HEAD_CONVS):
        layers += [_depthwise(_CHANNELS, 1), nn.LeakyReLU(SLOPE)]
        layers += [nn.Conv2d(_CHANNELS, _CHANNELS, 1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def _resized(level: Tensor, like: Tensor) -> Tensor:
    """Twice or half the sides; halving is the mean of 2x2, as bilinear sampling between pixel centres has it."""
    return F.interpolate(level, like.shape[-2:], mode="bilinear")


def _grown(old: nn.Module, n_new: int, keep: bool = True) -> nn.Conv2d:
    assert isinstance(old, nn.Conv2d) and old.bias is not None
    n_old = old.out_channels if keep else 0
    new = nn.Conv2d(old.in_channels, n_old + n_new, 1).to(old.weight.device)
    assert new.bias is not None
    nn.init.normal_(new.weight, std=0.01)
    nn.init.constant_(new.bias, -math.log((1 - PRIOR) / PRIOR))
    with torch.no_grad():
        new.weight[:n_old] = old.weight[:n_old]
        new.bias[:n_old] = old.bias[:n_old]
    return new.to(memory_format=torch.channels_last)
