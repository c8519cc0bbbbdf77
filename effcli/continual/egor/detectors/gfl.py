"""The detector GFL (Generalized Focal Loss, Li et al., NeurIPS 2020) in two sizes: `tiny`, and with ResNet-50.

Symbols are those of the paper: z are logits, sigma(z) scores, y what a score should say: the IoU of the box.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from effcli.continual.egor.detectors.detector import Raw
from effcli.continual.egor.detectors.edge_distributions import EdgeDistributions, by_place
from effcli.core.weight_file import Count

PRIOR = 0.01


@dataclass(frozen=True)
class GflConfig:
    """What a GFL is built from.

    Attributes:
        backbone: ``tiny`` or ``resnet50``.
        n_classes: how many.
        channels: of the pyramid and the towers.
        n_convs: of each tower.
        reg_max: largest distance of an edge, in strides.
        n_levels: of the pyramid.
        first_stride: of its first level.
        anchor_scale: side of an anchor, in strides.
        norm: ``live`` BatchNorm, or ``frozen`` statistics and affine parameters.
        frozen_stages: 1 freezes the stem and the first stage of a ResNet; 0 nothing.
    """

    backbone: Annotated[str, Field(pattern="^(tiny|resnet50)$")]
    n_classes: Count
    channels: Count = 256
    n_convs: Annotated[int, Field(ge=0, le=64)] = 4
    reg_max: Annotated[int, Field(ge=1, le=2**10)] = 16
    n_levels: Annotated[int, Field(ge=1, le=16)] = 5
    first_stride: Annotated[int, Field(ge=1, le=2**10)] = 8
    anchor_scale: Annotated[int, Field(ge=1, le=2**10)] = 8
    norm: Annotated[str, Field(pattern="^(live|frozen)$")] = "live"
    frozen_stages: Annotated[int, Field(ge=0, le=1)] = 0

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


def tiny_config(n_classes: int) -> GflConfig:
    """DetectorSpec half a million parameters, for images of about 100 to 300 pixels."""
    return GflConfig("tiny", n_classes, channels=64, n_convs=2, reg_max=8, n_levels=2, anchor_scale=4)


def resnet50_config(n_classes: int, norm: str = "live", frozen_stages: int = 0) -> GflConfig:
    """GFL-R50 as the paper has it."""
    return GflConfig("resnet50", n_classes, norm=norm, frozen_stages=frozen_stages)


class TinyBackbone(nn.Module):
    """Four stages of two 3x3 convolutions with BatchNorm, the first of each with stride 2; gives strides 8 and 16."""

    WIDTHS = (24, 48, 96, 128)
    OUT = (96, 128)

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for width in self.WIDTHS:
            self.stages.append(nn.Sequential(*_conv_bn(before, width, 2), *_conv_bn(width, width, 1)))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` to the outputs of the last two stages."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs[2:]


def _conv_bn(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    ]


class ResNet50Backbone(nn.Module):
    """torchvision's ResNet-50 without its classifier; gives C3, C4 and C5."""

    OUT = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        net = resnet50(weights=None)
        self.stem = nn.Sequential(
            OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool)
        )
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` to the outputs of the last three stages."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs[1:]


class _MoreLevels(ExtraFPNBlock):  # type: ignore[misc]
    """Further levels, each from the one before by a 3x3 convolution with stride 2."""

    def __init__(self, channels: int, n: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(n))

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        results, names = list(results), list(names)
        for i, conv in enumerate(self.convs):
            results.append(conv(results[-1]))
            names.append(f"extra{i}")
        return results, names


class Gfl(EdgeDistributions):
    """GFL: anchors are single squares, quality and class are one score, edges are distributions.

    Args:
        config: what it is built from.
    """

    def __init__(self, config: GflConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = {"tiny": TinyBackbone, "resnet50": ResNet50Backbone}[config.backbone]()
        widths: Any = self.backbone.OUT
        n_out = len(widths)
        more = _MoreLevels(config.channels, config.n_levels - n_out) if config.n_levels > n_out else None
        self.fpn = FeaturePyramidNetwork(list(widths), config.channels, more)
        self.cls_tower = _tower(config.channels, config.n_convs)
        self.reg_tower = _tower(config.channels, config.n_convs)
        self.gfl_cls = nn.Conv2d(config.channels, config.n_classes, 3, padding=1)
        self.gfl_reg = nn.Conv2d(config.channels, 4 * (config.reg_max + 1), 3, padding=1)
        self.scales = nn.Parameter(torch.ones(config.n_levels))
        self.strides = tuple(config.first_stride * 2**i for i in range(config.n_levels))
        self.reg_max, self.anchor_scale = config.reg_max, config.anchor_scale
        for module in (*self.cls_tower, *self.reg_tower, self.gfl_cls, self.gfl_reg):
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(_bias(self.gfl_cls), -math.log((1 - PRIOR) / PRIOR))
        self._freeze()
        self.to(memory_format=torch.channels_last)  # a seventh faster on CPUs

    @property
    def n_classes(self) -> int:
        """How many classes it knows."""
        return self.config.n_classes

    def train(self, mode: bool = True) -> Gfl:
        """Frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        frozen: list[nn.Module] = [self.backbone] if self.config.norm == "frozen" else self._frozen_parts()
        for part in frozen:
            for module in part.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        if self.config.frozen_stages == 0 or not isinstance(self.backbone, ResNet50Backbone):
            return []
        return [self.backbone.stem, *self.backbone.stages[: self.config.frozen_stages]]

    def _freeze(self) -> None:
        for part in self._frozen_parts():
            part.requires_grad_(False)
        if self.config.norm == "frozen":
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)

    @property
    def trunk(self) -> tuple[nn.Module, ...]:
        """The backbone and the pyramid's network."""
        return self.backbone, self.fpn

    def grow(self, n_new: int) -> None:
        """Have ``n_new`` more classes: rows ~ N(0, 0.01^2) with bias -log((1 - 0.01) / 0.01); old rows stay."""
        self._set_rows(n_new, self.gfl_cls.out_channels)

    def renew(self, n_new: int) -> None:
        """Have ``n_new`` new classes in place of all."""
        self._set_rows(n_new, 0)

    def _set_rows(self, n_new: int, n_kept: int) -> None:
        old = self.gfl_cls
        new = nn.Conv2d(old.in_channels, n_kept + n_new, 3, padding=1).to(old.weight.device)
        nn.init.normal_(new.weight, std=0.01)
        nn.init.constant_(_bias(new), -math.log((1 - PRIOR) / PRIOR))
        with torch.no_grad():
            new.weight[:n_kept] = old.weight[:n_kept]
            _bias(new)[:n_kept] = _bias(old)[:n_kept]
        self.gfl_cls = new.to(memory_format=torch.channels_last)
        self.config = GflConfig(**{**asdict(self.config), "n_classes": new.out_channels})

    def pyramid(self, images: Tensor) -> Sequence[Tensor]:
        """What the heads see."""
        names = [str(i) for i in range(len(self.backbone.OUT))]
        levels = self.fpn(OrderedDict(zip(names, self.backbone(images), strict=True)))
        return tuple(levels.values())

    def heads(self, levels: Sequence[Tensor]) -> Raw:
        """What is said of a pyramid."""
        logits, edges, features = [], [], []
        for scale, level in zip(self.scales, levels, strict=True):
            tower = self.cls_tower(level)
            features.append(tower)
            logits.append(by_place(self.gfl_cls(tower)))
            edges.append(by_place(self.gfl_reg(self.reg_tower(level)).float() * scale))
        return Raw(torch.cat(logits, 1).float(), torch.cat(edges, 1), tuple(features), tuple(levels))


def _tower(channels: int, n_convs: int) -> nn.Sequential:
    groups = min(32, channels // 8)
    layers: list[nn.Module] = []
    for _ in range(n_convs):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layers += [conv, nn.GroupNorm(groups, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
