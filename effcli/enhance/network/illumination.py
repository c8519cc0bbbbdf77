"""The illumination estimator of WalMaFa, from Retinexformer (docs/methods/walmafa.md, Illumination estimator)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class IlluminationEstimator(nn.Module):
    """conv1x1([x, mean of x over channels]) -> depthwise 5x5: the illumination *feature*, an affine map of x.

    The mean is a linear function of x, so its column of the 1x1 kernel is spread over the others instead of
    concatenating a channel: the same numbers with less memory traffic.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(in_channels + 1, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, n, h, w] -> feature [B, k, h, w]."""
        kernel = self.mix.weight
        folded = kernel[:, :-1] + kernel[:, -1:] / x.shape[1]
        feature: Tensor = self.depthwise(F.conv2d(x, folded, self.mix.bias))
        return feature


class IlluminationMap(nn.Module):
    """The stem: x * map + x, where the map is a 1x1 convolution of the estimator's feature; never autocast."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.estimator = IlluminationEstimator(3, channels)
        self.to_map = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> the image lit by its map, [B, 3, H, W]."""
        with torch.autocast(x.device.type, enabled=False):
            illumination: Tensor = self.to_map(self.estimator(x))
        return x * illumination + x
