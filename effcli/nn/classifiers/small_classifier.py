"""A small convolutional classifier: features for Frechet distances and for feature distillation."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from effcli.core.recipe import Section


class SmallClassifierConfig(Section):
    """The architecture."""

    channels: int = Field(1, ge=1, le=2**12)
    side: int = Field(16, ge=1, le=2**14)
    width: int = Field(32, ge=1, le=2**16)
    n_classes: int = Field(10, ge=1, le=2**24)


class SmallClassifier(nn.Module):
    """Five 3x3 convolutions with BatchNorm and ReLU, two of stride 2, then an average over the map and one layer.

    Args:
        config: input ``[B, channels, side, side]`` in -1..1; the map has 4 ``width`` channels at a quarter of the side.

    Attributes:
        n_features: 4 ``width``.
    """

    def __init__(self, config: SmallClassifierConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        plan = [
            (config.channels, w, 1),
            (w, 2 * w, 2),
            (2 * w, 2 * w, 1),
            (2 * w, 4 * w, 2),
            (4 * w, 4 * w, 1),
        ]
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o, stride in plan
            )
        )
        self.n_features = 4 * w
        self.head = nn.Linear(self.n_features, config.n_classes)

    def feature_map(self, images: Tensor) -> Tensor:
        """``[B, 4 width, side / 4, side / 4]``, after the last ReLU."""
        out: Tensor = self.body(images)
        return out

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The map of every convolution, after its ReLU; the last is :meth:`feature_map`'s."""
        maps = [images]
        for layer in self.body:
            maps.append(layer(maps[-1]))
        return maps[1:]

    def features(self, images: Tensor) -> Tensor:
        """The map's mean, ``[B, 4 width]``."""
        return self.feature_map(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, n_classes]``."""
        out: Tensor = self.head(self.features(images))
        return out
