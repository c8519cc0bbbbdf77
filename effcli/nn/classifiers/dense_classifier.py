"""DenseNet-201 for small images, whose features RDD compares on CIFAR-10: docs/methods/rdd.md, Classifier."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from effcli.core.recipe import Section


class DenseClassifierConfig(Section):
    """The architecture."""

    channels: int = Field(3, ge=1, le=2**12)
    side: int = Field(32, ge=1, le=2**14)
    n_classes: int = Field(10, ge=1, le=2**24)


class DenseClassifier(nn.Module):
    """torchvision's DenseNet-201 with a 3x3 stem of stride 1 and no pooling after it.

    Args:
        config: input ``[B, channels, side, side]`` in -1..1; the map has 1,920 channels at an eighth of the side.

    Attributes:
        n_features: 1,920.
    """

    def __init__(self, config: DenseClassifierConfig) -> None:
        from torchvision.models import densenet201

        super().__init__()
        self.config = config
        self.network = densenet201(num_classes=config.n_classes)
        self.n_features: int = self.network.classifier.in_features
        stem = self.network.features.conv0.out_channels
        self.network.features.conv0 = nn.Conv2d(config.channels, stem, 3, 1, 1, bias=False)
        self.network.features.pool0 = nn.Identity()

    def feature_map(self, images: Tensor) -> Tensor:
        """``[B, 1920, side / 8, side / 8]``, after the last norm and ReLU."""
        return torch.relu(self.network.features(images))

    def features(self, images: Tensor) -> Tensor:
        """The map's mean, ``[B, 1920]``."""
        return self.feature_map(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, n_classes]``."""
        out: Tensor = self.network.classifier(self.features(images))
        return out
